"""Making sealed rows: a partition's rows out of growing segments (flush), or out of sealed ones (compaction).

Rows come out sorted by key, equal keys in the order of the parts. A row deleted at or before `purge_before`, or
older than `expire_before`, is left out: no read that is still allowed can see it. All other deletes stay as marks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from elanus.model.columns import Batch, concatenate_batches
from elanus.model.schema import CollectionSchema
from elanus.model.timestamp import TIMESTAMP_MAX
from elanus.segment.deletes import Timestamps, never
from elanus.segment.files import SegmentData
from elanus.segment.growing import GrowingReader
from elanus.segment.keys import sort_order
from elanus.segment.sealed import SealedSegment


def sealed_rows(
    parts: Sequence[GrowingReader], partition_id: int, schema: CollectionSchema, timestamp: int, purge_before: int
) -> SegmentData | None:
    """The rows of one partition out of growing segments, with the deletes up to `timestamp`; None when none is left.

    Deletes that arrive while this runs are above it. They are left out, so that no mark lies above what the manifest
    covers."""
    pieces: list[SegmentData] = []
    for part in parts:
        segment, count = part.segment, part.row_count
        rows = np.flatnonzero(segment.partition_ids(count) == partition_id)
        if len(rows) == 0:
            continue
        columns = {field.field_id: segment.column(field.field_id, count).take(rows) for field in schema.fields}
        deleted_at = segment.deleted_at(count)[rows]
        deleted_at[deleted_at > np.uint64(timestamp)] = TIMESTAMP_MAX
        pieces.append(SegmentData(Batch(len(rows), columns), segment.timestamps(count)[rows], deleted_at))
    return _sorted(pieces, schema, purge_before, 0)


def merged_rows(
    parts: Sequence[SealedSegment], schema: CollectionSchema, purge_before: int, expire_before: int
) -> SegmentData | None:
    """The rows of sealed segments of one partition; None when none is left."""
    pieces = []
    for part in parts:
        columns = {field.field_id: part.column(field.field_id) for field in schema.fields}
        pieces.append(SegmentData(Batch(part.row_count, columns), part.timestamps, part.deleted_at))
    return _sorted(pieces, schema, purge_before, expire_before)


def dealt_out(data: SegmentData, field_id: int, count: int) -> list[SegmentData]:
    """The rows in at most `count` parts of equal size, each with neighbouring values of the field and sorted by key."""
    by_value = sort_order(data.batch.columns[field_id].values)
    parts = [np.sort(rows) for rows in np.array_split(by_value, count) if len(rows)]
    return [
        SegmentData(
            data.batch.take(rows), data.timestamps[rows], None if data.deleted_at is None else data.deleted_at[rows]
        )
        for rows in parts
    ]


def _sorted(
    pieces: Sequence[SegmentData], schema: CollectionSchema, purge_before: int, expire_before: int
) -> SegmentData | None:
    if not pieces:
        return None
    batch = concatenate_batches([piece.batch for piece in pieces])
    timestamps = np.concatenate([piece.timestamps for piece in pieces])
    deleted_at = np.concatenate([_marks(piece) for piece in pieces])
    kept = (deleted_at > np.uint64(purge_before)) & (timestamps >= np.uint64(expire_before))
    keys = batch.columns[schema.primary.field_id].values
    order = sort_order(keys)
    order = order[kept[order]]
    if len(order) == 0:
        return None
    marks = deleted_at[order]
    return SegmentData(batch.take(order), timestamps[order], None if (marks == TIMESTAMP_MAX).all() else marks)


def _marks(piece: SegmentData) -> Timestamps:
    return never(len(piece.timestamps)) if piece.deleted_at is None else piece.deleted_at
