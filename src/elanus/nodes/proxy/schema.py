"""What a user's schema must satisfy, and the numbering it gets.

User fields are numbered from 100 in the order sent, the dynamic field `$meta` (JSON, hidden from users) after them.
Ids 0 (row id) and 1 (timestamp) belong to the system and appear in no schema.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from elanus.base.limits import (
    ARRAY_CAPACITY_MAX,
    DIMENSION_MAX,
    DIMENSION_MIN,
    FIELD_COUNT_MAX,
    PARTITION_COUNT_MAX,
    SHARD_COUNT_MAX,
    VARCHAR_BYTES_MAX,
    VECTOR_FIELD_COUNT_MAX,
)
from elanus.model.errors import BadParameterError, RequestError, UnsupportedError
from elanus.model.requests import CreateCollectionRequest
from elanus.model.schema import DYNAMIC_FIELD_NAME, FIRST_USER_FIELD_ID, CollectionSchema, FieldSchema
from elanus.model.types import DataType
from elanus.nodes.proxy.forms import TIMEZONE_PROPERTY, stored_default, with_stored_defaults
from elanus.nodes.proxy.isolation import check_isolation
from elanus.nodes.proxy.names import SYSTEM_FIELD_NAMES, check_collection_name, check_field_name
from elanus.nodes.proxy.properties import check_collection_properties
from elanus.nodes.proxy.structs import check_structs

PARTITION_KEY_PARTITION_COUNT: Final = 16
SERVED_TYPES: Final = frozenset(
    {
        DataType.BOOL,
        DataType.INT8,
        DataType.INT16,
        DataType.INT32,
        DataType.INT64,
        DataType.FLOAT,
        DataType.DOUBLE,
        DataType.VARCHAR,
        DataType.ARRAY,
        DataType.JSON,
        DataType.GEOMETRY,
        DataType.TIMESTAMPTZ,
        DataType.BINARY_VECTOR,
        DataType.FLOAT_VECTOR,
        DataType.FLOAT16_VECTOR,
        DataType.BFLOAT16_VECTOR,
        DataType.SPARSE_FLOAT_VECTOR,
        DataType.INT8_VECTOR,
        DataType.ARRAY_OF_VECTOR,
    }
)
ELEMENT_TYPES: Final = frozenset(
    {
        DataType.BOOL,
        DataType.INT8,
        DataType.INT16,
        DataType.INT32,
        DataType.INT64,
        DataType.FLOAT,
        DataType.DOUBLE,
        DataType.VARCHAR,
    }
)
INTEGER_RANGES: Final[Mapping[DataType, tuple[int, int]]] = {
    DataType.INT8: (-(1 << 7), (1 << 7) - 1),
    DataType.INT16: (-(1 << 15), (1 << 15) - 1),
    DataType.INT32: (-(1 << 31), (1 << 31) - 1),
    DataType.INT64: (-(1 << 63), (1 << 63) - 1),
}


def checked_creation(request: CreateCollectionRequest, zone: str) -> CreateCollectionRequest:
    """The request with its schema numbered, its counts and its time zone (`zone` unless it names one) settled, or a
    typed refusal."""
    schema = request.schema
    check_collection_name(schema.name)
    if request.shard_count > SHARD_COUNT_MAX:
        raise RequestError(f"maximum shards's number should be limited to {SHARD_COUNT_MAX}")
    check_collection_properties(request.properties)
    check_isolation(request.properties, schema)
    _check_counts(schema)
    _check_field_names([field for field in schema.fields if not field.struct_name])
    check_structs(schema)
    _check_keys(schema)
    for field in schema.fields:
        _check_field(field, schema.name)
    if schema.functions:
        raise UnsupportedError("functions in a schema")
    properties = {TIMEZONE_PROPERTY: zone} | request.properties
    return msgspec.structs.replace(
        request,
        schema=with_stored_defaults(numbered(schema), properties[TIMEZONE_PROPERTY]),
        properties=properties,
        shard_count=max(request.shard_count, 1),
        partition_count=_partition_count(schema, request.partition_count),
    )


def numbered(schema: CollectionSchema) -> CollectionSchema:
    """The schema with field ids, and the dynamic field where it is switched on."""
    fields = tuple(
        msgspec.structs.replace(field, field_id=FIRST_USER_FIELD_ID + index)
        for index, field in enumerate(schema.fields)
    )
    if schema.enable_dynamic_field:
        fields += (
            FieldSchema(
                field_id=FIRST_USER_FIELD_ID + len(fields),
                name=DYNAMIC_FIELD_NAME,
                data_type=DataType.JSON,
                is_dynamic=True,
            ),
        )
    first = FIRST_USER_FIELD_ID + len(fields)
    structs = tuple(
        msgspec.structs.replace(struct, field_id=first + index) for index, struct in enumerate(schema.structs)
    )
    return msgspec.structs.replace(schema, fields=fields, structs=structs)


def checked_added_field(schema: CollectionSchema, field: FieldSchema, zone: str) -> FieldSchema:
    """A field that may join rows that do not have it, its default in the stored form; `zone` is the collection's."""
    check_field_name(field.name)
    if field.name in SYSTEM_FIELD_NAMES or field.is_dynamic:
        raise BadParameterError(f"not support to add system field, field name = {field.name}")
    if field.is_primary:
        raise BadParameterError(f"not support to add pk field, field name = {field.name}")
    if field.auto_id:
        raise BadParameterError(f"only primary field can speficy AutoID with true, field name = {field.name}")
    if field.is_partition_key:
        raise BadParameterError(f"not support to add partition key field, field name  = {field.name}")
    if not field.nullable:
        raise BadParameterError(f"added field must be nullable, please check it, field name = {field.name}")
    if field.is_clustering_key and any(one.is_clustering_key for one in schema.fields):
        raise BadParameterError(f"already has another clutering key field, field name: {field.name}")
    if schema.field(field.name) is not None:
        raise BadParameterError(f"duplicate field name: {field.name}")
    if sum(not one.is_dynamic for one in schema.fields) >= FIELD_COUNT_MAX:
        raise BadParameterError(f"The number of fields has reached the maximum value {FIELD_COUNT_MAX}")
    if field.data_type.is_vector and len(schema.vector_fields) >= VECTOR_FIELD_COUNT_MAX:
        raise BadParameterError(f"maximum vector field's number should be limited to {VECTOR_FIELD_COUNT_MAX}")
    _check_field(field, schema.name)
    try:
        return stored_default(field, zone)
    except (BadParameterError, RequestError) as error:
        # Milvus prints the error's Go form here.
        reason = error.message.removesuffix(": invalid parameter")
        raise BadParameterError(
            f"invalid default value of field, name: {field.name}, err: %!w(*errors.errorString=&{{{reason}}})"
        ) from None


