"""Rows through the whole composition: written, found, changed and gone, before and after sealing."""

from __future__ import annotations

from typing import Any

import pytest
from node_calls import FIELDS, ID, NAME, TEXT_ID, VALUE, VECTOR, Client, at, refused, row, rows

from elanus.base.errors import ElanusError
from elanus.model.errors import BadParameterError
from elanus.model.requests import Consistency
from elanus.model.schema import FieldSchema
from elanus.model.types import ConsistencyLevel, DataType
from elanus.testing.composition import World


@pytest.mark.parametrize("shard_count", [1, 3])
def test_insert_query_search_delete_in_every_state_of_a_segment(composed: Any, shard_count: int) -> None:
    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create(shard_count=shard_count)
        await client.insert(rows(range(20)))
        assert await client.ids() == list(range(20))
        await client.flush()
        assert await client.ids() == list(range(20))
        assert [key for key, _ in await client.search([3.2, 0], 3)] == [3, 4, 2]
        await client.insert(rows(range(20, 30)))
        await client.delete_ids([3, 25])
        assert await client.count() == 28
        assert [key for key, _ in await client.search([3.2, 0], 3)] == [4, 2, 5]
        await client.flush()
        await client.compact()
        await world.settle()
        assert await client.ids() == [n for n in range(30) if n not in (3, 25)]
        assert await client.rows("id in [4, 29, 25]") == [row(4), row(29)]
        assert await client.count() == 28

    composed(scenario)


def test_upsert_replaces_and_inserts(composed: Any) -> None:
    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create(shard_count=2)
        await client.insert(rows(range(10)))
        await client.flush()
        await client.upsert([row(1, 11), row(12, 12)])
        await client.upsert([row(1, 21)])
        assert await client.values() == {**dict.fromkeys(range(10), 0), 1: 21, 12: 12}
        await client.flush()
        await client.upsert([row(12, 22), row(1, 31)])
        await client.flush()
        await world.settle()
        assert await client.values() == {**dict.fromkeys(range(10), 0), 1: 31, 12: 22}
        assert await client.count() == 11
        await world.restart()
        assert await client.values() == {**dict.fromkeys(range(10), 0), 1: 31, 12: 22}

    composed(scenario)


def test_partial_upsert_keeps_the_other_fields(composed: Any) -> None:
    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create(shard_count=2)
        await client.insert([row(1, 5), row(2, 6), row(3, 7)])
        await client.upsert([{"id": 1, "value": 50}], partial_update=True)
        await client.flush()
        await client.upsert([{"id": 2, "name": "two"}, {"id": 3, "name": None}], partial_update=True)
        assert await client.rows() == [row(1, 50), row(2, 6, name="two"), row(3, 7, name=None)]

    composed(scenario)


def test_delete_by_filter_and_in_a_partition(composed: Any) -> None:
    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create()
        await client.create_partition("p")
        await client.insert(rows(range(6)))
        await client.insert(rows(range(4, 10), 1), partition="p")
        await client.delete_ids([4], partition="p")
        assert await client.rows("id == 4") == [row(4, 0)]
        await client.flush()
        await client.delete_ids([5], partition="p")
        assert await client.rows("id == 5") == [row(5, 0)]
        await client.delete("value == 1 and id > 7")
        assert await client.ids(partitions=("p",)) == [6, 7]
        await client.delete_ids([5, 6])
        assert await client.ids() == [0, 1, 2, 3, 4, 7]
        await refused(client.delete(""), BadParameterError)

    composed(scenario)


def test_two_rows_of_one_key_are_counted_twice_and_answered_once(composed: Any) -> None:
    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create()
        await client.insert([row(1, 1), row(2, 2)])
        await client.insert([row(1, 10)])
        await client.flush()
        await client.insert([row(1, 100)])
        assert await client.count() == 4
        assert await client.values() == {1: 100, 2: 2}
        assert [key for key, _ in await client.search([1, 0], 5)] == [1, 2]
        await client.delete_ids([1])
        assert await client.count() == 1

    composed(scenario)


