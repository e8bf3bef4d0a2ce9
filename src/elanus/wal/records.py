"""Records as bytes: one Arrow IPC stream each, so that large inserts are read without a copy of their columns.

The rows of a write are the stream's only batch (columns named by field id, plus `partition`); everything else stands,
as MessagePack maps with a version, in the schema's metadata.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa

from elanus.base.errors import CorruptedError
from elanus.model.columns import Batch, Column, decode_batch, encode_batch, from_arrow, to_arrow
from elanus.model.records import ChangeRecord, Record, ShardChange, WriteRecord

RECORD_VERSION: Final = 1
_HEAD_KEY: Final = b"elanus.record"
_PARTITION: Final = "partition"


class _Head(msgspec.Struct, frozen=True, omit_defaults=True):
    version: int
    vchannel: str
    timestamp: int
    schema_version: int = 0
    row_count: int = -1
    delete_count: int = -1
    delete_keys: bytes = b""
    delete_partition_id: int = 0
    change: ShardChange | None = None


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(_Head)


def encode_record(record: Record) -> pa.Buffer:
    """The record's bytes."""
    if isinstance(record, ChangeRecord):
        return _stream(_Head(RECORD_VERSION, record.vchannel, record.timestamp, change=record.change), {})
    columns: dict[str, pa.Array] = {}
    if record.batch is not None:
        columns = {str(field_id): to_arrow(column) for field_id, column in record.batch.columns.items()}
        columns[_PARTITION] = pa.array(record.partition_ids)
    deletes = b""
    if record.delete_keys is not None:
        deletes = encode_batch(Batch(len(record.delete_keys), {0: record.delete_keys})).to_pybytes()
    head = _Head(
        RECORD_VERSION,
        record.vchannel,
        record.timestamp,
        schema_version=record.schema_version,
        row_count=-1 if record.batch is None else record.batch.row_count,
        delete_count=-1 if record.delete_keys is None else len(record.delete_keys),
        delete_keys=deletes,
        delete_partition_id=record.delete_partition_id,
    )
    return _stream(head, columns)


def _stream(head: _Head, columns: dict[str, pa.Array]) -> pa.Buffer:
    batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
    batch = batch.replace_schema_metadata({_HEAD_KEY: _ENCODER.encode(head)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        if columns:
            writer.write_batch(batch)
    return sink.getvalue()


def decode_record(data: bytes | memoryview) -> Record:
    """The inverse of `encode_record`; columns view `data`."""
    try:
        with pa.ipc.open_stream(pa.BufferReader(pa.py_buffer(data))) as reader:
            head = _DECODER.decode(reader.schema.metadata[_HEAD_KEY])
            batches = list(reader)
    except (pa.ArrowInvalid, KeyError, TypeError, msgspec.DecodeError) as error:
        raise CorruptedError(f"log record does not decode: {error}") from error
    if head.version != RECORD_VERSION:
        raise CorruptedError(f"log record of version {head.version}, this program reads {RECORD_VERSION}")
    if head.change is not None:
        return ChangeRecord(head.vchannel, head.timestamp, head.change)
    return WriteRecord(
        head.vchannel,
        head.timestamp,
        head.schema_version,
        *_rows(batches[0] if batches else None, head.row_count),
        _keys(head),
        head.delete_partition_id,
    )


def _rows(record: pa.RecordBatch | None, row_count: int) -> tuple[Batch | None, Any]:
    if record is None:
        return None, None
    names = [name for name in record.schema.names if name != _PARTITION]
    batch = Batch(row_count, {int(name): from_arrow(record.column(name)) for name in names})
    partition_ids = np.asarray(from_arrow(record.column(_PARTITION)).values)
    return batch, partition_ids


def _keys(head: _Head) -> Column | None:
    return None if head.delete_count < 0 else decode_batch(head.delete_keys, head.delete_count).columns[0]