def _partition_count(schema: CollectionSchema, asked: int) -> int:
    if schema.partition_key is None:
        if asked > 0:
            raise RequestError("num_partitions should only be specified with partition key field enabled")
        return 1
    if asked < 0:
        raise RequestError("The specified num_partitions should be greater than or equal to 1")
    if asked > PARTITION_COUNT_MAX:
        raise BadParameterError(f"partition number ({asked}) exceeds max configuration ({PARTITION_COUNT_MAX})")
    return asked or PARTITION_KEY_PARTITION_COUNT


def _check_counts(schema: CollectionSchema) -> None:
    if len(schema.fields) > FIELD_COUNT_MAX:
        raise RequestError(f"maximum field's number should be limited to {FIELD_COUNT_MAX}")
    vectors = len(schema.vector_fields)
    if vectors > VECTOR_FIELD_COUNT_MAX:
        raise RequestError(f"maximum vector field's number should be limited to {VECTOR_FIELD_COUNT_MAX}")
    if not vectors:
        raise BadParameterError("schema does not contain vector field")


def _check_field_names(fields: Sequence[FieldSchema]) -> None:
    names = [field.name for field in fields]
    if DYNAMIC_FIELD_NAME in names:
        check_field_name(DYNAMIC_FIELD_NAME)
    if not SYSTEM_FIELD_NAMES.isdisjoint(names) or any(field.is_dynamic for field in fields):
        raise BadParameterError(
            f"schema contains system field: {', '.join(sorted(SYSTEM_FIELD_NAMES, key=_SYSTEM_ORDER.index))}",
            expected="schema don't contains system field",
            actual="contains",
        )
    for name in names:
        check_field_name(name)
    if len(set(names)) < len(names):
        raise BadParameterError("duplicated field name")


