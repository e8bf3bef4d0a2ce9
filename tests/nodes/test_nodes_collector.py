"""Files that no manifest ever named: of writers that died, or gave up, between writing and committing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from node_calls import Client, rows

from elanus.app.roles import Roles
from elanus.meta.catalog import fetch_all
from elanus.meta.manifests import Manifests
from elanus.meta.records import (
    COLLECTIONS,
    DROPPED,
    SHARDS,
    Collection,
    Dropped,
    Manifest,
    ShardPointer,
    decode,
    encode,
)
from elanus.meta.store import Delete, Put
from elanus.model.channel import ORIGIN, pchannel_of
from elanus.model.segment import SegmentEntry
from elanus.nodes.contracts import CompactTask
from elanus.nodes.coordinator import collector
from elanus.nodes.coordinator.collector import Stock, files_of
from elanus.nodes.data.node import DataNode
from elanus.objects import paths
from elanus.objects.checksums import read_verified
from elanus.objects.store import Data, ObjectStore
from elanus.testing.cluster import ClusterOptions, ClusterWorld, play_cluster
from elanus.testing.composition import outcome
from elanus.testing.invariants import check_all

SHARD = "elanus-dml_0_7v0"


def client_of(world: ClusterWorld) -> Client:
    return Client(cast("Any", world), "c")


async def unnamed(world: ClusterWorld) -> list[str]:
    """Files that neither the committed manifest of their shard nor the one before names."""
    doors = world.process.doors
    named: set[str] = set()
    for stored in await fetch_all(world.meta, ShardPointer, SHARDS):
        for ref in (stored.record.file, stored.record.previous):
            if ref is not None:
                manifest = decode(Manifest, await read_verified(doors, world.objects, ref), ref.key)
                named |= {ref.key} | files_of(manifest)
    return [key for key in await world.objects.list(paths.COLLECTIONS_PREFIX) if key not in named]


# --- what a name tells ----------------------------------------------------------------------------------------------
def file_of(right: paths.Right | None, unique: str = "ab") -> str:
    token = unique if right is None else right.token(unique)
    return paths.scalars(paths.segment_folder(7, SHARD, 1, token))


def test_a_file_is_garbage_only_when_the_right_to_commit_it_is_gone() -> None:
    owner, lead = paths.owner_of_term, paths.coordinator_of_lead
    stock = Stock(term=5, lead=9, version=3, given_up={lead(9).token("cd")})
    gone = [file_of(owner(4)), file_of(owner(1)), file_of(lead(8)), file_of(lead(9), "cd")]
    index = paths.index(paths.folder_of(file_of(owner(5))), 3, lead(8).token("ef"), "HNSW")
    living = [file_of(owner(5)), file_of(lead(9)), file_of(None)]
    manifests = [paths.manifest(7, SHARD, version, owner(5).token("ab")) for version in (1, 3, 4)]
    assert stock.over([*gone, *living, *manifests, index]) == {*gone, index}
    assert stock.newer([*gone, *living, *manifests, index]) is None
    too_new = [file_of(owner(6)), file_of(lead(10)), paths.manifest(7, SHARD, 5, "ab")]
    for key in too_new:
        assert stock.newer([*living, key]) == key


# --- writers that die -----------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("codec", [False, True], ids=["direct", "codec"])
def test_what_owners_left_that_died_while_they_flushed_is_collected(codec: bool) -> None:
    async def scenario(world: ClusterWorld) -> None:
        client = client_of(world)
        await client.create(shard_count=2)
        left = 0
        for turn in range(6):
            await client.insert(rows(range(20 * turn, 20 * turn + 20)))
            flushing = asyncio.ensure_future(outcome(client.flush()))
            for _ in range(7 * turn):
                await asyncio.sleep(0)
            await world.kill(world.owner("elanus-dml_0"))
            flushing.cancel()
            left += len(await unnamed(world))
            await world.join("streaming")
            await world.sleep(4)
        assert left, "no death fell between writing and committing"
        await client.flush()
        # A last term for both channels: what their owners wrote in vain before goes.
        await world.kill("streaming 1")
        await world.kill("streaming 2")
        await world.join("streaming")
        await world.sleep(10)
        assert await unnamed(world) == []
        assert await client.ids() == list(range(120))

    play_cluster(scenario, ClusterOptions(codec=codec, compacts=False), check=check_all)


class Hesitant(DataNode):
    """Writes, and takes its time before it says so."""

    wrote = 0

    async def compact(self, task: CompactTask) -> tuple[SegmentEntry, ...]:
        entries = await super().compact(task)
        Hesitant.wrote += 1
        if Hesitant.wrote == 1:
            await self._doors.clock.sleep(30)
        return entries


class HesitantRoles(Roles):
    def data(self) -> DataNode:
        return Hesitant(self.footing.doors, self.footing.objects, 1)


async def flushed_twice(world: ClusterWorld, begun: Callable[[], bool]) -> Client:
    """A collection of two segments, whose first compaction has begun."""
    client = client_of(world)
    await client.create()
    for turn in range(2):
        await client.insert(rows(range(10 * turn, 10 * turn + 10)))
        await client.flush()
    while not begun():
        await world.sleep(0.1)
    return client


async def compacting(world: ClusterWorld) -> Client:
    """A collection whose first compaction is written and not yet committed."""
    Hesitant.wrote = 0
    client = await flushed_twice(world, lambda: Hesitant.wrote > 0)
    assert await unnamed(world)
    return client


def kill_the_data_node(world: ClusterWorld) -> str:
    return "data 1"


def kill_the_coordinator(world: ClusterWorld) -> str:
    return world.active


@pytest.mark.slow
@pytest.mark.parametrize("victim", [kill_the_data_node, kill_the_coordinator])
def test_what_a_task_left_that_nobody_commits_is_collected(victim: Callable[[ClusterWorld], str]) -> None:
    async def scenario(world: ClusterWorld) -> None:
        client = await compacting(world)
        await world.kill(victim(world))
        await world.sleep(20)
        assert Hesitant.wrote == 2
        await world.sleep(40)
        assert await unnamed(world) == []
        assert await client.count() == 20

    options = ClusterOptions(data=2, coordinators=2, pchannel_count=1)
    play_cluster(scenario, options, make=HesitantRoles, check=check_all)


@pytest.mark.slow
def test_a_drop_takes_with_it_what_its_tasks_write_meanwhile() -> None:
    async def scenario(world: ClusterWorld) -> None:
        client = await compacting(world)
        await client.drop()
        await world.sleep(60)
        assert await world.objects.list(paths.COLLECTIONS_PREFIX) == []

    play_cluster(scenario, ClusterOptions(pchannel_count=1), make=HesitantRoles, check=check_all)


class SleepyStore:
    """A way to the objects on which the first put takes half a minute."""

    puts = 0

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objects, name)

    async def put(self, key: str, data: Data) -> None:
        SleepyStore.puts += 1
        if SleepyStore.puts == 1:
            await asyncio.sleep(30)
        await self._objects.put(key, data)


class SleepyRoles(Roles):
    def data(self) -> DataNode:
        return DataNode(self.footing.doors, cast("ObjectStore", SleepyStore(self.footing.objects)), 1)


async def dropped_under_a_later_lead(world: ClusterWorld) -> list[str]:
    """A collection is dropped while a task of an earlier coordinator sleeps; what that task has written afterwards."""
    SleepyStore.puts = 0
    client = await flushed_twice(world, lambda: SleepyStore.puts > 0)
    await world.kill(world.active)
    await client.drop()
    await world.sleep(10)
    assert await world.objects.list(paths.COLLECTIONS_PREFIX) == []
    await world.sleep(30)
    left = await world.objects.list(paths.COLLECTIONS_PREFIX)
    assert left
    return left


@pytest.mark.slow
@pytest.mark.parametrize("codec", [False, True], ids=["direct", "codec"])
def test_what_a_task_writes_for_a_collection_that_a_later_coordinator_dropped_is_collected(codec: bool) -> None:
    async def scenario(world: ClusterWorld) -> None:
        await dropped_under_a_later_lead(world)
        foreign = paths.scalars(paths.segment_folder(3, SHARD, 1, paths.coordinator_of_lead(1).token("ab")))
        await world.objects.put(foreign, b"of a collection that nobody knows, and that nobody dropped")
        await world.kill(world.active)
        await world.sleep(80)
        assert await world.objects.list(paths.COLLECTIONS_PREFIX) == [foreign]

    play_cluster(scenario, ClusterOptions(codec=codec, coordinators=3, pchannel_count=1), make=SleepyRoles)


@pytest.mark.slow
def test_marks_of_dropped_collections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "DROPPED_MAX", 2)

    async def scenario(world: ClusterWorld) -> None:
        client = client_of(world)
        for _ in range(4):
            await client.create()
            await client.drop()
        await world.sleep(10)
        assert len(await world.meta.range(DROPPED)) == 4
        await world.kill(world.active)
        await world.sleep(10)
        assert len(await world.meta.range(DROPPED)) == 2

    play_cluster(scenario, ClusterOptions(coordinators=2, pchannel_count=1))


# --- when it must not -----------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("sign", ["term", "lead", "version"])
def test_nothing_is_collected_where_the_meta_store_looks_older_than_the_files(sign: str) -> None:
    async def scenario(world: ClusterWorld) -> None:
        client = client_of(world)
        await client.create()
        await client.insert(rows(range(5)))
        await client.flush()
        ((vchannel, collection_id),) = [
            (one.record.vchannel, one.record.collection_id) for one in await fetch_all(world.meta, ShardPointer, SHARDS)
        ]
        old = paths.scalars(paths.segment_folder(collection_id, vchannel, 1, paths.owner_of_term(0).token("ab")))
        newer = {
            "term": paths.deletes(collection_id, vchannel, ORIGIN, paths.owner_of_term(99).token("ab")),
            "lead": paths.deletes(collection_id, vchannel, ORIGIN, paths.coordinator_of_lead(1 << 62).token("ab")),
            "version": paths.manifest(collection_id, vchannel, 99, "ab"),
        }[sign]
        await world.objects.put(old, b"old")
        await world.objects.put(newer, b"new")
        await world.kill(world.owner(pchannel_of(vchannel)))
        await world.sleep(10)
        assert {old, newer} <= set(await unnamed(world))
        await world.objects.delete(newer)
        await world.kill(world.owner(pchannel_of(vchannel)))
        await world.join("streaming")
        await world.sleep(10)
        assert await unnamed(world) == []

    play_cluster(scenario, ClusterOptions(pchannel_count=1, compacts=False), check=check_all)


@pytest.mark.slow
@pytest.mark.parametrize("sign", ["lead", "catalog"])
def test_nothing_of_a_dropped_collection_is_collected_where_the_meta_store_looks_older(sign: str) -> None:
    async def scenario(world: ClusterWorld) -> None:
        left = set(await dropped_under_a_later_lead(world))
        (mark,) = await fetch_all(world.meta, Dropped, DROPPED)
        collection_id = mark.record.collection_id
        if sign == "lead":
            token = paths.coordinator_of_lead(1 << 62).token("ab")
            newer = paths.deletes(collection_id, SHARD, ORIGIN, token)
            await world.objects.put(newer, b"new")
            left.add(newer)
        else:
            other = Client(cast("Any", world), "d")
            await other.create()
            (known,) = await fetch_all(world.meta, Collection, COLLECTIONS)
            again = Dropped(collection_id=known.record.collection_id)
            await world.meta.transact((), (Put(again.key, encode(again)), Delete(mark.record.key)))
            left |= set(await world.objects.list(paths.COLLECTIONS_PREFIX))
        await world.kill(world.active)
        await world.sleep(80)
        assert left <= set(await world.objects.list(paths.COLLECTIONS_PREFIX))

    play_cluster(scenario, ClusterOptions(coordinators=3, pchannel_count=1), make=SleepyRoles)


@pytest.mark.slow
def test_what_a_living_writer_has_not_committed_yet_stays() -> None:
    async def scenario(world: ClusterWorld) -> None:
        client = await compacting(world)
        before = await unnamed(world)
        # Both channels' owners change while the task is under way: its right is the coordinator's.
        await world.kill(world.owner("elanus-dml_0"))
        await world.sleep(10)
        assert set(before) <= set(await unnamed(world))
        await world.sleep(40)
        assert await client.count() == 20
        heads = Manifests(world.process.doors, world.meta, world.objects)
        (shard,) = [one.record.vchannel for one in await fetch_all(world.meta, ShardPointer, SHARDS)]
        head = await heads.read(shard)
        assert head is not None and len(head.manifest.segments) == 1

    play_cluster(scenario, ClusterOptions(pchannel_count=1), make=HesitantRoles, check=check_all)
