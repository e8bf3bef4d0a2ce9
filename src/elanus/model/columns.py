"""Columns: the one shape of row data between decode and encode.

A `Column` is `values` plus an optional `valid` mask. `values` is a NumPy array (bool, int8..int64, float32, float64,
uint64; two-dimensional for dense vectors) or an Arrow array without nulls (large_string for VARCHAR, large_binary for
JSON, GEOMETRY, sparse rows and lists of vectors, large_list for ARRAY). Where `valid` is False the value is a filler of
the type.
A `Batch` is several columns of equal length, by field id.

Nothing is ever written through a Column: arrays handed to it are immutable from then on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from elanus.base.errors import InvariantError
from elanus.model.types import DataType

Values: TypeAlias = "npt.NDArray[Any] | pa.Array"
Mask: TypeAlias = npt.NDArray[np.bool_]
Rows: TypeAlias = npt.NDArray[np.int64]

NUMPY_DTYPES: Mapping[DataType, str] = {
    DataType.BOOL: "?",
    DataType.INT8: "<i1",
    DataType.INT16: "<i2",
    DataType.INT32: "<i4",
    DataType.INT64: "<i8",
    DataType.FLOAT: "<f4",
    DataType.DOUBLE: "<f8",
    DataType.TIMESTAMPTZ: "<i8",
    DataType.FLOAT_VECTOR: "<f4",
    DataType.FLOAT16_VECTOR: "<f2",
    DataType.BFLOAT16_VECTOR: "<u2",
    DataType.INT8_VECTOR: "<i1",
    DataType.BINARY_VECTOR: "<u1",
}
"""NumPy dtype of the types that live in NumPy (dense vectors as (rows, width))."""


def arrow_type(data_type: DataType, element_type: DataType = DataType.NONE) -> pa.DataType:
    """Arrow type of the types that live in Arrow, and of ARRAY elements."""
    match data_type:
        case DataType.VARCHAR | DataType.TEXT | DataType.STRING:
            return pa.large_string()
        case DataType.JSON | DataType.GEOMETRY | DataType.SPARSE_FLOAT_VECTOR | DataType.ARRAY_OF_VECTOR:
            return pa.large_binary()
        case DataType.ARRAY:
            return pa.large_list(arrow_type(element_type))
        case _ if data_type in NUMPY_DTYPES:
            return pa.bool_() if data_type is DataType.BOOL else pa.from_numpy_dtype(np.dtype(NUMPY_DTYPES[data_type]))
    raise InvariantError(f"no column type for {data_type!r}")


@dataclass(frozen=True, slots=True)
class Column:
    """Values of one field for some rows; `valid` is None when every row has a value."""

    values: Values
    valid: Mask | None = None

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: Rows) -> Column:
        """The rows at these indexes, in this order."""
        values = self.values[rows] if isinstance(self.values, np.ndarray) else self.values.take(pa.array(rows))
        return Column(values, None if self.valid is None else self.valid[rows])

    def slice(self, start: int, stop: int) -> Column:
        """Rows [start, stop), without a copy."""
        values = self.values[start:stop]
        return Column(values, None if self.valid is None else self.valid[start:stop])

    @property
    def nbytes(self) -> int:
        """Approximate size in memory."""
        return int(self.values.nbytes) + (0 if self.valid is None else self.valid.nbytes)


def concatenate(columns: Sequence[Column]) -> Column:
    """One column after another; at least one."""
    if len(columns) == 1:
        return columns[0]
    valid = None
    if any(column.valid is not None for column in columns):
        valid = np.concatenate(
            [np.ones(len(column), np.bool_) if column.valid is None else column.valid for column in columns]
        )
    first = columns[0].values
    if isinstance(first, np.ndarray):
        return Column(np.concatenate([column.values for column in columns]), valid)
    return Column(pa.concat_arrays([column.values for column in columns]), valid)


@dataclass(frozen=True, slots=True)
class Batch:
    """Columns of `row_count` rows by field id."""

    row_count: int
    columns: Mapping[int, Column]

    def __post_init__(self) -> None:
        for field_id, column in self.columns.items():
            if len(column.values) != self.row_count:
                raise InvariantError(f"column {field_id}: {len(column)} rows, not {self.row_count}")

    def take(self, rows: Rows) -> Batch:
        """The rows at these indexes, in this order."""
        return Batch(len(rows), {field_id: column.take(rows) for field_id, column in self.columns.items()})

    def slice(self, start: int, stop: int) -> Batch:
        """Rows [start, stop), without a copy."""
        return Batch(stop - start, {field_id: column.slice(start, stop) for field_id, column in self.columns.items()})

    @property
    def nbytes(self) -> int:
        """Approximate size in memory."""
        return sum(column.nbytes for column in self.columns.values())


def concatenate_batches(batches: Sequence[Batch]) -> Batch:
    """Batches with the same fields, one after another; at least one."""
    if len(batches) == 1:
        return batches[0]
    return Batch(
        sum(batch.row_count for batch in batches),
        {field_id: concatenate([batch.columns[field_id] for batch in batches]) for field_id in batches[0].columns},
    )


def to_arrow(column: Column) -> pa.Array:
    """The column as one Arrow array, nulls where not valid; dense vectors become fixed-size lists."""
    mask = None if column.valid is None else ~column.valid
    if isinstance(column.values, np.ndarray):
        if column.values.ndim == 2:
            flat = pa.array(np.ascontiguousarray(column.values).reshape(-1))
            nulls = None if mask is None else pa.array(mask)
            return pa.FixedSizeListArray.from_arrays(flat, column.values.shape[1], mask=nulls)
        return pa.array(column.values, mask=mask)
    if mask is None:
        return column.values
    return _with_nulls(column.values, mask)


def from_arrow(array: pa.Array | pa.ChunkedArray) -> Column:
    """The inverse of `to_arrow`; numeric values are viewed, not copied, where there are no nulls."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks() if array.num_chunks != 1 else array.chunk(0)
    valid = None if array.null_count == 0 else np.asarray(array.is_valid())
    kind = array.type
    if pa.types.is_fixed_size_list(kind):
        width = kind.list_size
        flat = array.values.to_numpy(zero_copy_only=False)
        values = flat[array.offset * width : (array.offset + len(array)) * width].reshape(len(array), width)
        return Column(values, valid)
    if pa.types.is_primitive(kind):
        if valid is not None:
            array = array.fill_null(False if pa.types.is_boolean(kind) else 0)
        return Column(array.to_numpy(zero_copy_only=False), valid)
    return Column(array if valid is None else _without_nulls(array), valid)


