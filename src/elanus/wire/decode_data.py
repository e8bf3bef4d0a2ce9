"""Writes and reads as sent into values: insert, upsert, delete, search, query.

Column data is cut out of the raw bytes before protobuf sees the request, so that megabytes of floats are never parsed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import chain
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from google.protobuf.message import DecodeError

from elanus.index.multi import FLOAT_BYTES, padded_lists
from elanus.model.columns import NUMPY_DTYPES, Column
from elanus.model.errors import BadParameterError, RequestError, UnsupportedError
from elanus.model.requests import (
    Consistency,
    DeleteRequest,
    FieldOperation,
    FunctionScore,
    HybridSearchRequest,
    InsertRequest,
    QueryRequest,
    SearchRequest,
)
from elanus.model.types import DataType
from elanus.wire import walk
from elanus.wire.decode import consistency_level
from elanus.wire.decode_fields import data_type_of, decode_fields
from elanus.wire.messages import messages
from elanus.wire.schemas import decode_function, pairs

_FIELDS_DATA: Final = 5
_PLACEHOLDERS, _PLACEHOLDER_TYPE, _PLACEHOLDER_VALUES = 1, 2, 3
WALKED_BYTES_MIN: Final = 16 * 1024
"""Bytes of a group of queries from which walking it beats protobuf, which copies each query."""
_UNSERVED_SEARCH_PARTS: Final = ("highlighter", "search_aggregation", "function_chains", "search_by_primary_keys")
_UNSERVED_HYBRID_PARTS: Final = ("function_chains", "highlighter")


# --- writes ---------------------------------------------------------------------------------------------------------
def insert(data: bytes, database: str) -> InsertRequest:
    return _insert("InsertRequest", data, database)


def upsert(data: bytes, database: str) -> InsertRequest:
    return _insert("UpsertRequest", data, database)


def _insert(request_name: str, data: bytes, database: str) -> InsertRequest:
    request_class = getattr(messages(), request_name)
    try:
        found = walk.entries(data, 0, len(data))
    except walk.UnusualError:
        message = request_class.FromString(data)
        message.DiscardUnknownFields()
        data = message.SerializeToString()
        found = _entries(data)
    columns = [entry for entry in found if entry.number == _FIELDS_DATA and entry.wire_type == walk.DELIMITED]
    rest = b"".join([data[entry.begin : entry.stop] for entry in found if entry.number != _FIELDS_DATA])
    message = request_class.FromString(rest)
    if message.namespace:
        raise BadParameterError("namespace data is set but namespace disabled")
    operations = _operations(getattr(message, "field_ops", ()))
    return InsertRequest(
        database=message.db_name or database,
        collection=message.collection_name,
        partition=message.partition_name,
        fields=tuple(chain.from_iterable(decode_fields(data, entry.value, entry.stop) for entry in columns)),
        row_count=message.num_rows,
        schema_timestamp=message.schema_timestamp,
        partial_update=bool(getattr(message, "partial_update", False)) or any(kind for _, kind in operations),
        operations=operations,
    )


def _operations(message: Iterable[Any]) -> tuple[tuple[str, FieldOperation], ...]:
    try:
        return tuple((one.field_name, FieldOperation(one.op)) for one in message)
    except ValueError:
        raise BadParameterError("FieldPartialUpdateOp.op is not known") from None


def _entries(data: bytes) -> list[walk.Entry]:
    try:
        return walk.entries(data, 0, len(data))
    except walk.UnusualError as unusual:
        raise RequestError(f"the request cannot be read: {unusual}") from unusual


def delete(data: bytes, database: str) -> DeleteRequest:
    message = messages().DeleteRequest.FromString(data)
    return DeleteRequest(
        database=message.db_name or database,
        collection=message.collection_name,
        partition=message.partition_name,
        filter=message.expr,
        templates=_templates(message.expr_template_values),
        consistency_level=consistency_level(message.consistency_level),
    )


# --- reads ----------------------------------------------------------------------------------------------------------
def search(data: bytes, database: str) -> SearchRequest:
    return _search(messages().SearchRequest.FromString(data), database)


def _search(message: Any, database: str) -> SearchRequest:
    _refuse_unserved(message, _UNSERVED_SEARCH_PARTS)
    ids = decode_ids(message.ids) if message.WhichOneof("search_input") == "ids" else None
    queries, query_type = (np.empty((0, 0), "<f4"), DataType.FLOAT_VECTOR)
    if ids is None:
        queries, query_type = placeholders(message.placeholder_group)
    return SearchRequest(
        database=message.db_name or database,
        collection=message.collection_name,
        partitions=tuple(message.partition_names),
        filter=message.dsl,
        templates=_templates(message.expr_template_values),
        output_fields=tuple(message.output_fields),
        params=pairs(message.search_params),
        query_count=message.nq,
        queries=queries,
        query_type=query_type,
        ids=ids,
        consistency=_consistency(message),
        function_score=_function_score(message),
    )


def hybrid_search(data: bytes, database: str) -> HybridSearchRequest:
    message = messages().HybridSearchRequest.FromString(data)
    _refuse_unserved(message, _UNSERVED_HYBRID_PARTS)
    return HybridSearchRequest(
        database=message.db_name or database,
        collection=message.collection_name,
        partitions=tuple(message.partition_names),
        requests=tuple(_search(one, database) for one in message.requests),
        rank_params=pairs(message.rank_params),
        function_score=_function_score(message),
        output_fields=tuple(message.output_fields),
        consistency=_consistency(message),
    )


def _refuse_unserved(message: Any, parts: tuple[str, ...]) -> None:
    present = {field.name for field, _ in message.ListFields()}
    for part in parts:
        if part in present:
            raise UnsupportedError(f"search with {part}")
    if message.namespace:
        raise BadParameterError("namespace data is set but namespace disabled")


def decode_ids(message: Any) -> Column:
    """An `IDs` message as a column of keys."""
    if message.WhichOneof("id_field") == "str_id":
        return Column(pa.array(list(message.str_id.data), pa.large_string()))
    return Column(np.array(message.int_id.data, np.int64))


def _function_score(message: Any) -> FunctionScore | None:
    if not message.HasField("function_score"):
        return None
    score = message.function_score
    return FunctionScore(tuple(decode_function(function) for function in score.functions), pairs(score.params))


def query(data: bytes, database: str) -> QueryRequest:
    message = messages().QueryRequest.FromString(data)
    if message.namespace:
        raise BadParameterError("namespace data is set but namespace disabled")
    return QueryRequest(
        database=message.db_name or database,
        collection=message.collection_name,
        partitions=tuple(message.partition_names),
        filter=message.expr,
        templates=_templates(message.expr_template_values),
        output_fields=tuple(message.output_fields),
        params=pairs(message.query_params),
        consistency=_consistency(message),
    )


def _consistency(message: Any) -> Consistency:
    return Consistency(
        level=consistency_level(message.consistency_level),
        guarantee_timestamp=message.guarantee_timestamp,
        use_default=message.use_default_consistency,
    )


# --- filter templates -----------------------------------------------------------------------------------------------
def _templates(values: Any) -> dict[str, Any]:
    """Template values as plain Python values and lists."""
    return {name: _template(value) for name, value in values.items()}


def _template(value: Any) -> Any:
    member = value.WhichOneof("val")
    if member is None:
        raise BadParameterError("a filter template value is empty")
    return _template_array(value.array_val) if member == "array_val" else getattr(value, member)


def _template_array(array: Any) -> list[Any]:
    member = array.WhichOneof("data")
    if member is None:
        return []
    values = getattr(array, member).data
    if member == "array_data":
        return [_template_array(value) for value in values]
    if member == "json_data":
        return list(map(_document, values))
    return list(values)


def _document(value: bytes) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise BadParameterError(f"a filter template value is not JSON: {error}") from error


# --- query vectors --------------------------------------------------------------------------------------------------
def placeholders(group: bytes, walked_bytes_min: int = WALKED_BYTES_MIN) -> tuple[npt.NDArray[Any], DataType]:
    """The queries of a serialized `PlaceholderGroup` and their type.

    Dense vectors come as (n, width) in the type's storage dtype; sparse rows (bytes) and texts (str) as (n,) objects.
    """
    kind, raw = (len(group) >= walked_bytes_min and _uniform(group)) or (None, None)
    if kind is None or raw is None:
        message = _placeholder_group(group)
        if len(message.placeholders) != 1:
            raise BadParameterError("a search takes exactly one placeholder")
        placeholder = message.placeholders[0]
        if placeholder.type not in _DENSE_TYPES:
            return _objects(placeholder)
        kind, raw = placeholder.type, _joined(list(placeholder.values))
    data_type = data_type_of(kind)
    if raw.shape[1] % np.dtype(NUMPY_DTYPES[data_type]).itemsize:
        raise RequestError(f"a query of {raw.shape[1]} bytes is no {data_type.label}")
    return raw.view(NUMPY_DTYPES[data_type]), data_type


def _placeholder_group(group: bytes) -> Any:
    try:
        return messages().PlaceholderGroup.FromString(group)
    except DecodeError as error:
        raise BadParameterError("the placeholder group is not one") from error


_VECTOR_LIST: Final = 301
"""Placeholder type of a list of float vectors that together are one query."""
_DENSE_TYPES: Final = frozenset(
    {
        DataType.BINARY_VECTOR,
        DataType.FLOAT_VECTOR,
        DataType.FLOAT16_VECTOR,
        DataType.BFLOAT16_VECTOR,
        DataType.INT8_VECTOR,
    }
)


def _uniform(group: bytes) -> tuple[int, npt.NDArray[np.uint8]] | None:
    """Type and (n, bytes) of a group written as serializers do: one placeholder whose dense values have one length.

    Each value then takes the same number of bytes with the same header, so all of them are one strided view.
    """
    try:
        outer = walk.payload(group, 0, len(group))
        head = walk.first(group, *outer, _PLACEHOLDER_VALUES)
    except walk.UnusualError:
        return None
    kinds = [entry.value for entry in head if entry.number == _PLACEHOLDER_TYPE and entry.wire_type == walk.VARINT]
    if not head:
        return None
    value = head[-1]
    stride = value.stop - value.begin
    if len(kinds) != 1 or kinds[0] not in _DENSE_TYPES or value.number != _PLACEHOLDER_VALUES:
        return None
    if value.wire_type != walk.DELIMITED or value.stop == value.value or (outer[1] - value.begin) % stride:
        return None
    table = np.frombuffer(group, np.uint8, outer[1] - value.begin, value.begin).reshape(-1, stride)
    width = value.value - value.begin
    if not (table[:, :width] == table[0, :width]).all():
        return None
    return kinds[0], table[:, width:].copy()


def _joined(values: list[bytes]) -> npt.NDArray[np.uint8]:
    if not values:
        return np.empty((0, 0), np.uint8)
    if len(set(map(len, values))) != 1:
        raise RequestError("the query vectors of a search differ in length")
    return np.frombuffer(b"".join(values), np.uint8).reshape(len(values), -1)


def _objects(placeholder: Any) -> tuple[npt.NDArray[Any], DataType]:
    if placeholder.type == DataType.VARCHAR:
        values: list[Any] = list(map(_decoded, placeholder.values))
    elif placeholder.type == _VECTOR_LIST:
        return padded_lists(_of_floats(placeholder.values)), DataType.ARRAY_OF_VECTOR
    elif placeholder.type == DataType.SPARSE_FLOAT_VECTOR:
        values = list(placeholder.values)
    else:
        raise UnsupportedError(f"search with placeholder type {placeholder.type}")
    queries = np.empty(len(values), object)
    queries[:] = values
    return queries, data_type_of(placeholder.type)


def _of_floats(values: Iterable[bytes]) -> list[bytes]:
    lists = list(values)
    if any(len(one) % FLOAT_BYTES for one in lists):
        raise RequestError("a query of a search is not a list of floats")
    return lists


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise RequestError("the text of a search is not UTF-8") from None
