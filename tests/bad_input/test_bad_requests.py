"""Requests that no right client sends: each gets Milvus's code and a text that helps, and changes nothing.

Codes and texts are those of the wire contract; a tuple of codes stands where Milvus itself sends one or the other.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from bad_world import (
    CAPACITY,
    COLLECTION,
    DIM,
    World,
    insert_request,
    query_request,
    scalars,
    search_request,
    status_of,
    upsert_request,
    vector_column,
)
from pymilvus import DataType
from pymilvus.grpc_gen import common_pb2, milvus_pb2, schema_pb2

pytestmark = pytest.mark.slow

Codes = int | tuple[int, ...]


def refused(world: World, verb: str, request: Any, codes: Codes, text: str) -> None:
    """The call is refused with one of the codes and the text."""
    status = status_of(world.call(verb, request))
    wanted = codes if isinstance(codes, tuple) else (codes,)
    assert status.code in wanted, f"{status.code} {status.reason}"
    assert text.lower() in status.reason.lower(), status.reason
    assert status.error_code != 0, "old clients look at error_code"


def nullish() -> schema_pb2.FieldData:
    column = scalars("small", DataType.INT8, "int_data", [1])
    column.valid_data.extend([True, False])
    return column


def long_array() -> schema_pb2.FieldData:
    column = schema_pb2.FieldData(field_name="numbers", type=int(DataType.ARRAY))
    values = schema_pb2.ScalarField(long_data=schema_pb2.LongArray(data=range(CAPACITY + 1)))
    column.scalars.array_data.data.extend([values, values])
    column.scalars.array_data.element_type = int(DataType.INT64)
    return column


NAN, INF = float("nan"), float("inf")

ROWS: list[tuple[str, dict[str, Any], Codes, str]] = [
    ("vector of another dimension", {"vector": vector_column([0.5] * 16, 8)}, 1100, "dim"),
    ("half a vector", {"vector": vector_column([0.5] * 7)}, (1100, 65535), "dim"),
    ("one vector too few", {"vector": vector_column([0.5] * 4)}, 1100, "num_rows"),
    ("NaN", {"vector": vector_column([NAN] + [0.5] * 7)}, 65535, "not a number or infinity"),
    ("infinity", {"vector": vector_column([0.5] * 7 + [INF])}, 65535, "not a number or infinity"),
    ("minus infinity", {"vector": vector_column([-INF] + [0.5] * 7)}, 65535, "not a number or infinity"),
    ("no vector column", {"vector": None}, 1100, "vector"),
    ("no key column", {"pk": None}, 1100, "pk"),
    ("no scalar column", {"text": None}, 1100, "text"),
    ("one row too few", {"text": scalars("text", DataType.VARCHAR, "string_data", ["a"])}, 1100, "num_rows"),
    (
        "text too long",
        {"text": scalars("text", DataType.VARCHAR, "string_data", ["ok", "x" * 17])},
        1100,
        "exceeds max",
    ),
    (
        "text too long in bytes",
        {"text": scalars("text", DataType.VARCHAR, "string_data", ["é" * 9, "a"])},
        1100,
        "exceed",
    ),
    ("text for a number", {"pk": scalars("pk", DataType.VARCHAR, "string_data", ["1", "2"])}, 1100, "pk"),
    ("number for a text", {"text": scalars("text", DataType.INT64, "long_data", [1, 2])}, 1100, "text"),
    ("double for an integer", {"small": scalars("small", DataType.DOUBLE, "double_data", [1, 2])}, 1100, "small"),
    ("a scalar for the vector", {"vector": scalars("vector", DataType.INT64, "long_data", [1, 2])}, 1100, "vector"),
    ("INT8 out of range", {"small": scalars("small", DataType.INT8, "int_data", [1, 300])}, 1100, "out of range"),
    ("null where none may be", {"small": nullish()}, 1100, "small"),
    (
        "JSON that is none",
        {"document": scalars("document", DataType.JSON, "json_data", [b"{", b"{}"])},
        (1100, 65535),
        "json",
    ),
    (
        "JSON too large",
        {"document": scalars("document", DataType.JSON, "json_data", [b'"' + b"x" * 65536 + b'"', b"{}"])},
        1100,
        "max",
    ),
    ("array too long", {"numbers": long_array()}, 1100, "max capacity"),
    ("column twice", {"again": scalars("text", DataType.VARCHAR, "string_data", ["a", "b"])}, 1100, "text"),
    ("column of no name", {"none": scalars("", DataType.INT64, "long_data", [1, 2])}, (1100, 65535), "field"),
]


@pytest.mark.parametrize(("changed", "codes", "text"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
@pytest.mark.parametrize("verb", ["Insert", "Upsert"])
def test_bad_rows(world: World, verb: str, changed: dict[str, Any], codes: Codes, text: str) -> None:
    make = insert_request if verb == "Insert" else upsert_request
    refused(world, verb, make(changed), codes, text)


WRITES: list[tuple[str, str, Any, Codes, str]] = [
    ("unknown collection", "Insert", insert_request(collection_name="nobody"), 100, "collection not found"),
    ("no collection", "Insert", insert_request(collection_name=""), (1100, 100), "collection"),
    ("bad collection name", "Insert", insert_request(collection_name="a b;c"), (1100, 100), "collection"),
    ("unknown partition", "Insert", insert_request(partition_name="nowhere"), 200, "partition not found"),
    ("unknown database", "Insert", insert_request(db_name="nobase"), 800, "database not found"),
    ("rows that are not there", "Insert", insert_request(num_rows=7), 1100, "num_rows"),
    ("no rows", "Insert", insert_request(count=0), 1100, "num_rows"),
    ("upsert unknown", "Upsert", upsert_request(collection_name="nobody"), 100, "collection not found"),
    (
        "upsert of a key twice",
        "Upsert",
        upsert_request({"pk": scalars("pk", DataType.INT64, "long_data", [5, 5])}),
        1100,
        "duplicate primary keys",
    ),
    ("delete without words", "Delete", milvus_pb2.DeleteRequest(collection_name=COLLECTION), 1100, "delete plan"),
    (
        "delete with a broken filter",
        "Delete",
        milvus_pb2.DeleteRequest(collection_name=COLLECTION, expr="pk in [1,"),
        1100,
        "failed to create delete plan",
    ),
    (
        "delete by an unknown field",
        "Delete",
        milvus_pb2.DeleteRequest(collection_name="asleep", expr="colour =="),
        1100,
        "delete plan",
    ),
    ("delete of nobody", "Delete", milvus_pb2.DeleteRequest(collection_name="nobody", expr="pk > 0"), 100, "not found"),
    (
        "delete in no partition",
        "Delete",
        milvus_pb2.DeleteRequest(collection_name=COLLECTION, expr="pk > 0", partition_name="nowhere"),
        200,
        "partition not found",
    ),
    ("flush of nobody", "Flush", milvus_pb2.FlushRequest(collection_names=["nobody"]), 100, "not found"),
    (
        "drop partition",
        "DropPartition",
        milvus_pb2.DropPartitionRequest(collection_name=COLLECTION, partition_name="_default"),
        (1100, 65535),
        "default partition",
    ),
    (
        "partition of no name",
        "CreatePartition",
        milvus_pb2.CreatePartitionRequest(collection_name=COLLECTION, partition_name=""),
        (1100, 65535),
        "partition name",
    ),
    (
        "partition of bad name",
        "CreatePartition",
        milvus_pb2.CreatePartitionRequest(collection_name=COLLECTION, partition_name="1 a"),
        (1100, 65535),
        "partition name",
    ),
    ("load of nobody", "LoadCollection", milvus_pb2.LoadCollectionRequest(collection_name="nobody"), 100, "not found"),
    (
        "load without an index",
        "LoadCollection",
        milvus_pb2.LoadCollectionRequest(collection_name="asleep"),
        (700, 65535),
        "index",
    ),
    (
        "release of nobody",
        "ReleaseCollection",
        milvus_pb2.ReleaseCollectionRequest(collection_name="nobody"),
        100,
        "not found",
    ),
    (
        "rename of nobody",
        "RenameCollection",
        milvus_pb2.RenameCollectionRequest(oldName="nobody", newName="x"),
        100,
        "not found",
    ),
    (
        "rename to a taken name",
        "RenameCollection",
        milvus_pb2.RenameCollectionRequest(oldName=COLLECTION, newName="asleep"),
        (1100, 65535),
        "duplicated new collection name",
    ),
    (
        "rename to no name",
        "RenameCollection",
        milvus_pb2.RenameCollectionRequest(oldName=COLLECTION, newName=""),
        1100,
        "name",
    ),
    (
        "alias of nobody",
        "CreateAlias",
        milvus_pb2.CreateAliasRequest(collection_name="nobody", alias="al"),
        100,
        "not found",
    ),
    (
        "alias that is a collection",
        "CreateAlias",
        milvus_pb2.CreateAliasRequest(collection_name=COLLECTION, alias="asleep"),
        1601,
        "conflict",
    ),
    (
        "alias of bad name",
        "CreateAlias",
        milvus_pb2.CreateAliasRequest(collection_name=COLLECTION, alias="a-b"),
        1100,
        "alias",
    ),
    (
        "altering no alias",
        "AlterAlias",
        milvus_pb2.AlterAliasRequest(collection_name=COLLECTION, alias="nope"),
        1600,
        "alias not found",
    ),
    ("database of bad name", "CreateDatabase", milvus_pb2.CreateDatabaseRequest(db_name="1 x"), 802, "database name"),
    (
        "compaction of nothing",
        "ManualCompaction",
        milvus_pb2.ManualCompactionRequest(collectionID=424242),
        (100, 1100, 65535),
        "collection",
    ),
]


@pytest.mark.parametrize(
    ("verb", "request_", "codes", "text"), [row[1:] for row in WRITES], ids=[row[0] for row in WRITES]
)
def test_bad_writes(world: World, verb: str, request_: Any, codes: Codes, text: str) -> None:
    refused(world, verb, request_, codes, text)


def expression_request(text: str) -> Any:
    return search_request(dsl=text)


PLAN = "failed to create query plan"

SEARCHES: list[tuple[str, Any, Codes, str]] = [
    ("unknown collection", search_request(collection_name="nobody"), 100, "collection not found"),
    ("not loaded", search_request(collection_name="asleep"), 101, "not loaded"),
    ("unknown partition", search_request(partition_names=["nowhere"]), 65535, "partition name nowhere not found"),
    ("k of nought", search_request(parameters={"topk": "0"}), (1100, 65535), "topk"),
    ("k below nought", search_request(parameters={"topk": "-5"}), (1100, 65535), "topk"),
    ("k too large", search_request(parameters={"topk": "16385"}), (1100, 65535), "[1, 16384]"),
    ("k enormous", search_request(parameters={"topk": str(2**70)}), (1100, 65535), "topk"),
    ("k in words", search_request(parameters={"topk": "many"}), (1100, 65535), "topk"),
    ("no k", search_request(parameters={"topk": ""}), (1100, 65535), "topk"),
    ("too many queries", search_request(np.zeros((16385, DIM))), (1100, 65535), "[1, 16384]"),
    ("number of queries is a lie", search_request(nq=3), (1100, 65535), "nq"),
    ("offset below nought", search_request(parameters={"offset": "-1"}), (1100, 65535), "offset"),
    ("offset too far", search_request(parameters={"offset": "16384"}), (1100, 65535), "16384"),
    ("query of another dimension", search_request([[1.0] * 5]), (1100, 65535), "dim"),
    ("query of NaN", search_request([[NAN, 1, 2, 3]]), (1100, 65535), "number"),
    ("no queries", search_request(nq=0, placeholder_group=b""), (1100, 65535), ""),
    ("queries of garbage", search_request(placeholder_group=b"\xff\xfe\xfd garbage"), (1100, 65535, 2000), ""),
    ("unknown vector field", search_request(parameters={"anns_field": "nofield"}), 1100, "nofield"),
    ("a scalar as vector field", search_request(parameters={"anns_field": "text"}), (1100, 65535), "text"),
    ("another metric", search_request(parameters={"metric_type": "IP"}), 1100, "metric type not match"),
    ("a metric that is none", search_request(parameters={"metric_type": "MILES"}), 1100, "metric"),
    ("parameters of garbage", search_request(parameters={"params": "{"}), (1100, 65535), "param"),
    ("ef of nought", search_request(parameters={"params": json.dumps({"ef": 0})}), (1100, 2000, 65535), "ef"),
    ("ef in words", search_request(parameters={"params": json.dumps({"ef": "many"})}), (1100, 2000, 65535), "ef"),
    ("unknown output", search_request(output_fields=["nofield[0]!"]), (1100, 65535), "nofield"),
    ("group by a vector", search_request(parameters={"group_by_field": "vector"}), (1100, 65535, 10), "group"),
    ("broken filter", expression_request("small >"), 1100, PLAN),
    ("filter on text as number", expression_request("text > 5"), 1100, PLAN),
    ("filter with no such function", expression_request("frobnicate(pk)"), 65535, "frobnicate"),
    ("filter of another language", expression_request("'; DROP TABLE victim; --"), 1100, PLAN),
    ("filter that is no question", expression_request("small + 1"), 1100, PLAN),
    ("filter of ten thousand brackets", expression_request("(" * 10_000 + "pk > 1" + ")" * 10_000), 1100, PLAN),
    ("filter on the vector", expression_request("vector > 1"), 1100, PLAN),
    ("filter with an open text", expression_request('text == "abc'), 1100, PLAN),
    ("filter beyond 64 bits", expression_request("pk > 99999999999999999999999"), 1100, PLAN),
    ("filter of a nought byte", expression_request("pk > 1\0"), 1100, PLAN),
]


@pytest.mark.parametrize(("request_", "codes", "text"), [row[1:] for row in SEARCHES], ids=[row[0] for row in SEARCHES])
def test_bad_searches(world: World, request_: Any, codes: Codes, text: str) -> None:
    refused(world, "Search", request_, codes, text)


QUERIES: list[tuple[str, Any, Codes, str]] = [
    ("nothing asked", query_request(""), 1100, "empty expression should be used with limit"),
    ("broken filter", query_request("pk in ["), 1100, "cannot parse expression"),
    ("in a number", query_request("pk in 5"), 1100, "cannot parse expression"),
    ("texts among numbers", query_request('pk in ["a"]'), 1100, "cannot parse expression"),
    ("not loaded", query_request("pk > 1", collection_name="asleep"), 101, "not loaded"),
    ("unknown collection", query_request("pk > 1", collection_name="nobody"), 100, "not found"),
    (
        "unknown partition",
        query_request("pk > 1", partition_names=["nowhere"]),
        65535,
        "partition name nowhere not found",
    ),
    ("limit below nought", query_request("pk > 1", {"limit": "-1"}), (1100, 65535), "limit"),
    ("limit in words", query_request("pk > 1", {"limit": "few"}), (1100, 65535), "limit"),
    ("limit too large", query_request("pk > 1", {"limit": "16385"}), (1100, 65535), "16384"),
    ("offset without limit", query_request("pk > 1", {"limit": "10", "offset": "-3"}), (1100, 65535), "offset"),
    ("count with pages", query_request("pk > 1", {"limit": "3"}, output_fields=["count(*)"]), 1100, "count entities"),
]


@pytest.mark.parametrize(("request_", "codes", "text"), [row[1:] for row in QUERIES], ids=[row[0] for row in QUERIES])
def test_bad_queries(world: World, request_: Any, codes: Codes, text: str) -> None:
    refused(world, "Query", request_, codes, text)


# --- collections ----------------------------------------------------------------------------------------------------


def key_field(**changed: Any) -> schema_pb2.FieldSchema:
    return schema_pb2.FieldSchema(**({"name": "pk", "data_type": 5, "is_primary_key": True} | changed))


def vector_field(dim: str = "4", **changed: Any) -> schema_pb2.FieldSchema:
    pairs = [common_pb2.KeyValuePair(key="dim", value=dim)] if dim else []
    return schema_pb2.FieldSchema(**({"name": "vector", "data_type": 101, "type_params": pairs} | changed))


def creation(*fields: schema_pb2.FieldSchema, name: str = "fresh", **changed: Any) -> Any:
    schema = schema_pb2.CollectionSchema(name=name, fields=fields).SerializeToString()
    return milvus_pb2.CreateCollectionRequest(**({"collection_name": name, "schema": schema} | changed))


CREATIONS: list[tuple[str, Any, Codes, str]] = [
    ("name with a blank", creation(key_field(), vector_field(), name="a b"), 1100, "Invalid collection name"),
    ("name that begins with a digit", creation(key_field(), vector_field(), name="1a"), 1100, "first character"),
    ("name that is empty", creation(key_field(), vector_field(), name=""), 1100, "collection name"),
    ("name that is too long", creation(key_field(), vector_field(), name="x" * 256), 1100, "less than 255"),
    ("schema of garbage", creation(name="fresh", schema=b"\xff\xff\xff\xff"), (1100, 65535, 105), ""),
    ("schema of nothing", creation(name="fresh", schema=b""), (1100, 65535, 105), ""),
    ("no key", creation(vector_field()), (1100, 65535), "primary key"),
    ("two keys", creation(key_field(), key_field(name="pk2"), vector_field()), (1100, 65535), "primary key"),
    ("key of a float", creation(key_field(data_type=10), vector_field()), (1100, 65535), "primary"),
    ("no vector", creation(key_field()), 1100, "vector field"),
    ("dimension of nought", creation(key_field(), vector_field("0")), (1100, 65535), "dimension"),
    ("dimension of one", creation(key_field(), vector_field("1")), (1100, 65535), "dimension"),
    ("dimension too large", creation(key_field(), vector_field("32769")), (1100, 65535), "dimension"),
    ("dimension in words", creation(key_field(), vector_field("four")), (1100, 65535), "dim"),
    ("no dimension", creation(key_field(), vector_field("")), (1100, 65535), "dim"),
    ("a field twice", creation(key_field(), vector_field(), vector_field()), 1100, "duplicated field name"),
    ("a type that is none", creation(key_field(), vector_field(data_type=77)), (1100, 65535), ""),
    ("a text of no length", creation(key_field(data_type=21), vector_field()), (1100, 65535), "max_length"),
    ("too many shards", creation(key_field(), vector_field(), shards_num=17), (1100, 65535), "shard"),
    ("a field of no name", creation(key_field(), vector_field(name="")), (1100, 1701, 65535), "field name"),
    (
        "another schema under a taken name",
        creation(key_field(), vector_field(), name=COLLECTION),
        65535,
        "duplicate collection",
    ),
    (
        "too many fields",
        creation(key_field(), vector_field(), *[schema_pb2.FieldSchema(name=f"f{n}", data_type=5) for n in range(70)]),
        (1100, 65535),
        "maximum field",
    ),
]


@pytest.mark.parametrize(
    ("request_", "codes", "text"), [row[1:] for row in CREATIONS], ids=[row[0] for row in CREATIONS]
)
def test_bad_creations(world: World, request_: Any, codes: Codes, text: str) -> None:
    refused(world, "CreateCollection", request_, codes, text)


def index_request(field: str = "vector", collection: str = "asleep", **pairs: str) -> Any:
    named = {"index_type": "HNSW", "metric_type": "L2", "params": json.dumps({"M": 8, "efConstruction": 64})} | pairs
    parameters = [common_pb2.KeyValuePair(key=k, value=v) for k, v in named.items() if v]
    return milvus_pb2.CreateIndexRequest(collection_name=collection, field_name=field, extra_params=parameters)


INDEXES: list[tuple[str, Any, Codes, str]] = [
    ("field of nobody", index_request("nofield"), (1100, 65535, 1700), "json"),
    ("collection of nobody", index_request(collection="nobody"), 100, "not found"),
    ("type that is none", index_request(index_type="MAGIC"), 1100, "invalid index type"),
    ("metric that is none", index_request(metric_type="MILES"), 1100, "metric type"),
    ("metric of bits", index_request(metric_type="HAMMING"), 1100, "metric type"),
    ("M of nought", index_request(params=json.dumps({"M": 0, "efConstruction": 64})), 1100, "M"),
    ("nlist too large", index_request(index_type="IVF_FLAT", params=json.dumps({"nlist": 70000})), 1100, "nlist"),
    ("parameters of garbage", index_request(params="{"), (1100, 65535), "param"),
    (
        "second index of a field",
        index_request(collection=COLLECTION, index_type="FLAT", params="{}"),
        65535,
        "at most one distinct index",
    ),
    ("vector index of a text", index_request("text"), 1100, "index"),
]


@pytest.mark.parametrize(("request_", "codes", "text"), [row[1:] for row in INDEXES], ids=[row[0] for row in INDEXES])
def test_bad_indexes(world: World, request_: Any, codes: Codes, text: str) -> None:
    refused(world, "CreateIndex", request_, codes, text)


def test_index_of_a_loaded_field_stays(world: World) -> None:
    request = milvus_pb2.DropIndexRequest(collection_name=COLLECTION, field_name="vector", index_name="vector")
    refused(world, "DropIndex", request, 1100, "vector index cannot be dropped on loaded collection")


def test_a_moment_far_ahead(world: World) -> None:
    request = query_request("pk > 1", guarantee_timestamp=2**63, consistency_level=4)
    request.use_default_consistency = False
    refused(world, "Query", request, 10001, "ahead of the cluster's time")
