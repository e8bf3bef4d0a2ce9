"""Definitions and search parameters: what is accepted, and Milvus's words for what is not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from elanus.base.errors import Action, InvariantError
from elanus.index import registry
from elanus.index.contract import ResolvedIndex
from elanus.index.errors import IndexParameterError, IndexTypeNotServedError, SearchParameterError
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType, Metric


def vector(data_type: DataType = DataType.FLOAT_VECTOR) -> FieldSchema:
    return FieldSchema(101, "v", data_type, type_params={"dim": "8"})


def scalar(data_type: DataType, element: DataType = DataType.NONE, primary: bool = False) -> FieldSchema:
    return FieldSchema(102, "s", data_type, element_type=element, is_primary=primary)


HNSW = {"index_type": "HNSW", "metric_type": "L2"}


@pytest.mark.parametrize(
    ("params", "field", "message"),
    [
        (HNSW | {"M": "-1"}, vector(), "Out of range in json: param 'M' (-1) should be in range [2, 2048]"),
        (HNSW | {"M": "16.0"}, vector(), "wrong data type in json, key: 'M', value: '16.0'"),
        (HNSW | {"M": "True"}, vector(), "invalid integer value, key: 'M', value: 'True': invalid parameter"),
        (
            HNSW | {"efConstruction": "0"},
            vector(),
            "Out of range in json: param 'efConstruction' (0) should be in range [1, 2147483647]",
        ),
        (
            {"index_type": "X", "metric_type": "L2"},
            vector(),
            "invalid parameter[expected=valid index][actual=invalid index type: X]",
        ),
        ({"index_type": "HNSW"}, vector(), "metric type not set for vector index"),
        (HNSW | {"metric_type": "HAMMING"}, vector(), "float vector index does not support metric type: HAMMING"),
        (HNSW | {"metric_type": "X"}, vector(), "float vector index does not support metric type: X"),
        (
            {"index_type": "FLAT", "metric_type": "L2"},
            vector(DataType.INT8_VECTOR),
            "data type Int8Vector can't build with this index FLAT",
        ),
        (HNSW, scalar(DataType.INT64), "data type Int64 can't build with this index HNSW"),
        ({"index_type": "AUTOINDEX", "M": "4"}, vector(), "only metric type can be passed when use AutoIndex"),
        ({"index_type": "AISAQ", "metric_type": "L2"}, vector(), "index type AISAQ is not served yet"),
        (
            {"index_type": "GPU_CAGRA", "metric_type": "L2"},
            vector(),
            "invalid parameter[expected=valid index][actual=invalid index type: GPU_CAGRA]: "
            "it needs a GPU, and this server uses none",
        ),
        (
            {"index_type": "GPU_IVF_PQ", "metric_type": "L2"},
            vector(DataType.INT8_VECTOR),
            "invalid parameter[expected=valid index][actual=invalid index type: GPU_IVF_PQ]: "
            "it needs a GPU, and this server uses none",
        ),
        ({"index_type": "IVF_PQ", "metric_type": "L2"}, vector(), "param 'm' not exist in json"),
        (
            {"index_type": "IVF_PQ", "metric_type": "L2", "m": "3"},
            vector(),
            "The dimension of the vector (dim) should be a multiple of the number of subquantizers (m). "
            "dimension:8, m:3",
        ),
        (
            {"index_type": "HNSW_PQ", "metric_type": "L2", "m": "4", "nbits": "65"},
            vector(),
            "Out of range in json: param 'nbits' (65) should be in range [1, 24]",
        ),
        (
            {"index_type": "HNSW_PRQ", "metric_type": "L2", "m": "4", "nrq": "17"},
            vector(),
            "Out of range in json: param 'nrq' (17) should be in range [1, 16]",
        ),
        ({"index_type": "HNSW_SQ", "metric_type": "L2", "sq_type": "INT8"}, vector(), "invalid scalar quantizer type"),
        (
            {"index_type": "HNSW_SQ", "metric_type": "L2", "refine_type": "INT8"},
            vector(),
            "invalid refine type : INT8, optional types are [sq4u, sq6, sq8, fp16, bf16, fp32, flat]",
        ),
        (
            {"index_type": "IVF_RABITQ", "metric_type": "L2", "refine_type": "SQ4U"},
            vector(),
            "invalid refine type : SQ4U, optional types are [sq6, sq8, fp16, bf16, fp32, flat]",
        ),
        (
            {"index_type": "IVF_RABITQ", "metric_type": "L2", "refine": "1"},
            vector(),
            "Type conflict in json: param 'refine' (\"1\") should be a boolean",
        ),
        (
            {"index_type": "SCANN", "metric_type": "L2"},
            FieldSchema(101, "v", DataType.FLOAT_VECTOR, type_params={"dim": "7"}),
            "The dimension of a vector (dim) should be a multiple of sub_dim. "
            "Dimension:7, sub_dim:2: invalid parameter",
        ),
        (
            {"index_type": "IVF_SQ8", "metric_type": "L2"},
            vector(DataType.INT8_VECTOR),
            "data type Int8Vector can't build with this index IVF_SQ8",
        ),
        (HNSW | {"dim": "9"}, vector(), "dimension mismatch, dimension in schema: 8, dimension: 9"),
        (
            {"index_type": "INVERTED"},
            scalar(DataType.TIMESTAMPTZ),
            "INVERTED are not supported on Timestamptz field: "
            "invalid parameter[expected=valid index params][actual=invalid index params]",
        ),
        (
            {"index_type": "INVERTED"},
            scalar(DataType.JSON),
            "json index must specify cast type: missing parameter[missing_param=json_cast_type]",
        ),
        ({"index_type": "INVERTED", "json_cast_type": "x"}, scalar(DataType.JSON), "json_cast_type x is not supported"),
        (
            {"index_type": "BITMAP"},
            scalar(DataType.INT64, primary=True),
            "create bitmap index on primary key not supported",
        ),
        (
            {"index_type": "BITMAP"},
            scalar(DataType.DOUBLE),
            "bitmap index are only supported on bool, int, string and array field",
        ),
        (
            {"index_type": "STL_SORT"},
            scalar(DataType.JSON),
            "STL_SORT are only supported on numeric, varchar or timestamptz field, got JSON",
        ),
        ({"index_type": "Trie"}, scalar(DataType.INT64), "TRIE are only supported on varchar field"),
        ({"index_type": "NGRAM"}, scalar(DataType.VARCHAR), "Ngram index must specify both min_gram and max_gram"),
        (
            {"index_type": "NGRAM", "min_gram": "2.5", "max_gram": "3"},
            scalar(DataType.VARCHAR),
            "min_gram for Ngram index must be an integer, got: 2.5",
        ),
        (
            {"index_type": "STL_SORT", "mmap.enabled": "true"},
            scalar(DataType.INT64),
            "index type STL_SORT does not support mmap",
        ),
    ],
)
def test_refused_definitions(params: dict[str, str], field: FieldSchema, message: str) -> None:
    with pytest.raises(IndexParameterError) as caught:
        registry.validate_definition(params, field)
    assert caught.value.message == message
    assert caught.value.code == 1100


def test_a_type_not_served_says_so_by_its_class() -> None:
    with pytest.raises(IndexTypeNotServedError) as caught:
        registry.find_index_type("minhash_lsh")
    assert caught.value.action is Action.UNSUPPORTED


@pytest.mark.parametrize(
    ("params", "field", "stored"),
    [
        ({}, vector(), {"index_type": "AUTOINDEX", "metric_type": "COSINE"}),
        ({}, vector(DataType.BINARY_VECTOR), {"index_type": "AUTOINDEX", "metric_type": "HAMMING"}),
        ({}, vector(DataType.SPARSE_FLOAT_VECTOR), {"index_type": "AUTOINDEX", "metric_type": "IP"}),
        ({"index_type": "", "metric_type": "ip"}, vector(), {"index_type": "AUTOINDEX", "metric_type": "IP"}),
        (HNSW | {"M": "16", "other": "x"}, vector(), HNSW | {"M": "16", "other": "x"}),
        (HNSW | {"mmap.enabled": "true"}, vector(), HNSW | {"mmap.enabled": "true"}),
        ({"index_type": "hnsw", "metric_type": "cosine"}, vector(), {"index_type": "HNSW", "metric_type": "COSINE"}),
        ({"index_type": "marisa-trie"}, scalar(DataType.VARCHAR), {"index_type": "Trie"}),
        ({"index_type": "INVERTED"}, scalar(DataType.ARRAY, DataType.INT64), {"index_type": "INVERTED"}),
        ({}, scalar(DataType.BOOL), {"index_type": "AUTOINDEX"}),
        ({}, scalar(DataType.DOUBLE), {"index_type": "AUTOINDEX"}),
    ],
)
def test_accepted_definitions(params: dict[str, str], field: FieldSchema, stored: dict[str, str]) -> None:
    assert registry.validate_definition(params, field) == stored


def test_resolution() -> None:
    assert registry.resolve({"index_type": "AUTOINDEX", "metric_type": "COSINE"}, vector()) == ResolvedIndex(
        "HNSW", Metric.COSINE, {"M": 18, "efConstruction": 240}, True
    )
    assert registry.resolve(HNSW | {"M": "8"}, vector()).params == {"M": 8, "efConstruction": 360}
    assert registry.resolve({"index_type": "IVF_FLAT", "metric_type": "L2"}, vector()).params == {"nlist": 128}
    assert registry.resolve({"index_type": "HNSW_SQ", "metric_type": "L2", "sq_type": "sq6"}, vector()).params == {
        "M": 30,
        "efConstruction": 360,
        "sq_type": "SQ6",
        "refine": False,
    }
    halves = vector(DataType.FLOAT16_VECTOR)
    assert registry.resolve({"index_type": "IVF_FLAT", "metric_type": "L2"}, halves).params["code"] == "FP16"
    assert not registry.resolve({"index_type": "FLAT", "metric_type": "L2"}, vector()).needs_file
    for kind, name in ((DataType.INT64, "BITMAP"), (DataType.DOUBLE, "INVERTED"), (DataType.TIMESTAMPTZ, "STL_SORT")):
        resolved = registry.resolve({"index_type": "AUTOINDEX"}, scalar(kind))
        assert resolved == ResolvedIndex(name, None, {}, True)


@pytest.mark.parametrize(
    ("index_type", "params", "message"),
    [
        ("HNSW", {"ef": 32.0}, "Type conflict in json: param 'ef' (32.0) should be integer"),
        ("HNSW", {"ef": True}, "Type conflict in json: param 'ef' (true) should be integer"),
        ("HNSW", {"ef": None}, "Type conflict in json: param 'ef' (null) should be integer"),
        ("HNSW", {"ef": "x"}, "Type conflict in json: param 'ef' (\"x\") should be integer"),
        ("HNSW", {"ef": 0}, "Out of range in json: param 'ef' (0) should be in range [1, 2147483647]"),
        ("HNSW", {"ef": 1}, "ef(1) should be larger than k(10)"),
        ("IVF_FLAT", {"nprobe": 65537}, "Out of range in json: param 'nprobe' (65537) should be in range [1, 65536]"),
        ("SCANN", {"reorder_k": 9}, "reorder_k(9) should be larger than k(10)"),
        (
            "HNSW_SQ",
            {"refine_k": 0.5},
            "Out of range in json: param 'refine_k' (0.5) should be in range "
            "[1.000000, 340282346638528859811704183484516925440.000000]",
        ),
        ("HNSW_PQ", {"refine_k": True}, "Type conflict in json: param 'refine_k' (true) should be a number"),
        (
            "IVF_RABITQ",
            {"rbq_bits_query": 9},
            "Out of range in json: param 'rbq_bits_query' (9) should be in range [0, 8]",
        ),
        ("FLAT", {"radius": "x"}, "Type conflict in json: param 'radius' (\"x\") should be a number"),
        (
            "FLAT",
            {"radius": 1, "range_filter": 2.5},
            "metric type (L2), range_filter(2.5) must be less than radius(1)",
        ),
    ],
)
def test_refused_searches(index_type: str, params: dict[str, object], message: str) -> None:
    with pytest.raises(SearchParameterError) as caught:
        registry.validate_search(index_type, Metric.L2, params, 10)
    assert caught.value.message == message
    assert caught.value.code == 65535


def test_accepted_searches() -> None:
    assert registry.validate_search("HNSW", Metric.L2, {"ef": 10, "nprobe": "x"}, 10) == {"ef": 10}
    assert registry.validate_search("AUTOINDEX", Metric.IP, {"level": 3, "ef": "x"}, 10) == {}
    assert registry.validate_search("IVF_FLAT", Metric.L2, {}, 10) == {}
    ranged = registry.validate_search("FLAT", Metric.IP, {"radius": 0, "range_filter": 1}, 10)
    assert ranged == {"radius": 0.0, "range_filter": 1.0}
    with pytest.raises(SearchParameterError, match="must be greater than radius"):
        registry.validate_search("FLAT", Metric.IP, {"radius": 1, "range_filter": 0}, 10)


def test_a_type_without_file_cannot_be_built() -> None:
    with pytest.raises(InvariantError):
        registry.build(ResolvedIndex("FLAT", Metric.L2, {}, False), None, 1)  # type: ignore[arg-type]


@pytest.mark.slow
def test_definitions_are_checked_without_loading_faiss() -> None:
    program = (
        "import sys; from elanus.index import registry, plan; from elanus.model.schema import FieldSchema; "
        "registry.find_index_type('HNSW'); sys.exit('faiss' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
