"""Schemas that change under rows, truncation and time to live: whole, repeated, and killed at every step."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, cast

import msgspec
import pytest
from node_calls import FIELDS, Client, refused, row, rows, run

from elanus.base.errors import ElanusError
from elanus.model.errors import BadParameterError
from elanus.model.requests import AddFieldRequest, AlterPropertiesRequest, CollectionRequest
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType
from elanus.testing.composition import Options, World, play

EXTRA = FieldSchema(0, "extra", DataType.INT64, nullable=True, default=7)
NOTE = FieldSchema(0, "note", DataType.VARCHAR, nullable=True, type_params={"max_length": "8"})
OTHER = FieldSchema(0, "other", DataType.FLOAT_VECTOR, nullable=True, type_params={"dim": "2"})
BUSY = {"growing_bytes_max": 4096, "growing_idle_s": 1.0, "retention_ms": 0}
STEPS_BETWEEN_KILLS = 7


async def add(client: Client, field: FieldSchema) -> None:
    await client.proxy.add_field(AddFieldRequest(collection=client.name, field=field))


async def truncate(client: Client) -> None:
    await client.proxy.truncate_collection(CollectionRequest(collection=client.name))


async def alter(client: Client, **properties: str) -> None:
    named = {key.replace("_", "."): value for key, value in properties.items()}
    await client.proxy.alter_collection(AlterPropertiesRequest(collection=client.name, properties=named))


async def killed_after(world: World, call: Awaitable[Any], steps: int) -> bool:
    """Run `call` for some steps of the event loop, then kill the process and start the next; whether it had ended."""
    task = asyncio.ensure_future(call)
    for _ in range(steps):
        await asyncio.sleep(0)
        if task.done():
            break
    ended = task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await world.kill()
    await world.start()
    return ended


def test_added_fields_are_read_everywhere(composed: Any) -> None:
    """Sealed, growing, later rows; filters, searches, partial upserts, compaction; a restart after each."""

    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create(shard_count=2)
        await client.insert(rows(range(10)))
        await client.flush()
        await client.insert(rows(range(10, 20)))
        for number, field in enumerate((EXTRA, NOTE, OTHER)):
            await add(client, field)
            client.fields = (*client.fields, field)
            await client.insert([row(20 + number, extra=1, note="x", other=[1.0, 1.0])])
            await world.settle()
        await client.insert([row(23)])
        expected = dict.fromkeys(range(20), 7) | {20: 1, 21: 1, 22: 1, 23: 7}
        for happens in (client.ids, client.flush, world.restart, client.compact, world.crash):
            await happens()
            found = await client.rows("", ("extra", "note"))
            assert {one["id"]: one["extra"] for one in found} == expected
            assert {one["id"] for one in found if one["note"] == "x"} == {21, 22}
            assert await client.ids("note is null and extra == 7") == [*range(20), 23]
            near = {"params": {"anns_field": "vector"}, "filter": "extra == 7"}
            assert [key for key, _ in await client.search((3.0, 0.0), 1, **near)] == [3]
        await client.upsert([{"id": 5, "extra": 50}], partial_update=True)
        (changed,) = await client.rows("id == 5", ("value", "extra", "name"))
        assert (changed["extra"], changed["name"]) == (50, "n5")

    composed(scenario, **BUSY)


@pytest.mark.parametrize("first", range(STEPS_BETWEEN_KILLS))
def test_add_field_killed_at_every_step(first: int) -> None:
    """The next process has either schema, whole; the call can be made again; every row is there."""

    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create(shard_count=2)
        await client.insert(rows(range(6)))
        await client.flush()
        await client.insert(rows(range(6, 12)))
        for number in range(60):
            field = msgspec.structs.replace(EXTRA, name=f"extra{number}")
            ended = await killed_after(world, add(client, field), first + number * STEPS_BETWEEN_KILLS)
            assert await client.ids() == list(range(12))
            try:
                await add(client, field)
            except BadParameterError as error:
                assert "duplicate field name" in error.message
            await client.upsert([{"id": 3, "value": number}], partial_update=True)
            found = await client.rows("", (field.name, "value"))
            assert {one["id"]: one[field.name] for one in found} == dict.fromkeys(range(12), 7)
            if ended:
                break
        else:
            raise AssertionError("the call never ends")
        await world.restart()
        assert len(await client.rows("", (field.name,))) == 12

    run(scenario, Options(growing_idle_s=1.0))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(STEPS_BETWEEN_KILLS))
def test_truncate_killed_at_every_step(first: int) -> None:
    """Either all rows or none; never some; and what is written afterwards stays."""

    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create(shard_count=2)
        await client.create_partition("p")
        for number in range(60):
            await client.insert(rows(range(6)))
            await client.insert(rows(range(6, 9)), partition="p")
            await client.flush()
            await client.insert(rows(range(9, 12)))
            ended = await killed_after(world, truncate(client), first + number * STEPS_BETWEEN_KILLS)
            assert await client.ids() in ([], list(range(12)))
            await truncate(client)
            assert await client.ids() == []
            await client.insert([row(100)], partition="p")
            await world.crash()
            assert await client.ids() == [100]
            await truncate(client)
            if ended:
                break
        else:
            raise AssertionError("the call never ends")
        await world.settle()
        assert await client.segment_count() == 0

    run(scenario, Options(growing_idle_s=1.0))


def test_truncate_under_writers(composed: Any) -> None:
    """Rows acknowledged before it began are gone, rows begun after it ended are there."""

    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create(shard_count=2)
        acknowledged: list[tuple[int, bool]] = []
        truncated = False

        async def write(start: int) -> None:
            for number in range(start, start + 40):
                begun_after = truncated
                try:
                    await client.insert([row(number)])
                except ElanusError:
                    continue
                acknowledged.append((number, begun_after))
                await world.sleep(0.01)

        writers = [asyncio.ensure_future(write(1000 * number)) for number in range(3)]
        await world.sleep(0.15)
        before = {number for number, _ in acknowledged}
        await truncate(client)
        truncated = True
        await asyncio.gather(*writers)
        for _ in range(2):
            found = set(await client.ids())
            assert not found & before
            assert {number for number, after in acknowledged if after} <= found
            await world.crash()

    composed(scenario, **BUSY)


def test_a_partial_upsert_of_an_older_schema_keeps_new_fields(composed: Any) -> None:
    """The proxy's description is old: the write is made again under the newest schema, not with the field left out."""

    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create()
        await client.insert(rows(range(3)))
        await client.ids()
        stale = cast("dict[int, object]", world.process.leader.peers.proxies)
        kept = dict(stale)
        stale.clear()
        await add(client, EXTRA)
        stale.update(kept)
        fresh = Client(world)
        fresh.fields = (*FIELDS, EXTRA)
        await client.upsert([{"id": 1, "value": 5}], partial_update=True)
        (found,) = await fresh.rows("id == 1", ("extra", "value"))
        assert (found["extra"], found["value"]) == (7, 5)

    composed(scenario)


