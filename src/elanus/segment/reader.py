"""What search sees of a segment, growing or sealed: an immutable snapshot with columns, keys and a visibility rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from elanus.index.contract import VectorIndex
from elanus.index.scored import ScoredVectors
from elanus.index.vectors import Vectors
from elanus.model.columns import NUMPY_DTYPES, Column, Mask, Rows, Values, arrow_type
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType
from elanus.segment.deletes import Timestamps


@dataclass(frozen=True, slots=True)
class Visibility:
    """Which rows a read may see: at `timestamp`, of `partition_ids` (None: all), less `dropped_partitions`,
    and no row with a timestamp below `expire_before`."""

    timestamp: int
    partition_ids: tuple[int, ...] | None = None
    dropped_partitions: tuple[int, ...] = ()
    expire_before: int = 0


class Reader(Protocol):
    """A segment at one moment. Row numbers are stable for the reader's life."""

    @property
    def row_count(self) -> int: ...

    @property
    def keys(self) -> Values:
        """Primary keys by row."""
        ...

    @property
    def timestamps(self) -> Timestamps:
        """Record timestamps by row, uint64."""
        ...

    @property
    def may_repeat_keys(self) -> bool:
        """Whether two visible rows might share a key."""
        ...

    def column(self, field_id: int) -> Column:
        """A column of all rows."""
        ...

    def vectors(self, field_id: int) -> Vectors | ScoredVectors:
        """A vector column as searches take it."""
        ...

    def index(self, field_id: int) -> VectorIndex | None:
        """The built index of a vector field."""
        ...

    def find(self, keys: Values) -> tuple[Rows, Rows]:
        """All pairs (index in `keys`, row) with equal keys, whether visible or not."""
        ...

    def visible(self, visibility: Visibility, rows: Rows | None = None) -> Mask | None:
        """Which of all rows, or of `rows`, this read may see; None when all."""
        ...


def visible_rows(
    timestamps: Timestamps, deleted_at: Timestamps | None, visibility: Visibility, timestamp_max: int
) -> Mask | None:
    """The rule of `segment.deletes` and of time to live over whole columns; None when every row is visible."""
    mask: Mask | None = None
    if timestamp_max > visibility.timestamp:
        mask = timestamps <= np.uint64(visibility.timestamp)
    if deleted_at is not None:
        alive = deleted_at > np.uint64(visibility.timestamp)
        mask = alive if mask is None else mask & alive
    if visibility.expire_before:
        fresh = timestamps >= np.uint64(visibility.expire_before)
        mask = fresh if mask is None else mask & fresh
    return mask


def missing_column(field: FieldSchema, row_count: int) -> Column:
    """What rows written before the field existed hold: its default, else null."""
    valid = None if field.default is not None else np.zeros(row_count, np.bool_)
    if field.data_type in NUMPY_DTYPES:
        dtype = np.dtype(NUMPY_DTYPES[field.data_type])
        if field.data_type.is_vector:
            width = field.dimension // 8 if field.data_type is DataType.BINARY_VECTOR else field.dimension
            return Column(np.zeros((row_count, width), dtype), valid)
        return Column(np.full(row_count, 0 if field.default is None else field.default, dtype), valid)
    kind = arrow_type(field.data_type, field.element_type)
    filler: object = [] if field.data_type is DataType.ARRAY else "" if kind == pa.large_string() else b""
    if field.data_type is DataType.JSON:
        filler = b"{}" if field.is_dynamic else b"null"
        valid = None if field.is_dynamic else valid
    return Column(pa.repeat(pa.scalar(filler if field.default is None else field.default, kind), row_count), valid)
