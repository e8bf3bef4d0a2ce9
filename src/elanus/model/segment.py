"""Sealed segments and the shard manifest that names them.

The manifest is the shard's truth about sealed data: one immutable object, found through one pointer key in the meta
store that moves by compare-and-set. A view of the shard at position n is a function of a manifest M and n:
M's segments, the growing rows with M.flushed_through < position <= n, and all deletes up to n.

A flush seals everything the shard holds up to one position, rows and deletes alike, so that `flushed_through` is one
position for rows and deletes of all partitions.
"""

from __future__ import annotations

import msgspec

from elanus.model.channel import ORIGIN, Position


class FileRef(msgspec.Struct, frozen=True):
    """An object written once: key, length in bytes, CRC-32 of its content."""

    key: str
    size_bytes: int
    checksum: int


class IndexFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """A built index of one segment. `resolved_type` is the concrete type behind AUTOINDEX, `version` that of the type's
    file format."""

    index_id: int
    field_id: int
    resolved_type: str
    metric_type: str
    file: FileRef
    params: dict[str, str] = {}
    version: int = 1


class SegmentEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One sealed segment: rows of one partition, sorted by primary key, immutable.

    `clustered_by`: the field by whose values the rows were dealt out over segments; 0 where they were not.
    `deletes_through`: every delete of the shard at or below this position has been folded in (rows dropped, or marked
    with the delete's timestamp in the `deleted_at` column). `scalars` is a Parquet file of all non-vector columns plus
    `timestamp` and `deleted_at`; `vectors` maps a field id to an Arrow IPC file. `scalar_bytes`: memory that the scalar
    columns take, decoded; 0 where that was not written down.
    """

    segment_id: int
    partition_id: int
    row_count: int
    schema_version: int
    deletes_through: Position
    timestamp_min: int
    timestamp_max: int
    scalars: FileRef
    vectors: dict[int, FileRef] = {}
    indexes: tuple[IndexFile, ...] = ()
    scalar_bytes: int = 0
    clustered_by: int = 0

    @property
    def size_bytes(self) -> int:
        """Bytes of all data files, indexes left out."""
        return self.scalars.size_bytes + sum(file.size_bytes for file in self.vectors.values())


class DeleteFile(msgspec.Struct, frozen=True):
    """Deletes of the shard with after < position <= through, sorted by key."""

    after: Position
    through: Position
    row_count: int
    file: FileRef


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """See the module's head. `version` grows by one with each commit; `token` names the commit uniquely."""

    vchannel: str
    collection_id: int
    version: int
    token: str
    term: int
    flushed_through: Position = ORIGIN
    timestamp_max: int = 0
    readable_from: int = 0
    intent_id: int = 0
    schema_version: int = 0
    segments: tuple[SegmentEntry, ...] = ()
    deletes: tuple[DeleteFile, ...] = ()
    dropped_partitions: tuple[int, ...] = ()

    def segment(self, segment_id: int) -> SegmentEntry | None:
        """The entry of that id."""
        return next((entry for entry in self.segments if entry.segment_id == segment_id), None)

    @property
    def files(self) -> tuple[FileRef, ...]:
        """All files it names."""
        named = [file.file for file in self.deletes]
        for entry in self.segments:
            named += [entry.scalars, *entry.vectors.values(), *(index.file for index in entry.indexes)]
        return tuple(named)