def _with_nulls(values: pa.Array, mask: Mask) -> pa.Array:
    indexes = pa.array(np.arange(len(values)), mask=mask)
    return values.take(indexes)


def _without_nulls(array: pa.Array) -> pa.Array:
    kind = array.type
    if pa.types.is_large_string(kind) or pa.types.is_large_binary(kind):
        return array.fill_null(pa.scalar("" if pa.types.is_large_string(kind) else b"", kind))
    # Lists: a null row owns no elements after compaction, so its offsets already describe an empty list.
    compact = pa.concat_arrays([array.take(pa.array(np.arange(len(array))))])
    offsets = np.asarray(compact.offsets)
    return pa.LargeListArray.from_arrays(pa.array(offsets), compact.values, type=kind)


def encode_batch(batch: Batch) -> pa.Buffer:
    """The batch as one Arrow IPC stream; columns are named by field id."""
    names = [str(field_id) for field_id in batch.columns]
    record = pa.RecordBatch.from_arrays([to_arrow(column) for column in batch.columns.values()], names=names)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, record.schema) as writer:
        if names:
            writer.write_batch(record)
    return sink.getvalue()


def decode_batch(data: bytes | memoryview | pa.Buffer, row_count: int) -> Batch:
    """The inverse of `encode_batch`; columns view `data`, which must stay unchanged."""
    buffer = data if isinstance(data, pa.Buffer) else pa.py_buffer(data)
    with pa.ipc.open_stream(pa.BufferReader(buffer)) as reader:
        records = list(reader)
    if not records:
        return Batch(row_count, {})
    record = records[0]
    return Batch(row_count, {int(name): from_arrow(record.column(name)) for name in record.schema.names})
