"""Every rule that keeps data is a switch: with one component broken in one way, the same scenario and the same checks
must fail. A rule whose breaking nobody notices is not tested."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pytest
from node_calls import Client, at, row, rows, run

from elanus.base.doors import Doors
from elanus.base.errors import ElanusError
from elanus.meta.catalog import advance_replay, fetch_channel
from elanus.meta.catalog import run as run_transaction
from elanus.meta.manifests import Committed, Manifests, ShardEdit
from elanus.meta.records import SHARDS
from elanus.model.channel import ORIGIN, Position
from elanus.model.columns import Column
from elanus.model.records import WriteRecord
from elanus.model.segment import Manifest, SegmentEntry
from elanus.model.timestamp import TIMESTAMP_MAX
from elanus.nodes.contracts import CompactTask, DeleteRange, SegmentRead
from elanus.nodes.coordinator.collector import Collector, files_of
from elanus.nodes.coordinator.leader import Leader
from elanus.nodes.data.node import DataNode
from elanus.nodes.query.node import QueryNode
from elanus.nodes.streaming.node import StreamingNode
from elanus.nodes.streaming.shard import Shard, View
from elanus.nodes.streaming.stamps import Stamps
from elanus.objects.store import ObjectStore
from elanus.search.execute import Execution
from elanus.segment.sealed import SealedSegment
from elanus.testing.composition import Options, Parts, World
from elanus.wal.file import FileLog
from elanus.wal.log import Log


# --- scenarios ------------------------------------------------------------------------------------------------------
async def sealed_and_reopened(world: World) -> None:
    """Rows and deletes, sealed in turn, then two restarts with more in between; another collection is never sealed."""
    client, other = Client(world), Client(world, "d")
    await client.create()
    await other.create()
    await other.insert(rows(range(3)))
    await client.create_partition("p")
    for turn in range(3):
        await client.insert(rows(range(10 * turn, 10 * turn + 6)))
        await client.insert(rows(range(10 * turn, 10 * turn + 2), 1), partition="p")
        await client.delete_ids([10 * turn, 10 * turn + 3], partition="_default")
        await client.flush()
        await client.delete_ids([10 * turn + 1])
    await world.restart()
    await client.insert(rows([100, 101]))
    await client.flush()
    await client.upsert([row(100, 7)])
    await world.restart()
    assert (await client.values())[100] == 7
    assert await other.ids() == [0, 1, 2]


async def compacted(world: World) -> None:
    """Deletes before, between and after a compaction."""
    client = Client(world)
    await client.create()
    for turn in range(3):
        await client.insert(rows(range(10 * turn, 10 * turn + 5)))
        await client.flush()
        await client.delete_ids([10 * turn])
    await client.flush()
    await client.compact()
    await client.delete_ids([1, 11])
    await client.flush()
    await world.settle()
    await world.restart()
    assert await client.count() == 10


async def read_while_sealed(world: World) -> None:
    """Readers that never miss a row while it moves from the growing part into files."""
    client = Client(world)
    await client.create()
    for turn in range(4):
        await client.insert(rows(range(10 * turn, 10 * turn + 10)))
        flushing = asyncio.ensure_future(client.flush())
        for _ in range(200):
            assert await client.count() == 10 * turn + 10
            await asyncio.sleep(0)
        await flushing


async def deleted_in_files(world: World) -> None:
    """A few deletes of sealed rows, sealed as well, too few for a compaction."""
    client = Client(world)
    await client.create()
    await client.insert(rows(range(40)))
    await client.flush()
    await client.delete_ids([1, 2])
    await client.flush()
    await client.release()
    await client.load()
    assert await client.count() == 38


async def cut_off(world: World) -> None:
    """Acknowledged, then the power goes."""
    client = Client(world)
    await client.create()
    for turn in range(4):
        await client.insert(rows(range(5 * turn, 5 * turn + 5)))
        await world.crash(power_seed=turn)
        assert await client.count() == 5 * turn + 5


async def at_once(world: World) -> None:
    """Insert and delete of one key meet in one batch."""
    client = Client(world)
    await client.create()
    for turn in range(10):
        await asyncio.gather(client.insert([row(turn)]), client.insert([row(turn, 1)]), client.delete_ids([turn]))
    await client.flush()


async def patched_by_two(world: World) -> None:
    """Two clients set different fields of one row at the same time."""
    client = Client(world)
    await client.create()
    await client.insert([row(1)])
    for turn in range(5):
        await asyncio.gather(
            client.upsert([{"id": 1, "value": turn}], partial_update=True),
            client.upsert([{"id": 1, "name": f"t{turn}"}], partial_update=True),
        )
        assert await client.rows() == [row(1, turn, name=f"t{turn}")]


async def deletes_in_flight(world: World) -> None:
    """A delete of a sealed row is seen by every later read, on every node, also at an older timestamp."""
    client = Client(world)
    await client.create()
    before = (await client.insert(rows(range(20)))).timestamp
    await client.flush()
    for turn in range(10):
        await client.delete_ids([turn])
        assert await client.count() == 19 - turn
    assert await client.ids(consistency=at(before), iterator=True) == list(range(20))


SCENARIOS = (
    sealed_and_reopened,
    compacted,
    read_while_sealed,
    deleted_in_files,
    cut_off,
    at_once,
    patched_by_two,
    deletes_in_flight,
)


# --- broken components ----------------------------------------------------------------------------------------------
class HastyShard(Shard):
    """Lets growing rows go when they are committed, before a view of the new manifest is served."""

    def install(self, manifest: Manifest) -> None:
        super().install(manifest)
        view = self.view
        if view is not None:
            growing = tuple(one for one in view.growing if one.last_position > manifest.flushed_through)
            self.view = View(view.manifest, view.locations, growing, view.partition_ids)


class UnscopedShard(Shard):
    """Deletes in all partitions whatever the scope."""

    def apply(self, record: WriteRecord, position: Position) -> None:
        super().apply(
            WriteRecord(
                record.vchannel,
                record.timestamp,
                record.schema_version,
                record.batch,
                record.partition_ids,
                record.delete_keys,
                0,
            ),
            position,
        )


class CarelessShard(Shard):
    """Knows of no conflict."""

    def written_since(self, keys: Column, timestamp: int) -> bool:
        return False


class ShardsBy(Parts):
    """Every new shard is of this class."""

    def __init__(self, kind: type[Shard]) -> None:
        self._kind = kind

    def streaming(self, *arguments: Any) -> StreamingNode:
        kind = self._kind

        class Broken(StreamingNode):
            def new_shard(self, change: Any, before: Position) -> Shard:
                made = super().new_shard(change, before)
                return kind(made.manifest, made.schema, committed=False, replay_after=before)

        return Broken(*arguments)


class RunningAhead(StreamingNode):
    """Moves the start of replay over everything applied, covered or not."""

    async def _release_log(self, owned: Any) -> None:
        record = await fetch_channel(self._storage.meta, owned.channel.pchannel)
        assert record is not None
        moved = advance_replay(record, owned.channel.applied, owned.channel.stamps.last)
        await run_transaction(self._storage.meta, moved, (owned.guard,))
        await self._log.truncate(owned.channel.pchannel, owned.channel.applied)


class Repeating(StreamingNode):
    """Replays records that the manifest already holds."""

    async def _load_shards(self, channel: Any) -> None:
        await super()._load_shards(channel)
        for shard in channel.shards.values():
            shard.manifest = msgspec.structs.replace(shard.manifest, flushed_through=ORIGIN)


class OneStampPerMillisecond(Stamps):
    """Records of one batch share a timestamp."""

    def draw(self) -> int:
        return max(self._last, super().draw() >> 18 << 18)


class Stamping(StreamingNode):
    """Uses such stamps."""

    def _new_channel(self, pchannel: str) -> Any:
        owned = super()._new_channel(pchannel)
        owned.channel.stamps = OneStampPerMillisecond(self._storage.doors.clock, self._coordinator)
        return owned


class Forgetful(QueryNode):
    """Loads a segment without the deletes it has not folded in."""

    async def _fold_deletes(self, segment: SealedSegment, manifest: Manifest) -> None:
        segment.deletes_through = max(segment.deletes_through, manifest.flushed_through)


class Deaf(QueryNode):
    """Says that it has applied deletes, and has not."""

    async def apply_deletes(self, deletes: DeleteRange, segment_ids: tuple[int, ...]) -> None:
        nothing = msgspec.structs.replace(
            deletes,
            keys=deletes.keys.slice(0, 0),
            timestamps=np.empty(0, np.uint64),
            partition_ids=np.empty(0, np.int64),
        )
        await super().apply_deletes(nothing, segment_ids)


class Blind(QueryNode):
    """Answers without the deletes that the read names."""

    async def apply_deletes(self, deletes: DeleteRange, segment_ids: tuple[int, ...]) -> None:
        return

    def _ready(self, read: SegmentRead) -> list[SealedSegment]:
        return super()._ready(msgspec.structs.replace(read, deletes_through=ORIGIN))


class Timeless(QueryNode):
    """Reads at the end of time, whatever the read says."""

    async def query(self, read: Any) -> Any:
        late = msgspec.structs.replace(read.read, at_timestamp=TIMESTAMP_MAX)
        return await super().query(msgspec.structs.replace(read, read=late))


class Boastful(DataNode):
    """Says of its output that later deletes are folded in, too."""

    async def compact(self, task: CompactTask) -> tuple[SegmentEntry, ...]:
        made = await super().compact(task)
        ahead = Position(1 << 30, 0, 0)
        return tuple(msgspec.structs.replace(one, deletes_through=ahead) for one in made)


class Purging(DataNode):
    """Drops deleted rows that are still to be readable in the past."""

    async def compact(self, task: CompactTask) -> tuple[SegmentEntry, ...]:
        return await super().compact(msgspec.structs.replace(task, purge_before=1 << 62))


class Doubling(DataNode):
    """Takes a row into its output that stays in another segment, too."""

    async def compact(self, task: CompactTask) -> tuple[SegmentEntry, ...]:
        every = tuple(entry.segment_id for entry in task.manifest.segments)
        return await super().compact(msgspec.structs.replace(task, inputs=every))


@dataclass
class Making(Parts):
    """Replaces one role by a broken one."""

    streaming_kind: type[StreamingNode] = StreamingNode
    query_kind: type[QueryNode] = QueryNode
    data_kind: type[DataNode] = DataNode

    def streaming(self, *arguments: Any) -> StreamingNode:
        return self.streaming_kind(*arguments)

    def query(self, doors: Doors, objects: ObjectStore, execution: Execution) -> QueryNode:
        return self.query_kind(doors, objects, execution)

    def data(self, doors: Doors, objects: ObjectStore) -> DataNode:
        return self.data_kind(doors, objects, 1)


class Greedy(Collector):
    """Keeps manifests, and not what they name."""

    async def _live(self, manifest: Manifest, pointer: Any) -> set[str]:
        return await super()._live(manifest, pointer) - files_of(manifest)


class Sweeping(Parts):
    """Collects too much."""

    def leader(self, leader: Leader) -> Leader:
        leader.collector = Greedy(leader.ground, leader.guard, leader.channels.open_term)
        return leader


class _Unsynced:
    """An append file whose sync does nothing."""

    def __init__(self, file: Any) -> None:
        self.append, self.gather, self.close = file.append, file.gather, file.close

    def sync(self) -> None:
        return


class _UnsyncedFiles:
    """A disk door that hands out such files."""

    def __init__(self, files: Any) -> None:
        self._files = files

    def create(self, path: str) -> Any:
        return _Unsynced(self._files.create(path))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)


class Unsynced(Parts):
    """The log acknowledges before its bytes are safe."""

    def log(self, doors: Doors, folder: str, options: Options) -> Log:
        lying: Any = _UnsyncedFiles(doors.files)
        return FileLog(Doors(doors.clock, doors.random, doors.tasks, doors.compute, lying), f"{folder}/wal")


@pytest.mark.slow
def test_the_scenarios_hold_when_nothing_is_broken() -> None:
    for scenario in (
        sealed_and_reopened,
        compacted,
        read_while_sealed,
        cut_off,
        at_once,
        patched_by_two,
        deletes_in_flight,
    ):
        run(scenario, Options(query_nodes=2, pchannel_count=1))
        run(scenario, Options(codec=True), seed=5)


@pytest.mark.parametrize(
    ("scenario", "parts"),
    [
        pytest.param(read_while_sealed, ShardsBy(HastyShard), id="growing-released-before-the-swap"),
        pytest.param(sealed_and_reopened, ShardsBy(UnscopedShard), id="delete-without-its-scope"),
        pytest.param(patched_by_two, ShardsBy(CarelessShard), id="partial-upsert-without-guard"),
        pytest.param(sealed_and_reopened, Making(RunningAhead), id="checkpoint-ahead-of-data"),
        pytest.param(sealed_and_reopened, Making(Repeating), id="flushed-records-replayed"),
        pytest.param(at_once, Making(Stamping), id="one-timestamp-per-batch"),
        pytest.param(deleted_in_files, Making(query_kind=Forgetful), id="segment-loaded-without-deletes"),
        pytest.param(deletes_in_flight, Making(query_kind=Deaf), id="deletes-claimed-and-not-applied"),
        pytest.param(deletes_in_flight, Making(query_kind=Blind), id="read-before-its-deletes"),
        pytest.param(deletes_in_flight, Making(query_kind=Timeless), id="read-at-another-time"),
        pytest.param(compacted, Making(data_kind=Boastful), id="compaction-claims-later-deletes"),
        pytest.param(compacted, Making(data_kind=Purging), id="purge-within-the-retention"),
        pytest.param(compacted, Making(data_kind=Doubling), id="compaction-of-more-than-its-inputs"),
        pytest.param(compacted, Sweeping(), id="collected-while-still-named"),
        pytest.param(cut_off, Unsynced(), id="acknowledged-before-sync"),
    ],
)
def test_a_broken_rule_is_noticed(scenario: Callable[[World], Any], parts: Parts) -> None:
    with pytest.raises((AssertionError, ElanusError)):
        run(scenario, Options(pchannel_count=1), parts=parts)


def test_a_delete_dropped_from_the_manifest_too_early_is_noticed() -> None:
    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create()
        await client.insert(rows(range(5)))
        await client.flush()
        await client.delete_ids([1])
        await client.flush()
        process = world.process
        vchannel = (await world.meta.range(SHARDS))[0].key.removeprefix(SHARDS)
        edit = ShardEdit(vchannel, lambda manifest: msgspec.structs.replace(manifest, deletes=()))
        done = await Manifests(process.doors, process.meta, process.objects).commit((edit,), (process.leader.guard,))
        assert isinstance(done, Committed)

    with pytest.raises(AssertionError, match="T7"):
        run(scenario)


def test_a_segment_committed_twice_is_noticed() -> None:
    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create()
        await client.insert(rows(range(5)))
        await client.flush()
        process = world.process
        vchannel = (await world.meta.range(SHARDS))[0].key.removeprefix(SHARDS)

        def twice(manifest: Manifest) -> Manifest:
            copies = tuple(msgspec.structs.replace(entry, segment_id=1) for entry in manifest.segments)
            return msgspec.structs.replace(manifest, segments=manifest.segments + copies)

        edit = ShardEdit(vchannel, twice)
        await Manifests(process.doors, process.meta, process.objects).commit((edit,), (process.leader.guard,))

    with pytest.raises(AssertionError, match="T4"):
        run(scenario)
