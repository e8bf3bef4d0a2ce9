"""Collections, partitions, names and lives: what comes, goes and comes back."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from node_calls import FIELDS, Client, refused, row, rows

from elanus.base.errors import ElanusError
from elanus.meta.records import SHARDS
from elanus.model.errors import (
    AliasNotFoundError,
    CollectionNotFoundError,
    PartitionNotFoundError,
    RequestError,
)
from elanus.model.requests import (
    AliasRequest,
    CollectionRequest,
    CompactRequest,
    IndexRequest,
    ListCollectionsRequest,
    PartitionRequest,
    PartitionsRequest,
    RenameCollectionRequest,
)
from elanus.objects import paths
from elanus.testing.client import ID, NAME, VALUE, VECTOR
from elanus.testing.composition import World, outcome


async def _collection_objects(world: World) -> list[str]:
    return await world.process.objects.list(paths.COLLECTIONS_PREFIX)


# --- lives ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["stop", "kill", "power"])
def test_everything_acknowledged_is_there_after_a_restart(composed: Any, how: str) -> None:
    async def scenario(world: World) -> None:
        async def again() -> None:
            if how == "stop":
                await world.restart()
            else:
                await world.crash(power_seed=1 if how == "power" else None)

        client = Client(world)
        await client.create(shard_count=3)
        await client.insert(rows(range(10)))
        await client.delete_ids([0])
        await again()
        assert await client.ids() == list(range(1, 10))
        await client.upsert([row(1, 11)])
        await client.flush()
        await again()
        assert await client.values() == {1: 11, **dict.fromkeys(range(2, 10), 0)}
        await client.insert(rows(range(20, 25)))
        await client.delete_ids([2, 21])
        await client.flush()
        await client.insert(rows(range(30, 33)))
        await client.delete_ids([3, 31])
        await client.compact()
        await again()
        expected = {1: 11, **dict.fromkeys([*range(4, 10), 20, 22, 23, 24, 30, 32], 0)}
        assert await client.values() == expected
        await world.settle()
        await again()
        assert await client.values() == expected
        assert await client.count() == len(expected)

    composed(scenario)


@pytest.mark.slow
def test_a_restart_during_each_step_of_a_flush(composed: Any) -> None:
    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create()
        written = 0
        for steps in range(0, 60, 3):
            await client.insert(rows(range(written, written + 3)))
            written += 3
            await client.delete_ids([written - 1])
            flushing = asyncio.ensure_future(outcome(client.flush()))
            for _ in range(steps):
                await asyncio.sleep(0)
            await world.crash()
            flushing.cancel()
        assert await client.ids() == [n for n in range(written) if n % 3 != 2]
        await client.flush()
        await world.settle()
        assert await client.count() == written // 3 * 2

    composed(scenario)


@pytest.mark.slow
def test_the_log_is_let_go_after_sealing(composed: Any) -> None:
    async def scenario(world: World) -> None:
        first, second = Client(world), Client(world, "d")
        await first.create(shard_count=2)
        await second.create(shard_count=2)
        for turn in range(8):
            await first.insert(rows(range(turn * 400, turn * 400 + 400)))
            await second.insert([row(turn)])
            await first.flush()
            await second.flush()
        await world.settle()
        files = world.process.doors.files
        folder = f"{world.ground.folder}/wal"
        sizes = [
            files.size(f"{folder}/{one}/{name}") for one in files.list(folder) for name in files.list(f"{folder}/{one}")
        ]
        assert sum(sizes) < 100_000
        await world.restart()
        assert await first.count() == 3200
        assert await second.count() == 8

    composed(scenario, log_file_bytes_max=16 * 1024)


def test_growing_segments_seal_themselves_when_full_and_when_idle(composed: Any) -> None:
    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create()
        for start in range(0, 3000, 100):
            await client.insert(rows(range(start, start + 100)))
        await world.settle()
        assert await client.segment_count() >= 1
        await client.insert(rows([5000]))
        await world.sleep(200)
        await world.settle()
        status = await world.process.streaming.status((await world.meta.range(SHARDS))[0].key.removeprefix(SHARDS))
        assert status.row_counts == {}
        assert await client.count() == 3001

    composed(scenario, growing_bytes_max=20_000, growing_idle_s=60.0)


def test_a_flush_asked_for_during_a_flush_is_not_forgotten(composed: Any) -> None:
    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create()
        for turn in range(6):
            await client.insert(rows([turn]))
            await asyncio.gather(client.flush(), client.insert(rows([100 + turn])), client.flush())
        await client.flush()
        assert await client.count() == 12

    composed(scenario)


# --- load and release -----------------------------------------------------------------------------------------------
def test_load_and_release(composed: Any) -> None:
    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create(shard_count=2)
        await client.insert(rows(range(5)))
        await client.flush()
        await client.insert(rows(range(5, 8)))
        await client.release()
        await refused(client.ids(), ElanusError, "not loaded")
        await client.insert(rows(range(8, 10)))
        await client.delete_ids([0, 5])
        await client.flush()
        await client.delete_ids([1])
        await client.load()
        assert await client.ids() == [2, 3, 4, 6, 7, 8, 9]
        await client.release()
        await world.restart()
        await refused(client.ids(), ElanusError, "not loaded")
        await client.load()
        assert await client.ids() == [2, 3, 4, 6, 7, 8, 9]

    composed(scenario)


def test_load_and_release_of_partitions(composed: Any) -> None:
    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create(load=False)
        for number, name in enumerate("pqr"):
            await client.create_partition(name)
            await client.insert(rows(range(10 * number, 10 * number + 3)), partition=name)
        await client.flush()
        await client.insert(rows([100]), partition="p")
        await client.load("p", "q")
        assert await client.ids() == [0, 1, 2, 10, 11, 12, 100]
        await refused(client.ids(partitions=("r",)), ElanusError, "not loaded")
        await client.delete_ids([10, 20])
        await client.load("r")
        assert await client.ids() == [0, 1, 2, 11, 12, 21, 22, 100]
        await client.release("p")
        assert await client.ids() == [11, 12, 21, 22]
        assert [key for key, _ in await client.search([0, 0], 2)] == [11, 12]
        await world.restart()
        assert await client.ids() == [11, 12, 21, 22]
        await client.release("q", "r")
        await refused(client.ids(), ElanusError, "not loaded")

    composed(scenario)


def test_two_query_nodes_share_the_segments(composed: Any) -> None:
    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create(shard_count=2)
        shared = 0
        for turn in range(4):
            await client.insert(rows(range(turn * 10, turn * 10 + 10)))
            await client.flush()
            held = [await node.status() for node in world.process.query.values()]
            shared += all(one.segments for one in held)
            await client.delete_ids([turn * 10])
            assert await client.count() == 9 * (turn + 1)
        assert shared
        await client.compact()
        await world.settle()
        assert await client.ids() == [n for n in range(40) if n % 10]

    composed(scenario, query_nodes=2)


CLUSTERED = (ID, VECTOR, msgspec.structs.replace(VALUE, is_clustering_key=True), NAME)


def test_rows_are_dealt_out_by_the_clustering_key(composed: Any) -> None:
    async def scenario(world: World) -> None:
        client = Client(world, fields=CLUSTERED)
        await client.create()
        assert (await client.proxy.compact(MAJOR)).compaction_id == -1
        value = {key: key * 7919 % 1000 for key in range(3000)}
        for first in range(0, 3000, 1000):
            await client.insert([row(key, value[key]) for key in range(first, first + 1000)])
            await client.flush()
        await client.delete_ids(list(range(0, 3000, 7)))
        await client.flush()
        left = {key: one for key, one in value.items() if key % 7}
        await client.compact(major=True)
        await world.settle()
        assert await client.values() == left
        parts = [sorted(value[key] for key in keys) for keys in await _keys_by_segment(world)]
        assert len(parts) > 1
        parts.sort()
        assert all(below[-1] <= above[0] for below, above in pairwise(parts))
        assert sum(map(len, parts)) == len(value)  # Those deleted are still readable in the past.
        assert (await client.proxy.compact(MAJOR)).compaction_id == -1
        await client.insert([row(5000, 500)])
        await client.flush()
        await client.compact(major=True)
        await world.restart()
        assert await client.values() == {**left, 5000: 500}

    composed(scenario, segment_bytes_max=30_000)


MAJOR = CompactRequest(collection="c", major=True)


async def _keys_by_segment(world: World) -> list[list[int]]:
    """The keys of each segment that the manifest names."""
    vchannel = (await world.meta.range(SHARDS))[0].key.removeprefix(SHARDS)
    manifest = (await world.process.leader.placement.shard(vchannel)).manifest  # type: ignore[union-attr]
    return [
        pq.read_table(pa.BufferReader(await world.process.objects.get(entry.scalars.key)))["id"].to_pylist()
        for entry in manifest.segments
    ]


# --- drop, rename, alias --------------------------------------------------------------------------------------------
def test_drop_a_collection_and_make_it_anew(composed: Any) -> None:
    async def scenario(world: World) -> None:
        client = Client(world)
        for turn in range(3):
            await client.create(shard_count=2)
            await client.insert(rows(range(turn, turn + 3)))
            await client.flush()
            await client.insert(rows([50]))
            assert await client.ids() == [turn, turn + 1, turn + 2, 50]
            await client.drop()
            await refused(client.ids(), CollectionNotFoundError)
            await client.drop()
            if turn == 1:
                await world.restart()
        await world.settle()
        assert await _collection_objects(world) == []
        assert (await world.process.query[1].status()).segments == {}
        await world.restart()
        assert await world.proxy.list_collections(ListCollectionsRequest()) == ()

    composed(scenario)


def test_drop_while_it_is_written_and_flushed(composed: Any) -> None:
    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create(shard_count=2)
        await client.insert(rows(range(10)))
        calls = [client.insert(rows([100 + n])) for n in range(5)]
        await asyncio.gather(*(outcome(call) for call in (*calls, client.flush(), client.drop())))
        await world.sleep(30)
        assert await world.proxy.list_collections(ListCollectionsRequest()) == ()
        assert await _collection_objects(world) == []

    composed(scenario)


def test_drop_a_partition(composed: Any) -> None:
    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create()
        await client.create_partition("p")
        await client.insert(rows(range(5)))
        await client.insert(rows(range(3, 9), 1), partition="p")
        await client.flush()
        await client.insert(rows([20], 1), partition="p")
        await refused(client.drop_partition("p"), RequestError, "loaded")
        await client.release("p")
        await client.drop_partition("p")
        await client.drop_partition("p")
        assert await client.values() == dict.fromkeys(range(5), 0)
        await refused(client.insert(rows([1]), partition="p"), PartitionNotFoundError)
        assert await world.proxy.collection_row_count(CollectionRequest(collection="c")) == 5
        await client.create_partition("p")
        await client.insert(rows([30]), partition="p")
        await client.flush()
        await world.restart()
        await client.load()
        assert await client.ids() == [0, 1, 2, 3, 4, 30]
        await world.settle()
        assert await client.ids(partitions=("p",)) == [30]

    composed(scenario)


def test_rename_and_aliases(composed: Any) -> None:
    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create()
        await client.insert(rows(range(3)))
        proxy = world.proxy
        await proxy.create_alias(AliasRequest(collection="c", alias="a"))
        through_alias = Client(world, "a")
        assert await through_alias.ids() == [0, 1, 2]
        await proxy.rename_collection(RenameCollectionRequest(collection="c", new_name="e"))
        renamed = Client(world, "e")
        assert await renamed.ids() == await through_alias.ids() == [0, 1, 2]
        await refused(client.ids(), CollectionNotFoundError)
        await client.create()
        await client.insert(rows([7]))
        await proxy.alter_alias(AliasRequest(collection="c", alias="a"))
        assert await through_alias.ids() == [7]
        await through_alias.insert(rows([8]))
        assert await client.ids() == [7, 8]
        await world.restart()
        assert await through_alias.ids() == [7, 8]
        assert (await world.proxy.describe_alias(AliasRequest(alias="a"))).collection == "c"
        await world.proxy.drop_alias(AliasRequest(alias="a"))
        await refused(world.proxy.describe_alias(AliasRequest(alias="a")), AliasNotFoundError)
        await client.drop()
        assert await renamed.ids() == [0, 1, 2]

    composed(scenario)


def test_partitions_are_listed_and_counted(composed: Any) -> None:
    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create()
        await client.create_partition("p")
        await client.insert(rows(range(4)), partition="p")
        await client.insert(rows(range(2)))
        await client.flush()
        await client.insert(rows([9]), partition="p")
        listed = await world.proxy.list_partitions(PartitionsRequest(collection="c"))
        assert [one.info.name for one in listed] == ["_default", "p"]
        assert await world.proxy.partition_row_count(PartitionRequest(collection="c", partition="p")) == 5
        assert await world.proxy.collection_row_count(CollectionRequest(collection="c")) == 7

    composed(scenario)


# --- indexes --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("index_type", "metric"), [("HNSW", "COSINE"), ("IVF_FLAT", "L2"), ("AUTOINDEX", "IP")])
def test_an_index_is_built_used_and_kept(composed: Any, index_type: str, metric: str) -> None:
    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create(index_type=index_type, metric=metric)
        angles = np.linspace(0, 3, 1500)
        many = [{**row(n), "vector": [float(np.cos(angle)), float(np.sin(angle))]} for n, angle in enumerate(angles)]
        await client.insert(many)
        await client.flush()
        await client.wait_indexed()
        await world.settle()
        (status,) = [await node.status() for node in world.process.query.values()]
        assert all(len(indexes) == 1 for indexes in status.indexes.values())
        target = many[700]["vector"]
        found = [key for key, _ in await client.search(target, 5, params={"params": '{"ef": 200, "nprobe": 64}'})]
        assert sorted(found) == [698, 699, 700, 701, 702]
        await client.delete_ids([700])
        found = [key for key, _ in await client.search(target, 2, params={"params": '{"ef": 200, "nprobe": 64}'})]
        assert sorted(found) == [699, 701]
        await client.insert([{**row(5000), "vector": target}])
        assert (await client.search(target, 1))[0][0] == 5000
        await world.restart()
        await client.load()
        (index,) = await world.proxy.describe_index(IndexRequest(collection="c"))
        assert (index.total_rows, index.pending_rows) == (1500, 0)
        assert (await client.search(target, 1))[0][0] == 5000

    composed(scenario)


def test_an_index_is_exchanged_on_a_released_collection(composed: Any) -> None:
    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create(index_type="HNSW")
        await client.insert(rows(range(1200)))
        await client.flush()
        await client.wait_indexed()
        await client.release()
        await world.proxy.drop_index(IndexRequest(collection="c", field="vector"))
        await client.index("vector", {"index_type": "IVF_FLAT", "metric_type": "IP"})
        await client.wait_indexed()
        await client.load()
        await world.settle()
        assert [key for key, _ in await client.search([1, 0], 2, params={"params": '{"nprobe": 128}'})] == [1199, 1198]
        assert await client.count() == 1200

    composed(scenario)


@pytest.mark.slow
def test_writers_and_readers_at_once(composed: Any) -> None:
    """Rows that are there are found at every moment, while others come, go and are sealed."""

    async def scenario(world: World) -> None:
        client = Client(world, fields=FIELDS)
        await client.create(shard_count=2)
        await client.insert(rows(range(50)))
        running = True

        async def write(start: int) -> None:
            for turn in range(12):
                await client.insert(rows(range(start + 10 * turn, start + 10 * turn + 10)))
                await client.delete_ids(range(start + 10 * turn, start + 10 * turn + 5))
                await client.upsert([row(turn, start + turn)])

        async def read() -> int:
            reads = 0
            while running:
                found = await client.ids("id < 50")
                assert found == list(range(50))
                assert await client.count("id < 50") == 50
                hits = [key for key, _ in await client.search([20, 0], 30, filter="id < 50")]
                assert len(set(hits)) == 30
                reads += 1
                await world.sleep(0.02)
            return reads

        async def maintain() -> None:
            for _ in range(6):
                await client.flush()
                await client.compact()

        readers = [asyncio.ensure_future(read()) for _ in range(2)]
        await asyncio.gather(write(1000), write(2000), maintain())
        await world.sleep(1)
        running = False
        assert min(await asyncio.gather(*readers)) > 5
        kept = [start + n for start in (1000, 2000) for n in range(120) if n % 10 >= 5]
        assert await client.ids() == [*range(50), *kept]

    composed(scenario, query_nodes=2)