_SYSTEM_ORDER: Final = ("RowID", "Timestamp", "$meta", "$namespace_id")


def _check_keys(schema: CollectionSchema) -> None:
    """Primary, partition and clustering key, and automatic ids."""
    primaries = _flagged(schema, lambda field: field.is_primary)
    if not primaries:
        raise RequestError("primary key is not specified")
    if len(primaries) > 1:
        raise RequestError(f"there are more than one primary key, field name = {_names(primaries)}")
    primary = primaries[0]
    if primary.data_type not in (DataType.INT64, DataType.VARCHAR):
        raise RequestError("the data type of primary key should be Int64 or VarChar")
    if primary.default is not None:
        raise BadParameterError("primary field not support default_value")
    if primary.nullable:
        raise BadParameterError("primary field not support null")
    automatic = [field for field in schema.fields if field.auto_id and not field.is_primary]
    if automatic:
        raise RequestError(f"only primary field can speficy AutoID with true, field name = {automatic[0].name}")
    _check_partition_key(_flagged(schema, lambda field: field.is_partition_key))
    clustering = _flagged(schema, lambda field: field.is_clustering_key)
    if len(clustering) > 1:
        raise RequestError(f"there are more than one clustering key, field names = {_names(clustering)}")
    if clustering and clustering[0].data_type.is_vector:
        raise UnsupportedError("a vector field as clustering key")


def _check_partition_key(fields: Sequence[FieldSchema]) -> None:
    if not fields:
        return
    if len(fields) > 1:
        raise RequestError(f"there are more than one partition key, field name = {_names(fields)}")
    field = fields[0]
    if field.is_primary:
        raise RequestError("the partition key field must not be primary field")
    if field.data_type not in (DataType.INT64, DataType.VARCHAR):
        raise RequestError("the data type of partition key should be Int64 or VarChar")
    if field.nullable:
        raise BadParameterError("partition key field not support nullable")


def _flagged(schema: CollectionSchema, flag: Callable[[FieldSchema], bool]) -> list[FieldSchema]:
    return [field for field in schema.fields if flag(field)]


def _names(fields: Sequence[FieldSchema]) -> str:
    return ", ".join(field.name for field in fields)


def _check_field(field: FieldSchema, collection: str) -> None:
    kind = field.data_type
    if kind is DataType.STRING:
        raise RequestError("string data type not supported yet, please use VarChar type instead")
    if kind not in SERVED_TYPES:
        raise UnsupportedError(f"fields of type {kind.label}")
    if field.is_function_output:
        raise UnsupportedError("function output fields")
    if kind is DataType.VARCHAR:
        _check_max_length(field, collection)
    if kind is DataType.ARRAY:
        _check_array(field, collection)
    if kind is DataType.ARRAY_OF_VECTOR:
        _check_capacity(field, collection)
    if kind.is_vector:
        _check_vector(field)
    if field.default is not None:
        _check_default(field)


def _integer(field: FieldSchema, key: str) -> int:
    text = field.type_params[key]
    try:
        return int(text)
    except ValueError:
        raise BadParameterError(f"the value for {key} of field {field.name} must be an integer") from None


def _check_max_length(field: FieldSchema, collection: str) -> None:
    if "max_length" not in field.type_params:
        raise BadParameterError(
            f"type param(max_length) should be specified for the field({field.name}) of collection {collection}"
        )
    length = _integer(field, "max_length")
    if not 0 < length <= VARCHAR_BYTES_MAX:
        raise BadParameterError(
            f"the maximum length specified for the field({field.name}) should be in (0, {VARCHAR_BYTES_MAX}], "
            f"but got {length} instead"
        )


