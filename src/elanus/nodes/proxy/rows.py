"""From columns as sent to a batch by field id: everything that can be wrong with rows is found here.

`RowsIn` is the result: a batch with all stored fields, and the primary keys. Automatic ids are not drawn here, the
caller passes the key column it wants (`given_keys`), so that nothing is drawn for a request that is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from elanus.model.columns import NUMPY_DTYPES, Column, arrow_type
from elanus.model.errors import BadParameterError, RequestError
from elanus.model.requests import IncomingField, InsertRequest
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType
from elanus.nodes.proxy.entry import CollectionEntry
from elanus.nodes.proxy.structs import check_lengths
from elanus.nodes.proxy.values import check_dynamic_keys, checked_values, type_mismatch

EMPTY_OBJECT: bytes = b"{}"


def sent_columns(entry: CollectionEntry, request: InsertRequest, *, is_upsert: bool) -> dict[str, Column]:
    """The columns of the request by field name, each checked; fields not sent are absent.

    Nulls of fields with a default are filled already.
    """
    if request.row_count <= 0:
        raise BadParameterError("num_rows should be greater than 0", expected="> 0", actual=request.row_count)
    sent = _by_name(entry, request)
    if not is_upsert:
        _check_surplus(entry, sent)
    _check_primary(entry, sent, is_upsert=is_upsert)
    columns: dict[str, Column] = {}
    accepted = sum(1 for field in entry.schema.fields if not field.is_function_output)
    if len(sent) > accepted:
        raise BadParameterError("more fieldData has pass in", expected=accepted, actual=len(sent))
    for name, incoming in sent.items():
        field = entry.fields.get(name)
        if field is None:
            raise RequestError(f"fieldName {name} not exist in collection schema")
        columns[name] = _checked(field, incoming, request.row_count, entry.timezone)
    check_lengths(entry.fields, columns, [struct.name for struct in entry.schema.structs])
    if entry.dynamic is not None and entry.dynamic.name in columns:
        dynamic = columns[entry.dynamic.name]
        check_dynamic_keys(dynamic.values, frozenset(entry.fields))
    return columns


def _by_name(entry: CollectionEntry, request: InsertRequest) -> dict[str, IncomingField]:
    sent: dict[str, IncomingField] = {}
    for incoming in request.fields:
        name = incoming.name
        if incoming.is_dynamic:
            if entry.dynamic is None:
                raise RequestError("without dynamic schema enabled, the field name cannot be set to $meta")
            name = entry.dynamic.name
        if name in sent:
            raise BadParameterError(f"duplicated field {name} found")
        sent[name] = incoming
    return sent


def _check_surplus(entry: CollectionEntry, sent: Mapping[str, IncomingField]) -> None:
    """Not more columns than there are fields to be sent; an automatic key is none of them unless it may be given."""
    given = entry.allows_given_ids or not entry.primary.auto_id
    accepted = sum(not field.is_function_output and (given or not field.is_primary) for field in entry.schema.fields)
    if len(sent) > accepted:
        raise BadParameterError("more fieldData has pass in", expected=accepted, actual=len(sent))


def _check_primary(entry: CollectionEntry, sent: Mapping[str, IncomingField], *, is_upsert: bool) -> None:
    primary = entry.primary
    if is_upsert and primary.name not in sent:
        raise BadParameterError(f"must assign pk when upsert, primary field: {primary.name}")
    if primary.auto_id and primary.name in sent and not is_upsert and not entry.allows_given_ids:
        raise BadParameterError(
            "can not assign primary field data when auto id enabled and allow_insert_auto_id is false " + primary.name
        )


def _checked(field: FieldSchema, incoming: IncomingField, row_count: int, zone: str) -> Column:
    column = incoming.column
    if not len(column) and field.data_type.is_vector:
        type_mismatch(field)
    if len(column) != row_count:
        raise BadParameterError(
            f"the num_rows ({len(column)}) of field ({field.name}) is not equal to passed num_rows ({row_count})",
            expected=row_count,
            actual=len(column),
        )
    if incoming.data_type is not field.data_type:
        type_mismatch(field)
    valid = column.valid
    if valid is not None and field.is_dynamic:
        column = _filled(field, column, EMPTY_OBJECT)
    elif valid is not None and not field.nullable and field.default is None:
        raise BadParameterError(
            f"the length of valid_data of field({field.name}) is wrong", expected=0, actual=len(valid)
        )
    checked = checked_values(field, column, zone)
    if checked.valid is None:
        return checked
    if field.default is not None:
        return _filled(field, checked, field.default)
    return Column(checked.values) if checked.valid.all() else checked


def complete(entry: CollectionEntry, columns: Mapping[str, Column], row_count: int) -> dict[int, Column]:
    """Columns of all stored fields but an absent automatic primary key, by field id: defaults and nulls where nothing
    was sent, or a refusal naming the field."""
    result: dict[int, Column] = {}
    for field in entry.schema.fields:
        column = columns.get(field.name)
        if column is None:
            if (field.is_primary and field.auto_id) or field.is_function_output:
                continue
            column = absent(field, row_count)
        result[field.field_id] = column
    return result


def absent(field: FieldSchema, row_count: int) -> Column:
    """What rows hold in a field that was not sent."""
    if field.is_dynamic:
        return constant(field, EMPTY_OBJECT, row_count)
    if field.default is not None:
        return constant(field, field.default, row_count)
    if field.nullable:
        return Column(filler(field, row_count), np.zeros(row_count, np.bool_))
    raise BadParameterError(f"fieldSchema({field.name}) has no corresponding fieldData pass in")


def constant(field: FieldSchema, value: Any, row_count: int) -> Column:
    """`row_count` times `value`."""
    dtype = NUMPY_DTYPES.get(field.data_type)
    if dtype is not None:
        return Column(np.full(row_count, value, dtype))
    return Column(pa.repeat(pa.scalar(value, arrow_type(field.data_type, field.element_type)), row_count))


def filler(field: FieldSchema, row_count: int) -> Any:
    """Values that stand where rows have none."""
    dtype = NUMPY_DTYPES.get(field.data_type)
    if dtype is not None and field.data_type.is_vector:
        width = field.dimension // 8 if field.data_type is DataType.BINARY_VECTOR else field.dimension
        return np.zeros((row_count, width), dtype)
    if dtype is not None:
        return np.zeros(row_count, dtype)
    empty: Any = [] if field.data_type is DataType.ARRAY else "" if field.data_type.is_string else b""
    return pa.repeat(pa.scalar(empty, arrow_type(field.data_type, field.element_type)), row_count)


def _filled(field: FieldSchema, column: Column, value: Any) -> Column:
    """The column with `value` where it had none."""
    if column.valid is None:
        return column
    if isinstance(column.values, np.ndarray):
        return Column(np.where(column.valid, column.values, np.asarray(value, column.values.dtype)))
    kind = arrow_type(field.data_type, field.element_type)
    return Column(pc.if_else(pa.array(column.valid), column.values, pa.scalar(value, kind)))
