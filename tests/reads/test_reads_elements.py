"""Arrays of structs searched element by element, against every element scored by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pymilvus import AnnSearchRequest, DataType, MilvusClient, MilvusException, RRFRanker, WeightedRanker
from pymilvus.client.embedding_list import EmbeddingList
from reads_twin import Vector, score

pytestmark = pytest.mark.slow

DIMENSION = 4
ROW_COUNT = 60
QUERIES: list[Vector] = [[0.3, -0.2, 0.9, 0.1], [-1.0, 0.4, 0.2, 0.7]]
Structs = dict[int, list[dict[str, Any]]]


def made_structs(chance: np.random.Generator) -> Structs:
    """Rows by key, of no to four elements, of few different vectors so that scores tie."""
    vectors = chance.normal(size=(12, DIMENSION)).astype(np.float32).astype(float)
    vectors[0] = 0
    return {
        key: [
            {"v": vectors[chance.integers(len(vectors))].tolist(), "w": vectors[key % 12].tolist(), "n": number}
            for number in range(int(chance.integers(0, 5)))
        ]
        for key in range(ROW_COUNT)
    }


@pytest.fixture(scope="module")
def structs(client: MilvusClient) -> Structs:
    """The rows of collection `s`: half in files, half not, some deleted; two shards."""
    schema = client.create_schema(enable_dynamic_field=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("plain", DataType.FLOAT_VECTOR, dim=DIMENSION)
    parts = client.create_struct_field_schema()
    parts.add_field("v", DataType.FLOAT_VECTOR, dim=DIMENSION)
    parts.add_field("w", DataType.FLOAT_VECTOR, dim=DIMENSION)
    parts.add_field("n", DataType.INT64)
    schema.add_field("s", DataType.ARRAY, element_type=DataType.STRUCT, struct_schema=parts, max_capacity=9)
    index = client.prepare_index_params()
    index.add_index("plain", index_type="FLAT", metric_type="L2")
    index.add_index("s[v]", index_type="HNSW", metric_type="COSINE", params={"M": 8, "efConstruction": 64})
    index.add_index("s[w]", index_type="FLAT", metric_type="L2")
    client.create_collection("s", schema=schema, index_params=index, num_shards=2, consistency_level="Strong")
    made = made_structs(np.random.default_rng(5))
    sent = [{"id": key, "plain": [key, 0, 0, 0], "s": elements} for key, elements in made.items()]
    client.insert("s", sent[: ROW_COUNT // 2])
    client.flush("s")
    client.insert("s", sent[ROW_COUNT // 2 :])
    client.delete("s", ids=[3, 40])
    return {key: elements for key, elements in made.items() if key not in (3, 40)}


def elements_by_score(structs: Structs, query: Vector, part: str, metric: str) -> list[tuple[float, int, int]]:
    """Score, key and place of every element, best first."""
    found = [
        (score(query, one[part], metric), key, place)
        for key, elements in structs.items()
        for place, one in enumerate(elements)
    ]
    sign = 1 if metric == "l2" else -1
    return sorted(found, key=lambda one: (round(sign * one[0], 5), one[1], one[2]))


@pytest.mark.parametrize(("part", "metric"), [("v", "cosine"), ("w", "l2")])
@pytest.mark.parametrize(("limit", "offset"), [(7, 0), (5, 9), (1000, 0)])
def test_elements(client: MilvusClient, structs: Structs, part: str, metric: str, limit: int, offset: int) -> None:
    found = client.search("s", QUERIES, anns_field=f"s[{part}]", limit=limit, offset=offset, output_fields=["s"])
    for hits, query in zip(found, QUERIES, strict=True):
        expected = elements_by_score(structs, query, part, metric)[offset : offset + limit]
        assert [(hit["id"], hit["offset"]) for hit in hits] == [(key, place) for _, key, place in expected]
        assert [hit["distance"] for hit in hits] == pytest.approx([one[0] for one in expected], rel=1e-4, abs=1e-5)
        assert all(len(hit["entity"]["s"]) == len(structs[hit["id"]]) for hit in hits)


def test_elements_of_filtered_rows(client: MilvusClient, structs: Structs) -> None:
    kept = {key: elements for key, elements in structs.items() if key > 25}
    (hits,) = client.search("s", QUERIES[:1], anns_field="s[v]", limit=20, filter="id > 25")
    expected = elements_by_score(kept, QUERIES[0], "v", "cosine")[:20]
    assert [(hit["id"], hit["offset"]) for hit in hits] == [(key, place) for _, key, place in expected]


@pytest.mark.parametrize("text", ["element_filter(s, $[n] % 2 == 1)", "id > 25 and element_filter(s, $[n] % 2 == 1)"])
def test_filtered_elements(client: MilvusClient, structs: Structs, text: str) -> None:
    low = 25 if "id" in text else -1
    for _ in range(2):
        (hits,) = client.search("s", QUERIES[:1], anns_field="s[v]", limit=20, filter=text)
        every = elements_by_score(structs, QUERIES[0], "v", "cosine")
        expected = [(key, place) for _, key, place in every if place % 2 == 1 and key > low][:20]
        assert [(hit["id"], hit["offset"]) for hit in hits] == expected


def test_fusion_takes_the_best_element_of_a_row(client: MilvusClient, structs: Structs) -> None:
    query, plain = QUERIES[0], [30.0, 0.0, 0.0, 0.0]
    depth = 25
    asked = [
        AnnSearchRequest([query], "s[v]", {"metric_type": "COSINE"}, depth),
        AnnSearchRequest([plain], "plain", {"metric_type": "L2"}, depth),
    ]
    (hits,) = client.hybrid_search("s", asked, RRFRanker(10), limit=depth)
    best: dict[int, float] = {}
    for place, key in enumerate(
        dict.fromkeys(key for _, key, _ in elements_by_score(structs, query, "v", "cosine")[:depth]), 1
    ):
        best[key] = 1 / (10 + place)
    for place, key in enumerate(sorted(structs, key=lambda one: (abs(one - 30), one))[:depth], 1):
        best[key] = best.get(key, 0.0) + 1 / (10 + place)
    expected = sorted(best.items(), key=lambda one: (-round(one[1], 6), one[0]))[:depth]
    assert [hit["id"] for hit in hits] == [key for key, _ in expected]
    assert [hit["distance"] for hit in hits] == pytest.approx([value for _, value in expected], rel=1e-5)
    assert all("offset" not in hit for hit in hits)


def test_element_refusals(client: MilvusClient, structs: Structs) -> None:
    lists = EmbeddingList()
    lists.add(QUERIES[0])
    for data, more, text in (
        ([lists], {}, "vector type must be the same"),
        (QUERIES[:1], {"search_params": {"metric_type": "MAX_SIM_COSINE"}}, "metric type not match"),
        (QUERIES[:1], {"search_params": {"params": {"radius": 0.1}}}, "range search is not supported"),
        (QUERIES[:1], {"group_by_field": "id"}, "group by search is not supported"),
        ([[1.0, 2.0]], {}, "vector dimension mismatch"),
    ):
        with pytest.raises(MilvusException, match=text):
            client.search("s", data, anns_field="s[v]", limit=3, **more)
    with pytest.raises(MilvusException, match="not supported"):
        client.search_iterator("s", QUERIES[:1], batch_size=5, anns_field="s[v]").next()


def test_a_weighted_search_of_elements_alone(client: MilvusClient, structs: Structs) -> None:
    asked = [AnnSearchRequest(QUERIES[:1], "s[v]", {"metric_type": "COSINE"}, 10)]
    (hits,) = client.hybrid_search("s", asked, WeightedRanker(1.0), limit=10)
    keys = [key for _, key, _ in elements_by_score(structs, QUERIES[0], "v", "cosine")[:10]]
    assert {hit["id"] for hit in hits} == set(keys)
