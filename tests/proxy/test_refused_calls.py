"""Everything that can be wrong with reads and administrative calls: the text, the code, and that nothing happened."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from elanus.model.requests import (
    AliasRequest,
    AlterPropertiesRequest,
    CreateIndexRequest,
    DatabaseRequest,
    LoadRequest,
    PartitionRequest,
    RenameCollectionRequest,
    SearchRequest,
)
from elanus.model.types import DataType

from .requests import (
    ID,
    VECTOR,
    expect,
    query,
    schema,
    search,
)
from .twin import Bench

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
    "count and more": (query("id > 0", ("count(*)", "id")), "count(*) must be the only output field", 1100),
    "grouping": (query("id > 0", params={"group_by_fields": "id"}), "group_by_fields needs output fields", 1100),
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
        "alter database with empty properties and delete keys",
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
        "field x does not exist in collection c",
        1100,
    ),
    "alter loaded index": (
        lambda bench: bench.proxy.alter_collection(
            AlterPropertiesRequest(collection="c", index_name="vector", properties={"mmap.enabled": "true"})
        ),
        "can't alter index on loaded collection, please release the collection first: "
        "collection already loaded[collection=c]",
        104,
    ),
    "alter index key": (
        lambda bench: bench.proxy.alter_collection(
            AlterPropertiesRequest(collection="c", index_name="vector", properties={"M": "8"})
        ),
        "M is not a configable index property",
        1100,
    ),
    "alter index value": (
        lambda bench: bench.proxy.alter_collection(
            AlterPropertiesRequest(collection="c", index_name="vector", properties={"mmap.enabled": "x"})
        ),
        "invalid mmap.enabled value: x, expected: true, false",
        1100,
    ),
    "alter mmap": (
        lambda bench: bench.proxy.alter_collection(
            AlterPropertiesRequest(collection="c", properties={"mmap.enabled": "true"})
        ),
        "can not alter mmap properties if collection loaded: collection already loaded[collection=c]",
        104,
    ),
    "index field": (
        lambda bench: bench.proxy.create_index(CreateIndexRequest(collection="c", field="x")),
        "json index must specify cast type",
        1100,
    ),
    "index path": (
        lambda bench: bench.proxy.create_index(
            CreateIndexRequest(
                collection="c",
                field="x",
                index_name="i",
                params={"index_type": "INVERTED", "json_cast_type": "DOUBLE", "json_path": "/"},
            )
        ),
        "cannot parse identifier: /",
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
            CreateIndexRequest(collection="c", field="vector", params={"index_type": "AISAQ", "metric_type": "L2"})
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
    "load nameless": (
        lambda bench: bench.proxy.load(LoadRequest(collection="1-", partitions=("x",))),
        "Invalid collection name: 1-.",
        1100,
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_bad_calls(name: str) -> None:
    call, text, code = CALLS[name]
    expect(call, text, code)
