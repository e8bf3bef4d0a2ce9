"""The files of a sealed segment.

Scalar columns, with `$timestamp` and (where some row is deleted) `$deleted_at`, are one Parquet file whose columns
carry the user's field names and Parquet field ids, so that DuckDB, Polars and Spark read it without help. Each vector
column is one Arrow IPC file of one record batch: object, cached file and mapped array are the same bytes.
`FORMAT_VERSION` stands in the metadata of both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from elanus.base.errors import CorruptedError
from elanus.model.columns import Batch, Column, from_arrow, to_arrow
from elanus.model.schema import CollectionSchema
from elanus.segment.deletes import Timestamps
from elanus.segment.small import SMALL_BYTES, once_if_small

FORMAT_VERSION: Final = "1"
TIMESTAMP_COLUMN: Final = "$timestamp"
DELETED_AT_COLUMN: Final = "$deleted_at"
_VERSION_KEY: Final = b"elanus.format"
_FIELD_ID_KEY: Final = b"PARQUET:field_id"


@dataclass(frozen=True, slots=True)
class SegmentData:
    """Rows of one segment sorted by key. `deleted_at` is None when nothing is deleted."""

    batch: Batch
    timestamps: Timestamps
    deleted_at: Timestamps | None


@dataclass(frozen=True, slots=True)
class SegmentFiles:
    """Encoded files of a segment, vectors by field id."""

    scalars: pa.Buffer
    vectors: Mapping[int, pa.Buffer]


def encode_segment(data: SegmentData, schema: CollectionSchema) -> SegmentFiles:
    """The files of these rows."""
    scalars: dict[str, tuple[int, pa.Array]] = {}
    vectors: dict[int, pa.Buffer] = {}
    for field in schema.fields:
        column = data.batch.columns[field.field_id]
        if field.data_type.is_vector:
            vectors[field.field_id] = _encode_vectors(column)
        else:
            scalars[field.name] = (field.field_id, to_arrow(column))
    scalars[TIMESTAMP_COLUMN] = (1, pa.array(data.timestamps))
    if data.deleted_at is not None:
        scalars[DELETED_AT_COLUMN] = (2, pa.array(data.deleted_at))
    return SegmentFiles(_encode_scalars(scalars), vectors)


def scalar_bytes(data: SegmentData, schema: CollectionSchema) -> int:
    """Memory that the columns of the scalar file take when they are decoded."""
    columns = data.batch.columns
    fields = [columns[field.field_id].nbytes for field in schema.fields if not field.data_type.is_vector]
    return sum(fields) + data.timestamps.nbytes + (0 if data.deleted_at is None else data.deleted_at.nbytes)


def _encode_scalars(columns: Mapping[str, tuple[int, pa.Array]]) -> pa.Buffer:
    fields = [
        pa.field(name, array.type, metadata={_FIELD_ID_KEY: str(field_id).encode()})
        for name, (field_id, array) in columns.items()
    ]
    arrow_schema = pa.schema(fields, metadata={_VERSION_KEY: FORMAT_VERSION.encode()})
    table = pa.Table.from_arrays([array for _, array in columns.values()], schema=arrow_schema)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", compression_level=1, write_statistics=True)
    return sink.getvalue()


def _encode_vectors(column: Column) -> pa.Buffer:
    array = to_arrow(column)
    arrow_schema = pa.schema([pa.field("vector", array.type)], metadata={_VERSION_KEY: FORMAT_VERSION.encode()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, arrow_schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays([array], schema=arrow_schema))
    return sink.getvalue()


def open_vectors(data: memoryview | bytes, name: str) -> Column:
    """The column of a vector file, viewing `data`."""
    try:
        with pa.ipc.open_file(pa.py_buffer(data)) as reader:
            _check_version(reader.schema.metadata, name)
            return from_arrow(reader.get_batch(0).column(0))
    except pa.ArrowInvalid as error:
        raise CorruptedError(f"{name}: not a vector file: {error}") from error


def _version_of(metadata: Mapping[bytes, bytes] | None) -> str:
    return (metadata or {}).get(_VERSION_KEY, b"none").decode()


def _check_version(metadata: Mapping[bytes, bytes] | None, name: str) -> None:
    version = _version_of(metadata)
    if version != FORMAT_VERSION:
        raise CorruptedError(f"{name}: format version {version}, this program reads {FORMAT_VERSION}")


@dataclass(frozen=True, slots=True)
class _Scalars:
    """A Parquet file of scalars: its metadata, its columns' names by field id, and those that are decoded."""

    file: pq.ParquetFile
    metadata: Mapping[bytes, bytes] | None
    names: Mapping[int, str]
    columns: dict[int, Column]

    def read(self, field_ids: Sequence[int]) -> None:
        """Decode columns."""
        wanted = None if len(field_ids) == len(self.names) else [self.names[one] for one in field_ids]
        table = self.file.read(columns=wanted, use_threads=False)
        for field_id in field_ids:
            self.columns[field_id] = from_arrow(table.column(self.names[field_id]))


@once_if_small
def _scalars_of(data: memoryview | bytes) -> _Scalars:
    """Of a small file all columns are decoded, so that what is shared does not change any more."""
    file = pq.ParquetFile(pa.BufferReader(pa.py_buffer(data)))
    arrow_schema = file.schema_arrow
    if _version_of(arrow_schema.metadata) != FORMAT_VERSION:
        return _Scalars(file, arrow_schema.metadata, {}, {})
    names = {int(f.metadata[_FIELD_ID_KEY]): f.name for f in arrow_schema}
    scalars = _Scalars(file, arrow_schema.metadata, names, {})
    if len(data) <= SMALL_BYTES:
        scalars.read(list(names))
    return scalars


class ScalarFile:
    """Columns of a Parquet file of scalars, each decoded on first use and kept."""

    def __init__(self, data: memoryview | bytes, name: str) -> None:
        try:
            self._scalars = _scalars_of(data)
        except (pa.ArrowInvalid, OSError) as error:
            raise CorruptedError(f"{name}: not a scalar file: {error}") from error
        self._name = name
        _check_version(self._scalars.metadata, name)

    @property
    def row_count(self) -> int:
        """Rows in the file."""
        return int(self._scalars.file.metadata.num_rows)

    def has(self, field_id: int) -> bool:
        """Whether the file was written with this field."""
        return field_id in self._scalars.names

    def column(self, field_id: int) -> Column:
        """The column of that field id; 1 is `$timestamp`, 2 `$deleted_at`."""
        columns = self._scalars.columns
        if field_id not in columns:
            try:
                self._scalars.read([field_id])
            except (pa.ArrowInvalid, OSError) as error:
                raise CorruptedError(f"{self._name}: {error}") from error
        return columns[field_id]

    def timestamps(self) -> Timestamps:
        """`$timestamp` of every row."""
        return np.asarray(self.column(1).values, np.uint64)

    def deleted_at(self) -> Timestamps | None:
        """A writable copy of `$deleted_at`; None where nothing was deleted."""
        return np.array(self.column(2).values, np.uint64) if self.has(2) else None
