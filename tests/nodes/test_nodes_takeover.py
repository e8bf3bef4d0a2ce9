"""Owners that are superseded, and DDL whose coordinator dies at any step."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import numpy as np
import pytest
from node_calls import Client, refused, row, rows, run

from elanus.base.errors import ElanusError
from elanus.meta.catalog import assign, fetch_channel
from elanus.meta.catalog import run as run_transaction
from elanus.meta.records import SHARDS
from elanus.model.channel import pchannel_of
from elanus.model.columns import Column
from elanus.model.reads import ShardRead
from elanus.model.requests import AliasRequest, CollectionRequest, ListCollectionsRequest, PartitionsRequest
from elanus.model.types import ConsistencyLevel
from elanus.nodes.contracts import ShardTarget, ShardWrite
from elanus.nodes.streaming.flush import Storage
from elanus.nodes.streaming.node import StreamingLimits, StreamingNode
from elanus.search.execute import Execution
from elanus.testing.composition import Options, World, outcome


async def second_owner(world: World, pchannel: str) -> StreamingNode:
    """Another streaming node that takes the channel over; the first one is not told."""
    process = world.process
    limits = StreamingLimits(
        growing_bytes_max=1 << 26,
        growing_bytes_stop=1 << 30,
        growing_idle_s=600,
        free_bytes_min=0,
        retention_ms=300_000,
    )
    free_bytes = partial(process.doors.files.free_bytes, world.ground.folder)
    storage = Storage(process.doors, process.meta, process.objects, free_bytes)
    execution = Execution(process.doors.compute, process.doors.random, 1)
    node = StreamingNode(2, storage, process.log, execution, limits, process.events)
    node.connect(process.coordinator, dict(process.query))
    channel = await fetch_channel(process.meta, pchannel)
    transaction, term = assign(channel, pchannel, 2)
    await run_transaction(process.meta, transaction, (process.leader.guard,))
    await node.assign(pchannel, term)
    return node


def test_a_superseded_owner_neither_answers_nor_writes() -> None:
    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create()
        await client.insert(rows(range(5)))
        await client.flush()
        await client.insert(rows([10, 11]))
        vchannel = (await world.meta.range(SHARDS))[0].key.removeprefix(SHARDS)
        old = world.process.streaming
        served = (await world.process.leader.placement.shard(vchannel)).manifest  # type: ignore[union-attr]
        new = await second_owner(world, pchannel_of(vchannel))
        strong = ShardRead(vchannel=vchannel, level=ConsistencyLevel.STRONG, count_only=True)
        eventually = ShardRead(vchannel=vchannel, level=ConsistencyLevel.EVENTUALLY, count_only=True)
        await refused(old.query(strong), ElanusError, "no longer current")
        assert (await old.query(eventually)).row_count == 7
        key = Column(np.array([3]))
        write = ShardWrite(vchannel=vchannel, schema_version=0, delete_keys=key)
        await new.write(write)
        locations = {entry.segment_id: (1,) for entry in served.segments}
        await new.set_target(ShardTarget(manifest=served, loaded=True, locations=locations))
        assert (await new.query(strong)).row_count == 6
        # What the old owner would seal now is refused as a whole.
        await old.flush(vchannel)
        await world.sleep(5)
        manifest = (await world.process.leader.placement.shard(vchannel)).manifest  # type: ignore[union-attr]
        assert manifest.version == served.version
        await new.flush(vchannel)
        await world.sleep(5)
        assert (await world.process.leader.placement.shard(vchannel)).manifest.term == 2  # type: ignore[union-attr]
        await new.close()
        await refused(old.write(write), ElanusError)
        await world.kill()
        await world.start()
        assert await client.ids() == [0, 1, 2, 4, 10, 11]

    run(scenario, Options(pchannel_count=1))


async def _create(client: Client) -> None:
    other = Client(client.world, "d")
    await other.create(shard_count=2)
    await other.insert(rows(range(3)))


async def _drop(client: Client) -> None:
    await client.drop()


async def _create_partition(client: Client) -> None:
    await client.create_partition("r")


async def _drop_partition(client: Client) -> None:
    await client.release()
    await client.drop_partition("p")


async def _alias(client: Client) -> None:
    await client.proxy.create_alias(AliasRequest(collection="c", alias="a"))


@pytest.mark.slow
@pytest.mark.parametrize("change", [_create, _drop, _create_partition, _drop_partition, _alias])
def test_ddl_killed_at_any_step_is_carried_to_its_end_or_never_was(change: Callable[[Client], Awaitable[None]]) -> None:
    """Killed after ever more steps of the loop, from the first to long after the answer."""
    for steps in (*range(0, 150, 9), 200, 300):

        async def scenario(world: World, steps: int = steps) -> None:
            client = Client(world)
            await client.create(shard_count=2)
            await client.create_partition("p")
            await client.insert(rows(range(4)))
            await client.insert(rows(range(10, 13)), partition="p")
            await client.flush()
            await client.insert(rows(range(20, 22)), partition="p")
            changing = asyncio.ensure_future(outcome(change(client)))
            for _ in range(steps):
                await asyncio.sleep(0)
            changing.cancel()
            await world.crash(power_seed=steps)
            await check_after(world, client)

        run(scenario, seed=steps)


async def check_after(world: World, client: Client) -> None:
    """The catalog names whole things only, and all of them serve."""
    listed = {one.name for one in await world.proxy.list_collections(ListCollectionsRequest())}
    for name in listed:
        one = Client(world, name)
        await one.index("vector", {"index_type": "FLAT", "metric_type": "L2"})
        await one.load()
        partitions = await world.proxy.list_partitions(PartitionsRequest(collection=name))
        expected = set(range(4)) if name == "c" else set(await one.ids())
        if any(one.info.name == "p" for one in partitions):
            expected |= {10, 11, 12, 20, 21}
        assert set(await one.ids()) == expected
        for partition in partitions:
            await one.insert([row(50)], partition=partition.info.name)
        assert await one.count("id == 50") == len(partitions)
    if "c" not in listed:
        await client.create()
        await client.insert(rows([1]))
        assert await client.ids() == [1]
    await world.proxy.collection_row_count(CollectionRequest(collection="c"))


def test_a_collection_killed_while_its_index_is_built_gets_it_later() -> None:
    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create(index_type="HNSW")
        await client.insert(rows(range(1100)))
        await client.flush()
        for steps in range(0, 200, 25):
            for _ in range(steps):
                await asyncio.sleep(0)
            await world.crash()
        await client.wait_indexed()
        await world.settle()
        assert await client.count() == 1100

    run(scenario)


@pytest.mark.slow
@pytest.mark.parametrize("change", [_create, _drop, _create_partition, _drop_partition, _alias])
def test_ddl_whose_caller_goes_away_is_carried_to_its_end(change: Callable[[Client], Awaitable[None]]) -> None:
    for steps in range(1, 80, 8):

        async def scenario(world: World, steps: int = steps) -> None:
            client = Client(world)
            await client.create(shard_count=2)
            await client.create_partition("p")
            await client.insert(rows(range(4)))
            await client.insert([row(n) for n in (10, 11, 12, 20, 21)], partition="p")
            changing = asyncio.ensure_future(outcome(change(client)))
            for _ in range(steps):
                await asyncio.sleep(0)
            changing.cancel()
            await asyncio.wait((changing,))
            if change is _create:
                await _create(client)
            await world.sleep(1)
            await check_after(world, client)

        run(scenario, seed=steps)