def _check_array(field: FieldSchema, collection: str) -> None:
    if field.element_type is DataType.NONE:
        raise BadParameterError(f"element data type {field.element_type.label} is not valid")
    if field.element_type not in ELEMENT_TYPES:
        raise RequestError(f"element type {field.element_type.label} is not supported")
    if field.element_type is DataType.VARCHAR:
        _check_max_length(field, collection)
    _check_capacity(field, collection)


def _check_capacity(field: FieldSchema, collection: str) -> None:
    if "max_capacity" not in field.type_params:
        raise BadParameterError(
            f"type param(max_capacity) should be specified for array field {field.name} of collection {collection}"
        )
    if not 0 < _integer(field, "max_capacity") <= ARRAY_CAPACITY_MAX:
        raise BadParameterError(f"the maximum capacity specified for a Array should be in (0, {ARRAY_CAPACITY_MAX}]")


def _check_vector(field: FieldSchema) -> None:
    kind, name = field.data_type, field.name
    if kind is DataType.SPARSE_FLOAT_VECTOR:
        if "dim" in field.type_params:
            raise RequestError(f"dim should not be specified for sparse vector field {name}({field.field_id})")
        return
    if "dim" not in field.type_params:
        raise RequestError("dimension is not defined in field type params, check type param `dim` for vector field")
    dimension = _integer(field, "dim")
    if kind is DataType.BINARY_VECTOR:
        if dimension % 8:
            raise RequestError(
                f"invalid dimension: {dimension} of field {name}. binary vector dimension should be multiple of 8. "
            )
        if not 8 <= dimension <= DIMENSION_MAX * 8:
            raise RequestError(
                f"invalid dimension: {dimension} of field {name}. "
                f"binary vector dimension should be in range 8 ~ {DIMENSION_MAX * 8}"
            )
        return
    if dimension < DIMENSION_MIN:
        raise RequestError(f"invalid dimension: {dimension}. should be in range {DIMENSION_MIN} ~ {DIMENSION_MAX}")
    label = "int8" if kind is DataType.INT8_VECTOR else "float"
    if dimension > DIMENSION_MAX:
        raise RequestError(
            f"invalid dimension: {dimension} of field {name}. "
            f"{label} vector dimension should be in range {DIMENSION_MIN} ~ {DIMENSION_MAX}"
        )


_DEFAULT_KINDS: Final[Mapping[type, str]] = {bool: "Bool", int: "Int64", float: "Double", str: "VarChar"}


def _check_default(field: FieldSchema) -> None:
    kind, name, value = field.data_type, field.name, field.default
    if kind.is_vector or kind in (DataType.ARRAY, DataType.JSON):
        raise BadParameterError(f"type not support default_value, type:{kind.label}, name:{name}")
    if not _default_fits(kind, value):
        sent = _DEFAULT_KINDS.get(type(value), "None")
        raise BadParameterError(
            f"type ({kind.label}) of field ({name}) is not equal to the type(DataType_{sent}) of default_value"
        )
    if kind in INTEGER_RANGES:
        low, high = INTEGER_RANGES[kind]
        if not low <= value <= high:
            raise BadParameterError(f"[{low} {high}] is out of range, field {name}, default_value {value}")
    if kind.is_floating and not math.isfinite(value):
        raise RequestError(f"value '{value}' is not a number or infinity")
    if kind is DataType.VARCHAR and len(value.encode()) > field.max_length:
        raise BadParameterError(
            f"the length ({len(value.encode())}) of string exceeds max length ({field.max_length})",
            expected="valid length string",
            actual="string length exceeds max length",
        )


def _default_fits(kind: DataType, value: Any) -> bool:
    if kind is DataType.BOOL:
        return isinstance(value, bool)
    if kind.is_integer:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind.is_floating:
        return isinstance(value, float)
    if kind is DataType.TIMESTAMPTZ:
        return isinstance(value, int | str) and not isinstance(value, bool)
    return isinstance(value, str)
