"""What is refused of each vector type, and in which words: definitions, indexes, rows, queries."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from pymilvus import DataType, MilvusClient, MilvusException
from pymilvus.grpc_gen import milvus_pb2, schema_pb2
from vector_twin import KINDS

NO_FIT = "data type {} can't build with this index {}"


def refusal(call: Any) -> str:
    with pytest.raises(MilvusException) as caught:
        call()
    return str(caught.value)


def define(client: MilvusClient, data_type: DataType, index: dict[str, Any] | None = None, **params: Any) -> None:
    client.drop_collection("refused")
    schema = client.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vec", data_type, **params)
    indexes = client.prepare_index_params()
    indexes.add_index("vec", **(index or {"index_type": "AUTOINDEX", "metric_type": ""}))
    client.create_collection("refused", schema=schema, index_params=indexes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data_type", "dimension", "words"),
    [
        (DataType.FLOAT16_VECTOR, 32769, "float vector dimension should be in range 2 ~ 32768"),
        (DataType.BFLOAT16_VECTOR, 1, "should be in range 2 ~ 32768"),
        (DataType.INT8_VECTOR, 32769, "should be in range 2 ~ 32768"),
        (DataType.BINARY_VECTOR, 12, "binary vector dimension should be multiple of 8"),
        (DataType.BINARY_VECTOR, 262152, "binary vector dimension should be in range 8 ~ 262144"),
        (DataType.SPARSE_FLOAT_VECTOR, 8, "dim should not be specified for sparse vector field vec"),
    ],
)
def test_dimensions(client: MilvusClient, data_type: DataType, dimension: int, words: str) -> None:
    assert words in refusal(lambda: define(client, data_type, dim=dimension))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "index_type", "metric", "params", "words"),
    [
        ("FLOAT16", "BIN_FLAT", "HAMMING", {}, NO_FIT.format("Float16Vector", "BIN_FLAT")),
        ("INT8", "FLAT", "L2", {}, NO_FIT.format("Int8Vector", "FLAT")),
        ("INT8", "IVF_SQ8", "L2", {}, NO_FIT.format("Int8Vector", "IVF_SQ8")),
        ("INT8", "HNSW_SQ", "L2", {"sq_type": "X"}, "invalid scalar quantizer type"),
        ("FLOAT16", "GPU_CAGRA", "L2", {}, "it needs a GPU, and this server uses none"),
        ("INT8", "AUTOINDEX", "HAMMING", {}, "int vector index does not support metric type: HAMMING"),
        ("BINARY", "HNSW", "L2", {}, NO_FIT.format("BinaryVector", "HNSW")),
        ("BINARY", "BIN_FLAT", "L2", {}, "binary vector index does not support metric type: L2"),
        ("BINARY", "BIN_IVF_FLAT", "HAMMING", {"nlist": 0}, "param 'nlist' (0) should be in range [1, 65536]"),
        ("SPARSE", "FLAT", "IP", {}, NO_FIT.format("SparseFloatVector", "FLAT")),
        ("SPARSE", "SPARSE_INVERTED_INDEX", "L2", {}, "only IP&BM25 is the supported metric type for sparse index"),
        ("SPARSE", "SPARSE_WAND", "BM25", {}, "only BM25 Function output field support BM25 metric type"),
        ("FLOAT16", "FLAT", "BM25", {}, "float vector index does not support metric type: BM25"),
        ("SPARSE", "AUTOINDEX", "bm25", {}, "only BM25 Function output field support BM25 metric type"),
        ("SPARSE", "SPARSE_WAND", "IP", {"drop_ratio_build": 1}, "should be in range [0.000000, 1.000000)"),
        ("SPARSE", "SPARSE_WAND", "IP", {"inverted_index_algo": "X"}, "sparse inverted index algo X not found"),
    ],
)
def test_indexes(client: MilvusClient, name: str, index_type: str, metric: str, params: dict, words: str) -> None:
    kind, index = KINDS[name], {"index_type": index_type, "metric_type": metric, "params": params}
    assert words in refusal(lambda: define(client, kind.data_type, index, **kind.params))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data_type", "dimension", "value", "words"),
    [
        (DataType.BINARY_VECTOR, 16, b"a", "should divide the dim(16)"),
        (DataType.INT8_VECTOR, 4, np.int8([1, 2]), "should divide the dim(4)"),
        (DataType.FLOAT16_VECTOR, 2, np.float16([np.nan, 0]), "value 'NaN' is not a number or infinity"),
        (DataType.FLOAT16_VECTOR, 2, [1e9, 0.0], "value '+Inf' is not a number or infinity"),
        (DataType.BFLOAT16_VECTOR, 2, b"\x80\xff\x00\x00", "value '-Inf' is not a number or infinity"),
        (DataType.SPARSE_FLOAT_VECTOR, 0, {3: -1.0}, "negative value"),
        (DataType.SPARSE_FLOAT_VECTOR, 0, {3: float("inf")}, "value '+Inf' is not a number or infinity"),
        (DataType.INT8_VECTOR, 4, None, "int8 vector field 'vec' is illegal, array type mismatch"),
    ],
)
def test_rows(client: MilvusClient, data_type: DataType, dimension: int, value: Any, words: str) -> None:
    define(client, data_type, **({"dim": dimension} if dimension else {}))
    assert words in refusal(lambda: client.insert("refused", [{"id": 1, "vec": value}]))
    assert words in refusal(lambda: client.upsert("refused", [{"id": 1, "vec": value}]))


def entries(*pairs: tuple[int, float]) -> bytes:
    return b"".join(struct.pack("<If", place, weight) for place, weight in pairs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "words"),
    [
        (entries((2, 1.0), (1, 1.0)), "unsorted or same indices"),
        (entries((2, 1.0), (2, 1.0)), "unsorted or same indices"),
        (entries((2**32 - 1, 1.0)), "index out of range"),
        (entries((1, float("nan"))), "value 'NaN' is not a number or infinity"),
        (entries((1, 1.0))[:-1], "invalid data length"),
    ],
)
def test_sparse_rows_that_no_sdk_would_send(client: MilvusClient, row: bytes, words: str) -> None:
    define(client, DataType.SPARSE_FLOAT_VECTOR)
    sparse = schema_pb2.SparseFloatArray(contents=[row], dim=3)
    columns = [
        schema_pb2.FieldData(
            type=DataType.INT64,
            field_name="id",
            scalars=schema_pb2.ScalarField(long_data=schema_pb2.LongArray(data=[1])),
        ),
        schema_pb2.FieldData(
            type=DataType.SPARSE_FLOAT_VECTOR,
            field_name="vec",
            vectors=schema_pb2.VectorField(dim=3, sparse_float_vector=sparse),
        ),
    ]
    request = milvus_pb2.InsertRequest(collection_name="refused", fields_data=columns, num_rows=1)
    reply = client._get_connection()._stub.Insert(request)
    assert words in reply.status.reason
    assert reply.status.code


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data_type", "dimension", "query", "params", "words"),
    [
        (DataType.BINARY_VECTOR, 16, b"a", {}, "vector dimension mismatch, expected vector size(byte) 2, actual 1."),
        (DataType.INT8_VECTOR, 4, [1.0] * 4, {}, "vector type must be the same, field vec - type Int8Vector"),
        (DataType.FLOAT16_VECTOR, 2, np.float16([np.inf, 0]), {}, "value '+Inf' is not a number or infinity"),
        (DataType.FLOAT16_VECTOR, 2, [1e9, 0.0], {}, "value '+Inf' is not a number or infinity"),
        (DataType.BFLOAT16_VECTOR, 2, [float("nan"), 0.0], {}, "value 'NaN' is not a number or infinity"),
        (DataType.BFLOAT16_VECTOR, 2, np.float16([1, 0]), {}, "vector type must be the same"),
        (DataType.SPARSE_FLOAT_VECTOR, 0, {1: -1.0}, {}, "negative value"),
        (DataType.SPARSE_FLOAT_VECTOR, 0, [1.0], {}, "vector type must be the same"),
        (DataType.SPARSE_FLOAT_VECTOR, 0, {1: 1.0}, {"drop_ratio_search": 1.0}, "[0.000000, 1.000000)"),
        (DataType.SPARSE_FLOAT_VECTOR, 0, {1: 1.0}, {"drop_ratio_search": "x"}, "should be a number"),
        (DataType.SPARSE_FLOAT_VECTOR, 0, {1: 1.0}, {"dim_max_score_ratio": 0.4}, "[0.500000, 1.300000]"),
    ],
)
def test_queries(
    client: MilvusClient, data_type: DataType, dimension: int, query: Any, params: dict[str, Any], words: str
) -> None:
    exact = {DataType.SPARSE_FLOAT_VECTOR: ("SPARSE_INVERTED_INDEX", "IP")}.get(data_type, ("AUTOINDEX", ""))
    index = dict(zip(("index_type", "metric_type"), exact, strict=True))
    define(client, data_type, index, **({"dim": dimension} if dimension else {}))
    assert words in refusal(lambda: client.search("refused", [query], limit=3, search_params={"params": params}))
