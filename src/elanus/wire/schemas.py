"""Collection schemas and key-value pairs between protobuf and values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from google.protobuf.message import DecodeError

from elanus.model.errors import BadParameterError, UnsupportedError
from elanus.model.schema import CollectionSchema, FieldSchema, FunctionSchema, StructSchema
from elanus.model.types import DataType
from elanus.wire.decode_fields import data_type_of
from elanus.wire.messages import messages

_DEFAULT_MEMBERS: Final[Mapping[DataType, tuple[str, ...]]] = {
    DataType.BOOL: ("bool_data",),
    DataType.INT8: ("int_data",),
    DataType.INT16: ("int_data",),
    DataType.INT32: ("int_data",),
    DataType.INT64: ("long_data",),
    DataType.FLOAT: ("float_data",),
    DataType.DOUBLE: ("double_data",),
    DataType.VARCHAR: ("string_data",),
    DataType.STRING: ("string_data",),
    DataType.TEXT: ("string_data",),
    DataType.JSON: ("bytes_data",),
    DataType.GEOMETRY: ("string_data",),
    DataType.TIMESTAMPTZ: ("string_data", "timestamptz_data"),
}
"""Members of `ValueField` that a field's default may be sent in; the first is the one written."""
_WITHOUT_DEFAULT: Final = (DataType.JSON, DataType.ARRAY)
_MEMBER_LABELS: Final = {
    "bool_data": "DataType_Bool",
    "int_data": "DataType_Int",
    "long_data": "DataType_Int64",
    "float_data": "DataType_Float",
    "double_data": "DataType_Double",
    "string_data": "DataType_VarChar",
    "bytes_data": "DataType_JSON",
    "timestamptz_data": "DataType_Timestamptz",
}


def pairs(message: Iterable[Any]) -> dict[str, str]:
    """`KeyValuePair`s as a dictionary; a later pair wins."""
    return {pair.key: pair.value for pair in message}


def set_pairs(target: Any, values: Mapping[str, str]) -> None:
    """Append key-value pairs to a repeated `KeyValuePair` field."""
    for key, value in values.items():
        target.add(key=key, value=value)


def flat_params(message: Iterable[Any]) -> dict[str, str]:
    """Index parameters: pairs, with the JSON object under `params` merged in (its keys win)."""
    found = pairs(message)
    nested = found.pop("params", "")
    if not nested:
        return found
    try:
        inner = json.loads(nested)
    except (ValueError, RecursionError) as error:
        raise BadParameterError(f"index params is not a JSON object: {error}") from error
    if not isinstance(inner, dict):
        raise BadParameterError("index params is not a JSON object")
    return found | {key: value if isinstance(value, str) else json.dumps(value) for key, value in inner.items()}


# --- into values ----------------------------------------------------------------------------------------------------
def decode_schema(data: bytes) -> CollectionSchema:
    """The serialized `CollectionSchema` of a create call: field ids are not taken over."""
    try:
        message = messages().CollectionSchema.FromString(data)
    except DecodeError as error:
        raise BadParameterError("the schema is not a CollectionSchema") from error
    if message.enable_namespace:
        raise UnsupportedError("namespaces")
    return CollectionSchema(
        name=message.name,
        description=message.description,
        enable_dynamic_field=message.enable_dynamic_field,
        fields=tuple(decode_field_schema(field) for field in message.fields)
        + tuple(_part(struct.name, part) for struct in message.struct_array_fields for part in struct.fields),
        structs=tuple(
            StructSchema(
                field_id=0,
                name=struct.name,
                description=struct.description,
                type_params=pairs(getattr(struct, "type_params", ())),
            )
            for struct in message.struct_array_fields
        ),
        functions=tuple(decode_function(function) for function in message.functions),
    )


def decode_function(message: Any) -> FunctionSchema:
    """One `FunctionSchema` as a client sends it."""
    return FunctionSchema(
        function_id=0,
        name=message.name,
        function_type=message.type,
        description=message.description,
        input_field_names=tuple(message.input_field_names),
        output_field_names=tuple(message.output_field_names),
        params=pairs(message.params),
    )


