"""The data node.

Stateless: a task names its inputs, reads them from the object store, writes files under names that contain the task's
token, and answers with their entries. Nothing it writes is visible until the coordinator commits it; what a killed or
superseded task wrote is garbage that no manifest names. One task runs at a time, on the background pool.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import numpy as np

from elanus.base.doors import Doors
from elanus.base.errors import check
from elanus.base.memory import release_memory
from elanus.index.contract import ResolvedIndex
from elanus.index.declaration import DENSE_TYPES
from elanus.index.multi import MultiVectors
from elanus.index.registry import build, build_scalar, file_version, resolve
from elanus.index.vectors import as_float32
from elanus.model.channel import Position
from elanus.model.columns import Column, Values
from elanus.model.schema import FieldSchema
from elanus.model.segment import IndexFile, SegmentEntry
from elanus.model.types import DataType
from elanus.nodes.contracts import BuildTask, CompactTask
from elanus.objects import paths
from elanus.objects.checksums import map_verified, write_file
from elanus.objects.store import ObjectStore
from elanus.segment.files import ScalarFile, SegmentData, open_vectors
from elanus.segment.merge import dealt_out, merged_rows
from elanus.segment.reader import missing_column
from elanus.segment.sealed import SealedSegment
from elanus.segment.storage import SegmentPlace, fold_deletes, open_segment, write_segment


class DataNode:
    """See the module's head; implements `contracts.Data`."""

    def __init__(self, doors: Doors, objects: ObjectStore, threads: int) -> None:
        self._doors = doors
        self._objects = objects
        self._threads = threads
        self._slot = asyncio.Semaphore(1)

    async def build(self, task: BuildTask) -> IndexFile:
        field = task.schema.field_by_id(task.definition.field_id)
        check(field is not None, f"no field {task.definition.field_id}")
        assert field is not None
        resolved = resolve(task.definition.params, field)
        async with self._slot:
            if field.data_type.is_vector:
                parts = await self._vector_parts(task, field, resolved)
            else:
                parts = await self._scalar_parts(task, field)
            folder = paths.folder_of(task.entry.scalars.key)
            key = paths.index(folder, task.definition.index_id, task.token, resolved.index_type)
            ref = await write_file(self._doors, self._objects, key, list(parts))
            del parts
            await self._doors.compute.run_io(release_memory)
        return IndexFile(
            index_id=task.definition.index_id,
            field_id=field.field_id,
            resolved_type=resolved.index_type,
            metric_type=task.definition.metric_type,
            file=ref,
            params={name: str(value) for name, value in resolved.params.items()},
            version=file_version(resolved.index_type),
        )

    async def _vector_parts(self, task: BuildTask, field: FieldSchema, resolved: ResolvedIndex) -> Sequence[memoryview]:
        file = task.entry.vectors[field.field_id]
        data = await map_verified(self._doors, self._objects, file)
        vectors = _indexable(open_vectors(data, file.key), field)
        return await self._doors.compute.run_background(build, resolved, vectors, self._threads)

    async def _scalar_parts(self, task: BuildTask, field: FieldSchema) -> Sequence[memoryview]:
        file = task.entry.scalars
        data = await map_verified(self._doors, self._objects, file)

        def made() -> Sequence[memoryview]:
            scalars = ScalarFile(data, file.key)
            known = scalars.has(field.field_id)
            column = scalars.column(field.field_id) if known else missing_column(field, task.entry.row_count)
            return build_scalar(task.definition, field, column)

        return await self._doors.compute.run_background(made)

    async def compact(self, task: CompactTask) -> tuple[SegmentEntry, ...]:
        async with self._slot:
            parts = [await self._open_input(task, segment_id) for segment_id in task.inputs]
            through = min(part.deletes_through for part in parts)
            data = await self._doors.compute.run_background(
                merged_rows, parts, task.schema, task.purge_before, task.expire_before
            )
            partition_id = parts[0].entry.partition_id
            del parts
            entries: tuple[SegmentEntry, ...] = ()
            if data is not None:
                entries = await self._write(task, data, partition_id, through)
            del data
            await self._doors.compute.run_io(release_memory)
            return entries

    async def _write(
        self, task: CompactTask, data: SegmentData, partition_id: int, through: Position
    ) -> tuple[SegmentEntry, ...]:
        pieces = [data]
        if task.clustered_by:
            count = len(task.output_ids)
            pieces = await self._doors.compute.run_background(dealt_out, data, task.clustered_by, count)
        entries: list[SegmentEntry] = []
        for output_id, piece in zip(task.output_ids, pieces, strict=False):
            place = SegmentPlace(
                task.collection_id, task.manifest.vchannel, output_id, partition_id, through, task.token
            )
            entry = await write_segment(self._doors, self._objects, piece, task.schema, place)
            entries.append(msgspec.structs.replace(entry, clustered_by=task.clustered_by))
        return tuple(entries)

    async def _open_input(self, task: CompactTask, segment_id: int) -> SealedSegment:
        """An input with every delete of the task's manifest folded in."""
        entry = task.manifest.segment(segment_id)
        check(entry is not None, f"segment {segment_id} is not in the task's manifest")
        assert entry is not None
        segment = await open_segment(self._doors, self._objects, entry, task.schema)
        await fold_deletes(self._doors, self._objects, segment, task.manifest)
        return segment


def _indexable(column: Column, field: FieldSchema) -> Values | MultiVectors:
    """Vectors as builds take them: dense ones float32 and C-contiguous, others as they are stored. Null rows are zeros
    or empty, which searches mask out."""
    if field.data_type is DataType.ARRAY_OF_VECTOR:
        return MultiVectors(column.values, field.dimension)
    if field.data_type not in DENSE_TYPES:
        return column.values
    values = as_float32(np.asarray(column.values))
    if column.valid is not None:
        values = np.where(column.valid[:, None], values, np.float32(0))
    return values