def test_varchar_keys(composed: Any) -> None:
    fields = (TEXT_ID, VECTOR, VALUE)

    async def scenario(world: World) -> None:
        client = Client(world, fields=fields)
        await client.create(shard_count=2)
        keys = [f"k{n:02d}" for n in range(20)] + ["", "ключ", "k" * 64]
        await client.insert([{"id": key, "vector": [n, 0], "value": n} for n, key in enumerate(keys)])
        await client.delete_ids(["k03", "ключ"])
        await client.flush()
        await client.delete_ids(["k05"])
        await client.upsert([{"id": "k04", "vector": [0, 0], "value": 44}])
        expected = sorted(set(keys) - {"k03", "ключ", "k05"}, key=lambda key: key.encode())
        assert await client.ids() == expected
        await client.flush()
        await client.compact()
        await world.settle()
        assert await client.ids() == expected
        assert (await client.values())["k04"] == 44
        assert [key for key, _ in await client.search([19, 0], 2)] == ["k19", ""]

    composed(scenario)


def test_partition_key_spreads_rows(composed: Any) -> None:
    fields = (ID, VECTOR, FieldSchema(0, "value", DataType.INT64, is_partition_key=True))

    async def scenario(world: World) -> None:
        client = Client(world, fields=fields)
        await client.create(partition_count=4)
        many = [{"id": n, "vector": [n, 0], "value": n % 7} for n in range(50)]
        await client.insert(many)
        await client.flush()
        await client.insert([{"id": 100, "vector": [0, 0], "value": 3}])
        await client.delete_ids([3])
        assert await client.ids("value == 3") == [n for n in range(50) if n % 7 == 3 and n != 3] + [100]
        await client.upsert([{"id": 10, "vector": [0, 0], "value": 6}])
        assert await client.rows("id == 10", ("value",)) == [{"value": 6, "id": 10}]
        await client.flush()
        await world.settle()
        assert await client.count() == 50

    composed(scenario)


def test_nullable_dynamic_and_several_vectors(composed: Any) -> None:
    second = FieldSchema(0, "other", DataType.FLOAT_VECTOR, type_params={"dim": "3"})
    tags = FieldSchema(
        0,
        "tags",
        DataType.ARRAY,
        nullable=True,
        element_type=DataType.INT64,
        type_params={"max_capacity": "4"},
    )
    doc = FieldSchema(0, "doc", DataType.JSON, nullable=True)
    fields = (ID, VECTOR, second, NAME, tags, doc)

    def made(number: int) -> dict[str, Any]:
        return {
            "id": number,
            "vector": [float(number), 0.0],
            "other": [0.0, float(number), 0.0],
            "name": None if number % 2 else f"n{number}",
            "tags": None if number % 3 else [number, 1],
            "doc": None if number % 5 else {"a": number},
            "color": f"c{number % 4}",
        }

    async def scenario(world: World) -> None:
        client = Client(world, fields=fields)
        await client.create(dynamic=True)
        await client.insert([made(n) for n in range(12)])
        for _ in range(2):
            assert await client.ids("name is null") == [1, 3, 5, 7, 9, 11]
            assert await client.ids("array_contains(tags, 6)") == [6]
            assert await client.ids('doc["a"] == 5') == [5]
            assert await client.ids('color == "c1"') == [1, 5, 9]
            found = await client.search([0, 6, 0], 3, params={"anns_field": "other"})
            assert [key for key, _ in found] == [6, 5, 7]
            assert [key for key, _ in await client.search([2, 0], 1, params={"anns_field": "vector"})] == [2]
            await client.flush()
        await world.restart()
        await client.load()
        assert await client.ids("tags is not null") == [0, 3, 6, 9]

    composed(scenario)


def test_filtered_and_range_search(composed: Any) -> None:
    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create()
        await client.insert(rows(range(40)))
        await client.flush()
        await client.insert(rows(range(40, 60)))
        found = await client.search([41, 0], 4, filter="id % 10 == 0")
        assert [key for key, _ in found] == [40, 50, 30, 20]
        params = {"params": '{"radius": 26.0, "range_filter": 4.0}'}
        found = await client.search([40, 0], 50, params=params)
        assert sorted(key for key, _ in found) == [35, 36, 37, 38, 42, 43, 44, 45]
        reply = await client.search_reply([5, 0], 3, output_fields=("value", "name"), params={"offset": "2"})
        columns = {one.field.name: one.column.values for one in reply.fields}
        assert columns["name"].to_pylist() == [f"n{key}" for key in reply.keys.values.tolist()]
        assert await client.search([0, 0], 3, filter="id > 1000") == []

    composed(scenario)


