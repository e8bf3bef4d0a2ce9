"""Growing segments: rows that are durable in the log and not yet in files.

Owned by one streaming node and changed by one task only. Buffers grow by doubling and are never overwritten below
the row count, so a `GrowingReader` taken at n rows stays true while rows n, n+1, ... are added beside it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from elanus.base.errors import check
from elanus.base.limits import MIB
from elanus.index.contract import VectorIndex
from elanus.index.declaration import DENSE_TYPES
from elanus.index.scored import ScoredVectors
from elanus.index.vectors import Vectors, as_float32, squared_norms
from elanus.model.channel import ORIGIN, Position
from elanus.model.columns import Batch, Column, Mask, Rows, Values
from elanus.model.schema import CollectionSchema, FieldSchema
from elanus.model.timestamp import TIMESTAMP_MAX
from elanus.segment.deletes import Deletes, Timestamps, hide
from elanus.segment.interim import InterimHeads
from elanus.segment.keys import KeyRuns
from elanus.segment.reader import Visibility, missing_column, visible_rows
from elanus.segment.searchable import searchable

PREFIX_MASKS_MAX: Final = 64
PREFIX_MASK_BYTES_MAX: Final = 16 * MIB
COMPARED_MAX: Final = 8
"""So many partitions are compared one by one; a set of more is searched."""
_ROWS_MIN: Final = 1024
_NO_ROWS: Final = np.zeros(0, np.bool_)


class _Array:
    """A NumPy array that grows at the end; views taken earlier stay valid."""

    def __init__(self, like: npt.NDArray[Any]) -> None:
        self._data = np.empty((_ROWS_MIN, *like.shape[1:]), like.dtype)
        self._count = 0

    def extend(self, values: npt.NDArray[Any]) -> None:
        end = self._count + len(values)
        if end > len(self._data):
            grown = np.empty((max(end, 2 * len(self._data)), *self._data.shape[1:]), self._data.dtype)
            grown[: self._count] = self._data[: self._count]
            self._data = grown
        self._data[self._count : end] = values
        self._count = end

    def view(self, count: int) -> npt.NDArray[Any]:
        return self._data[:count]


class _ArrowChunks:
    """An Arrow column that grows by chunks; joined when read, and kept joined until the next append."""

    def __init__(self, like: pa.Array) -> None:
        self._chunks: list[pa.Array] = [like[:0]]

    def extend(self, values: pa.Array) -> None:
        self._chunks.append(values)

    def view(self, count: int) -> pa.Array:
        if len(self._chunks) > 1:
            self._chunks = [pa.concat_arrays(self._chunks)]
        return self._chunks[0][:count]


class _GrowingColumn:
    """Values and, from the first null on, validity of one field."""

    def __init__(self, like: Column) -> None:
        self._values: _Array | _ArrowChunks
        self._values = _Array(like.values) if isinstance(like.values, np.ndarray) else _ArrowChunks(like.values)
        self._valid: _Array | None = None

    def extend(self, column: Column, rows_before: int) -> None:
        self._values.extend(column.values)
        if column.valid is not None and self._valid is None:
            self._valid = _Array(column.valid)
            self._valid.extend(np.ones(rows_before, np.bool_))
        if self._valid is not None:
            self._valid.extend(np.ones(len(column), np.bool_) if column.valid is None else column.valid)

    def view(self, count: int) -> Column:
        return Column(self._values.view(count), None if self._valid is None else self._valid.view(count))


class GrowingSegment:
    """Rows of all partitions of one shard between two positions of its log."""

    def __init__(self, segment_id: int, schema: CollectionSchema) -> None:
        self.segment_id = segment_id
        self.schema = schema
        self.row_count = 0
        self.size_bytes = 0
        self.timestamp_min = TIMESTAMP_MAX
        self.timestamp_max = 0
        self.first_position = ORIGIN
        self.last_position = ORIGIN
        self.deleted_count = 0
        self._columns: dict[int, _GrowingColumn] = {}
        self._timestamps = _Array(np.empty(0, np.uint64))
        self._deleted_at = _Array(np.empty(0, np.uint64))
        self._partitions = _Array(np.empty(0, np.int64))
        self._squares: dict[int, _Array] = {}
        self._searchable: dict[int, Vectors | ScoredVectors] = {}
        self._keys = KeyRuns()
        self.masks = PrefixMasks()
        self.interim = InterimHeads()

    def append(self, batch: Batch, partition_ids: Rows, timestamp: int, position: Position) -> None:
        """Add the rows of one record. Fields the batch lacks (older schema) get their default or null."""
        if self.row_count == 0:
            self.first_position = position
        count = batch.row_count
        for field in self.schema.fields:
            self._add_column(field, batch.columns.get(field.field_id) or missing_column(field, count), self.row_count)
        self._timestamps.extend(np.full(count, timestamp, np.uint64))
        self._deleted_at.extend(np.full(count, TIMESTAMP_MAX, np.uint64))
        self._partitions.extend(partition_ids)
        self._keys.add(batch.columns[self.schema.primary.field_id].values, self.row_count)
        self.row_count += count
        self.size_bytes += batch.nbytes
        self.timestamp_min = min(self.timestamp_min, timestamp)
        self.timestamp_max = timestamp
        self.last_position = position

    def part(self, segment_id: int, start: int, stop: int) -> GrowingSegment:
        """Rows [start, stop) with their deletes as a segment of its own; whoever asks sets its positions."""
        part = GrowingSegment(segment_id, self.schema)
        part.first_position, part.last_position = self.first_position, self.last_position
        if stop == start:
            return part
        for field in self.schema.fields:
            part._add_column(field, self.column(field.field_id, stop).slice(start, stop), 0)
        timestamps, deleted_at = self.timestamps(stop)[start:], self.deleted_at(stop)[start:]
        part._timestamps.extend(timestamps)
        part._deleted_at.extend(deleted_at)
        part._partitions.extend(self.partition_ids(stop)[start:])
        part._keys.add(part.column(self.schema.primary.field_id, stop - start).values, 0)
        part.row_count = stop - start
        part.size_bytes = self.size_bytes * part.row_count // self.row_count
        part.timestamp_min, part.timestamp_max = int(timestamps[0]), int(timestamps[-1])
        part.deleted_count = int(np.count_nonzero(deleted_at != np.uint64(TIMESTAMP_MAX)))
        return part

    def extend_schema(self, schema: CollectionSchema) -> None:
        """Go over to a newer schema: rows that are here hold the default or null in its further fields."""
        known = {field.field_id for field in self.schema.fields}
        self.schema = schema
        if self.row_count:
            for field in schema.fields:
                if field.field_id not in known:
                    self._add_column(field, missing_column(field, self.row_count), 0)

    def _add_column(self, field: FieldSchema, column: Column, rows_before: int) -> None:
        if field.field_id not in self._columns:
            self._columns[field.field_id] = _GrowingColumn(column)
        self._columns[field.field_id].extend(column, rows_before)
        if field.data_type in DENSE_TYPES:
            self._add_squares(field, column)

    def _add_squares(self, field: FieldSchema, column: Column) -> None:
        """What searches need of a dense vector beside its column."""
        squares = squared_norms(as_float32(np.asarray(column.values)))
        self._squares.setdefault(field.field_id, _Array(squares)).extend(squares)

    def apply_deletes(self, deletes: Deletes) -> None:
        """Hide rows added before these deletes."""
        count = self.row_count
        self.deleted_count += hide(
            deletes,
            self._keys.find(deletes.keys.values),
            self._timestamps.view(count),
            self._deleted_at.view(count),
            self._partitions.view(count),
        )

    def column(self, field_id: int, row_count: int) -> Column:
        """The first `row_count` rows of a field."""
        return self._columns[field_id].view(row_count)

    def vectors(self, field_id: int, row_count: int) -> Vectors | ScoredVectors:
        """The first rows of a vector field as searches take them; kept until rows are added."""
        known = self._searchable.get(field_id)
        if known is not None and len(known) == row_count:
            return known
        values, squares = self.column(field_id, row_count).values, self._squares.get(field_id)
        if squares is not None:
            found: Vectors | ScoredVectors = Vectors(np.asarray(values), squares.view(row_count))
        else:
            field = self.schema.field_by_id(field_id)
            check(field is not None, f"no field {field_id}")
            assert field is not None
            found = searchable(values, field)
        self._searchable[field_id] = found
        return found

    def timestamps(self, row_count: int) -> Timestamps:
        """Record timestamps of the first rows."""
        return self._timestamps.view(row_count)

    def deleted_at(self, row_count: int) -> Timestamps:
        """Delete timestamps of the first rows; TIMESTAMP_MAX where alive."""
        return self._deleted_at.view(row_count)

    def partition_ids(self, row_count: int) -> Rows:
        """Partitions of the first rows."""
        return self._partitions.view(row_count)

    def find(self, keys: Values) -> tuple[Rows, Rows]:
        """All pairs (index in `keys`, row) with equal keys, hidden rows included."""
        return self._keys.find(keys)

    def row_counts(self) -> dict[int, int]:
        """Rows by partition, hidden rows included."""
        ids, counts = np.unique(self._partitions.view(self.row_count), return_counts=True)
        return dict(zip(ids.tolist(), counts.tolist(), strict=True))

    def reader(self) -> GrowingReader:
        """The segment as it is now."""
        return GrowingReader(self, self.row_count)


def _among(ids: Rows, wanted: Collection[int]) -> Mask:
    """Which of the ids are among the wanted; most reads name few."""
    if len(wanted) > COMPARED_MAX:
        return np.isin(ids, np.fromiter(wanted, np.int64, len(wanted)))
    found = np.zeros(len(ids), np.bool_)
    for one in wanted:
        found |= ids == one
    return found


class PrefixMasks:
    """By filter, the mask of the first rows of a growing segment; made longer when more rows are asked about.

    A row's values never change, so the mask of a prefix stays true; deletes and visibility are no part of it. Bounded
    in entries and bytes, oldest use out first. Not for several threads.
    """

    def __init__(self) -> None:
        self._masks: OrderedDict[str, Mask] = OrderedDict()
        self._bytes = 0

    def of(self, key: str, row_count: int, evaluated: Callable[[int], Mask]) -> Mask:
        """The mask of the first `row_count` rows; `evaluated` is asked about those from a row on."""
        known = self._masks.pop(key, _NO_ROWS)
        self._bytes -= known.nbytes
        if len(known) < row_count:
            known = np.concatenate((known, evaluated(len(known))))
        self._masks[key] = known
        self._bytes += known.nbytes
        while len(self._masks) > PREFIX_MASKS_MAX or self._bytes > PREFIX_MASK_BYTES_MAX:
            self._bytes -= self._masks.popitem(last=False)[1].nbytes
        return known[:row_count]


class GrowingReader:
    """A growing segment at one row count."""

    def __init__(self, segment: GrowingSegment, row_count: int) -> None:
        self._segment = segment
        self._row_count = row_count

    @property
    def row_count(self) -> int:
        return self._row_count

    @property
    def segment(self) -> GrowingSegment:
        """The segment behind this reader."""
        return self._segment

    @property
    def keys(self) -> Values:
        return self.column(self._segment.schema.primary.field_id).values

    @property
    def timestamps(self) -> Timestamps:
        return self._segment.timestamps(self._row_count)

    @property
    def may_repeat_keys(self) -> bool:
        return True

    def column(self, field_id: int) -> Column:
        return self._segment.column(field_id, self._row_count)

    def vectors(self, field_id: int) -> Vectors | ScoredVectors:
        return self._segment.vectors(field_id, self._row_count)

    def index(self, field_id: int) -> VectorIndex | None:
        return self._segment.interim.index(field_id, self.vectors(field_id))

    def find(self, keys: Values) -> tuple[Rows, Rows]:
        probes, rows = self._segment.find(keys)
        inside = rows < self._row_count
        return probes[inside], rows[inside]

    def visible(self, visibility: Visibility, rows: Rows | None = None) -> Mask | None:
        segment, count = self._segment, self._row_count
        chosen = slice(None) if rows is None else rows
        deleted_at = segment.deleted_at(count)[chosen] if segment.deleted_count else None
        mask = visible_rows(segment.timestamps(count)[chosen], deleted_at, visibility, segment.timestamp_max)
        for partition_ids, wanted in ((visibility.partition_ids, True), (visibility.dropped_partitions, False)):
            if partition_ids is None or (not wanted and not partition_ids):
                continue
            inside = _among(segment.partition_ids(count)[chosen], partition_ids)
            inside = inside if wanted else ~inside
            mask = inside if mask is None else mask & inside
        return mask
