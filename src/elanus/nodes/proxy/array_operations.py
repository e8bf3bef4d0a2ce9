"""What a partial upsert may do to an ARRAY instead of replacing it: append elements, or remove equal ones.

Whole columns at once: an array column is its elements and the row of each, so that both operations are a rearrangement
of elements. A row without an array counts as an empty one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from elanus.model.columns import Column, Mask, Rows
from elanus.model.errors import BadParameterError, RequestError
from elanus.model.requests import FieldOperation, IncomingField, InsertRequest
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType
from elanus.nodes.proxy.entry import CollectionEntry

_LABELS: Final = {FieldOperation.APPEND: "ARRAY_APPEND", FieldOperation.REMOVE: "ARRAY_REMOVE"}

_NARROW: Final = frozenset((DataType.INT8, DataType.INT16, DataType.INT32))
"""Element types that the wire does not tell apart; their ranges are checked with the values."""


def checked_operations(entry: CollectionEntry, request: InsertRequest) -> Mapping[str, FieldOperation]:
    """The operations by field name, those that only replace left out."""
    sent = {incoming.name: incoming for incoming in request.fields}
    found: dict[str, FieldOperation] = {}
    for name, operation in request.operations:
        if not name:
            raise BadParameterError("FieldPartialUpdateOp.field_name is required")
        if name in found:
            raise BadParameterError(f'duplicate partial-update op for field "{name}"')
        found[name] = operation
        if operation is FieldOperation.REPLACE:
            continue
        field = entry.fields.get(name)
        if field is None:
            raise BadParameterError(f'partial-update op targets unknown field "{name}"')
        if field.is_primary:
            raise BadParameterError(f'field "{name}" is the primary key and cannot carry a partial-update op')
        if field.data_type is not DataType.ARRAY:
            raise BadParameterError(
                f'op {_LABELS[operation]} requires Array field, but field "{name}" is {field.data_type.label}'
            )
        if name not in sent:
            raise BadParameterError(f'partial-update op targets field "{name}" not present in fields_data')
        _check_payload(field, operation, sent[name])
    return {name: operation for name, operation in found.items() if operation is not FieldOperation.REPLACE}


def _check_payload(field: FieldSchema, operation: FieldOperation, sent: IncomingField) -> None:
    values = sent.column.values
    if not isinstance(values, pa.Array) or not pa.types.is_large_list(values.type):
        return  # refused with the other columns
    narrow = {sent.element_type, field.element_type} <= _NARROW
    if sent.element_type is not field.element_type and not narrow and len(values.flatten()):
        raise BadParameterError(
            f'field "{field.name}" expects element type {field.element_type.label} '
            f"but request provides {sent.element_type.label}"
        )
    lengths = np.asarray(pc.list_value_length(values))
    if operation is FieldOperation.APPEND and int(lengths.max(initial=0)) > field.max_capacity:
        row = int(np.argmax(lengths > field.max_capacity))
        raise BadParameterError(
            f'ARRAY_APPEND payload for field "{field.name}" row {row} has length {lengths[row]} '
            f"exceeding max_capacity {field.max_capacity}"
        )


def operated(field: FieldSchema, operation: FieldOperation, current: Column, payload: Column) -> Column:
    """The arrays after the operation; rows of `current` and `payload` (ARRAY columns of equal length) correspond."""
    if operation is FieldOperation.APPEND:
        result = _appended(current.values, payload.values)
        longest = int(np.asarray(pc.list_value_length(result)).max(initial=0))
        if longest > field.max_capacity:
            raise RequestError(f"array length {longest} exceeds max_capacity {field.max_capacity}")
    else:
        result = _removed(current.values, payload.values)
    return Column(result, _either(current.valid, payload.valid))


def _either(first: Mask | None, second: Mask | None) -> Mask | None:
    return None if first is None or second is None or (first | second).all() else first | second


def _parts(values: pa.Array) -> tuple[pa.Array, Rows, Rows]:
    """Elements, the length of each row, and the row of each element."""
    lengths = np.asarray(pc.list_value_length(values)).astype(np.int64)
    return values.flatten(), lengths, np.repeat(np.arange(len(values)), lengths)


def _lists(elements: pa.Array, lengths: Rows, kind: pa.DataType) -> pa.Array:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return pa.LargeListArray.from_arrays(pa.array(offsets), elements, type=kind)


def _appended(current: pa.Array, payload: pa.Array) -> pa.Array:
    elements, lengths, rows = _parts(current)
    more, more_lengths, more_rows = _parts(payload)
    # A stable sort by row keeps each row's own elements before the appended ones.
    order = np.argsort(np.concatenate([rows, more_rows]), kind="stable")
    joined = pa.concat_arrays([elements, more]).take(pa.array(order))
    return _lists(joined, lengths + more_lengths, current.type)


def _removed(current: pa.Array, payload: pa.Array) -> pa.Array:
    elements, lengths, rows = _parts(current)
    unwanted, _, unwanted_rows = _parts(payload)
    codes = np.asarray(pc.dictionary_encode(pa.concat_arrays([elements, unwanted])).indices).astype(np.int64)
    width = int(codes.max(initial=0)) + 1
    pairs = np.concatenate([rows, unwanted_rows]) * width + codes
    kept = ~np.isin(pairs[: len(rows)], pairs[len(rows) :])
    remaining = np.bincount(rows[kept], minlength=len(lengths)).astype(np.int64)
    return _lists(elements.filter(pa.array(kept)), remaining, current.type)
