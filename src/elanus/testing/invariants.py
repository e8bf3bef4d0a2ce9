"""The invariants T1 to T9 of the design as checks over a running `World`.

The truth is the log's history: every record that was ever durable, decoded row by row without any help from the code
under test but the record codec. Against it stand: the committed manifests (the newest of each shard and the one before)
with the files they name, what is left of the log, and what the owner, the query nodes and the proxy's peers answer.

`check_all` is meant for the end of a test, when no client writes; background work may be under way. A broken invariant
raises `Violation`, whose text starts with its number. These are dumb twins: they loop over rows, for small worlds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np

from elanus.meta.catalog import fetch, fetch_all
from elanus.meta.manifests import Head, Manifests
from elanus.meta.records import (
    COLLECTIONS,
    INTENTS,
    LOADS,
    Collection,
    CollectionState,
    LoadRecord,
    ReplayFrom,
    decode,
    replay_key,
)
from elanus.model.channel import ORIGIN, Position, pchannel_of
from elanus.model.columns import Column
from elanus.model.reads import ShardRead
from elanus.model.records import ChangeRecord, ShardChange, WriteRecord
from elanus.model.schema import CollectionSchema
from elanus.model.segment import FileRef, Manifest, SegmentEntry
from elanus.model.timestamp import TIMESTAMP_MAX
from elanus.model.types import ConsistencyLevel
from elanus.nodes.contracts import ShardStatus
from elanus.objects.checksums import map_verified, read_verified
from elanus.objects.store import ObjectNotFoundError
from elanus.segment.deletes import decode_deletes
from elanus.segment.storage import open_segment
from elanus.testing.composition import World
from elanus.testing.history import BrokenPromise, LogHistory
from elanus.wal.records import decode_record

TIMESTAMPS_TRIED_MAX: Final = 10
_ATTEMPTS_MAX: Final = 20
_HEARS_WITHIN_S: Final = 2.0


class Violation(BrokenPromise):
    """An invariant does not hold."""


class RowVersion(NamedTuple):
    """A row as one record wrote it."""

    key: Any
    timestamp: int
    partition_id: int


class Delete(NamedTuple):
    """A delete of one key, in one partition or in all (0)."""

    key: Any
    timestamp: int
    partition_id: int

    def hides(self, row: RowVersion, at: int) -> bool:
        """The one rule."""
        covers = self.partition_id in (0, row.partition_id)
        return covers and self.key == row.key and row.timestamp < self.timestamp <= at


@dataclass(slots=True)
class ShardTruth:
    """All that a shard's log ever said, in its order."""

    rows: list[tuple[Position, RowVersion]] = field(default_factory=list)
    deletes: list[tuple[Position, Delete]] = field(default_factory=list)
    partitions: set[int] = field(default_factory=set)
    dropped_partitions: set[int] = field(default_factory=set)
    positions: list[Position] = field(default_factory=list)
    timestamps: list[int] = field(default_factory=list)
    _alive: dict[tuple[int, tuple[int, ...] | None], Counter[RowVersion]] = field(default_factory=dict)

    def change(self, change: ShardChange) -> None:
        """What a DDL record says about partitions."""
        named = set(change.partition_ids)
        match change.kind:
            case "create" | "create_partition":
                self.partitions |= named
            case "drop_partition":
                self.dropped_partitions |= named
                self.partitions -= named
            case "replace_partitions":
                self.dropped_partitions |= self.partitions - named
                self.partitions = named

    def after(self, position: Position) -> tuple[list[RowVersion], list[Delete]]:
        """What a replay above `position` brings."""
        rows = [row for at, row in self.rows if at > position]
        return rows, [delete for at, delete in self.deletes if at > position]

    def alive(self, at: int, partition_ids: tuple[int, ...] | None = None) -> Counter[RowVersion]:
        """The rows that a read at `at` must see; asked about the same moments again and again, when nothing is added
        any more."""
        known = self._alive.get((at, partition_ids))
        if known is None:
            known = self._alive[at, partition_ids] = self._alive_at(at, partition_ids)
        return known

    def _alive_at(self, at: int, partition_ids: tuple[int, ...] | None) -> Counter[RowVersion]:
        rows = [row for _, row in self.rows if row.partition_id not in self.dropped_partitions]
        if partition_ids is not None:
            rows = [row for row in rows if row.partition_id in partition_ids]
        return visible(rows, [delete for _, delete in self.deletes], at)

    def moments(self, from_: int) -> list[int]:
        """Timestamps worth reading at, none below `from_`: around records, spread over the history."""
        around = sorted({at for one in self.timestamps for at in (one - 1, one) if at >= from_})
        step = max(1, len(around) // TIMESTAMPS_TRIED_MAX)
        return [*around[::step], *around[-1:]]


def visible(rows: Iterable[RowVersion], deletes: Iterable[Delete], at: int) -> Counter[RowVersion]:
    """Rows of a read at `at`: by the rule, the newest delete that the read sees says whether any hides a row."""
    newest: dict[tuple[Any, int], int] = {}
    for key, timestamp, scope in deletes:
        if newest.get((key, scope), 0) < timestamp <= at:
            newest[key, scope] = timestamp
    return Counter(
        row
        for row in rows
        if max(newest.get((row.key, 0), 0), newest.get((row.key, row.partition_id), 0)) <= row.timestamp <= at
    )


def _values(column: Column) -> list[Any]:
    values: list[Any] = column.values.tolist() if isinstance(column.values, np.ndarray) else column.values.to_pylist()
    return values


def truths(history: LogHistory) -> dict[str, ShardTruth]:
    """The truth of every shard; T2 on the way."""
    found: dict[str, ShardTruth] = {}
    primaries: dict[str, int] = {}
    for pchannel in history.records:
        last = 0
        for position in history.positions(pchannel):
            record = decode_record(history.records[pchannel][position])
            if record.timestamp <= last:
                raise Violation(f"T2: {pchannel} {position} has timestamp {record.timestamp} after {last}")
            last = record.timestamp
            truth = found.setdefault(record.vchannel, ShardTruth())
            truth.positions.append(position)
            truth.timestamps.append(record.timestamp)
            if isinstance(record, ChangeRecord):
                if record.change.schema is not None:
                    primaries[record.vchannel] = record.change.schema.primary.field_id
                truth.change(record.change)
            else:
                _add_write(truth, position, record, primaries[record.vchannel])
    return found


def _add_write(truth: ShardTruth, position: Position, record: WriteRecord, primary: int) -> None:
    at = record.timestamp
    if record.delete_keys is not None:
        for key in _values(record.delete_keys):
            truth.deletes.append((position, Delete(key, at, record.delete_partition_id)))
    if record.batch is not None and record.partition_ids is not None:
        keys = _values(record.batch.columns[primary])
        for key, partition_id in zip(keys, record.partition_ids.tolist(), strict=True):
            truth.rows.append((position, RowVersion(key, at, partition_id)))


# --- what files say -------------------------------------------------------------------------------------------------
class SealedRow(NamedTuple):
    """A row in a segment file, with its mark (TIMESTAMP_MAX: none)."""

    row: RowVersion
    deleted_at: int


async def _sealed_rows(world: World, entry: SegmentEntry, schema: CollectionSchema) -> list[SealedRow]:
    process = world.process
    segment = await open_segment(process.doors, process.objects, entry, schema)
    marks = [TIMESTAMP_MAX] * segment.row_count if segment.deleted_at is None else segment.deleted_at.tolist()
    keys = _values(Column(segment.keys))
    stamps = segment.timestamps.tolist()
    if keys != sorted(keys, key=lambda key: key.encode() if isinstance(key, str) else key):
        raise Violation(f"segment {entry.segment_id} is not sorted by key")
    if (min(stamps), max(stamps)) != (entry.timestamp_min, entry.timestamp_max):
        raise Violation(f"segment {entry.segment_id}: the manifest gives other timestamps than the file")
    for file in entry.indexes:
        await map_verified(process.doors, process.objects, file.file)
    return [
        SealedRow(RowVersion(key, stamp, entry.partition_id), mark)
        for key, stamp, mark in zip(keys, stamps, marks, strict=True)
    ]


async def _file_deletes(world: World, manifest: Manifest, after: Position) -> list[Delete]:
    """Deletes of the manifest that a segment folded through `after` still needs."""
    found = []
    for file in manifest.deletes:
        if file.through > after:
            data = await read_verified(world.process.doors, world.process.objects, file.file)
            deletes = decode_deletes(data, file.file.key)
            stamps, scopes = deletes.timestamps.tolist(), deletes.partition_ids.tolist()
            found += [Delete(*one) for one in zip(_values(deletes.keys), stamps, scopes, strict=True)]
    return found


class Contents(NamedTuple):
    """A manifest with what its files hold: each segment's rows, and the deletes that the segment has yet to apply."""

    manifest: Manifest
    segments: list[tuple[SegmentEntry, list[SealedRow], list[Delete]]]


async def _contents(world: World, manifest: Manifest, schema: CollectionSchema) -> Contents:
    segments = []
    for entry in manifest.segments:
        deletes = await _file_deletes(world, manifest, entry.deletes_through)
        segments.append((entry, await _sealed_rows(world, entry, schema), deletes))
    return Contents(manifest, segments)


def _replayed(contents: Contents, truth: ShardTruth, at: int) -> Counter[RowVersion]:
    """What an owner that starts from this manifest and the log after it would answer at `at`."""
    rows, deletes = truth.after(contents.manifest.flushed_through)
    answer = visible((row for row in rows if row.partition_id not in truth.dropped_partitions), deletes, at)
    for _, sealed, pending in contents.segments:
        unmarked = [one.row for one in sealed if one.deleted_at > at]
        answer += visible(unmarked, [*pending, *deletes], at)
    dropped = set(contents.manifest.dropped_partitions) | truth.dropped_partitions
    return Counter({row: count for row, count in answer.items() if row.partition_id not in dropped})


# --- the checks -----------------------------------------------------------------------------------------------------
async def check_all(world: World, *, comes_to_rest: bool = True) -> None:
    """Every invariant over every shard, if the world is running; with `comes_to_rest` nothing may be left undone."""
    if not world.running:
        return
    known = truths(world.log_history)
    if comes_to_rest:
        await check_quiet(world)
    loads = {one.record.collection_id: one.record for one in await fetch_all(world.meta, LoadRecord, LOADS)}
    for stored in await fetch_all(world.meta, Collection, COLLECTIONS):
        collection = stored.record
        if collection.state is not CollectionState.CREATED:
            continue
        for vchannel in collection.vchannels:
            truth = known.get(vchannel, ShardTruth())
            await check_shard(world, collection, vchannel, truth)
            if collection.collection_id in loads:
                await check_answers(world, collection, vchannel, truth, loads[collection.collection_id])
    for pchannel in world.process.leader.pchannels:
        await check_log(world, pchannel)


async def check_quiet(world: World) -> None:
    """T8: no intent is left over, and no error was met."""
    intents = await world.meta.range(INTENTS)
    if intents:
        raise Violation(f"T8: intents are left: {[item.key for item in intents]}")


async def check_shard(world: World, collection: Collection, vchannel: str, truth: ShardTruth) -> None:
    """T4, T5, T7 and T9 of the committed manifests of one shard."""
    process = world.process
    manifests = Manifests(process.doors, process.meta, process.objects)
    for _ in range(_ATTEMPTS_MAX):
        head = await manifests.read(vchannel)
        if head is None:
            raise Violation(f"{vchannel}: the catalog has no manifest of it")
        try:
            committed = [head.manifest, *await _previous(world, head)]
            contents = [await _contents(world, manifest, collection.schema) for manifest in committed]
        except ObjectNotFoundError as error:
            again = await manifests.read(vchannel)
            if again is not None and again.pointer.mod_revision != head.pointer.mod_revision:
                continue
            raise Violation(f"T9: {vchannel}: a file that the manifest names is gone: {error.message}") from error
        for one in contents:
            check_counted_once(one, truth)
            check_replay(one, truth)
        await check_covered(world, head, truth)
        return
    raise Violation(f"{vchannel}: its manifest never rests")


async def _previous(world: World, head: Head) -> list[Manifest]:
    ref: FileRef | None = head.pointer.record.previous
    if ref is None:
        return []
    data = await read_verified(world.process.doors, world.process.objects, ref)
    return [decode(Manifest, data, ref.key)]


def check_counted_once(contents: Contents, truth: ShardTruth) -> None:
    """T4: each row version is in exactly one segment or in the growing part; none is there that nobody wrote."""
    manifest = contents.manifest
    dropped = truth.dropped_partitions
    have = Counter(one.row for _, sealed, _ in contents.segments for one in sealed)
    have.update(row for row in truth.after(manifest.flushed_through)[0])
    wrote = Counter(row for _, row in truth.rows)
    extra = have - wrote
    if extra:
        raise Violation(f"T4: {manifest.vchannel} v{manifest.version} holds rows twice: {list(extra)[:3]}")
    deletes = [delete for _, delete in truth.deletes]
    for row in wrote - have:
        purged = any(delete.hides(row, manifest.readable_from) for delete in deletes)
        if row.partition_id not in dropped and not purged:
            raise Violation(f"T4: {manifest.vchannel} v{manifest.version} lost {row}")


def check_replay(contents: Contents, truth: ShardTruth) -> None:
    """T7: manifest and the log after it answer as the whole log does, at every moment that is readable."""
    manifest = contents.manifest
    for at in truth.moments(manifest.readable_from):
        _same(f"T7: {manifest.vchannel} v{manifest.version}", at, _replayed(contents, truth, at), truth.alive(at))


async def check_covered(world: World, head: Head, truth: ShardTruth) -> None:
    """T5: every record of the shard at or below replay_from is covered by the manifest, and by the one before."""
    pointer = head.pointer.record
    covered = pointer.flushed_through if pointer.previous is None else pointer.previous_flushed_through
    stored = await fetch(world.meta, ReplayFrom, replay_key(pchannel_of(pointer.vchannel)))
    replay_from = ORIGIN if stored is None else stored.record.position
    lost = [position for position in truth.positions if covered < position <= replay_from]
    if lost:
        raise Violation(f"T5: {pointer.vchannel}: {lost[:3]} lie below replay_from {replay_from}, covered to {covered}")


async def check_log(world: World, pchannel: str) -> None:
    """T3, T5: what was acknowledged above replay_from is in the log, in its place (noted by `RecordingLog`)."""
    stored = await fetch(world.meta, ReplayFrom, replay_key(pchannel))
    if stored is not None:
        async for _ in world.process.log.read(pchannel, stored.record.position):
            pass


async def check_answers(
    world: World, collection: Collection, vchannel: str, truth: ShardTruth, load: LoadRecord
) -> None:
    """T1, T4, T6: reads of the shard at every readable moment, and now, see each row that they must, once."""
    head = await Manifests(world.process.doors, world.process.meta, world.process.objects).read(vchannel)
    readable_from = 0 if head is None else head.manifest.readable_from
    for at in (0, *truth.moments(readable_from)):
        read = ShardRead(vchannel=vchannel, level=ConsistencyLevel.STRONG, at_timestamp=at)
        expected = truth.alive(at or TIMESTAMP_MAX, load.partition_ids)
        found = await world.process.streaming.query(read)
        keys = set() if found.keys is None else set(_values(found.keys))
        if keys != {row.key for row in expected}:
            wrong = keys ^ {row.key for row in expected}
            raise Violation(f"T1: {vchannel} at {at}: read and log differ in {sorted(wrong)[:5]}")
        counting = ShardRead(vchannel=vchannel, level=ConsistencyLevel.STRONG, at_timestamp=at, count_only=True)
        count = (await world.process.streaming.query(counting)).row_count
        if count != expected.total():
            raise Violation(f"T4: {vchannel} at {at}: counted {count} rows instead of {expected.total()}")
    status = await _status_of_newest(world, head, vchannel)
    growing = Counter(row.partition_id for row in truth.after(status.flushed_through)[0])
    growing = Counter({one: count for one, count in growing.items() if one not in truth.dropped_partitions})
    if +Counter(status.row_counts) != growing:
        raise Violation(f"T4: {vchannel}: growing {status.row_counts} instead of {dict(growing)}")


async def _status_of_newest(world: World, head: Head | None, vchannel: str) -> ShardStatus:
    """The shard as its owner has it, who hears of its own flush a moment after it is committed. T7 when he does not."""
    through = ORIGIN if head is None else head.manifest.flushed_through
    for _ in range(_ATTEMPTS_MAX):
        status = await world.process.streaming.status(vchannel)
        if status.flushed_through >= through:
            return status
        await world.process.doors.clock.sleep(_HEARS_WITHIN_S / _ATTEMPTS_MAX)
    raise Violation(f"T7: {vchannel} is flushed through {through}, and its owner holds {status.flushed_through}")


def _same(what: str, at: int, found: Counter[RowVersion], expected: Counter[RowVersion]) -> None:
    if found != expected:
        raise Violation(f"{what} at {at}: too many {list(found - expected)[:3]}, missing {list(expected - found)[:3]}")
