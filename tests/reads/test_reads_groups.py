"""Grouped search and search by keys through pymilvus, against rows scored one by one."""

from __future__ import annotations

from typing import Any

import pytest
from pymilvus import AnnSearchRequest, DataType, MilvusClient, MilvusException, RRFRanker
from reads_twin import Row, Rows, Vector, ranked

pytestmark = pytest.mark.slow

QUERIES: list[Vector] = [[0.3, -0.2, 0.9, 0.1], [-1.0, 0.4, 0.2, 0.7]]
KINDS: dict[str, tuple[dict[str, Any], Any]] = {
    "integer, nullable": ({"group_by_field": "group"}, lambda row: row.group),
    "varchar": ({"group_by_field": "name"}, lambda row: row.name),
    "small integer": ({"group_by_field": "number"}, lambda row: row.number),
    "undeclared": ({"group_by_field": "kind"}, lambda row: str(row.kind)),
    "undeclared, cast": ({"group_by_field": "kind", "json_type": DataType.INT8}, lambda row: row.kind),
    "json": ({"group_by_field": "json", "json_path": "json['k']"}, lambda row: str(row.json["k"])),
    "json, cast": (
        {"group_by_field": "json", "json_path": "json['k']", "json_type": DataType.VARCHAR},
        lambda row: row.json["k"] if isinstance(row.json["k"], str) else None,
    ),
    "json, cast to numbers": (
        {"group_by_field": "json", "json_path": 'json["k"]', "json_type": DataType.INT32},
        lambda row: row.json["k"] if isinstance(row.json["k"], int) else None,
    ),
}


def groups_of(rows: Rows, query: Vector, field: str, value: Any) -> list[tuple[Any, list[tuple[int, float]]]]:
    """All groups in order, all members of each in order."""
    groups: dict[Any, list[tuple[int, float]]] = {}
    for row, score in ranked(rows, query, field):
        groups.setdefault(value(row), []).append((row.key, score))
    return list(groups.items())


def found_groups(hits: Any, by_key: dict[int, Row], value: Any) -> list[tuple[Any, list[int]]]:
    found: list[tuple[Any, list[int]]] = []
    for hit in hits:
        group = value(by_key[hit["id"]])
        if not found or found[-1][0] != group:
            found.append((group, []))
        found[-1][1].append(hit["id"])
    return found


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize(("size", "strict"), [(1, False), (3, True), (2, False)])
@pytest.mark.parametrize("field", ["cosine", "ip"])
def test_groups(client: MilvusClient, rows: Rows, kind: str, size: int, strict: bool, field: str) -> None:
    params, value = KINDS[kind]
    by_key = {row.key: row for row in rows}
    for offset in (0, 2):
        found = client.search(
            "c", QUERIES, anns_field=field, limit=4, offset=offset, group_size=size, strict_group_size=strict, **params
        )
        for hits, query in zip(found, QUERIES, strict=True):
            expected = groups_of(rows, query, field, value)[offset : offset + 4]
            groups = found_groups(hits, by_key, value)
            assert [group for group, _ in groups] == [group for group, _ in expected]
            for (_, keys), (_, members) in zip(groups, expected, strict=True):
                assert keys[0] == members[0][0]
                if size == 1:
                    assert keys == [members[0][0]]
                assert len(keys) <= size
                assert len(keys) == min(size, len(members)) or not strict


def test_groups_of_filtered_rows(client: MilvusClient, rows: Rows) -> None:
    found = client.search("c", QUERIES, anns_field="l2", limit=50, group_by_field="group", filter="number < -30")
    kept = [row for row in rows if row.number < -30]
    for hits, query in zip(found, QUERIES, strict=True):
        expected = groups_of(kept, query, "l2", lambda row: row.group)
        assert [hit["id"] for hit in hits] == [members[0][0] for _, members in expected]


def test_grouping_refusals(client: MilvusClient, rows: Rows) -> None:
    def refused(code: int, text: str, **params: Any) -> None:
        with pytest.raises(MilvusException, match=text) as caught:
            client.search("c", QUERIES[:1], anns_field="l2", limit=3, **params)
        assert caught.value.code == code

    refused(65535, "unsupported data type VECTOR_FLOAT for group by operator", group_by_field="l2")
    refused(65535, "unsupported data type JSON for group by operator", group_by_field="json")
    refused(1100, "input group size:0 is negative, failed to do search_groupby", group_by_field="name", group_size=0)
    refused(1100, "input group size:11 exceeds configured max group size:10", group_by_field="name", group_size=11)
    refused(1100, "failed to parse input group size:x", group_by_field="name", group_size="x")
    radius = {"params": {"radius": 5}}
    refused(
        1100, "Not allowed to do range-search when doing search-group-by", group_by_field="name", search_params=radius
    )
    refused(1100, "Not allowed to do groupBy when doing iteration", group_by_field="name", iterator=True)
    strict = {"json_path": "json['k']", "json_type": DataType.INT32, "strict_cast": True}
    refused(65535, "failed to cast", group_by_field="json", group_size=10, strict_group_size=True, **strict)