def test_pages_of_a_query(composed: Any) -> None:
    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create(shard_count=2)
        await client.insert(rows(range(0, 30, 2)))
        await client.flush()
        await client.insert(rows(range(1, 30, 2)))
        await client.delete_ids(range(5, 15))
        alive = [n for n in range(30) if not 5 <= n < 15]
        pages = [await client.ids(limit=7, offset=offset) for offset in range(0, 28, 7)]
        assert pages == [alive[at : at + 7] for at in range(0, 28, 7)]
        assert await client.ids("id >= 3", limit=4) == [3, 4, 15, 16]

    composed(scenario)


@pytest.mark.parametrize("level", list(ConsistencyLevel)[:4])
def test_every_level_sees_what_one_client_wrote(composed: Any, level: ConsistencyLevel) -> None:
    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create(shard_count=2, consistency_level=level)
        reply = await client.insert(rows(range(5)))
        session = Consistency(level=level, guarantee_timestamp=reply.timestamp)
        assert await client.ids(consistency=session) == list(range(5))
        assert await client.ids(consistency=Consistency(use_default=True)) == list(range(5))
        await client.delete_ids([0])
        assert await client.ids(consistency=Consistency(level=level)) == [1, 2, 3, 4]

    composed(scenario)


def test_a_read_at_an_older_timestamp_sees_the_past(composed: Any) -> None:
    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create(shard_count=2)
        first = (await client.insert(rows(range(6)))).timestamp
        await client.flush()  # which takes time: within a millisecond, timestamps of two shards are not ordered
        second = (await client.delete_ids([1, 2])).timestamp
        await world.sleep(0.01)
        third = (await client.upsert([row(3, 33), row(7, 7)])).timestamp
        past = [
            (first, dict.fromkeys(range(6), 0)),
            (second, {0: 0, 3: 0, 4: 0, 5: 0}),
            (third, {0: 0, 3: 33, 4: 0, 5: 0, 7: 7}),
        ]

        async def check() -> None:
            for timestamp, expected in past:
                assert await client.values(consistency=at(timestamp), iterator=True) == expected
            assert await client.values(consistency=at(first - 1), iterator=True) == {}

        await check()
        await client.flush()
        await check()
        await client.compact()
        await world.settle()
        await check()
        await world.restart()
        await check()

    composed(scenario)


def test_what_is_older_than_the_retention_is_purged_and_refused(composed: Any) -> None:
    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create()
        first = (await client.insert(rows(range(6)))).timestamp
        await client.delete_ids([1, 2])
        await client.flush()
        await world.sleep(60)
        await client.insert(rows(range(10, 12)))
        await client.flush()
        await client.compact()
        await world.settle()
        assert await client.ids() == [0, 3, 4, 5, 10, 11]
        await refused(client.ids(consistency=at(first), iterator=True), ElanusError, "older than what is kept")
        reply = await client.query("id >= 0", ("id",))
        again = await client.ids(consistency=at(reply.session_timestamp), iterator=True)
        assert again == [0, 3, 4, 5, 10, 11]

    composed(scenario, retention_ms=1000)


def test_a_flush_that_purges_refuses_reads_of_what_it_purged(composed: Any) -> None:
    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create()
        first = (await client.insert(rows(range(6)))).timestamp
        await client.delete_ids([1, 2])
        await world.sleep(60)
        await client.flush()
        await world.settle()
        assert await client.ids() == [0, 3, 4, 5]
        await refused(client.ids(consistency=at(first), iterator=True), ElanusError, "older than what is kept")

    composed(scenario, retention_ms=1000)


def test_an_empty_collection_answers_with_nothing(composed: Any) -> None:
    async def scenario(world: World) -> None:
        client = Client(world, fields=FIELDS)
        await client.create(shard_count=2)
        assert await client.rows() == []
        assert await client.count() == 0
        reply = await client.search_reply([0, 0], output_fields=("name",))
        assert len(reply.keys) == 0
        assert reply.session_timestamp > 0
        await client.insert(rows([1]))
        await client.delete_ids([1])
        await client.flush()
        await world.settle()
        assert await client.rows() == []
        assert await client.search([0, 0]) == []

    composed(scenario)


def test_reads_of_what_is_not_loaded_are_refused(composed: Any) -> None:
    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create(load=False)
        await client.insert(rows(range(3)))
        await refused(client.ids(), ElanusError, "not loaded")
        await client.load()
        assert await client.ids() == [0, 1, 2]
        await refused(client.query("", ("id",)), BadParameterError, "empty expression")

    composed(scenario)
