"""Output fields: from the names in a request to field ids for the shards and columns for the reply."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa

from elanus.model.columns import NUMPY_DTYPES, Column, arrow_type
from elanus.model.errors import RequestError
from elanus.model.requests import OutgoingField
from elanus.model.schema import DYNAMIC_FIELD_NAME, FieldSchema
from elanus.model.types import DataType
from elanus.nodes.proxy.entry import CollectionEntry
from elanus.nodes.proxy.forms import Clock, shown

_DYNAMIC_NAME: Final = re.compile(r"""(?:\w+|\$meta)(?:\[(?:"[^"]*"|'[^']*'|\d+)\])*""")


class Outputs(NamedTuple):
    """`names` as the reply shows them, `fields` in the order of the reply, `ids` for the shards."""

    names: tuple[str, ...]
    fields: tuple[FieldSchema, ...]
    ids: tuple[int, ...]


def expanded(entry: CollectionEntry, wanted: Sequence[str], *, with_primary: bool) -> Outputs:
    """`*` is every retrievable field; an undeclared name is a key of the dynamic field, and shown as it was asked
    for: pymilvus finds no key where that was `$meta["k"]`, with Milvus too. The primary key is added where the call
    always returns it."""
    names: dict[str, None] = {}
    fields: dict[str, FieldSchema] = {}
    for name in wanted:
        if name == "*":
            # By age: clients let a field added later win over a dynamic key of its name.
            for field in sorted(entry.schema.fields, key=lambda one: one.field_id):
                if not field.is_function_output and field.field_id not in entry.unloaded_field_ids:
                    names[field.struct_name or field.name] = None
                    fields[field.name] = field
            continue
        parts = entry.schema.fields_of(name)
        if parts:
            for part in parts:
                entry.require_field(part)
            names[name] = None
            fields |= {part.name: part for part in parts}
            continue
        field = _resolved(entry, name)
        names[field.struct_name or name] = None
        fields[field.name] = field
    primary = entry.primary
    if with_primary and primary.name not in fields:
        names[primary.name] = None
        fields[primary.name] = primary
    return Outputs(tuple(names), tuple(fields.values()), tuple(field.field_id for field in fields.values()))


def _resolved(entry: CollectionEntry, name: str) -> FieldSchema:
    field = entry.fields.get(name)
    if field is not None:
        if field.is_function_output:
            raise RequestError(f"not allowed to retrieve raw data of field {name}")
        entry.require_field(field)
        return field
    base, bracket, _ = name.partition("[")
    if bracket and base in entry.fields and base != DYNAMIC_FIELD_NAME:
        raise RequestError(f"not support getting subkeys of json field yet, field name: {name}")
    if entry.dynamic is None:
        raise RequestError(f"field {name} not exist")
    if not _DYNAMIC_NAME.fullmatch(name):
        raise RequestError(f"parse output field name failed: {name}")
    if entry.dynamic.field_id in entry.unloaded_field_ids:
        raise RequestError(f"field {name} cannot be returned since dynamic field not loaded")
    if name.count("[") > 1 or (bracket and base != DYNAMIC_FIELD_NAME):
        raise RequestError("not support getting multiple level of dynamic field for now")
    return entry.dynamic


def outgoing(
    fields: Sequence[FieldSchema], columns: dict[int, Column], row_count: int, clock: Clock
) -> tuple[OutgoingField, ...]:
    """The reply's columns as clients see them; a result without rows may come without columns."""
    if not fields:
        return ()
    if row_count == 0:
        return tuple(shown(field, columns.get(field.field_id) or empty_column(field), clock) for field in fields)
    return tuple(shown(field, columns[field.field_id], clock) for field in fields)


def empty_column(field: FieldSchema) -> Column:
    """No rows of the field."""
    dtype = NUMPY_DTYPES.get(field.data_type)
    if dtype is None:
        return Column(pa.array([], arrow_type(field.data_type, field.element_type)))
    if not field.data_type.is_vector:
        return Column(np.empty(0, dtype))
    width = field.dimension // 8 if field.data_type is DataType.BINARY_VECTOR else field.dimension
    return Column(np.empty((0, width), dtype))
