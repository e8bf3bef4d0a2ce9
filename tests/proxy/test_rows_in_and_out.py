"""Rows go in and come out again: the paths of insert, search, query, delete and upsert over the twin."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from elanus.model.errors import CollectionNotFoundError, CollectionNotLoadedError, UnsupportedError
from elanus.model.requests import CollectionRequest, Consistency, DeleteRequest, LoadRequest, PartitionRequest
from elanus.model.schema import FieldSchema
from elanus.model.types import ConsistencyLevel, DataType

from .requests import (
    AUTO_ID,
    ID,
    NAME,
    RANK,
    TEXT_ID,
    VECTOR,
    collection,
    found_ids,
    ids,
    insert,
    query,
    schema,
    search,
    sent,
    table,
    vectors,
)
from .twin import Bench, python_values


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(coroutine)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("primary", [ID, TEXT_ID])
def test_insert_search_query_delete(shards: int, primary: Any) -> None:
    async def main() -> None:
        bench = Bench()
        await collection(bench, schema(primary, VECTOR, NAME, RANK), shard_count=shards)
        keys: list[Any] = list(range(40)) if primary is ID else [f"k{n:02}" for n in range(40)]
        reply = await bench.proxy.insert(insert(ids(keys), vectors([[n, 0] for n in range(40)])))
        assert python_values(reply.keys) == keys
        assert reply.insert_count == 40 and reply.timestamp > 0

        hits = await bench.proxy.search(search([[0, 0], [39, 0]], 3, output_fields=("rank", "name")))
        assert found_ids(hits) == [keys[:3], keys[:36:-1]]
        assert hits.scores.tolist() == [0, 1, 4, 0, 1, 4]
        assert table(hits) == {"rank": [7] * 6, "name": [None] * 6}
        page = await bench.proxy.search(search([[0, 0]], 2, {"offset": "2"}))
        assert found_ids(page) == [keys[2:4]]

        rows = await bench.proxy.query(query("rank == 7", ("vector",), {"limit": "5", "offset": "1"}))
        assert table(rows) == {"vector": [[float(n), 0.0] for n in range(1, 6)], "id": keys[1:6]}
        listed = ", ".join(repr(key) for key in (keys[3], keys[9], "zz" if primary is TEXT_ID else 99))
        got = await bench.proxy.query(query(f"id in [{listed}]"))
        assert table(got)["id"] == [keys[3], keys[9]]

        gone = await bench.proxy.delete(DeleteRequest(collection="c", filter=f"id in [{listed}]"))
        assert gone.delete_count == 3 and gone.keys is not None
        gone = await bench.proxy.delete(DeleteRequest(collection="c", filter="rank == 7 and id != " + repr(keys[0])))
        assert gone.delete_count == 37 and gone.keys is None
        counted = await bench.proxy.query(query("", ("count(*)",)))
        assert table(counted) == {"count(*)": [1]}

    run(main())


@pytest.mark.parametrize("shards", [1, 4])
def test_upsert_replaces_in_place(shards: int) -> None:
    async def main() -> None:
        bench = Bench()
        await collection(bench, schema(ID, VECTOR, NAME), shard_count=shards)
        await bench.proxy.insert(insert(ids(range(10)), vectors([[n, 0] for n in range(10)])))
        reply = await bench.proxy.upsert(
            insert(ids(range(5, 12)), vectors([[n, 1] for n in range(7)]), sent("name", DataType.VARCHAR, ["x"] * 7))
        )
        assert (reply.insert_count, reply.delete_count, reply.upsert_count) == (7, 7, 7)
        rows = table(await bench.proxy.query(query("id >= 0", ("name",))))
        assert rows == {"id": list(range(12)), "name": [None] * 5 + ["x"] * 7}

    run(main())


@pytest.mark.parametrize("shards", [1, 4])
def test_upsert_with_automatic_ids_stays_in_the_shard(shards: int) -> None:
    async def main() -> None:
        bench = Bench()
        await collection(bench, schema(AUTO_ID, VECTOR), shard_count=shards)
        first = await bench.proxy.insert(insert(vectors([[n, 0] for n in range(30)])))
        old = python_values(first.keys)
        assert len(set(old)) == 30
        bench.node.arrivals.clear()
        second = await bench.proxy.upsert(insert(ids(old), vectors([[n, 1] for n in range(30)])))
        new = python_values(second.keys)
        assert not set(new) & set(old)
        for write in bench.node.arrivals:
            victims = python_values(write.delete_keys)
            rows = [new[old.index(key)] for key in victims]
            assert python_values(write.batch.columns[100]) == rows
        assert table(await bench.proxy.query(query("id >= 0")))["id"] == sorted(new)

    run(main())


@pytest.mark.parametrize("shards", [1, 3])
def test_partial_upsert_keeps_what_was_not_sent(shards: int) -> None:
    async def main() -> None:
        bench = Bench()
        await collection(bench, schema(ID, VECTOR, NAME, RANK, dynamic=True), shard_count=shards)
        await bench.proxy.insert(
            insert(
                ids(range(6)),
                vectors([[n, 0] for n in range(6)]),
                sent("", DataType.JSON, [b'{"a":1,"b":2}'] * 6, is_dynamic=True),
            )
        )
        await bench.proxy.upsert(
            insert(
                ids([4, 2]),
                sent("name", DataType.VARCHAR, ["four", "two"]),
                sent("$meta", DataType.JSON, [b'{"b":3}', b'{"c":4}'], is_dynamic=True),
                partial_update=True,
            )
        )
        rows = table(await bench.proxy.query(query("id in [2, 3, 4]", ("*",))))
        assert rows["name"] == ["two", None, "four"]
        assert rows["vector"] == [[2.0, 0.0], [3.0, 0.0], [4.0, 0.0]]
        assert rows["$meta"] == [b'{"a":1,"b":2,"c":4}', b'{"a":1,"b":2}', b'{"a":1,"b":3}']
        with pytest.raises(Exception, match="has no corresponding fieldData"):
            await bench.proxy.upsert(insert(ids([77]), sent("rank", DataType.INT16, [1]), partial_update=True))

    run(main())


def test_a_partial_upsert_looks_again_when_another_write_came_between() -> None:
    async def main() -> None:
        bench = Bench()
        await collection(bench, schema(ID, VECTOR, NAME, RANK))
        await bench.proxy.insert(insert(ids([1]), vectors([[1, 0]])))

        async def intruder() -> None:
            await bench.proxy.upsert(insert(ids([1]), sent("rank", DataType.INT16, [9]), partial_update=True))

        bench.node.before_write.append(intruder)
        await bench.proxy.upsert(insert(ids([1]), sent("name", DataType.VARCHAR, ["n"]), partial_update=True))
        rows = table(await bench.proxy.query(query("id == 1", ("name", "rank"))))
        assert rows == {"name": ["n"], "rank": [9], "id": [1]}

    run(main())


def test_partition_key_routes_rows_and_bans_names() -> None:
    async def main() -> None:
        bench = Bench()
        key = FieldSchema(0, "tenant", DataType.INT64, is_partition_key=True)
        await collection(bench, schema(ID, VECTOR, key), partition_count=4)
        await bench.proxy.insert(
            insert(
                ids(range(50)),
                vectors([[n, 0] for n in range(50)]),
                sent("tenant", DataType.INT64, [n % 5 for n in range(50)]),
            )
        )
        (shard,) = bench.node.shards.values()
        by_tenant: dict[int, set[int]] = {}
        for row in shard.rows:
            by_tenant.setdefault(row.values[102], set()).add(row.partition_id)
        assert all(len(partitions) == 1 for partitions in by_tenant.values())
        for tenant in range(5):
            text = f"tenant == {tenant} and id >= 10"
            assert table(await bench.proxy.query(query(text)))["id"] == [n for n in range(10, 50) if n % 5 == tenant]
            assert len(found_ids(await bench.proxy.search(search([[0, 0]], 50, filter=text)))[0]) == 8
            assert {len(read.partition_ids or ()) for read in bench.node.reads[-2:]} == {1}
        for call in (
            bench.proxy.insert(insert(ids([1]), vectors([[1, 1]]), partition="_default_0")),
            bench.proxy.search(search([[0, 0]], partitions=("_default_0",))),
            bench.proxy.query(query("id > 0", partitions=("_default_0",))),
            bench.proxy.delete(DeleteRequest(collection="c", filter="id in [1]", partition="_default_0")),
        ):
            with pytest.raises(Exception, match="not support manually specifying the partition names"):
                await call
        with pytest.raises(Exception, match="disable create partition"):
            await bench.proxy.create_partition(PartitionRequest(collection="c", partition="p"))

    run(main())


def test_partitions_limit_reads_and_deletes() -> None:
    async def main() -> None:
        bench = Bench()
        await collection(bench, schema(ID, VECTOR), shard_count=2)
        await bench.proxy.create_partition(PartitionRequest(collection="c", partition="p"))
        await bench.proxy.load(LoadRequest(collection="c"))
        await bench.proxy.insert(insert(ids(range(6)), vectors([[n, 0] for n in range(6)])))
        await bench.proxy.insert(insert(ids(range(3, 9)), vectors([[n, 0] for n in range(3, 9)]), partition="p"))
        assert found_ids(await bench.proxy.search(search([[0, 0]], partitions=("p",)))) == [list(range(3, 9))]
        await bench.proxy.delete(DeleteRequest(collection="c", filter="id in [3, 4]", partition="p"))
        assert table(await bench.proxy.query(query("id < 5")))["id"] == [0, 1, 2, 3, 4]
        assert table(await bench.proxy.query(query("id < 6", partitions=("p",))))["id"] == [5]
        with pytest.raises(Exception, match=r"partition name nope not found"):
            await bench.proxy.search(search([[0, 0]], partitions=("nope",)))
        with pytest.raises(Exception, match=r"partition not found\[partition=nope\]"):
            await bench.proxy.insert(insert(ids([1]), vectors([[1, 1]]), partition="nope"))

    run(main())


def test_what_is_not_there_or_not_loaded_is_said() -> None:
    async def main() -> None:
        bench = Bench()
        with pytest.raises(CollectionNotFoundError, match=r"collection not found\[database=default\]\[collection=c\]"):
            await bench.proxy.search(search([[0, 0]]))
        await collection(bench, schema(ID, VECTOR), load=False)
        with pytest.raises(CollectionNotLoadedError, match=r"failed to search: collection not loaded\[collection=c\]"):
            await bench.proxy.search(search([[0, 0]]))
        with pytest.raises(CollectionNotLoadedError, match="failed to query: collection not loaded"):
            await bench.proxy.query(query("id > 1"))
        with pytest.raises(CollectionNotLoadedError, match="collection not loaded"):
            await bench.proxy.delete(DeleteRequest(collection="c", filter="id > 1"))
        await bench.proxy.delete(DeleteRequest(collection="c", filter="id in [1]"))

    run(main())


def test_iterators_page_through_everything_once() -> None:
    async def main() -> None:
        bench = Bench()
        await collection(bench, schema(ID, VECTOR), shard_count=3)
        await bench.proxy.insert(insert(ids(range(50)), vectors([[n, 0] for n in range(50)])))
        params = {"iterator": "True", "search_iter_v2": "True", "search_iter_batch_size": "7"}
        seen: list[int] = []
        fresh = Consistency(ConsistencyLevel.BOUNDED, 2)
        while True:
            reply = await bench.proxy.search(search([[0, 0]], 7, params, consistency=fresh))
            assert reply.iterator_token
            if not len(reply.keys):
                break
            seen += found_ids(reply)[0]
            params |= {
                "search_iter_id": reply.iterator_token,
                "search_iter_last_bound": str(reply.iterator_last_bound),
            }
            fresh = Consistency(ConsistencyLevel.BOUNDED, reply.session_timestamp)
            await bench.proxy.insert(insert(ids([1000 + len(seen)]), vectors([[len(seen) + 0.5, 0]])))
        assert seen == list(range(50))

    run(main())


def test_time_to_live_hides_old_rows() -> None:
    async def main() -> None:
        bench = Bench()
        await collection(bench, schema(ID, VECTOR), properties={"collection.ttl.seconds": "60"})
        await bench.proxy.insert(insert(ids([1]), vectors([[1, 0]])))
        bench.clock.ms += 59_000
        await bench.proxy.insert(insert(ids([2]), vectors([[2, 0]])))
        assert found_ids(await bench.proxy.search(search([[0, 0]]))) == [[1, 2]]
        bench.clock.ms += 2_000
        assert found_ids(await bench.proxy.search(search([[0, 0]]))) == [[2]]
        assert table(await bench.proxy.query(query("id > 0")))["id"] == [2]

    run(main())


def test_options_that_change_results_are_refused() -> None:
    async def main() -> None:
        bench = Bench()
        await collection(bench, schema(ID, VECTOR))
        with pytest.raises(UnsupportedError, match="order_by_fields"):
            await bench.proxy.search(search([[0, 0]], params={"order_by_fields": "id"}))
        await bench.proxy.drop_collection(CollectionRequest(collection="c"))
        await bench.proxy.drop_collection(CollectionRequest(collection="c"))

    run(main())


def test_names_of_dynamic_keys_are_shown_as_they_were_asked_for() -> None:
    async def main() -> None:
        bench = Bench()
        await collection(bench, schema(ID, VECTOR, dynamic=True))
        row = sent("$meta", DataType.JSON, [b'{"k":1}'], is_dynamic=True)
        await bench.proxy.insert(insert(ids([1]), vectors([[0, 0]]), row))
        wanted = ('$meta["k"]', "k", "absent")
        rows = await bench.proxy.query(query("id == 1", wanted))
        assert rows.output_fields == (*wanted, "id")
        hits = await bench.proxy.search(search([[0, 0]], 1, output_fields=wanted))
        assert hits.output_fields == wanted
        assert table(rows)["$meta"] == table(hits)["$meta"] == [b'{"k":1}']

    run(main())
