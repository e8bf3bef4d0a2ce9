"""Iterators of pymilvus: server-paged search, range-paged search, query."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest
from pymilvus import MilvusClient, MilvusException
from pymilvus.client.search_iterator import SearchIteratorV2
from pymilvus.orm.iterator import SearchIterator
from reads_twin import Rows, Vector, ranked

from filled import create

pytestmark = pytest.mark.slow

QUERY: Vector = [0.3, -0.2, 0.9, 0.1]


def pages(iterator: Any) -> list[list[Any]]:
    found = []
    while page := iterator.next():
        found.append([hit["id"] for hit in page])
    iterator.close()
    return found


def flat(found: list[list[Any]]) -> list[Any]:
    return list(chain.from_iterable(found))


def ranged(client: MilvusClient, field: str, batch: int, **more: Any) -> SearchIterator:
    """The iterator that clients fall back on with older servers."""
    return SearchIterator(
        connection=client._get_connection(),
        collection_name="c",
        data=[QUERY],
        ann_field=field,
        param={"metric_type": field.upper()},
        batch_size=batch,
        schema=client.describe_collection("c"),
        **more,
    )


@pytest.mark.parametrize("field", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("batch", [7, 100, 1000])
def test_search_pages(client: MilvusClient, rows: Rows, field: str, batch: int) -> None:
    expected = [row.key for row, _ in ranked(rows, QUERY, field)]
    iterator = client.search_iterator("c", [QUERY], batch_size=batch, anns_field=field)
    assert isinstance(iterator, SearchIteratorV2)
    found = pages(iterator)
    assert flat(found) == expected
    assert {len(page) for page in found[:-1]} <= {batch}
    assert flat(pages(ranged(client, field, batch))) == expected


def test_limits_and_filters(client: MilvusClient, rows: Rows) -> None:
    kept = [row for row in rows if row.number > 0]
    expected = [row.key for row, _ in ranked(kept, QUERY, "l2")][:90]
    more = {"anns_field": "l2", "filter": "number > 0", "limit": 90}
    assert flat(pages(client.search_iterator("c", [QUERY], batch_size=40, **more))) == expected
    assert flat(pages(ranged(client, "l2", 40, expr="number > 0", limit=90))) == expected


def test_pages_see_one_moment(client: MilvusClient, rows: Rows) -> None:
    """What is written while an iterator runs is not in its pages, what is deleted still is."""
    create(client, "moving", 2, {"index_type": "FLAT", "metric_type": "L2"})
    client.insert("moving", [{"id": key, "v": [float(key), 0.0]} for key in range(50)])
    by_score = client.search_iterator("moving", [[0.0, 0.0]], batch_size=20, anns_field="v")
    by_key = client.query_iterator("moving", filter="id >= 0", batch_size=20)
    first = [hit["id"] for hit in by_score.next()], [row["id"] for row in by_key.next()]
    client.insert("moving", [{"id": key + 100, "v": [key + 0.5, 0.0]} for key in range(50)])
    client.delete("moving", ids=list(range(30, 40)))
    for begun, iterator in zip(first, (by_score, by_key), strict=True):
        assert begun + flat(pages(iterator)) == list(range(50))
    client.drop_collection("moving")


def test_ties(client: MilvusClient) -> None:
    """Hits equal to a page's last that did not fit into it are left out by the server's pages: the protocol's own rule.
    The client's range pages find them all."""
    create(client, "ties", 4, {"index_type": "FLAT", "metric_type": "L2"}, vector="l2")
    client.insert("ties", [{"id": key, "l2": [float(key // 4), 0.0, 0.0, 0.0]} for key in range(40)])
    query = [[0.0, 0.0, 0.0, 0.0]]
    found = pages(client.search_iterator("ties", query, batch_size=6, anns_field="l2"))
    assert found[:2] == [[0, 1, 2, 3, 4, 5], [8, 9, 10, 11, 12, 13]]
    whole = pages(client.search_iterator("ties", query, batch_size=8, anns_field="l2"))
    assert flat(whole) == list(range(40))
    everything = SearchIterator(
        connection=client._get_connection(),
        collection_name="ties",
        data=query,
        ann_field="l2",
        param={"metric_type": "L2"},
        batch_size=6,
        schema=client.describe_collection("ties"),
    )
    assert sorted(flat(pages(everything))) == list(range(40))
    client.drop_collection("ties")


@pytest.mark.parametrize("batch", [1, 64, 5000])
def test_query_pages(client: MilvusClient, rows: Rows, batch: int) -> None:
    wanted = "number > 30" if batch == 1 else "number > -40"
    kept = sorted(row.key for row in rows if row.number > (30 if batch == 1 else -40))
    found = pages(client.query_iterator("c", filter=wanted, batch_size=batch, output_fields=["number"]))
    assert flat(found) == kept
    limited = pages(client.query_iterator("c", filter=wanted, batch_size=batch, limit=33))
    assert flat(limited) == kept[:33]


def test_query_pages_by_text_keys(client: MilvusClient) -> None:
    client.create_collection(
        "texts", dimension=2, id_type="string", max_length=16, metric_type="L2", consistency_level="Strong"
    )
    keys = ['a"b', "a", "é", "z\\", "b'c", ""]
    client.insert("texts", [{"id": key, "vector": [0.0, 1.0]} for key in keys])
    found = pages(client.query_iterator("texts", filter='id >= ""', batch_size=2))
    assert flat(found) == sorted(keys)
    client.drop_collection("texts")


def test_refusals(client: MilvusClient, rows: Rows) -> None:
    def refused(text: str, **params: Any) -> None:
        with pytest.raises(MilvusException, match=text):
            client.search("c", [QUERY], anns_field="l2", limit=3, **params)

    refused("both iterator and search_iter_v2 must be set in the SDK", search_iter_v2=True)
    refused("batch size is required", search_iter_v2=True, iterator=True)
    paged = {"search_iter_v2": True, "iterator": True, "search_iter_batch_size": 10}
    refused("invalid token format", search_iter_id="not/one", **paged)
    refused("Setting an offset is not permitted when using a search iterator v2", offset=3, **paged)
    refused("(?i)groupBy", group_by_field="name", **paged)
    refused("batch size is invalid", **{**paged, "search_iter_batch_size": 16385})
    refused(
        "collection id:7 in the request is not consistent to that in the search context", collection_id=7, iterator=True
    )
