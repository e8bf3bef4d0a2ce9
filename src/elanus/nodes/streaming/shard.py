"""One shard as its delegator holds it: growing segments, recent deletes, and the view that reads are served from.

State, changed only by the owner's one task, between awaits:

- `active` takes new rows; `sealing` holds older growing segments on their way into files; both are served.
- `manifest` is the newest committed one known here. `view` is what reads see: a manifest all of whose segments are
  loaded, with the growing segments above its `flushed_through`. A read pins the view it starts on.
- `awaited` tells that a view is on its way (the collection is loaded), so that reads wait instead of failing.
- `committed`: the catalog knows the shard. `replay_after`: the log above it is still needed for this shard.
- `deletes` keeps delete records above `view.manifest.flushed_through`, for query nodes that must catch up.

Invariants: each row version is in exactly one of the view's sealed segments or in its growing part, because the swap to
a manifest M drops exactly the growing segments that end at or below M.flushed_through, and a flush seals whole growing
segments only. Nothing is dropped before that swap, except where no view is served at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from elanus.base.errors import InvariantError, UnavailableError, check
from elanus.model.channel import Position
from elanus.model.columns import Column
from elanus.model.records import ChangeRecord, ShardChange, WriteRecord
from elanus.model.schema import CollectionSchema
from elanus.model.segment import Manifest
from elanus.nodes.contracts import ShardStatus, ShardTarget
from elanus.segment.deletes import DeleteLog, Deletes
from elanus.segment.growing import GrowingSegment


@dataclass(frozen=True, slots=True)
class View:
    """What a read is served from. `locations`: segment id to the nodes that have it. `partition_ids` None: all are
    loaded."""

    manifest: Manifest
    locations: dict[int, tuple[int, ...]]
    growing: tuple[GrowingSegment, ...]
    partition_ids: tuple[int, ...] | None
    pins: list[int] = field(default_factory=lambda: [0])

    @property
    def is_pinned(self) -> bool:
        """Whether a read is running on it."""
        return self.pins[0] > 0


class Shard:
    """See the module's head."""

    def __init__(
        self, manifest: Manifest, schema: CollectionSchema, *, committed: bool, replay_after: Position
    ) -> None:
        self.vchannel = manifest.vchannel
        self.schema = schema
        self.manifest = manifest
        self.committed = committed
        self.intent_id = manifest.intent_id
        self.dropped = False
        self.dropped_partitions = set(manifest.dropped_partitions)
        self.partition_ids: set[int] = set()
        self.last_timestamp = manifest.timestamp_max
        self.last_position = manifest.flushed_through
        self.replay_after = replay_after
        self.deletes = DeleteLog()
        self.active = GrowingSegment(0, schema)
        self.sealing: list[GrowingSegment] = []
        self.view: View | None = None
        self.awaited = False
        self._turned = asyncio.Event()
        """Set, and replaced, whenever `view` or `awaited` has changed."""
        self._dropped_through = manifest.flushed_through
        """No rows from here or below are in memory: what an owner replays begins above its first manifest."""
        self._old_views: list[View] = []

    # --- the log, applied -------------------------------------------------------------------------------------------
    def apply(self, record: WriteRecord, position: Position) -> None:
        """Apply a durable write. What can be refused was refused before it was stamped."""
        check(record.timestamp > self.last_timestamp, f"{self.vchannel}: timestamp {record.timestamp} does not rise")
        if record.delete_keys is not None:
            self._apply_deletes(record.delete_keys, record, position)
        if record.batch is not None and record.partition_ids is not None:
            rows, partition_ids = record.batch, record.partition_ids
            if self.dropped_partitions:
                kept = np.flatnonzero(~np.isin(partition_ids, list(self.dropped_partitions)))
                rows, partition_ids = rows.take(kept), partition_ids[kept]
            if rows.row_count:
                self.active.append(rows, partition_ids, record.timestamp, position)
        self._moved_to(position, record.timestamp)

    def apply_change(self, record: ChangeRecord, position: Position) -> None:
        """Apply a DDL change unless it was applied before."""
        change = record.change
        if change.intent_id > self.intent_id:
            self.intent_id = change.intent_id
            match change.kind:
                case "create":
                    self.partition_ids.update(change.partition_ids)
                case "create_partition":
                    self.partition_ids.update(change.partition_ids)
                case "drop_partition":
                    self.dropped_partitions.update(change.partition_ids)
                    self.partition_ids.difference_update(change.partition_ids)
                case "replace_partitions":
                    self.dropped_partitions.update(change.dropped_partition_ids)
                    self.partition_ids.update(change.partition_ids)
                    self.partition_ids.difference_update(change.dropped_partition_ids)
                case "drop":
                    self.dropped = True
                case "alter_schema" if change.schema is not None:
                    self._alter_schema(change.schema)
                case _:
                    raise InvariantError(f"{self.vchannel}: unknown change {change.kind!r}")
        self._moved_to(position, record.timestamp)

    def recall(self, change: ShardChange) -> None:
        """Take in what a change says whose record is older than this owner's memory of it.

        Story: its record is logged and flushed, the owner dies before the catalog holds the change, and the next owner
        has neither a record to replay, since the manifest covers it, nor the catalog's word. It learns when the change
        is carried to its end and comes again."""
        match change.kind:
            case "create_partition":
                self.partition_ids.update(set(change.partition_ids) - self.dropped_partitions)
            case "drop_partition":
                self.dropped_partitions.update(change.partition_ids)
            case "replace_partitions":
                self.dropped_partitions.update(change.dropped_partition_ids)
                self.partition_ids.update(change.partition_ids)
            case "alter_schema" if change.schema is not None:
                self._alter_schema(change.schema)
        self.partition_ids -= self.dropped_partitions

    def _alter_schema(self, schema: CollectionSchema) -> None:
        """Rows written before read the new fields' defaults or nulls. In a replay, which begins with the newest schema
        of the catalog, an older one changes nothing."""
        if schema.version > self.schema.version:
            self.schema = schema
            for segment in self.growing():
                segment.extend_schema(schema)

    def _apply_deletes(self, keys: Column, record: WriteRecord, position: Position) -> None:
        count = len(keys)
        deletes = Deletes(
            keys, np.full(count, record.timestamp, np.uint64), np.full(count, record.delete_partition_id, np.int64)
        )
        for segment in self.growing():
            segment.apply_deletes(deletes)
        self.deletes.add(position, deletes)

    def _moved_to(self, position: Position, timestamp: int) -> None:
        self.last_position = position
        self.last_timestamp = max(self.last_timestamp, timestamp)

    # --- growing segments -------------------------------------------------------------------------------------------
    def growing(self) -> tuple[GrowingSegment, ...]:
        """All growing segments, oldest first."""
        return (*self.sealing, self.active)

    def freeze(self) -> None:
        """Close the active growing segment; new rows go to a fresh one."""
        if self.active.row_count == 0:
            return
        self.sealing.append(self.active)
        self.active = GrowingSegment(self.active.segment_id + 1, self.schema)
        self._show_growing()

    def _show_growing(self) -> None:
        """The view is read from the growing segments that there are now."""
        if self.view is not None:
            view = self.view
            growing = self._growing_above(view.manifest.flushed_through)
            self._swap(View(view.manifest, view.locations, growing, view.partition_ids))

    def _growing_above(self, position: Position) -> tuple[GrowingSegment, ...]:
        return (*(segment for segment in self.sealing if segment.last_position > position), self.active)

    @property
    def growing_bytes(self) -> int:
        """Size of all growing rows."""
        return sum(segment.size_bytes for segment in self.growing())

    @property
    def has_unflushed(self) -> bool:
        """Whether the log holds something of this shard that its committed manifest does not cover."""
        return self.last_position > self.manifest.flushed_through

    def written_since(self, keys: Column, timestamp: int) -> bool:
        """Whether one of `keys` was, or may have been, written after `timestamp`."""
        if timestamp < self._known_since():
            return True
        for segment in self.growing():
            _, rows = segment.find(keys.values)
            if len(rows) and int(segment.timestamps(segment.row_count)[rows].max()) > timestamp:
                return True
        return self.deletes.touches_since(keys.values, timestamp)

    def _known_since(self) -> int:
        """Writes above this timestamp are all still in memory here."""
        served = self.view.manifest if self.view is not None else self.manifest
        return served.timestamp_max

    # --- manifests and views ----------------------------------------------------------------------------------------
    def install(self, manifest: Manifest) -> None:
        """Note a committed manifest. Growing data it covers stays until a view of it is served."""
        check(manifest.version >= self.manifest.version, f"{self.vchannel}: manifest goes back")
        self._cut(manifest)
        self.replay_after = self.manifest.flushed_through if self.committed else manifest.flushed_through
        self.committed = True
        self.manifest = manifest
        if self.view is None:
            self._drop_through(manifest.flushed_through)

    def _cut(self, manifest: Manifest) -> None:
        """Let a growing segment end where the manifest does. The owner froze its own there; one who follows learns of
        the place afterwards. Timestamps rise with positions, so they tell the rows on either side."""
        active, through = self.active, manifest.timestamp_max
        if not active.row_count or active.timestamp_min > through:
            return
        count = active.row_count
        start = int(np.searchsorted(active.timestamps(count), np.uint64(through), side="right"))
        head = active.part(active.segment_id, 0, start)
        head.last_position = manifest.flushed_through
        self.sealing.append(head)
        self.active = active.part(active.segment_id + 1, start, count)
        self._show_growing()

    def serve(self, target: ShardTarget) -> None:
        """Swap the view, in one assignment, to a manifest whose segments are loaded where the target says."""
        if not target.loaded:
            self._retire()
            self.view = None
            self._drop_through(self.manifest.flushed_through)
            return
        manifest = target.manifest
        if self.view is not None and manifest.version < self.view.manifest.version:
            return
        if manifest.flushed_through < self._dropped_through:
            raise UnavailableError(f"{self.vchannel}: a newer manifest is needed to serve all rows")
        if manifest.version > self.manifest.version:
            self.install(manifest)
        self.dropped_partitions.update(manifest.dropped_partitions)
        growing = self._growing_above(manifest.flushed_through)
        self._swap(View(manifest, dict(target.locations), growing, target.partition_ids))
        self._drop_through(manifest.flushed_through)

    def _drop_through(self, position: Position) -> None:
        """Forget rows and deletes that a manifest through `position` holds; from then on no older one can be served."""
        self._dropped_through = max(self._dropped_through, position)
        self.sealing = [segment for segment in self.sealing if segment.last_position > position]
        self.deletes.drop_through(position)

    def _swap(self, view: View) -> None:
        self._retire()
        self.view = view
        self._tell()

    def expect(self, awaited: bool) -> None:
        """Whether a view is on its way."""
        self.awaited = awaited
        self._tell()

    def _tell(self) -> None:
        turned, self._turned = self._turned, asyncio.Event()
        turned.set()

    async def wait_view(self) -> None:
        """Return once there is a view, or none is on its way any more."""
        while self.view is None and self.awaited:
            await self._turned.wait()

    def _retire(self) -> None:
        self._old_views = [view for view in self._old_views if view.is_pinned]
        if self.view is not None and self.view.is_pinned:
            self._old_views.append(self.view)

    @contextmanager
    def pin(self) -> Iterator[View | None]:
        """The view now served, kept alive for one read."""
        view = self.view
        if view is None:
            yield None
            return
        view.pins[0] += 1
        try:
            yield view
        finally:
            view.pins[0] -= 1

    def status(self) -> ShardStatus:
        """What the owner reports about the shard."""
        counts: dict[int, int] = {}
        for segment in self.growing():
            if segment.last_position > self.manifest.flushed_through:
                for partition_id, rows in segment.row_counts().items():
                    if partition_id not in self.dropped_partitions:
                        counts[partition_id] = counts.get(partition_id, 0) + rows
        served = -1 if self.view is None else self.view.manifest.version
        pinned = [view.manifest.version for view in self._old_views if view.is_pinned]
        return ShardStatus(
            vchannel=self.vchannel,
            manifest_version=self.manifest.version,
            flushed_through=self.manifest.flushed_through,
            flushed_timestamp=self.last_timestamp if not self.has_unflushed else self.manifest.timestamp_max,
            row_counts=counts,
            growing_bytes=self.growing_bytes,
            served_version=served,
            pinned_version=min([*pinned, served]) if served >= 0 else min(pinned, default=-1),
            last_timestamp=self.last_timestamp,
        )
