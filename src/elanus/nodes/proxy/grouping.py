"""Grouping parameters of a search: which field or JSON path, how many of each group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from elanus.expr.errors import FilterError
from elanus.expr.filters import parse_filter
from elanus.expr.tree import Exists
from elanus.model.errors import BadParameterError, FieldNotFoundError, RequestError
from elanus.model.reads import Grouping
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType
from elanus.nodes.proxy.entry import CollectionEntry

GROUP_SIZE_MAX: Final = 10
_TYPES: Final = {"Bool", "Int8", "Int16", "Int32", "Int64", "VarChar"}
_CAST_TYPES: Final = {data_type.label: data_type for data_type in DataType if data_type.label in _TYPES}
_PLAIN_TYPES: Final = frozenset({*_CAST_TYPES.values(), DataType.TIMESTAMPTZ})


def grouping_of(entry: CollectionEntry, params: Mapping[str, str]) -> Grouping | None:
    """The grouping that is asked for; None where there is none."""
    name = params.get("group_by_field", "")
    size = _group_size(params)
    if not name:
        return None
    field = entry.fields.get(name)
    path: tuple[str | int, ...] = ()
    if field is None:
        if entry.dynamic is None:
            raise FieldNotFoundError(name, prefix="groupBy field not found in schema")
        field, path = entry.dynamic, (name,)
    entry.require_field(field)
    data_type = field.data_type
    if params.get("json_path"):
        path = _path(entry, field, params["json_path"])
    if data_type is DataType.JSON and path:
        data_type = _CAST_TYPES.get(params.get("json_type", ""), DataType.NONE)
    elif data_type not in _PLAIN_TYPES:
        raise RequestError(f"unsupported data type {_engine_name(data_type)} for group by operator")
    return Grouping(
        field_id=field.field_id,
        data_type=data_type,
        path=path,
        is_strict_cast=params.get("strict_cast", "").lower() in ("true", "1", "t"),
        size=size,
        is_strict=params.get("strict_group_size", "").lower() in ("true", "1", "t"),
    )


def grouped_field(entry: CollectionEntry, grouping: Grouping) -> FieldSchema:
    """What the column of group values is called, and its type."""
    field = next(field for field in entry.schema.fields if field.field_id == grouping.field_id)
    if not grouping.path:
        return field
    data_type = DataType.VARCHAR if grouping.data_type is DataType.NONE else grouping.data_type
    return FieldSchema(field_id=field.field_id, name=field.name, data_type=data_type, nullable=True)


def _group_size(params: Mapping[str, str]) -> int:
    text = params.get("group_size", "1")
    try:
        size = int(text)
    except ValueError:
        raise BadParameterError(f"failed to parse input group size:{text}") from None
    if size <= 0:
        raise BadParameterError(f"input group size:{size} is negative, failed to do search_groupby")
    if size > GROUP_SIZE_MAX:
        raise BadParameterError(f"input group size:{size} exceeds configured max group size:{GROUP_SIZE_MAX}")
    return size


def _path(entry: CollectionEntry, field: FieldSchema, text: str) -> tuple[str | int, ...]:
    """The path in the field that `text` names as filters name it."""
    try:
        root = parse_filter(f"exists {text}", entry.schema).root
    except FilterError as error:
        raise BadParameterError(f"json_path {text}: {error.message}") from None
    if not isinstance(root, Exists) or root.operand.field_id != field.field_id:
        raise BadParameterError(f"json_path {text} is not a path in field {field.name}")
    return root.operand.path


def _engine_name(data_type: DataType) -> str:
    """The engine's name of a type: VECTOR_FLOAT, INT64, JSON."""
    if data_type.is_vector:
        return "VECTOR_" + data_type.name.removesuffix("_VECTOR")
    return data_type.name
