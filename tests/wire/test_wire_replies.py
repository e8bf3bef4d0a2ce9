"""Shapes of replies, read back with protobuf, and of requests, as clients write them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elanus.model import requests as r
from elanus.model.columns import Column
from elanus.model.errors import BadParameterError, RequestError, UnsupportedError
from elanus.model.requests import FieldOperation
from elanus.model.schema import CollectionSchema, FieldSchema, FunctionSchema
from elanus.model.timestamp import compose
from elanus.model.types import ConsistencyLevel, DataType, SegmentStatus
from elanus.wire import decode, decode_data, encode, encode_data
from elanus.wire.messages import messages
from elanus.wire.schemas import decode_schema, fill_schema

INT_KEY = FieldSchema(100, "id", DataType.INT64, is_primary=True)


# --- writes ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("count", [0, 1, 127, 128, 129, 5000, 16384, 20000])
def test_mutation(count: int) -> None:
    reply = r.MutationReply(
        keys=Column(np.arange(count) * 10**14), insert_count=count, delete_count=2, upsert_count=3, timestamp=99
    )
    message = messages().MutationResult.FromString(encode_data.mutation(reply))
    assert message.HasField("status")
    assert message.status.code == 0
    assert list(message.IDs.int_id.data) == [row * 10**14 for row in range(count)]
    assert list(message.succ_index) == list(range(count))
    assert (message.insert_cnt, message.delete_cnt, message.upsert_cnt, message.timestamp) == (count, 2, 3, 99)


def test_insert_request() -> None:
    message = messages().InsertRequest(collection_name="c", partition_name="p", num_rows=2, schema_timestamp=1 << 60)
    vector = message.fields_data.add(type=int(DataType.FLOAT_VECTOR), field_name="v")
    vector.vectors.dim = 3
    vector.vectors.float_vector.data.extend([1, 2, 3, 4, 5, 6])
    extra = message.fields_data.add(type=int(DataType.JSON), is_dynamic=True)
    extra.scalars.json_data.data.extend([b"{}", b'{"a": 1}'])
    message.hash_keys.extend([5, 6])
    request = decode_data.insert(message.SerializeToString(), "fallback")
    assert (request.database, request.collection, request.partition) == ("fallback", "c", "p")
    assert (request.row_count, request.schema_timestamp, request.partial_update) == (2, 1 << 60, False)
    first, second = request.fields
    assert first.column.values.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert (first.name, first.dimension, first.is_dynamic) == ("v", 3, False)
    assert second.is_dynamic
    assert second.column.values.to_pylist() == [b"{}", b'{"a": 1}']


def test_insert_request_with_many_unpacked_entries() -> None:
    message = messages().InsertRequest(collection_name="c", num_rows=1)
    column = message.fields_data.add(type=int(DataType.INT64), field_name="id")
    column.scalars.long_data.data.append(7)
    raw = message.SerializeToString() + b"\x30\x05" * 5000
    request = decode_data.insert(raw, "")
    assert request.fields[0].column.values.tolist() == [7]
    assert request.collection == "c"


def test_upsert_request() -> None:
    message = messages().UpsertRequest(db_name="d", collection_name="c", num_rows=0, partial_update=True)
    request = decode_data.upsert(message.SerializeToString(), "fallback")
    assert request.partial_update
    assert request.database == "d"
    message = messages().UpsertRequest(collection_name="c", num_rows=0)
    message.field_ops.add(field_name="tags", op=1)
    request = decode_data.upsert(message.SerializeToString(), "")
    assert request.partial_update
    assert request.operations == (("tags", FieldOperation.APPEND),)


def test_delete_request_with_templates() -> None:
    message = messages().DeleteRequest(collection_name="c", expr="id in {ids} and x == {x}", consistency_level=2)
    message.expr_template_values["x"].float_val = 1.5
    message.expr_template_values["flag"].bool_val = False
    message.expr_template_values["ids"].array_val.long_data.data.extend([1, 2])
    message.expr_template_values["docs"].array_val.json_data.data.append(b'{"a": [1]}')
    inner = message.expr_template_values["lists"].array_val.array_data.data
    inner.add().string_data.data.extend(["a", "b"])
    inner.add()
    request = decode_data.delete(message.SerializeToString(), "")
    assert request.templates == {
        "x": 1.5,
        "flag": False,
        "ids": [1, 2],
        "docs": [{"a": [1]}],
        "lists": [["a", "b"], []],
    }
    assert request.consistency_level is ConsistencyLevel.BOUNDED


# --- reads ----------------------------------------------------------------------------------------------------------
def test_search_reply() -> None:
    names = FieldSchema(101, "name", DataType.VARCHAR, nullable=True)
    reply = r.SearchReply(
        collection="c",
        primary_field="id",
        counts=np.array([2, 0, 1]),
        keys=Column(np.array([7, -8, 9])),
        scores=np.array([0.5, 0.25, -1.0], np.float32),
        fields=(r.OutgoingField(names, Column(pa.array(["a", "", "c"], pa.large_string()), np.array([1, 0, 1], "?"))),),
        output_fields=("name",),
        session_timestamp=123,
        searched_row_count=50,
        iterator_token="token",
        iterator_last_bound=-1.0,
    )
    message = messages().SearchResults.FromString(encode_data.search(reply))
    results = message.results
    assert (message.status.code, message.collection_name, message.session_ts) == (0, "c", 123)
    assert (results.num_queries, results.top_k, list(results.topks)) == (3, 2, [2, 0, 1])
    assert list(results.ids.int_id.data) == [7, -8, 9]
    assert list(results.scores) == [0.5, 0.25, -1.0]
    assert results.primary_field_name == "id"
    assert list(results.output_fields) == ["name"]
    assert results.all_search_count == 50
    assert (results.search_iterator_v2_results.token, results.search_iterator_v2_results.last_bound) == ("token", -1.0)
    (field,) = results.fields_data
    assert list(field.scalars.string_data.data) == ["a", "", "c"]
    assert list(field.valid_data) == [True, False, True]
    assert (field.field_id, field.field_name, field.type) == (101, "name", 21)


def test_empty_search_reply() -> None:
    reply = r.SearchReply(
        collection="c",
        primary_field="id",
        counts=np.zeros(2, np.int64),
        keys=Column(np.empty(0, np.int64)),
        scores=np.empty(0, np.float32),
    )
    results = messages().SearchResults.FromString(encode_data.search(reply)).results
    assert (results.num_queries, results.top_k, list(results.topks)) == (2, 0, [0, 0])
    assert not results.scores
    assert not results.HasField("ids")


def test_search_reply_of_elements() -> None:
    reply = r.SearchReply(
        collection="c",
        primary_field="id",
        counts=np.array([2, 1]),
        keys=Column(np.array([7, 7, 9])),
        scores=np.array([0.5, 0.25, -1.0], np.float32),
        elements=np.array([3, 0, 300]),
    )
    results = messages().SearchResults.FromString(encode_data.search(reply)).results
    assert list(results.element_indices.data) == [3, 0, 300]
    assert list(results.ids.int_id.data) == [7, 7, 9]
    of_rows = messages().SearchResults.FromString(encode_data.search(msgspec.structs.replace(reply, elements=None)))
    assert not of_rows.results.HasField("element_indices")


def test_query_reply() -> None:
    reply = r.QueryReply(
        collection="c",
        primary_field="id",
        fields=(r.OutgoingField(INT_KEY, Column(np.array([1, 2]))),),
        output_fields=("id",),
        session_timestamp=9,
    )
    message = messages().QueryResults.FromString(encode_data.query(reply))
    assert message.HasField("status")
    assert list(message.fields_data[0].scalars.long_data.data) == [1, 2]
    assert (message.collection_name, message.session_ts, message.primary_field_name) == ("c", 9, "id")
    assert list(message.output_fields) == ["id"]


def placeholder_group(kind: int, values: list[bytes], *, element_level: bool = False) -> bytes:
    message = messages().PlaceholderGroup()
    message.placeholders.add(tag="$0", type=kind, values=values, element_level=element_level)
    data: bytes = message.SerializeToString()
    return data


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(1, 20),
    width=st.sampled_from([1, 2, 31, 32, 768]),
    kind=st.sampled_from([(101, "<f4"), (102, "<f2"), (103, "<u2"), (105, "<i1"), (100, "<u1")]),
    element_level=st.booleans(),
    walked_bytes_min=st.sampled_from([0, decode_data.WALKED_BYTES_MIN]),
)
def test_query_vectors(
    count: int, width: int, kind: tuple[int, str], element_level: bool, walked_bytes_min: int
) -> None:
    vectors = np.random.default_rng(count).integers(0, 100, (count, width)).astype(kind[1])
    group = placeholder_group(kind[0], [row.tobytes() for row in vectors], element_level=element_level)
    found, data_type = decode_data.placeholders(group, walked_bytes_min)
    assert data_type == kind[0]
    assert found.dtype == np.dtype(kind[1])
    assert found.flags.aligned
    np.testing.assert_array_equal(found, vectors)


def test_query_texts_and_sparse_rows() -> None:
    found, data_type = decode_data.placeholders(placeholder_group(21, ["ä".encode(), b""]))
    assert (found.tolist(), data_type) == (["ä", ""], DataType.VARCHAR)
    found, data_type = decode_data.placeholders(placeholder_group(104, [b"12345678", b""]))
    assert (found.tolist(), data_type) == ([b"12345678", b""], DataType.SPARSE_FLOAT_VECTOR)


@pytest.mark.parametrize(
    ("group", "error"),
    [
        (placeholder_group(101, [b"1234", b"12345678"]), RequestError),
        (placeholder_group(101, [b"12345"]), RequestError),
        (placeholder_group(302, [b"1234"]), UnsupportedError),
        (placeholder_group(21, [b"\xff"]), RequestError),
        (b"", BadParameterError),
    ],
    ids=["lengths differ", "half a float", "embedding list", "not UTF-8", "none"],
)
def test_queries_that_cannot_be_read(group: bytes, error: type[Exception]) -> None:
    for walked_bytes_min in (0, decode_data.WALKED_BYTES_MIN):
        with pytest.raises(error):
            decode_data.placeholders(group, walked_bytes_min)


def test_search_request() -> None:
    message = messages().SearchRequest(
        collection_name="c",
        dsl="a > 1",
        nq=1,
        output_fields=["x"],
        partition_names=["p"],
        guarantee_timestamp=5,
        consistency_level=1,
        placeholder_group=placeholder_group(101, [np.zeros(4, "<f4").tobytes()]),
    )
    message.search_params.add(key="topk", value="10")
    message.search_params.add(key="params", value='{"ef": 5}')
    request = decode_data.search(message.SerializeToString(), "")
    assert request.params == {"topk": "10", "params": '{"ef": 5}'}
    assert (request.filter, request.query_count, request.output_fields, request.partitions) == (
        "a > 1",
        1,
        ("x",),
        ("p",),
    )
    assert request.consistency == r.Consistency(ConsistencyLevel.SESSION, 5, False)
    refused = messages().SearchRequest.FromString(message.SerializeToString())
    refused.highlighter.SetInParent()
    with pytest.raises(UnsupportedError, match="highlighter"):
        decode_data.search(refused.SerializeToString(), "")


def test_search_by_keys_and_scored_by_functions() -> None:
    message = messages().SearchRequest(collection_name="c", nq=2, consistency_level=1)
    message.ids.int_id.data.extend([-3, 1 << 62])
    function = message.function_score.functions.add(name="f", type=3, input_field_names=["n"])
    function.params.add(key="reranker", value="decay")
    message.function_score.params.add(key="boost_mode", value="sum")
    request = decode_data.search(message.SerializeToString(), "")
    assert request.ids is not None
    assert request.ids.values.tolist() == [-3, 1 << 62]
    assert request.function_score is not None
    assert request.function_score.params == {"boost_mode": "sum"}
    (decoded,) = request.function_score.functions
    assert (decoded.name, decoded.function_type, decoded.input_field_names) == ("f", 3, ("n",))
    assert decoded.params == {"reranker": "decay"}
    message.ids.str_id.data.append("é")
    texts = decode_data.search(message.SerializeToString(), "").ids
    assert texts is not None
    assert texts.values.to_pylist() == ["é"]


def test_hybrid_search_request() -> None:
    message = messages().HybridSearchRequest(
        db_name="d", collection_name="c", partition_names=["p"], output_fields=["x"], consistency_level=2
    )
    for dimension in (2, 3):
        group = placeholder_group(101, [np.zeros(dimension, "<f4").tobytes()])
        message.requests.add(collection_name="c", dsl="a > 1", nq=1, placeholder_group=group)
    message.rank_params.add(key="limit", value="10")
    request = decode_data.hybrid_search(message.SerializeToString(), "")
    assert (request.database, request.collection, request.partitions) == ("d", "c", ("p",))
    assert (request.output_fields, request.rank_params) == (("x",), {"limit": "10"})
    assert request.function_score is None
    assert [one.queries.shape for one in request.requests] == [(1, 2), (1, 3)]
    assert [one.filter for one in request.requests] == ["a > 1", "a > 1"]
    message.namespace = "n"
    with pytest.raises(BadParameterError, match="namespace"):
        decode_data.hybrid_search(message.SerializeToString(), "")


# --- schemas --------------------------------------------------------------------------------------------------------
def a_schema() -> CollectionSchema:
    return CollectionSchema(
        "c",
        (
            INT_KEY,
            FieldSchema(101, "v", DataType.FLOAT_VECTOR, type_params={"dim": "8"}),
            FieldSchema(102, "t", DataType.VARCHAR, nullable=True, default="x", type_params={"max_length": "9"}),
            FieldSchema(103, "a", DataType.ARRAY, element_type=DataType.INT8, type_params={"max_capacity": "4"}),
            FieldSchema(104, "s", DataType.SPARSE_FLOAT_VECTOR, is_function_output=True),
            FieldSchema(105, "f", DataType.FLOAT, default=0.5),
            FieldSchema(106, "b", DataType.BOOL, default=False, is_clustering_key=True),
            FieldSchema(107, "i", DataType.INT8, default=-3),
            FieldSchema(108, "$meta", DataType.JSON, is_dynamic=True),
        ),
        "text",
        True,
        (FunctionSchema(100, "bm25", 1, "", ("t",), ("s",), {"k": "1"}),),
    )


def test_schema_survives_the_wire_except_ids() -> None:
    message = messages().CollectionSchema()
    fill_schema(message, a_schema(), "d")
    assert [field.name for field in message.fields] == ["id", "v", "t", "a", "s", "f", "b", "i"]
    assert [field.fieldID for field in message.fields] == list(range(100, 108))
    assert list(message.functions[0].input_field_ids) == [102]
    assert list(message.functions[0].output_field_ids) == [104]
    back = decode_schema(message.SerializeToString())
    assert back.enable_dynamic_field
    assert back.functions[0].input_field_names == ("t",)
    assert [field.default for field in back.fields] == [None, None, "x", None, None, 0.5, False, -3]
    assert all(field.field_id == 0 for field in back.fields)
    for before, after in zip(a_schema().fields, back.fields, strict=False):
        assert (before.type_params, before.element_type, before.nullable) == (
            after.type_params,
            after.element_type,
            after.nullable,
        )


def test_default_of_another_type_is_refused() -> None:
    message = messages().CollectionSchema()
    field = message.fields.add(name="n", data_type=int(DataType.TIMESTAMPTZ))
    field.default_value.long_data = 5
    text = r"type \(Timestamptz\) of field \(n\) is not equal to the type\(DataType_Int64\) of default_value: invalid"
    with pytest.raises(BadParameterError, match=text):
        decode_schema(message.SerializeToString())


def test_unknown_types_are_refused() -> None:
    message = messages().CollectionSchema()
    message.fields.add(name="n", data_type=99)
    with pytest.raises(BadParameterError, match="99"):
        decode_schema(message.SerializeToString())


def test_create_collection_request() -> None:
    schema = messages().CollectionSchema(name="c")
    schema.fields.add(name="id", data_type=5, is_primary_key=True)
    message = messages().CreateCollectionRequest(
        db_name="d", collection_name="c", schema=schema.SerializeToString(), consistency_level=3, num_partitions=4
    )
    message.properties.add(key="collection.ttl.seconds", value="60")
    request = decode.create_collection(message.SerializeToString(), "other")
    assert (request.database, request.shard_count, request.partition_count) == ("d", 1, 4)
    assert request.consistency_level is ConsistencyLevel.EVENTUALLY
    assert request.properties == {"collection.ttl.seconds": "60"}


def test_description() -> None:
    reply = r.CollectionReply(
        database="d",
        database_id=3,
        collection_id=4,
        name="c",
        schema=a_schema(),
        shard_count=2,
        virtual_channels=("v0", "v1"),
        physical_channels=("p0", "p1"),
        aliases=("a",),
        consistency_level=ConsistencyLevel.SESSION,
        properties={"k": "v"},
        partitions=(r.PartitionInfo(1, "_default", 0),),
        created_timestamp=compose(1000, 5),
        updated_timestamp=compose(2000, 6),
    )
    message = messages().DescribeCollectionResponse.FromString(encode.description(reply))
    assert (message.collection_name, message.collectionID, message.db_name, message.db_id) == ("c", 4, "d", 3)
    assert (message.created_timestamp, message.created_utc_timestamp) == (compose(1000, 5), 1000)
    assert (message.update_timestamp, message.update_timestamp_str) == (compose(2000, 6), str(compose(2000, 6)))
    assert (message.shards_num, message.num_partitions, message.consistency_level) == (2, 1, 1)
    assert list(message.virtual_channel_names) == ["v0", "v1"]
    assert list(message.physical_channel_names) == ["p0", "p1"]
    assert message.schema.enable_dynamic_field
    assert message.properties[0].key == "k"


# --- other requests and replies -------------------------------------------------------------------------------------
def test_index_params_are_flat() -> None:
    message = messages().CreateIndexRequest(collection_name="c", field_name="v", index_name="i")
    message.extra_params.add(key="index_type", value="HNSW")
    message.extra_params.add(key="params", value=json.dumps({"M": 16, "refine": True, "sq_type": "SQ8"}))
    request = decode.create_index(message.SerializeToString(), "")
    assert request.params == {"index_type": "HNSW", "M": "16", "refine": "true", "sq_type": "SQ8"}
    message.extra_params[1].value = "[1"
    with pytest.raises(BadParameterError, match="JSON"):
        decode.create_index(message.SerializeToString(), "")


def test_partition_lists_may_not_be_empty() -> None:
    text = "due to no partition specified"
    with pytest.raises(BadParameterError, match=text):
        decode.load_partitions(b"", "")
    with pytest.raises(BadParameterError, match=text):
        decode.release_partitions(b"", "")


def test_flush_reply() -> None:
    reply = (r.FlushedCollection("a", (1, 2), 77, 5), r.FlushedCollection("b", (), 78, 6))
    message = messages().FlushResponse.FromString(encode.flushed("d", reply))
    assert {name: list(ids.data) for name, ids in message.coll_segIDs.items()} == {"a": [1, 2], "b": []}
    assert dict(message.coll_flush_ts) == {"a": 77, "b": 78}
    assert dict(message.coll_seal_times) == {"a": 5, "b": 6}


def test_shown_collections_tell_progress_only_of_loaded_ones() -> None:
    reply: Any = r.CollectionReply(
        database="d",
        database_id=1,
        collection_id=4,
        name="c",
        schema=a_schema(),
        shard_count=1,
        virtual_channels=(),
        physical_channels=(),
        aliases=(),
        consistency_level=ConsistencyLevel.STRONG,
        properties={},
        partitions=(),
        created_timestamp=compose(1),
        updated_timestamp=compose(1),
        loaded_percentage=100,
    )
    message = messages().ShowCollectionsResponse.FromString(encode.collections((reply,), True))
    assert (list(message.inMemory_percentages), list(message.query_service_available)) == ([100], [True])
    message = messages().ShowCollectionsResponse.FromString(encode.collections((reply,), False))
    assert (list(message.collection_names), list(message.inMemory_percentages)) == (["c"], [])


def test_segments() -> None:
    kinds = [
        r.SegmentInfo(segment_id=number, collection_id=1, partition_id=2, row_count=3, state=state)
        for number, state in zip((11, 12, 13), SegmentStatus, strict=True)
    ]
    stored = messages().GetPersistentSegmentInfoResponse.FromString(encode.persistent_segments(kinds))
    assert [info.segmentID for info in stored.infos] == [12, 13]
    loaded = messages().GetQuerySegmentInfoResponse.FromString(encode.loaded_segments(kinds))
    assert [(info.segmentID, info.is_sorted) for info in loaded.infos] == [(11, False), (12, True), (13, True)]
