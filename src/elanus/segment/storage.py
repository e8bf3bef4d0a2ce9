"""Segments to and from the object store."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

from elanus.base.doors import Doors
from elanus.base.pieces import copied
from elanus.model.channel import Position
from elanus.model.columns import Column
from elanus.model.schema import CollectionSchema
from elanus.model.segment import Manifest, SegmentEntry
from elanus.objects import paths
from elanus.objects.checksums import map_verified, read_verified, write_file
from elanus.objects.store import ObjectStore
from elanus.segment.deletes import decode_deletes
from elanus.segment.files import ScalarFile, SegmentData, encode_segment, open_vectors, scalar_bytes
from elanus.segment.sealed import SealedSegment


@dataclass(frozen=True, slots=True)
class SegmentPlace:
    """Where a new segment belongs, through which position deletes are folded into it, and its writer's token."""

    collection_id: int
    vchannel: str
    segment_id: int
    partition_id: int
    deletes_through: Position
    token: str


async def write_segment(
    doors: Doors, objects: ObjectStore, data: SegmentData, schema: CollectionSchema, place: SegmentPlace
) -> SegmentEntry:
    """Encode rows off the event loop, store their files, and return the entry a manifest may name."""
    files = await doors.compute.run_background(encode_segment, data, schema)
    folder = paths.segment_folder(place.collection_id, place.vchannel, place.segment_id, place.token)
    scalars = await write_file(doors, objects, paths.scalars(folder), memoryview(files.scalars))
    vectors = {
        field_id: await write_file(doors, objects, paths.vector(folder, field_id), memoryview(buffer))
        for field_id, buffer in files.vectors.items()
    }
    return SegmentEntry(
        segment_id=place.segment_id,
        partition_id=place.partition_id,
        row_count=data.batch.row_count,
        schema_version=schema.version,
        deletes_through=place.deletes_through,
        timestamp_min=int(data.timestamps.min()),
        timestamp_max=int(data.timestamps.max()),
        scalars=scalars,
        vectors=vectors,
        scalar_bytes=scalar_bytes(data, schema),
    )


async def open_segment(
    doors: Doors,
    objects: ObjectStore,
    entry: SegmentEntry,
    schema: CollectionSchema,
    in_memory: Container[int] = (),
) -> SealedSegment:
    """Verify and map a segment's data files. Vectors of the fields `in_memory` are copied into memory of this process.
    CorruptedError; ObjectNotFoundError."""
    scalars = await map_verified(doors, objects, entry.scalars)
    vectors = {}
    for field_id, file in entry.vectors.items():
        data = await map_verified(doors, objects, file)
        if field_id in in_memory:
            data = await doors.compute.run_io(copied, data)
        vectors[field_id] = open_vectors(data, file.key)
    return await doors.compute.run_io(_open, entry, schema, scalars, vectors)


def _open(
    entry: SegmentEntry, schema: CollectionSchema, scalars: memoryview, vectors: Mapping[int, Column]
) -> SealedSegment:
    return SealedSegment(entry, schema, ScalarFile(scalars, entry.scalars.key), vectors)


async def fold_deletes(doors: Doors, objects: ObjectStore, segment: SealedSegment, manifest: Manifest) -> None:
    """Apply every delete that the manifest holds and the segment lacks. CorruptedError; ObjectNotFoundError."""
    for file in manifest.deletes:
        if file.through > segment.deletes_through:
            data = await read_verified(doors, objects, file.file)
            segment.apply_deletes(decode_deletes(data, file.file.key), file.through)
    segment.deletes_through = max(segment.deletes_through, manifest.flushed_through)