def test_the_dynamic_field_is_switched_on_later(composed: Any) -> None:
    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create()
        await client.insert(rows(range(3)))
        await client.flush()
        await alter(client, dynamicfield_enabled="true")
        client.dynamic = True
        await client.insert([row(3, colour="red")])
        for _ in range(2):
            assert await client.ids('colour == "red"') == [3]
            assert await client.ids("not exists colour") == [0, 1, 2]
            await world.restart()
        await refused(alter(client, dynamicfield_enabled="false"), BadParameterError, "cannot supported to be disabled")

    composed(scenario)


@pytest.mark.parametrize("codec", [False, True])
def test_rows_outlive_their_time_and_are_purged(codec: bool) -> None:
    """Gone at once from every read, later from the files; no time to live before that brings them back. The invariants
    know of no time to live and are not checked."""

    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create(shard_count=2)
        await client.insert(rows(range(5)))
        await world.sleep(100)
        await client.insert(rows(range(5, 8)))
        await alter(client, collection_ttl_seconds="50")
        for _ in range(2):
            assert await client.ids() == [5, 6, 7]
            assert await client.count() == 3
            assert [key for key, _ in await client.search((0.0, 0.0), 10)] == [5, 6, 7]
            await world.restart()
        await alter(client, collection_ttl_seconds="-1")
        assert await client.ids() == list(range(8))
        await alter(client, collection_ttl_seconds="50")
        await client.flush()
        await world.sleep(100)
        assert await client.ids() == []
        await client.insert(rows(range(8, 10)))
        await client.flush()
        await world.sleep(300)
        await world.settle()
        assert await client.segment_count() == 0
        await alter(client, collection_ttl_seconds="0")
        assert await client.ids() == []

    play(scenario, Options(codec=codec, retention_ms=0))