def test_unknown_fields_without_dynamic_ones(client: MilvusClient) -> None:
    schema = client.create_schema()
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=8)
    schema.add_field("v", DataType.BINARY_VECTOR, dim=8)
    schema.add_field("ok", DataType.BOOL)
    index = client.prepare_index_params()
    index.add_index("v", index_type="BIN_FLAT", metric_type="HAMMING")
    client.create_collection("bits", schema=schema, index_params=index, consistency_level="Strong")
    client.insert("bits", [{"id": f"k{at}", "v": bytes([1 << at]), "ok": at % 2 == 0} for at in range(5)])
    with pytest.raises(MilvusException, match=r"groupBy field not found in schema: field not found\[field=x\]"):
        client.search("bits", [b"\0"], anns_field="v", limit=3, group_by_field="x")
    with pytest.raises(MilvusException, match="not support search_group_by operation based on binary vector column"):
        client.search("bits", [b"\0"], anns_field="v", limit=3, group_by_field="ok")
    by_key = client.search("bits", ids=["k4", "k1"], anns_field="v", limit=1)
    assert [hits[0]["id"] for hits in by_key] == ["k1", "k4"]
    with pytest.raises(MilvusException, match="primary key is varchar, but IDs type mismatch"):
        client.search("bits", ids=[4], anns_field="v", limit=1)
    client.drop_collection("bits")


def test_nothing_to_find(client: MilvusClient, rows: Rows) -> None:
    nobody = {"anns_field": "l2", "limit": 3, "filter": "number > 1000"}
    assert [len(hits) for hits in client.search("c", QUERIES, group_by_field="name", **nobody)] == [0, 0]
    requests = [AnnSearchRequest(QUERIES, field, {}, 5, expr="number > 1000") for field in ("l2", "ip")]
    for more in ({}, {"group_by_field": "name"}):
        found = client.hybrid_search("c", requests, RRFRanker(), limit=3, output_fields=["name", "kind"], **more)
        assert [len(hits) for hits in found] == [0, 0]
    some = [requests[0], AnnSearchRequest(QUERIES, "ip", {}, 5)]
    found = client.hybrid_search("c", some, RRFRanker(), limit=3, output_fields=["name"])
    assert [len(hits) for hits in found] == [3, 3]


# --- by keys --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("field", ["cosine", "l2", "ip"])
def test_search_by_keys(client: MilvusClient, rows: Rows, field: str) -> None:
    """Queries come back in the order of keys; a row without a vector has no hits; a row finds itself."""
    keys = [577, 9, 301, 18, 444]
    found = client.search("c", ids=keys, anns_field=field, limit=5, offset=1, filter="number > -20")
    by_key = {row.key: row for row in rows}
    kept = [row for row in rows if row.number > -20]
    for hits, key in zip(found, sorted(keys), strict=True):
        vector = by_key[key].vectors[field]
        expected = [] if vector is None else ranked(kept, vector, field)[1:6]
        assert [hit["id"] for hit in hits] == [row.key for row, _ in expected]
        assert [hit["distance"] for hit in hits] == pytest.approx([score for _, score in expected], rel=1e-4, abs=1e-4)


def test_search_by_keys_refusals(client: MilvusClient, rows: Rows) -> None:
    def refused(text: str, ids: list[Any], **params: Any) -> None:
        with pytest.raises(MilvusException, match=text):
            client.search("c", ids=ids, limit=3, **params)

    refused("duplicate IDs found in search request", [1, 1], anns_field="l2")
    missing = r"some of the provided primary key IDs do not exist: missing IDs = \[9999 50\]"
    refused(missing, [9999, 1, 50], anns_field="l2")
    refused("primary key is int64, but IDs type mismatch", ["1"], anns_field="l2")
    refused("please specify", [1])
    assert [len(hits) for hits in client.search("c", ids=[9, 18], anns_field="ip", limit=3)] == [0, 0]


def test_highlighting_is_refused(client: MilvusClient, rows: Rows) -> None:
    highlighter = pytest.importorskip("pymilvus").LexicalHighlighter(
        pre_tags=["<b>"], post_tags=["</b>"], highlight_search_text=True
    )
    with pytest.raises(MilvusException, match="highlighter"):
        client.search("c", QUERIES, anns_field="l2", limit=3, highlighter=highlighter)
