"""Everything that can be wrong with rows, schemas, names and parameters: the text, the code, and that nothing happened."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from elanus.base.errors import ElanusError
from elanus.model.columns import Column, arrow_type
from elanus.model.requests import (
    AliasRequest,
    AlterPropertiesRequest,
    CollectionRequest,
    CreateCollectionRequest,
    CreateIndexRequest,
    DatabaseRequest,
    DeleteRequest,
    LoadRequest,
    PartitionRequest,
    RenameCollectionRequest,
    SearchRequest,
)
from elanus.model.schema import FieldSchema, FunctionSchema
from elanus.model.types import DataType
from elanus.nodes.proxy.values import checked_values

from .requests import (
    AUTO_ID,
    ID,
    NAME,
    RANK,
    TEXT_ID,
    VECTOR,
    collection,
    ids,
    insert,
    query,
    schema,
    search,
    sent,
    vectors,
)
from .twin import Bench

TAGS = FieldSchema(
    0,
    "tags",
    DataType.ARRAY,
    nullable=True,
    element_type=DataType.VARCHAR,
    type_params={"max_capacity": "2", "max_length": "3"},
)
NUMBERS = FieldSchema(
    0, "numbers", DataType.ARRAY, nullable=True, element_type=DataType.INT8, type_params={"max_capacity": "4"}
)
DOC = FieldSchema(0, "doc", DataType.JSON, nullable=True)
WIDE = schema(ID, VECTOR, NAME, RANK, TAGS, NUMBERS, DOC, dynamic=True)
ONE = (ids([1]), vectors([[1, 2]]))


def expect(make: Callable[[Bench], Any], text: str, code: int, *, made: Any = WIDE, **how: Any) -> None:
    """The call is refused with this text and code, and no shard saw anything."""

    async def main() -> None:
        bench = Bench()
        await collection(bench, made, **how)
        before = (dict(bench.coordinator.views), bench.rows())
        with pytest.raises(ElanusError) as caught:
            await make(bench)
        assert text in caught.value.message
        assert caught.value.code == code
        assert (dict(bench.coordinator.views), bench.rows()) == before
        assert not bench.node.arrivals

    asyncio.run(main())


def meta(*rows: bytes) -> Any:
    return sent("$meta", DataType.JSON, list(rows), is_dynamic=True)


INSERTS: dict[str, tuple[Any, str, int]] = {
    "no rows": (insert(ids([])), "num_rows should be greater than 0", 1100),
    "missing": (
        insert(ids([1])),
        "fieldSchema(vector) has no corresponding fieldData pass in: invalid parameter",
        1100,
    ),
    "missing key": (insert(vectors([[1, 2]])), "fieldSchema(id) has no corresponding fieldData pass in", 1100),
    "unknown": (insert(*ONE, sent("x", DataType.INT64, [1])), "fieldName x not exist in collection schema", 65535),
    "extra": (
        insert(*ONE, *(sent(f"x{n}", DataType.INT64, [1]) for n in range(9))),
        "more fieldData has pass in",
        1100,
    ),
    "twice": (insert(*ONE, ids([1])), "duplicated field id found: invalid parameter", 1100),
    "row count": (
        insert(*ONE, rows=2),
        "the num_rows (1) of field (id) is not equal to passed num_rows (2): invalid parameter[expected=2][actual=1]",
        1100,
    ),
    "type": (insert(*ONE, sent("rank", DataType.VARCHAR, ["a"])), "field 'rank' is illegal, array type mismatch", 1100),
    "dtype": (
        insert(*ONE, sent("rank", DataType.INT16, np.array([0.5]))),
        "[expected=need int array][actual=got nil]",
        1100,
    ),
    "valid": (
        insert(sent("id", DataType.INT64, [1], valid=[True]), ONE[1]),
        "the length of valid_data of field(id) is wrong",
        1100,
    ),
    "range": (
        insert(*ONE, sent("rank", DataType.INT16, np.array([40000], "<i4"))),
        "the 0th element (40000) out of range: [-32768, 32767]",
        1100,
    ),
    "varchar": (
        insert(*ONE, sent("name", DataType.VARCHAR, ["äöüää"])),
        "length of varchar field name exceeds max length, row number: 0, length: 10, max length: 8: invalid parameter",
        1100,
    ),
    "utf-8": (
        insert(*ONE, sent("name", DataType.VARCHAR, pa.array([b"\xff"], pa.large_binary()).view(pa.large_string()))),
        "not UTF-8",
        1100,
    ),
    "dim": (
        insert(ONE[0], sent("vector", DataType.FLOAT_VECTOR, np.zeros((1, 3), "<f4"))),
        "the dim (3) of field data(vector) is not equal to schema dim (2): invalid parameter[expected=2][actual=3]",
        1100,
    ),
    "nan": (insert(ONE[0], vectors([[1, float("nan")]])), "value 'NaN' is not a number or infinity", 65535),
    "infinity": (insert(ONE[0], vectors([[1, float("inf")]])), "value '+Inf' is not a number or infinity", 65535),
    "minus": (insert(ONE[0], vectors([[float("-inf"), 0]])), "value '-Inf' is not a number or infinity", 65535),
    "capacity": (
        insert(*ONE, sent("tags", DataType.ARRAY, [["a", "b", "c"]], element=DataType.VARCHAR)),
        "the length (3) of 0th array exceeds max capacity (2): invalid parameter",
        1100,
    ),
    "element length": (
        insert(*ONE, sent("tags", DataType.ARRAY, [["abcd"]], element=DataType.VARCHAR)),
        'length of Array array field "tags" exceeds max length',
        1100,
    ),
    "element range": (
        insert(*ONE, sent("numbers", DataType.ARRAY, [[1, 300]], element=DataType.INT32)),
        "the 1th element (300) out of range: [-128, 127]",
        1100,
    ),
    "element type": (
        insert(*ONE, sent("numbers", DataType.ARRAY, [["x"]], element=DataType.VARCHAR)),
        "field 'numbers' is illegal, array type mismatch",
        1100,
    ),
    "json": (insert(*ONE, sent("doc", DataType.JSON, [b"{"])), "field doc contains data that is not valid JSON", 1100),
    "two values": (insert(*ONE, sent("doc", DataType.JSON, [b"1 2"])), "not valid JSON", 1100),
    "json size": (
        insert(*ONE, sent("doc", DataType.JSON, [b'"' + b"x" * 65535 + b'"'])),
        "the length (65537) of json field (doc) exceeds max length (65536)",
        1100,
    ),
    "dynamic size": (
        insert(*ONE, meta(b'{"a":"' + b"x" * 65536 + b'"}')),
        "of dynamic field exceeds max length (65536)",
        1100,
    ),
    "dynamic list": (insert(*ONE, meta(b"[]")), "must hold JSON objects", 1100),
    "dynamic clash": (
        insert(*ONE, meta(b'{"rank":1}')),
        "dynamic field name cannot include the static field name: rank",
        1100,
    ),
    "dynamic meta": (insert(*ONE, meta(b'{"$meta":1}')), "cannot set json key to: $meta", 1100),
    "partition": (insert(*ONE, partition="x"), "partition not found[partition=x]", 200),
    "schema": (insert(*ONE, schema_timestamp=5), "collection schema mismatch[collection=c]", 109),
    "collection": (insert(*ONE, collection="d"), "collection not found[database=default][collection=d]", 100),
}


@pytest.mark.parametrize("name", INSERTS)
def test_bad_inserts(name: str) -> None:
    request, text, code = INSERTS[name]
    expect(lambda bench: bench.proxy.insert(request), text, code)


def test_automatic_keys_may_not_be_sent() -> None:
    text = "can not assign primary field data when auto id enabled and allow_insert_auto_id is false id"
    made = schema(AUTO_ID, VECTOR)
    expect(lambda bench: bench.proxy.insert(insert(*ONE)), text, 1100, made=made)


def test_automatic_keys_may_be_sent_where_allowed() -> None:
    async def main() -> None:
        bench = Bench()
        await collection(bench, schema(AUTO_ID, VECTOR), properties={"allow_insert_auto_id": "true"})
        reply = await bench.proxy.insert(insert(*ONE))
        assert reply.keys is not None and reply.keys.values.tolist() == [1]

    asyncio.run(main())


UPSERTS: dict[str, tuple[Any, str, int]] = {
    "no key": (insert(vectors([[1, 2]])), "must assign pk when upsert, primary field: id", 1100),
    "twice": (
        insert(ids([1, 1]), vectors([[1, 2], [3, 4]])),
        "duplicate primary keys are not allowed in the same batch: invalid parameter",
        1100,
    ),
    "partial new": (insert(ids([1]), partial_update=True), "fieldSchema(vector) has no corresponding fieldData", 1100),
}


@pytest.mark.parametrize("name", UPSERTS)
def test_bad_upserts(name: str) -> None:
    request, text, code = UPSERTS[name]
    expect(lambda bench: bench.proxy.upsert(request), text, code)


@pytest.mark.parametrize(
    ("filter", "text"),
    [
        ("", "delete plan can't be empty or always true : "),
        ("1 == 1", "delete plan can't be empty or always true : 1 == 1"),
        ("id ==", "failed to create delete plan: cannot parse expression: id ==, error:"),
        ("id == 'x'", "failed to create delete plan: cannot parse expression"),
    ],
)
def test_bad_deletes(filter: str, text: str) -> None:
    expect(lambda bench: bench.proxy.delete(DeleteRequest(collection="c", filter=filter)), text, 1100)


def test_delete_in_a_missing_partition() -> None:
    request = DeleteRequest(collection="c", filter="id in [1]", partition="x")
    expect(lambda bench: bench.proxy.delete(request), "partition not found[partition=x]", 200)


# --- columns that the proxy alone looks at ------------------------------------------------------------------------
def column(kind: DataType, values: Any, **more: Any) -> tuple[FieldSchema, Column]:
    field = FieldSchema(0, "f", kind, **more)
    return field, Column(values if isinstance(values, np.ndarray) else pa.array(values, arrow_type(kind)))


def sparse(*rows: list[tuple[int, float]]) -> tuple[FieldSchema, Column]:
    packed = [b"".join(struct.pack("<If", index, value) for index, value in row) for row in rows]
    return column(DataType.SPARSE_FLOAT_VECTOR, packed)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (sparse([(1, 0.5)], [(3, 1.0), (2, 1.0)]), "unsorted or same indices"),
        (sparse([(3, 1.0), (3, 1.0)]), "unsorted or same indices"),
        (sparse([(3, -1.0)]), "negative value"),
        (sparse([(3, float("nan"))]), "value 'NaN'"),
        (sparse([((1 << 32) - 1, 1.0)]), "index out of range"),
        (column(DataType.SPARSE_FLOAT_VECTOR, [b"1234567"]), "invalid data length"),
        (column(DataType.DOUBLE, np.array([1.0, np.inf])), "value '+Inf'"),
        (column(DataType.BOOL, np.array([1, 0])), "need bool array"),
        (column(DataType.INT64, np.array(["a"])), "need long array"),
        (column(DataType.FLOAT16_VECTOR, np.array([[np.inf, 0]], "<f2"), type_params={"dim": "2"}), "value '+Inf'"),
        (column(DataType.BFLOAT16_VECTOR, np.array([[0x7FC0, 0]], "<u2"), type_params={"dim": "2"}), "value 'NaN'"),
        (column(DataType.BINARY_VECTOR, np.zeros((1, 2), "u1"), type_params={"dim": "8"}), "the dim (16) of field"),
        (column(DataType.INT8_VECTOR, np.zeros((1, 2), "<f4"), type_params={"dim": "2"}), "array type mismatch"),
    ],
)
def test_bad_columns(made: tuple[FieldSchema, Column], text: str) -> None:
    with pytest.raises(ElanusError, match=".*") as caught:
        checked_values(*made)
    assert text in caught.value.message


@pytest.mark.parametrize(
    "made",
    [
        sparse([(1, 0.5), (7, 0.0)], [], [(0, 1.0)]),
        column(DataType.FLOAT_VECTOR, np.full((2, 2), 3e38, "<f4"), type_params={"dim": "2"}),
        column(DataType.JSON, [b'{"a":\n 1}', b" [1, 2] ", b"null"]),
        column(DataType.INT8, np.array([-128, 127], "<i4")),
    ],
)
def test_good_columns(made: tuple[FieldSchema, Column]) -> None:
    assert len(checked_values(*made)) == len(made[1])


# --- schemas ------------------------------------------------------------------------------------------------------
def field(name: str, kind: DataType = DataType.INT64, **more: Any) -> FieldSchema:
    return FieldSchema(0, name, kind, **more)


def vector(kind: DataType = DataType.FLOAT_VECTOR, **params: str) -> FieldSchema:
    return FieldSchema(0, "v", kind, type_params=params)


SCHEMAS: dict[str, tuple[Any, str, int]] = {
    "name": (
        schema(ID, VECTOR, name="1a"),
        "Invalid collection name: 1a. the first character of a collection name must be an underscore or letter: "
        "invalid parameter",
        1100,
    ),
    "long": (
        schema(ID, VECTOR, name="a" * 256),
        "the length of a collection name must be less than 255 characters: invalid parameter",
        1100,
    ),
    "letters": (
        schema(ID, VECTOR, name="a b"),
        "collection name can only contain numbers, letters and underscores",
        1100,
    ),
    "empty": (schema(ID, VECTOR, name=""), "collection name should not be empty", 1100),
    "no vector": (schema(ID), "schema does not contain vector field: invalid parameter", 1100),
    "no key": (schema(VECTOR), "primary key is not specified", 65535),
    "two keys": (
        schema(ID, field("b", is_primary=True), VECTOR),
        "there are more than one primary key, field name = id, b",
        65535,
    ),
    "key type": (
        schema(field("id", DataType.FLOAT, is_primary=True), VECTOR),
        "the data type of primary key should be Int64 or VarChar",
        65535,
    ),
    "key default": (
        schema(field("id", is_primary=True, default=1), VECTOR),
        "primary field not support default_value: invalid parameter",
        1100,
    ),
    "key null": (schema(field("id", is_primary=True, nullable=True), VECTOR), "primary field not support null", 1100),
    "auto id": (
        schema(ID, field("b", auto_id=True), VECTOR),
        "only primary field can speficy AutoID with true, field name = b",
        65535,
    ),
    "fields": (
        schema(ID, VECTOR, *(field(f"f{n}") for n in range(63))),
        "maximum field's number should be limited to 64",
        65535,
    ),
    "vectors": (
        schema(ID, *(msgspec.structs.replace(VECTOR, name=f"v{n}") for n in range(11))),
        "maximum vector field's number should be limited to 10",
        65535,
    ),
    "twice": (schema(ID, VECTOR, VECTOR), "duplicated field name: invalid parameter", 1100),
    "keyword": (
        schema(ID, VECTOR, field("LIKE")),
        "Invalid field name: LIKE. LIKE is keyword in milvus.: field name invalid[field=LIKE]",
        1701,
    ),
    "field name": (schema(ID, VECTOR, field("a-b")), "Invalid field name: a-b. field name can only contain", 1701),
    "system": (
        schema(ID, VECTOR, field("RowID")),
        "schema contains system field: RowID, Timestamp, $meta, $namespace_id: "
        "invalid parameter[expected=schema don't contains system field][actual=contains]",
        1100,
    ),
    "dim": (
        schema(ID, vector(dim="1")),
        "invalid dimension: 1 of field v. float vector dimension should be in range 2 ~ 32768",
        65535,
    ),
    "dim text": (schema(ID, vector(dim="x")), "invalid dim of field v: x", 1100),
    "no dim": (schema(ID, vector()), "dimension is not defined in field type params", 65535),
    "binary dim": (schema(ID, vector(DataType.BINARY_VECTOR, dim="12")), "should be multiple of 8", 65535),
    "binary range": (
        schema(ID, vector(DataType.BINARY_VECTOR, dim="262152")),
        "binary vector dimension should be in range 8 ~ 262144",
        65535,
    ),
    "sparse dim": (
        schema(ID, vector(DataType.SPARSE_FLOAT_VECTOR, dim="8")),
        "dim should not be specified for sparse vector field v",
        65535,
    ),
    "null vector": (schema(ID, field("v", DataType.FLOAT_VECTOR, nullable=True)), "vector type not support null", 1100),
    "no length": (
        schema(ID, VECTOR, field("s", DataType.VARCHAR)),
        "type param(max_length) should be specified for the field(s) of collection c",
        1100,
    ),
    "length": (
        schema(ID, VECTOR, field("s", DataType.VARCHAR, type_params={"max_length": "65536"})),
        "the maximum length specified for the field(s) should be in (0, 65535], but got 65536 instead",
        1100,
    ),
    "capacity": (
        schema(
            ID, VECTOR, field("a", DataType.ARRAY, element_type=DataType.INT8, type_params={"max_capacity": "4097"})
        ),
        "the maximum capacity specified for a Array should be in (0, 4096]",
        1100,
    ),
    "no capacity": (
        schema(ID, VECTOR, field("a", DataType.ARRAY, element_type=DataType.INT8)),
        "type param(max_capacity) should be specified",
        1100,
    ),
    "element": (
        schema(ID, VECTOR, field("a", DataType.ARRAY, element_type=DataType.JSON)),
        "element type JSON is not supported",
        65535,
    ),
    "string": (
        schema(ID, VECTOR, field("s", DataType.STRING)),
        "string data type not supported yet, please use VarChar type instead",
        65535,
    ),
    "geometry": (schema(ID, VECTOR, field("g", DataType.GEOMETRY)), "fields of type Geometry", 10),
    "default type": (
        schema(ID, VECTOR, field("d", default="x")),
        "type (Int64) of field (d) is not equal to the type(DataType_VarChar) of default_value: invalid parameter",
        1100,
    ),
    "default range": (schema(ID, VECTOR, field("d", DataType.INT8, default=300)), "default_value 300", 1100),
    "default nan": (
        schema(ID, VECTOR, field("d", DataType.FLOAT, default=float("nan"))),
        "is not a number or infinity",
        65535,
    ),
    "default length": (
        schema(ID, VECTOR, field("d", DataType.VARCHAR, default="abc", type_params={"max_length": "2"})),
        "the length (3) of string exceeds max length (2)",
        1100,
    ),
    "default json": (
        schema(ID, VECTOR, field("d", DataType.JSON, default="{}")),
        "type not support default_value",
        1100,
    ),
    "partition key null": (
        schema(ID, VECTOR, field("k", is_partition_key=True, nullable=True)),
        "partition key field not support nullable: invalid parameter",
        1100,
    ),
    "partition keys": (
        schema(ID, VECTOR, field("k", is_partition_key=True), field("l", is_partition_key=True)),
        "there are more than one partition key, field name = k, l",
        65535,
    ),
    "partition key primary": (
        schema(field("id", is_primary=True, is_partition_key=True), VECTOR),
        "the partition key field must not be primary field",
        65535,
    ),
    "partition key type": (
        schema(ID, VECTOR, field("k", DataType.INT8, is_partition_key=True)),
        "the data type of partition key should be Int64 or VarChar",
        65535,
    ),
    "functions": (
        msgspec.structs.replace(schema(ID, VECTOR), functions=(FunctionSchema(0, "f", 1),)),
        "functions in a schema: service unimplemented",
        10,
    ),
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_bad_schemas(name: str) -> None:
    made, text, code = SCHEMAS[name]
    request = CreateCollectionRequest(schema=made)
    expect(lambda bench: bench.proxy.create_collection(request), text, code)


@pytest.mark.parametrize(
    ("how", "text", "code"),
    [
        ({"shard_count": 17}, "maximum shards's number should be limited to 16", 65535),
        ({"partition_count": 4}, "num_partitions should only be specified with partition key field enabled", 65535),
        ({"properties": {"collection.ttl.seconds": "-2"}}, "collection TTL is out of range", 1100),
        ({"properties": {"collection.ttl.seconds": "x"}}, "collection TTL is not a valid positive integer", 1100),
        ({"properties": {"mmap.enabled": "maybe"}}, "invalid mmap.enabled value: maybe, expected: true, false", 1100),
        ({"properties": {"query_mode": "large_topk"}}, "property query_mode=large_topk: service unimplemented", 10),
        ({"properties": {"consistency_level": "Odd"}}, "invalid consistency level: Odd", 1100),
    ],
)
def test_bad_creations(how: dict[str, Any], text: str, code: int) -> None:
    request = CreateCollectionRequest(schema=schema(ID, VECTOR, name="d"), **how)
    expect(lambda bench: bench.proxy.create_collection(request), text, code)


def test_too_many_partitions() -> None:
    made = schema(ID, VECTOR, field("k", is_partition_key=True), name="d")
    request = CreateCollectionRequest(schema=made, partition_count=1025)
    text = "partition number (1025) exceeds max configuration (1024)"
    expect(lambda bench: bench.proxy.create_collection(request), text, 1100)


def test_fields_are_numbered_from_100_and_the_dynamic_field_comes_last() -> None:
    async def main() -> None:
        bench = Bench()
        await collection(bench, WIDE, load=False)
        described = await bench.proxy.describe_collection(CollectionRequest(collection="c"))
        numbers = {one.name: one.field_id for one in described.schema.fields}
        assert list(numbers.values()) == list(range(100, 108))
        assert numbers["$meta"] == 107 and described.schema.fields[-1].is_dynamic

    asyncio.run(main())


# --- reads --------------------------------------------------------------------------------------------------------
SEARCHES: dict[str, tuple[Any, str, int]] = {
    "no limit": (
        SearchRequest(collection="c", queries=np.zeros((1, 2), "<f4"), query_type=DataType.FLOAT_VECTOR),
        "topk is required",
        65535,
    ),
    "limit": (search([[0, 0]], 0), "topk [0] is invalid, it should be in range [1, 16384], but got 0", 65535),
    "offset": (search([[0, 0]], params={"offset": "-1"}), "offset [-1] is invalid", 65535),
    "window": (
        search([[0, 0]], 16384, {"offset": "1"}),
        "offset+topk [16385] is invalid, it should be in range [1, 16384], but got 16385",
        65535,
    ),
    "nq": (search(np.zeros((0, 2))), "nq [0] is invalid, nq (number of search vector per search request)", 65535),
    "round": (
        search([[0, 0]], params={"round_decimal": "7"}),
        "round_decimal [7] is invalid, should be -1 or an integer in range [0, 6]",
        65535,
    ),
    "growing": (search([[0, 0]], params={"ignore_growing": "maybe"}), "parse ignore growing field failed", 65535),
    "metric": (
        search([[0, 0]], params={"metric_type": "IP"}),
        "metric type not match: invalid parameter[expected=L2][actual=IP]",
        1100,
    ),
    "field": (
        search([[0, 0]], params={"anns_field": "x"}),
        "failed to create query plan: failed to get field schema by name: fieldName(x) not found",
        1100,
    ),
    "not a vector": (search([[0, 0]], params={"anns_field": "rank"}), "is not of vector data type", 1100),
    "dim": (
        search(np.zeros((1, 2)), query_count=2),
        "nq [2] is not the number of vectors sent, 1",
        65535,
    ),
    "width": (
        SearchRequest(
            collection="c", queries=np.zeros((1, 3), "<f4"), query_type=DataType.FLOAT_VECTOR, params={"topk": "1"}
        ),
        "vector dimension mismatch, expected vector size(byte) 8, actual 12.",
        65535,
    ),
    "query type": (
        SearchRequest(
            collection="c", queries=np.zeros((1, 2), "<i1"), query_type=DataType.INT8_VECTOR, params={"topk": "1"}
        ),
        "vector type must be the same, field vector - type FloatVector, search info type Int8Vector",
        65535,
    ),
    "filter": (search([[0, 0]], filter="id >"), "failed to create query plan: cannot parse expression: id >", 1100),
    "output": (search([[0, 0]], output_fields=('$meta["a"]["b"]',)), "not support getting multiple level", 65535),
    "json path": (search([[0, 0]], output_fields=('doc["b"]',)), "not support getting subkeys of json field", 65535),
    "partition": (search([[0, 0]], partitions=("x",)), "partition name x not found", 65535),
    "order": (search([[0, 0]], params={"order_by_fields": "id"}), "search option order_by_fields", 10),
    "id": (search([[0, 0]], params={"collection_id": "7"}), "alias or database may have been changed", 1100),
    "params": (search([[0, 0]], params={"params": "{"}), "search params in wrong format", 1100),
    "range": (
        search([[0, 0]], params={"params": '{"radius": 1.0, "range_filter": 2.0}'}),
        "metric type (L2), range_filter(2) must be less than radius(1)",
        65535,
    ),
    "iterator flag": (
        search([[0, 0]], params={"search_iter_v2": "True"}),
        "both iterator and search_iter_v2 must be set in the SDK",
        65535,
    ),
    "iterator batch": (
        search([[0, 0]], params={"search_iter_v2": "True", "iterator": "True"}),
        "batch size is required",
        65535,
    ),
    "iterator token": (
        search(
            [[0, 0]],
            params={
                "search_iter_v2": "True",
                "iterator": "True",
                "search_iter_batch_size": "2",
                "search_iter_id": "?",
            },
        ),
        "invalid token format",
        65535,
    ),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_bad_searches(name: str) -> None:
    request, text, code = SEARCHES[name]
    expect(lambda bench: bench.proxy.search(request), text, code)


def test_several_vector_fields_need_a_name() -> None:
    made = schema(ID, VECTOR, msgspec.structs.replace(VECTOR, name="other"))
    text = "multiple anns_fields exist, please specify a anns_field in search_params"
    expect(lambda bench: bench.proxy.search(search([[0, 0]])), text, 65535, made=made)


def test_output_fields_must_exist_without_a_dynamic_field() -> None:
    request = search([[0, 0]], output_fields=("x",))
    expect(lambda bench: bench.proxy.search(request), "field x not exist", 65535, made=schema(ID, VECTOR))


QUERIES: dict[str, tuple[Any, str, int]] = {
    "empty": (query(""), "empty expression should be used with limit: invalid parameter", 1100),
    "always": (query("1 == 1"), "empty expression should be used with limit", 1100),
    "limit": (query("id > 0", params={"limit": "0"}), "limit [0] is invalid, should be greater than 0", 65535),
    "offset": (
        query("id > 0", params={"limit": "1", "offset": "-1"}),
        "invalid max query result window, offset [-1] is invalid, should be gte than 0",
        65535,
    ),
    "window": (
        query("id > 0", params={"limit": "16384", "offset": "1"}),
        "(offset+limit) should be in range [1, 16384], but got 16385",
        65535,
    ),
    "count": (
        query("", ("count(*)",), {"limit": "1"}),
        "count entities with pagination is not allowed: invalid parameter",
        1100,
    ),
    "filter": (query("nope("), "failed to create query plan: cannot parse expression: nope(", 1100),
    "grouping": (query("id > 0", params={"group_by_fields": "id"}), "query option group_by_fields", 10),
    "id": (query("id > 0", params={"collection_id": "7"}), "alias or database may have changed", 1100),
}


@pytest.mark.parametrize("name", QUERIES)
def test_bad_queries(name: str) -> None:
    request, text, code = QUERIES[name]
    expect(lambda bench: bench.proxy.query(request), text, code)


# --- DDL ----------------------------------------------------------------------------------------------------------
CALLS: dict[str, tuple[Callable[[Bench], Any], str, int]] = {
    "partition": (
        lambda bench: bench.proxy.create_partition(PartitionRequest(collection="c", partition="")),
        "Invalid partition name: . Partition name should not be empty.",
        65535,
    ),
    "partition length": (
        lambda bench: bench.proxy.create_partition(PartitionRequest(collection="c", partition="p" * 256)),
        "The length of a partition name must be less than 255 characters.",
        65535,
    ),
    "partition letter": (
        lambda bench: bench.proxy.create_partition(PartitionRequest(collection="c", partition="-a")),
        "The first character of a partition name must be an underscore or letter.",
        65535,
    ),
    "default partition": (
        lambda bench: bench.proxy.drop_partition(PartitionRequest(collection="c", partition="_default")),
        "default partition cannot be deleted",
        1100,
    ),
    "alias": (
        lambda bench: bench.proxy.create_alias(AliasRequest(collection="c", alias="1a")),
        "Invalid collection alias: 1a. the first character of a collection alias must be an underscore or letter",
        1100,
    ),
    "rename": (
        lambda bench: bench.proxy.rename_collection(RenameCollectionRequest(collection="c", new_name="c")),
        "collection name or database name should be different",
        1100,
    ),
    "rename badly": (
        lambda bench: bench.proxy.rename_collection(RenameCollectionRequest(collection="c", new_name="-")),
        "Invalid collection name: -.",
        1100,
    ),
    "database": (
        lambda bench: bench.proxy.create_database(DatabaseRequest(database="1")),
        "the first character of a database name must be an underscore or letter: invalid database name[database=1]",
        802,
    ),
    "default database": (
        lambda bench: bench.proxy.drop_database(DatabaseRequest(database="default")),
        "can not drop default database",
        65535,
    ),
    "no database": (
        lambda bench: bench.proxy.describe_database(DatabaseRequest(database="x")),
        "database not found[database=x]",
        800,
    ),
    "alter database": (
        lambda bench: bench.proxy.alter_database(DatabaseRequest(database="default")),
        "alter database requires either properties or deletekeys",
        65535,
    ),
    "alter both": (
        lambda bench: bench.proxy.alter_collection(
            AlterPropertiesRequest(collection="c", properties={"a": "b"}, delete_keys=("c",))
        ),
        "cannot provide both DeleteKeys and ExtraParams",
        1100,
    ),
    "alter nothing": (
        lambda bench: bench.proxy.alter_collection(AlterPropertiesRequest(collection="c")),
        "no properties or delete keys provided",
        1100,
    ),
    "dynamic off": (
        lambda bench: bench.proxy.alter_collection(
            AlterPropertiesRequest(collection="c", properties={"dynamicfield.enabled": "false"})
        ),
        "dynamic schema cannot supported to be disabled",
        1100,
    ),
    "dynamic gone": (
        lambda bench: bench.proxy.alter_collection(
            AlterPropertiesRequest(collection="c", delete_keys=("dynamicfield.enabled",))
        ),
        "cannot delete key dynamicfield.enabled",
        1100,
    ),
    "alter field": (
        lambda bench: bench.proxy.alter_collection(
            AlterPropertiesRequest(collection="c", field="rank", properties={"nullable": "true"})
        ),
        "nullable does not allow update in collection field param",
        1100,
    ),
    "alter length": (
        lambda bench: bench.proxy.alter_collection(
            AlterPropertiesRequest(collection="c", field="name", properties={"max_length": "0"})
        ),
        "the maximum value of max_length specified for the field(name) should be in (0, 65535], but got 0 instead",
        1100,
    ),
    "no field": (
        lambda bench: bench.proxy.alter_collection(
            AlterPropertiesRequest(collection="c", field="x", properties={"max_length": "1"})
        ),
        "field not found[field=x]",
        1700,
    ),
    "index field": (
        lambda bench: bench.proxy.create_index(CreateIndexRequest(collection="c", field="x")),
        "cannot create index on non-exist field: x",
        65535,
    ),
    "index name": (
        lambda bench: bench.proxy.create_index(CreateIndexRequest(collection="c", field="rank", index_name="1-")),
        "Invalid index name: 1-.",
        1100,
    ),
    "index type": (
        lambda bench: bench.proxy.create_index(
            CreateIndexRequest(collection="c", field="vector", params={"index_type": "X"})
        ),
        "invalid parameter[expected=valid index][actual=invalid index type: X]",
        1100,
    ),
    "index not served": (
        lambda bench: bench.proxy.create_index(
            CreateIndexRequest(collection="c", field="vector", params={"index_type": "DISKANN", "metric_type": "L2"})
        ),
        "service unimplemented",
        10,
    ),
    "load key": (
        lambda bench: bench.proxy.load(LoadRequest(collection="c", load_fields=("vector",))),
        "does not contain primary key field id",
        1100,
    ),
    "load vector": (
        lambda bench: bench.proxy.load(LoadRequest(collection="c", load_fields=("id",))),
        "does not contain vector field",
        1100,
    ),
    "load partition": (
        lambda bench: bench.proxy.load(LoadRequest(collection="c", partitions=("x",))),
        "partition not found[partition=x]",
        200,
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_bad_calls(name: str) -> None:
    call, text, code = CALLS[name]
    expect(call, text, code)


def test_text_keys_are_checked_as_text() -> None:
    made = schema(TEXT_ID, VECTOR)
    request = insert(ids(["k" * 65]), vectors([[1, 2]]))
    expect(lambda bench: bench.proxy.insert(request), "length of varchar field id exceeds max length", 1100, made=made)
