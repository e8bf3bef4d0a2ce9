"""The manifest driver: lost races, guards, unknown outcomes, several shards at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import pytest

from elanus.base.doors import Doors
from elanus.base.errors import CorruptedError, FencedError, InvariantError, OutcomeUnknownError
from elanus.base.real import real_doors
from elanus.meta.catalog import (
    Channel,
    ConflictError,
    advance_replay,
    assign,
    combine,
    create,
    fetch,
    fetch_channel,
    owns,
    run,
    stored,
    tombstone,
)
from elanus.meta.local import LocalMetaStore
from elanus.meta.manifests import Committed, Edit, Manifests, Refused, ShardEdit
from elanus.meta.records import ShardPointer, shard_key
from elanus.meta.state import State
from elanus.meta.store import Compare, Item, Operation, TransactionResult
from elanus.model.channel import Position
from elanus.model.segment import FileRef, Manifest, SegmentEntry
from elanus.objects.memory import MemoryObjectStore
from elanus.objects.store import Data

SHARDS = ("p_0_1v0", "p_1_1v1")


def segment(segment_id: int) -> SegmentEntry:
    return SegmentEntry(segment_id, 1, 10, 0, Position(0, 0), 1, 2, FileRef(f"s/{segment_id}", 1, 2))


def adding(segment_id: int) -> Edit:
    """Add a segment; refuse to add it twice."""

    def edit(manifest: Manifest) -> Manifest | Refused:
        if manifest.segment(segment_id) is not None:
            return Refused(f"{segment_id} is there")
        return msgspec.structs.replace(manifest, segments=(*manifest.segments, segment(segment_id)))

    return edit


class UnsureStore(LocalMetaStore):
    """Answers 'unknown' to the transactions that `script` names: 'landed', 'lost', or 'late' (lands just before the
    next one); `meddle` runs after the answer was lost."""

    def arm(self, script: Sequence[str], meddle: Callable[[], Awaitable[None]] | None = None) -> None:
        self.script = list(script)
        self.meddle = meddle
        self.late: tuple[Sequence[Compare], Sequence[Operation]] | None = None

    async def get(self, key: str) -> Item | None:
        meddle, self.on_get = getattr(self, "on_get", None), None
        if meddle is not None:
            if not key.startswith("pchannel/"):
                self.on_get = meddle
            else:
                await meddle()
        return await super().get(key)

    async def transact(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> TransactionResult:
        if getattr(self, "late", None) is not None:
            late, self.late = self.late, None
            assert late is not None
            await super().transact(*late)
        step = self.script.pop(0) if getattr(self, "script", None) else "known"
        if step == "known":
            return await super().transact(compares, operations)
        if step == "landed":
            await super().transact(compares, operations)
        if step == "late":
            self.late = (compares, operations)
        meddle, self.meddle = self.meddle, None
        if meddle is not None:
            await meddle()
        raise OutcomeUnknownError(step)


class World:
    """Two shards on two pchannels, both owned at term 1."""

    def __init__(self, doors: Doors) -> None:
        self.meta = UnsureStore(doors, State(), None)
        self.objects = SlowUpload()
        self.manifests = Manifests(doors, self.meta, self.objects)

    async def build(self) -> World:
        for pchannel in ("p_0", "p_1"):
            transaction, term = assign(None, pchannel, owner=7)
            assert term == 1
            await run(self.meta, transaction)
        pointers = []
        for vchannel in SHARDS:
            manifest = Manifest(vchannel=vchannel, collection_id=1, version=0, token="", term=1)
            pointers.append((await self.manifests.write(manifest))[1])
        await run(self.meta, combine(create(pointer) for pointer in pointers))
        return self

    async def channel(self, name: str = "p_0") -> Channel:
        channel = await fetch_channel(self.meta, name)
        assert channel is not None
        return channel

    async def add(self, segment_id: int, shards: Sequence[str] = SHARDS[:1]) -> Committed | Refused:
        guard = owns((await self.channel()).owner)
        return await self.manifests.commit([ShardEdit(shard, adding(segment_id)) for shard in shards], [guard])

    async def segments(self, vchannel: str = SHARDS[0]) -> list[int]:
        head = await self.manifests.read(vchannel)
        assert head is not None
        return [entry.segment_id for entry in head.manifest.segments]


def play(scenario: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        doors = real_doors(lambda name, error: pytest.fail(f"{name}: {error}"))
        await scenario(await World(doors).build())
        await doors.stop_tasks()
        doors.close()

    asyncio.run(main())


def test_racing_commits_all_land_once() -> None:
    async def scenario(world: World) -> None:
        done = await asyncio.gather(*(world.add(number) for number in range(12)))
        assert all(isinstance(each, Committed) for each in done)
        assert sorted(await world.segments()) == list(range(12))
        head = await world.manifests.read(SHARDS[0])
        assert head is not None and head.manifest.version == 12
        assert len(head.pointer.record.lineage) == 12
        assert head.pointer.record.previous is not None

    play(scenario)


def test_equal_edits_land_once() -> None:
    async def scenario(world: World) -> None:
        done = await asyncio.gather(*(world.add(5) for _ in range(4)))
        assert sum(isinstance(each, Committed) for each in done) == 1
        assert await world.segments() == [5]

    play(scenario)


@pytest.mark.parametrize(
    "script", [["landed"], ["lost"], ["late"], ["late", "late"], ["lost", "landed"], ["late", "lost"]]
)
@pytest.mark.parametrize("on_top", [0, 1, 3])
def test_unknown_outcomes_are_learned(script: list[str], on_top: int) -> None:
    """Whatever became of the transaction, and however many commits came on top of it, the edit is done exactly once."""

    async def scenario(world: World) -> None:
        async def meddle() -> None:
            for number in range(on_top):
                assert isinstance(await world.add(100 + number), Committed)

        world.meta.arm(script, meddle)
        done = await world.add(5, SHARDS)
        assert isinstance(done, Committed), done
        for shard in SHARDS:
            assert (await world.segments(shard)).count(5) == 1
        assert done.manifests[0].segment(5) is not None

    play(scenario)


def test_unknown_then_fenced_tells_the_truth() -> None:
    """A new term is written while the answer is lost: what landed before it is a success, the rest is fenced."""

    async def scenario(world: World) -> None:
        for number, (step, landed) in enumerate([("landed", True), ("lost", False), ("late", True)]):

            async def meddle() -> None:
                transaction, _ = assign(await world.channel(), "p_0", owner=8)
                await run(world.meta, transaction)

            world.meta.arm([step], meddle)
            if landed:
                assert isinstance(await world.add(number), Committed)
            else:
                with pytest.raises(FencedError):
                    await world.add(number)
            assert (number in await world.segments()) is landed

    play(scenario)


def test_what_lands_while_the_guards_are_read_counts() -> None:
    """1 The answer is lost. 2 The guard is about to be read. 3 The transaction lands. 4 A new term is written. 5 The
    guard is found broken: the pointers must be read after that, or a commit that stands is called fenced."""

    async def scenario(world: World) -> None:
        async def land_and_depose() -> None:
            transaction, _ = assign(await world.channel(), "p_0", owner=8)
            await run(world.meta, transaction)

        async def meddle() -> None:
            world.meta.on_get = land_and_depose

        world.meta.arm(["late"], meddle)
        assert isinstance(await world.add(1), Committed)
        assert await world.segments() == [1]
        assert (await world.channel()).owner.record.term == 2

    play(scenario)


class SlowUpload(MemoryObjectStore):
    """Runs `meddle` while an object is being put."""

    meddle: Callable[[], Awaitable[None]] | None = None

    async def put(self, key: str, data: Data) -> None:
        meddle, self.meddle = self.meddle, None
        if meddle is not None:
            await meddle()
        await super().put(key, data)


def test_a_term_written_during_the_upload_fences() -> None:
    async def scenario(world: World) -> None:
        async def depose() -> None:
            transaction, _ = assign(await world.channel(), "p_0", owner=8)
            await run(world.meta, transaction)

        world.objects.meddle = depose
        with pytest.raises(FencedError):
            await world.add(1)
        assert await world.segments() == []

    play(scenario)


def test_a_shard_dropped_during_the_upload_refuses() -> None:
    async def scenario(world: World) -> None:
        async def drop() -> None:
            await run(world.meta, tombstone([stored(ShardPointer, item) for item in await world.meta.range("shard/")]))

        world.objects.meddle = drop
        assert isinstance(await world.add(1), Refused)

    play(scenario)


def test_deposed_owner_changes_nothing() -> None:
    async def scenario(world: World) -> None:
        guard = owns((await world.channel()).owner)
        transaction, term = assign(await world.channel(), "p_0", owner=8)
        await run(world.meta, transaction)
        assert term == 2
        with pytest.raises(FencedError):
            await world.manifests.commit([ShardEdit(SHARDS[0], adding(1))], [guard])
        assert await world.segments() == []

    play(scenario)


def test_replay_moves_with_a_commit_or_not_at_all() -> None:
    async def scenario(world: World) -> None:
        channel = await world.channel()
        also = advance_replay(channel, Position(1, 9), 0)
        done = await world.manifests.commit([ShardEdit(SHARDS[0], adding(1))], [owns(channel.owner)], also)
        assert isinstance(done, Committed)
        assert (await world.channel()).replay_from.record.position == Position(1, 9)
        assert (await world.channel()).owner == channel.owner
        with pytest.raises(ConflictError):
            await world.manifests.commit([ShardEdit(SHARDS[0], adding(2))], [owns(channel.owner)], also)
        assert await world.segments() == [1]
        with pytest.raises(InvariantError):
            advance_replay(await world.channel(), Position(1, 8), 0)

    play(scenario)


def test_several_shards_or_none() -> None:
    async def scenario(world: World) -> None:
        assert isinstance(await world.add(1, SHARDS), Committed)
        assert isinstance(await world.add(2, SHARDS[1:]), Committed)
        assert isinstance(await world.add(2, SHARDS), Refused)
        assert await world.segments() == [1]

    play(scenario)


def test_unchanged_manifest_is_not_written() -> None:
    async def scenario(world: World) -> None:
        before = await world.meta.snapshot("")
        done = await world.manifests.commit([ShardEdit(SHARDS[0], lambda manifest: manifest)], [])
        assert isinstance(done, Committed) and done.manifests[0].version == 0
        assert await world.meta.snapshot("") == before
        assert len(await world.objects.list("")) == 2

    play(scenario)


def test_tombstone_stops_commits() -> None:
    async def scenario(world: World) -> None:
        pointers = [stored(ShardPointer, item) for item in await world.meta.range("shard/")]
        await run(world.meta, tombstone(pointers))
        assert isinstance(await world.add(1), Refused)
        assert isinstance(await world.manifests.commit([ShardEdit("p_9_1v9", adding(1))], []), Refused)

    play(scenario)


def test_damaged_manifest_is_named() -> None:
    async def scenario(world: World) -> None:
        pointer = await fetch(world.meta, ShardPointer, shard_key(SHARDS[0]))
        assert pointer is not None
        key = pointer.record.file.key
        data = bytearray(await world.objects.get(key))
        data[-1] ^= 1
        await world.objects.delete(key)
        await world.objects.put(key, data)
        with pytest.raises(CorruptedError, match="manifests/000000000000"):
            await world.manifests.read(SHARDS[0])

    play(scenario)


@pytest.mark.parametrize("field", ["flushed_through", "timestamp_max", "term"])
def test_no_edit_goes_back(field: str) -> None:
    async def scenario(world: World) -> None:
        high = {"flushed_through": Position(3, 3), "timestamp_max": 9, "term": 2}
        low = {"flushed_through": Position(3, 2), "timestamp_max": 8, "term": 1}

        async def put(values: dict[str, object]) -> None:
            edit = ShardEdit(SHARDS[0], lambda old: msgspec.structs.replace(old, **values))
            await world.manifests.commit([edit], [])

        await put(high)
        with pytest.raises(InvariantError):
            await put({**high, field: low[field]})

    play(scenario)


def test_dead_store_after_unknown_is_unknown() -> None:
    async def scenario(world: World) -> None:
        async def meddle() -> None:
            await world.meta.close()

        world.meta.arm(["lost"], meddle)
        with pytest.raises(OutcomeUnknownError):
            await world.add(1)

    play(scenario)
