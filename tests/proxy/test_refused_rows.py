"""Everything that can be wrong with rows and schemas: the text, the code, and that nothing happened."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from elanus.base.errors import ElanusError
from elanus.model.columns import Column, arrow_type
from elanus.model.requests import (
    CollectionRequest,
    CreateCollectionRequest,
    DeleteRequest,
)
from elanus.model.schema import FieldSchema, FunctionSchema
from elanus.model.types import DataType
from elanus.nodes.proxy.values import checked_values

from .requests import (
    AUTO_ID,
    ID,
    TEXT_ID,
    VECTOR,
    WIDE,
    collection,
    expect,
    ids,
    insert,
    schema,
    sent,
    vectors,
)
from .twin import Bench

ONE = (ids([1]), vectors([[1, 2]]))


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
        "the length(3) of float data should divide the dim(2): invalid parameter[expected=2][actual=3]",
        1100,
    ),
    "wide": (
        insert(ONE[0], sent("vector", DataType.FLOAT_VECTOR, np.zeros((1, 4), "<f4"))),
        "the dim (4) of field data(vector) is not equal to schema dim (2): invalid parameter[expected=2][actual=4]",
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
    made = schema(AUTO_ID, VECTOR, field("rank", DataType.INT64, nullable=True))
    expect(lambda bench: bench.proxy.insert(insert(*ONE)), text, 1100, made=made)
    made = schema(AUTO_ID, VECTOR)
    expect(lambda bench: bench.proxy.insert(insert(*ONE)), "more fieldData has pass in", 1100, made=made)


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
    with pytest.raises(ElanusError, match=r".*") as caught:
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
    "field name": (schema(ID, VECTOR, field("a-b")), "Invalid field name: a-b. Field name can only contain", 1701),
    "system": (
        schema(ID, VECTOR, field("RowID")),
        "schema contains system field: RowID, Timestamp, $meta, $namespace_id: "
        "invalid parameter[expected=schema don't contains system field][actual=contains]",
        1100,
    ),
    "dim": (
        schema(ID, vector(dim="1")),
        "invalid dimension: 1. should be in range 2 ~ 32768",
        65535,
    ),
    "dim text": (schema(ID, vector(dim="x")), "the value for dim of field v must be an integer", 1100),
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
    "text": (schema(ID, VECTOR, field("g", DataType.TEXT)), "fields of type Text", 10),
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


def test_text_keys_are_checked_as_text() -> None:
    made = schema(TEXT_ID, VECTOR)
    request = insert(ids(["k" * 65]), vectors([[1, 2]]))
    expect(lambda bench: bench.proxy.insert(request), "length of varchar field id exceeds max length", 1100, made=made)
