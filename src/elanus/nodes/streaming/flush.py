"""Sealing: a shard's growing rows become files, and one compare-and-set makes them the shard's truth.

A flush freezes the active growing segment at the last applied position n, so that `sealing` holds exactly the rows with
flushed_through < position <= n. It writes one segment per partition and one file of the deletes in that range, then
commits an edit of the manifest: add the segments and the delete file, set flushed_through to n. Preconditions, checked
on the newest manifest at each attempt: this term still owns the channel, and flushed_through is where this flush began
(so that a replayed or superseded flush cannot add the same rows again).

Deletes that hit growing rows are marks in the new segments; the delete file is for older segments and is left out when
there are none. Rows deleted longer ago than the retention are left out, and the manifest says from which timestamp on
that makes no difference. It is never above the last timestamp covered, so that a read pinned to what the shard has just
answered stays possible however long the shard has been idle.

Afterwards the log is needed only above the *previous* manifest's flushed_through. A shard that falls idle commits its
manifest once more, unchanged, so that it does not hold the whole channel's log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np

from elanus.base.doors import Doors
from elanus.base.errors import FencedError
from elanus.meta.manifests import Committed, Edit, Manifests, RecentHeads, Refused, ShardEdit
from elanus.meta.store import Compare, MetaStore
from elanus.model.channel import Position
from elanus.model.segment import DeleteFile, Manifest, SegmentEntry
from elanus.model.timestamp import compose
from elanus.nodes.contracts import Coordinator
from elanus.nodes.streaming.shard import Shard
from elanus.objects import paths
from elanus.objects.checksums import write_file
from elanus.objects.paths import Right
from elanus.objects.store import ObjectStore
from elanus.segment.deletes import Deletes, encode_deletes
from elanus.segment.growing import GrowingReader
from elanus.segment.merge import sealed_rows
from elanus.segment.storage import SegmentPlace, write_segment


@dataclass(frozen=True, slots=True)
class Storage:
    """Where a streaming node writes; `free_bytes` is the room left on the disk of its log."""

    doors: Doors
    meta: MetaStore
    objects: ObjectStore
    free_bytes: Callable[[], int]


@dataclass(frozen=True, slots=True)
class _Work:
    """What one flush covers."""

    after: Position
    through: Position
    timestamp: int
    intent_id: int
    readers: tuple[GrowingReader, ...]
    deletes: Deletes | None
    purge_before: int

    @property
    def last_purged(self) -> int:
        """The newest delete of a row that is left out; 0 when none is."""
        marks = [reader.segment.deleted_at(reader.row_count) for reader in self.readers]
        return max((int(one[one <= np.uint64(self.purge_before)].max(initial=0)) for one in marks), default=0)


class Flusher:
    """Flushes the shards of one node, one flush per shard at a time."""

    def __init__(self, storage: Storage, coordinator: Coordinator, retention_ms: int) -> None:
        self._storage = storage
        self._coordinator = coordinator
        self._retention_ms = retention_ms
        self._locks: dict[str, asyncio.Lock] = {}
        self._recent_heads = RecentHeads()

    async def flush(self, shard: Shard, guard: Compare, term: int) -> Manifest | None:
        """Seal everything applied when the flush begins; the committed manifest, or None if nothing was to do."""
        async with self._locks.setdefault(shard.vchannel, asyncio.Lock()):
            work = self._begin(shard)
            if work is None:
                return None
            right = paths.owner_of_term(term)
            entries = await self._write_segments(shard, work, right)
            delete_file = await self._write_deletes(shard, work, right)
            return await self._commit(shard, guard, _flush_edit(work, entries, delete_file, term), right)

    async def settle(self, shard: Shard, guard: Compare, term: int) -> Manifest | None:
        """Commit an idle shard's manifest again, so that its log is not needed any more."""
        async with self._locks.setdefault(shard.vchannel, asyncio.Lock()):
            if shard.has_unflushed or shard.replay_after >= shard.manifest.flushed_through:
                return None
            same: Edit = lambda manifest: msgspec.structs.replace(manifest)  # noqa: E731
            return await self._commit(shard, guard, same, paths.owner_of_term(term))

    def _begin(self, shard: Shard) -> _Work | None:
        if not shard.has_unflushed or shard.dropped or not shard.committed:
            return None
        shard.freeze()
        after = shard.manifest.flushed_through
        readers = tuple(segment.reader() for segment in shard.sealing if segment.last_position > after)
        deletes = shard.deletes.between(after, shard.last_position)
        retained_from = compose(max(0, self._storage.doors.clock.now_ms() - self._retention_ms))
        purge_before = min(retained_from, shard.last_timestamp)
        return _Work(after, shard.last_position, shard.last_timestamp, shard.intent_id, readers, deletes, purge_before)

    async def _commit(self, shard: Shard, guard: Compare, edit: Edit, right: Right) -> Manifest | None:
        storage = self._storage
        manifests = Manifests(storage.doors, storage.meta, storage.objects, right, self._recent_heads)
        outcome = await manifests.commit((ShardEdit(shard.vchannel, edit),), (guard,))
        if isinstance(outcome, Committed):
            (manifest,) = outcome.manifests
            # A slow answer: the coordinator may have seen this commit and had a later manifest served here already.
            if manifest.version > shard.manifest.version:
                shard.install(manifest)
            return manifest
        if shard.dropped:
            return None
        raise FencedError(f"{shard.vchannel}: {outcome.reason}")

    # --- files ------------------------------------------------------------------------------------------------------
    async def _write_segments(self, shard: Shard, work: _Work, right: Right) -> tuple[SegmentEntry, ...]:
        partition_ids = sorted(
            {partition_id for reader in work.readers for partition_id in reader.segment.row_counts()}
            - shard.dropped_partitions
        )
        entries = []
        for partition_id in partition_ids:
            data = await self._storage.doors.compute.run_background(
                sealed_rows, work.readers, partition_id, shard.schema, work.timestamp, work.purge_before
            )
            if data is None:
                continue
            place = SegmentPlace(
                shard.manifest.collection_id,
                shard.vchannel,
                (await self._coordinator.allocate_ids(1)).first,
                partition_id,
                work.through,
                right.token(self._storage.doors.random.token()),
            )
            entries.append(await write_segment(self._storage.doors, self._storage.objects, data, shard.schema, place))
        return tuple(entries)

    async def _write_deletes(self, shard: Shard, work: _Work, right: Right) -> DeleteFile | None:
        if work.deletes is None or not shard.manifest.segments:
            return None
        token = right.token(self._storage.doors.random.token())
        key = paths.deletes(shard.manifest.collection_id, shard.vchannel, work.through, token)
        data = memoryview(encode_deletes(work.deletes))
        ref = await write_file(self._storage.doors, self._storage.objects, key, data)
        return DeleteFile(work.after, work.through, len(work.deletes), ref)


def _flush_edit(work: _Work, entries: tuple[SegmentEntry, ...], delete_file: DeleteFile | None, term: int) -> Edit:
    def edit(manifest: Manifest) -> Manifest | Refused:
        if manifest.flushed_through != work.after:
            return Refused(f"flushed through {manifest.flushed_through}, this flush began at {work.after}")
        kept = tuple(entry for entry in entries if entry.partition_id not in manifest.dropped_partitions)
        return msgspec.structs.replace(
            manifest,
            term=term,
            flushed_through=work.through,
            timestamp_max=max(manifest.timestamp_max, work.timestamp),
            readable_from=max(manifest.readable_from, work.last_purged),
            intent_id=max(manifest.intent_id, work.intent_id),
            segments=manifest.segments + kept,
            deletes=manifest.deletes if delete_file is None else (*manifest.deletes, delete_file),
        )

    return edit


def replay_position(shards: list[Shard], applied: Position) -> Position:
    """From where the channel's log is still needed: below the first record that some shard's previous manifest does
    not cover; everything applied when all shards are covered."""
    needed = [shard.replay_after for shard in shards if shard.last_position > shard.replay_after and not shard.dropped]
    return min(needed, default=applied)