def decode_added_field(data: bytes) -> FieldSchema:
    """The serialized `FieldSchema` of an add-field call."""
    try:
        return decode_field_schema(messages().FieldSchema.FromString(data))
    except DecodeError as error:
        raise BadParameterError("the field is not a FieldSchema") from error


def _part(struct: str, message: Any) -> FieldSchema:
    part = decode_field_schema(message)
    return msgspec.structs.replace(part, name=f"{struct}[{part.name}]")


def decode_field_schema(message: Any) -> FieldSchema:
    """One `FieldSchema` as a client sends it."""
    data_type = data_type_of(message.data_type)
    return FieldSchema(
        field_id=0,
        name=message.name,
        data_type=data_type,
        description=message.description,
        element_type=_element_type(message.element_type),
        is_primary=message.is_primary_key,
        auto_id=message.autoID,
        nullable=message.nullable,
        default=_default(message, data_type),
        is_dynamic=message.is_dynamic,
        is_partition_key=message.is_partition_key,
        is_clustering_key=message.is_clustering_key,
        is_function_output=message.is_function_output,
        type_params=pairs(message.type_params),
    )


def _element_type(number: int) -> DataType:
    try:
        return data_type_of(number)
    except BadParameterError:
        raise BadParameterError(f"element type {number} is not supported") from None


def _default(message: Any, data_type: DataType) -> Any:
    """The field's default as a plain value; None where there is none."""
    member = message.default_value.WhichOneof("data") if message.HasField("default_value") else None
    if member is None:
        return None
    if data_type in _WITHOUT_DEFAULT:
        raise BadParameterError(f"type not support default_value, type:{data_type.label}, name:{message.name}")
    if member not in _DEFAULT_MEMBERS.get(data_type, (member,)):
        raise BadParameterError(
            f"type ({data_type.label}) of field ({message.name}) is not equal to "
            f"the type({_MEMBER_LABELS.get(member, member)}) of default_value"
        )
    return getattr(message.default_value, member)


# --- into messages --------------------------------------------------------------------------------------------------
def fill_schema(target: Any, schema: CollectionSchema, database: str) -> None:
    """Fill a `CollectionSchema` message as DescribeCollection shows it: without the hidden dynamic field."""
    target.name = schema.name
    target.description = schema.description
    target.enable_dynamic_field = schema.enable_dynamic_field
    target.dbName = database
    target.version = schema.version
    for field in schema.fields:
        if not field.is_dynamic and not field.struct_name:
            fill_field_schema(target.fields.add(), field)
    for struct in schema.structs:
        out = target.struct_array_fields.add(fieldID=struct.field_id, name=struct.name, description=struct.description)
        set_pairs(out.type_params, struct.type_params)
        for part in schema.fields_of(struct.name):
            fill_field_schema(out.fields.add(), part)
            out.fields[-1].name = part_name(part)
    ids = {field.name: field.field_id for field in schema.fields}
    for function in schema.functions:
        out = target.functions.add(
            name=function.name,
            id=function.function_id,
            description=function.description,
            type=function.function_type,
            input_field_names=function.input_field_names,
            input_field_ids=[ids[name] for name in function.input_field_names if name in ids],
            output_field_names=function.output_field_names,
            output_field_ids=[ids[name] for name in function.output_field_names if name in ids],
        )
        set_pairs(out.params, function.params)


def part_name(field: FieldSchema) -> str:
    """The name of a struct array's part within it."""
    return field.name[len(field.struct_name) + 1 : -1]


def fill_field_schema(target: Any, field: FieldSchema) -> None:
    """Fill a `FieldSchema` message."""
    target.fieldID = field.field_id
    target.name = field.name
    target.description = field.description
    target.data_type = int(field.data_type)
    target.element_type = int(field.element_type)
    target.is_primary_key = field.is_primary
    target.autoID = field.auto_id
    target.nullable = field.nullable
    target.is_dynamic = field.is_dynamic
    target.is_partition_key = field.is_partition_key
    target.is_clustering_key = field.is_clustering_key
    target.is_function_output = field.is_function_output
    set_pairs(target.type_params, field.type_params)
    if field.default is not None:
        members = _DEFAULT_MEMBERS.get(field.data_type, ("bytes_data",))
        member = members[-1] if isinstance(field.default, int) else members[0]
        setattr(target.default_value, member, field.default)
