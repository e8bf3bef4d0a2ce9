"""Arrays of structs: their parts are fields of their own, named `struct[sub]`, that belong together row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pyarrow.compute as pc

from elanus.model.columns import Column
from elanus.model.errors import BadParameterError, RequestError
from elanus.model.schema import CollectionSchema, FieldSchema
from elanus.model.types import DataType
from elanus.nodes.proxy.names import check_field_name

FLOAT_BYTES: Final = 4
PART_TYPES: Final = (DataType.ARRAY, DataType.ARRAY_OF_VECTOR)


def check_structs(schema: CollectionSchema) -> None:
    """Names, and what parts may be: arrays of scalars or of float vectors, without a role or nulls."""
    names = [struct.name for struct in schema.structs]
    plain = {field.name for field in schema.fields if not field.struct_name}
    if len(set(names)) < len(names) or plain & set(names):
        raise BadParameterError("duplicated field name")
    for struct in schema.structs:
        check_field_name(struct.name)
        parts = schema.fields_of(struct.name)
        if not parts:
            raise BadParameterError(f"struct array field {struct.name} has no sub-fields")
        if len({part.name for part in parts}) < len(parts):
            raise BadParameterError("duplicated field name")
        for part in parts:
            _check_part(part)


def _check_part(part: FieldSchema) -> None:
    name = part.name[len(part.struct_name) + 1 : -1]
    check_field_name(name)
    if part.data_type not in PART_TYPES:
        raise RequestError(f"Fields in StructArrayField can only be array or array of vector, but field {name} is not")
    if part.data_type is DataType.ARRAY_OF_VECTOR and part.element_type is not DataType.FLOAT_VECTOR:
        raise RequestError(f"Unsupported element type of field {name}, now only float vector is supported")
    if part.nullable:
        raise RequestError(f"nullable is not supported for fields in struct array now, fieldName = {name}")
    if part.is_primary or part.is_partition_key or part.is_clustering_key or part.auto_id or part.default is not None:
        raise RequestError(f"field {name} in a struct array can have no role and no default")


def check_lengths(fields: Mapping[str, FieldSchema], columns: Mapping[str, Column], structs: Sequence[str]) -> None:
    """In each row all parts of a struct array have as many elements."""
    for struct in structs:
        lengths: np.ndarray | None = None
        for name, column in columns.items():
            field = fields[name]
            if field.struct_name != struct:
                continue
            counts = element_counts(field, column)
            if lengths is not None and not np.array_equal(lengths, counts):
                raise BadParameterError(f"inconsistent array length in struct field {struct}")
            lengths = counts


def element_counts(field: FieldSchema, column: Column) -> np.ndarray:
    """Elements in each row of a part, (rows,)."""
    if field.data_type is DataType.ARRAY:
        return np.asarray(pc.list_value_length(column.values))
    return np.asarray(pc.binary_length(column.values)) // (FLOAT_BYTES * field.dimension)
