"""The query node.

Owns: which sealed segments are loaded here, and for each the position through which deletes are applied. Stateless:
everything comes from the object store and from delegators, and losing it loses nothing.

Invariants: a segment is listed only when its files are verified and mapped and it has the deletes of the manifest it
was loaded with; a range of deletes is applied to a segment only if it begins at or below that segment's position (a
later range would leave a gap); a read is answered only if every segment it names is listed and has reached the position
it names. All state changes happen between awaits, on the event loop.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from elanus.base.doors import Doors, ReadFile
from elanus.index.contract import VectorIndex
from elanus.index.registry import is_readable, is_scalar, lives_on_disk, load_scalar
from elanus.index.registry import load as load_index
from elanus.model.errors import DeletesBehindError, SegmentNotFoundError
from elanus.model.reads import Found, Hits
from elanus.model.segment import IndexFile, Manifest, SegmentEntry
from elanus.nodes.contracts import DeleteRange, NodeStatus, SegmentLoad, SegmentRead
from elanus.nodes.terms import HighestTerm
from elanus.objects.checksums import map_verified, open_local
from elanus.objects.store import ObjectStore
from elanus.search.execute import Execution
from elanus.segment.deletes import Deletes
from elanus.segment.footprint import footprint
from elanus.segment.reader import Visibility
from elanus.segment.sealed import BuiltScalar, SealedSegment
from elanus.segment.storage import fold_deletes, open_segment

LOADS_AT_ONCE: Final = 4
"""Segments that are opened side by side: their files come over the network."""


class QueryNode:
    """See the module's head; implements `contracts.Query`."""

    def __init__(self, doors: Doors, objects: ObjectStore, execution: Execution, memory_bytes_max: int = 0) -> None:
        """`memory_bytes_max` is what `status` tells of this node, 0 for no limit; who places segments minds it."""
        self._memory_bytes_max = memory_bytes_max
        self._doors = doors
        self._objects = objects
        self._execution = execution
        self._segments: dict[int, SealedSegment] = {}
        self._loading: dict[int, asyncio.Lock] = {}
        self._terms = HighestTerm()

    @property
    def held(self) -> tuple[int, ...]:
        """Ids of the segments held here, sorted."""
        return tuple(sorted(self._segments))

    # --- loading ----------------------------------------------------------------------------------------------------
    async def load(self, load: SegmentLoad) -> None:
        self._terms.accept(load.coordinator_term)
        entries = load.manifest.segments
        for start in range(0, len(entries), LOADS_AT_ONCE):
            loads = [self._load(entry, load) for entry in entries[start : start + LOADS_AT_ONCE]]
            failed = [one for one in await asyncio.gather(*loads, return_exceptions=True) if one is not None]
            if failed:
                raise failed[0]

    async def _load(self, entry: SegmentEntry, load: SegmentLoad) -> None:
        segment_id = entry.segment_id
        async with self._loading.setdefault(segment_id, asyncio.Lock()):
            segment = self._segments.get(segment_id)
            fresh = segment is None
            if segment is None:
                segment = await open_segment(self._doors, self._objects, entry, load.schema, load.in_memory_fields)
            segment.extend_schema(load.schema)
            await self._load_indexes(segment, entry, load.in_memory)
            await self._fold_deletes(segment, load.manifest)
            if fresh:
                self._segments[segment_id] = segment

    async def _load_indexes(self, segment: SealedSegment, entry: SegmentEntry, in_memory: tuple[int, ...]) -> None:
        wanted = {file.index_id: file for file in entry.indexes}
        if tuple(sorted(wanted)) == segment.index_ids and entry.indexes == segment.entry.indexes:
            return
        indexes = {}
        scalars: list[BuiltScalar] = []
        opened = {one.file.file.key: one for one in segment.scalar_indexes}
        for file in entry.indexes:
            if not is_readable(file):
                continue  # The rows are scanned until the coordinator has had it built again.
            if is_scalar(file.resolved_type):
                in_process = file.index_id in in_memory
                scalars.append(opened.get(file.file.key) or await self._open_scalar(file, in_process))
                continue
            known = segment.index(file.field_id)
            if known is not None and file in segment.entry.indexes:
                indexes[file.field_id] = known
            else:
                indexes[file.field_id] = await self._open_index(file, file.index_id in in_memory)
        segment.indexes = indexes
        segment.scalar_indexes = tuple(scalars)
        segment.index_ids = tuple(sorted(wanted))
        segment.entry = msgspec.structs.replace(segment.entry, indexes=entry.indexes)

    async def _open_index(self, file: IndexFile, in_memory: bool) -> VectorIndex:
        data = await map_verified(self._doors, self._objects, file.file)
        local: ReadFile | None = None
        if lives_on_disk(file.resolved_type):
            local = await open_local(self._doors, self._objects, file.file)
        # Off the event loop: the first one loads a library.
        return await self._doors.compute.run_io(load_index, data, local, in_memory)

    async def _open_scalar(self, file: IndexFile, in_memory: bool) -> BuiltScalar:
        data = await map_verified(self._doors, self._objects, file.file)
        built = await self._doors.compute.run_io(load_scalar, file.resolved_type, data, in_memory)
        return BuiltScalar(file, built)

    async def _fold_deletes(self, segment: SealedSegment, manifest: Manifest) -> None:
        await fold_deletes(self._doors, self._objects, segment, manifest)

    async def release(self, segment_ids: tuple[int, ...], coordinator_term: int) -> None:
        self._terms.accept(coordinator_term)
        for segment_id in segment_ids:
            self._segments.pop(segment_id, None)
            self._loading.pop(segment_id, None)
            self._execution.masks.forget_segment(segment_id)

    async def apply_deletes(self, deletes: DeleteRange, segment_ids: tuple[int, ...]) -> None:
        columns = Deletes(deletes.keys, deletes.timestamps, deletes.partition_ids)
        for segment_id in segment_ids:
            segment = self._segments.get(segment_id)
            if segment is not None and deletes.after <= segment.deletes_through < deletes.through:
                segment.apply_deletes(columns, deletes.through)

    # --- reading ----------------------------------------------------------------------------------------------------
    async def search(self, read: SegmentRead) -> Hits:
        segments = self._ready(read)
        return await self._execution.search(segments, read.read, segments[0].schema, _visibility(read))

    async def query(self, read: SegmentRead) -> Found:
        segments = self._ready(read)
        return await self._execution.query(segments, read.read, segments[0].schema, _visibility(read))

    def _ready(self, read: SegmentRead) -> list[SealedSegment]:
        through = read.deletes_through
        segments = []
        for segment_id in read.segment_ids:
            segment = self._segments.get(segment_id)
            if segment is None:
                raise SegmentNotFoundError(segment_id)
            if segment.deletes_through < through:
                raise DeletesBehindError(f"segment {segment_id} has deletes through {segment.deletes_through}")
            if segment.schema.version < read.schema_version:
                raise DeletesBehindError(f"segment {segment_id} has schema version {segment.schema.version}")
            segments.append(segment)
        return segments

    async def status(self) -> NodeStatus:
        return NodeStatus(
            segments={segment_id: segment.deletes_through for segment_id, segment in self._segments.items()},
            indexes={segment_id: segment.index_ids for segment_id, segment in self._segments.items()},
            memory_bytes=sum(footprint(segment.entry) for segment in self._segments.values()),
            memory_bytes_max=self._memory_bytes_max,
        )


def _visibility(read: SegmentRead) -> Visibility:
    request = read.read
    return Visibility(request.at_timestamp, request.partition_ids, request.dropped_partition_ids, request.expire_before)
