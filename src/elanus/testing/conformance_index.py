"""What every index with a file of its own must do, checked against a twin that computes everything in float64.

A test module calls `check_index(case)` for every case of `index_cases()`; who writes an index type of their own calls
it with cases of theirs, and has a type that Elanus can serve when nothing is raised. Nothing here knows what an index
does inside; thresholds hold for clustered data of a few thousand rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import pyarrow as pa

from elanus.base.errors import CorruptedError
from elanus.index import registry
from elanus.index.binary import BinaryVectors
from elanus.index.compared import as_compared
from elanus.index.contract import Bools, Floats, Found, ResolvedIndex, RowMask, Rows, VectorIndex
from elanus.index.plan import NEARLY_ALL, SearchRequest, nearest, search_planned
from elanus.index.scored import ScoredVectors
from elanus.index.sparse import SparseVectors, packed_queries, query_terms
from elanus.index.vectors import Vectors, as_float32
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType, Metric

ROWS: Final = 3000
DIMENSION: Final = 24
BINARY_DIMENSION: Final = 128
SPARSE_SPACE: Final = 200
DENSE_TYPES: Final = (
    DataType.FLOAT_VECTOR,
    DataType.FLOAT16_VECTOR,
    DataType.BFLOAT16_VECTOR,
    DataType.INT8_VECTOR,
)
QUERIES: Final = 40
K: Final = 10
RECALL_MIN: Final = 0.95
SHARES: Final = (0.0001, 0.003, 0.01, 0.1, 0.34, 0.5, 0.9, 0.99, 1.0)


@dataclass(frozen=True)
class IndexCase:
    """One index type under one metric over vectors of one type. `weak` and `strong` are search parameters of little and
    of much effort; `recall_min` is what the strong ones must reach, less than `RECALL_MIN` only where the type's codes
    cannot tell near rows apart and nothing refines them."""

    index_type: str
    metric: Metric
    params: Mapping[str, str]
    weak: Mapping[str, object]
    strong: Mapping[str, object]
    data_type: DataType = DataType.FLOAT_VECTOR
    recall_min: float = RECALL_MIN

    @property
    def label(self) -> str:
        """For test ids."""
        return f"{self.index_type}-{self.metric}-{self.data_type.label.removesuffix('Vector')}"

    @property
    def resolved(self) -> ResolvedIndex:
        """What to build: the definition as a user would write it, checked and resolved."""
        dimension = BINARY_DIMENSION if self.data_type is DataType.BINARY_VECTOR else DIMENSION
        field = FieldSchema(100, "v", self.data_type, type_params={"dim": str(dimension)})
        given = {"index_type": self.index_type, "metric_type": self.metric.value, **self.params}
        return registry.resolve(registry.validate_definition(given, field), field)

    @property
    def data(self) -> Data:
        """The vectors and queries it is checked with."""
        return data_of(self.data_type)

    @property
    def column(self) -> Vectors | ScoredVectors:
        """The vectors as a search by the metric takes them."""
        return as_compared(self.data.column, self.metric)


@dataclass(frozen=True)
class Data:
    """Vectors as they are stored (n, …), and queries (q, …) as searches take them."""

    stored: np.ndarray
    queries: np.ndarray

    @property
    def is_binary(self) -> bool:
        """Whether they are bits."""
        return self.stored.dtype == np.uint8

    @property
    def column(self) -> Vectors | ScoredVectors:
        """The vectors as a segment has them."""
        return BinaryVectors(self.stored) if self.is_binary else Vectors(self.stored)

    @property
    def buildable(self) -> Any:
        """The vectors as `build` takes them."""
        return self.stored if self.is_binary else as_float32(self.stored)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and dimension."""
        return len(self.stored), self.stored.shape[1] * (8 if self.is_binary else 1)

    def first(self, count: int) -> Data:
        """The same with the first rows alone."""
        return Data(self.stored[:count].copy(), self.queries)

    def scores(self, metric: Metric) -> np.ndarray:
        """Every score (q, n). A metric of another package is its own twin; `conformance_metric` checks it."""
        if metric.extension is not None:
            return np.array([metric.extension.scores(query, self.buildable) for query in self.queries], np.float64)
        if self.is_binary:
            return twin_bit_scores(self.stored, self.queries, metric)
        return twin_scores(as_float32(self.stored), self.queries, metric)


@dataclass(frozen=True)
class SparseData(Data):
    """`stored` is dense (n, space) here, 0 where a row has no entry; `queries` are packed as `sparse` says. Every row
    and every query has an entry of dimension 0, so that every row is a hit."""

    @property
    def column(self) -> SparseVectors:
        return SparseVectors(self.buildable)

    @property
    def buildable(self) -> pa.Array:
        return pa.array([_entries(row) for row in self.stored], pa.large_binary())

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.stored), int(np.flatnonzero(self.stored.any(axis=0))[-1]) + 1

    def first(self, count: int) -> Data:
        return SparseData(self.stored[:count].copy(), self.queries)

    def scores(self, metric: Metric) -> np.ndarray:
        dense = np.zeros((len(self.queries), self.stored.shape[1]))
        for query, packed in zip(dense, self.queries, strict=True):
            dimensions, weights = query_terms(packed)
            query[dimensions] = weights
        return dense @ self.stored.astype(np.float64).T


def _entries(row: np.ndarray) -> bytes:
    dimensions = np.flatnonzero(row).astype(np.uint32)
    return np.column_stack((dimensions, row[dimensions].view(np.uint32))).tobytes()


def _sparse_data() -> SparseData:
    """Rows of about 20 dimensions of 200, low ones more often."""
    random = np.random.default_rng(3)
    shares = 1 / np.arange(1, SPARSE_SPACE + 1)
    has = random.random((ROWS + QUERIES, SPARSE_SPACE)) < np.minimum(1, 5 * shares)
    dense = np.where(has, random.gamma(2.0, 1.0, has.shape), 0).astype(np.float32)
    dense[:, 0] += np.float32(0.01)
    return SparseData(dense[:ROWS], packed_queries([_entries(row) for row in dense[ROWS:]]))


_REFINED: Final = {"refine": "true", "refine_type": "FP32"}
_GRAPH: Final = {"M": "16", "efConstruction": "100"}
_DISK: Final = {"max_degree": "24", "search_list_size": "60"}
_MUCH: Final = {"ef": 400, "refine_k": 20.0}


def index_cases() -> Iterator[IndexCase]:
    """Every served index type with a file, under every metric and over every type of vectors."""
    for metric in (Metric.L2, Metric.IP, Metric.COSINE):
        for data_type in DENSE_TYPES:
            few, all_ = {"nprobe": 1}, {"nprobe": 32}
            yield IndexCase("HNSW", metric, _GRAPH, {"ef": K}, {"ef": 400}, data_type)
            if data_type is not DataType.INT8_VECTOR:
                yield IndexCase("IVF_FLAT", metric, {"nlist": "32"}, few, all_, data_type)
                yield IndexCase("DISKANN", metric, _DISK, {"search_list": K}, {"search_list": 300}, data_type)
        yield from _coded_cases(metric)
    for metric in (Metric.HAMMING, Metric.JACCARD):
        few, all_ = {"nprobe": 1}, {"nprobe": 32}
        yield IndexCase("BIN_IVF_FLAT", metric, {"nlist": "32"}, few, all_, DataType.BINARY_VECTOR)
    for name in ("SPARSE_INVERTED_INDEX", "SPARSE_WAND"):
        yield IndexCase(name, Metric.IP, {}, {"drop_ratio_search": 0.6}, {}, DataType.SPARSE_FLOAT_VECTOR)


def _coded_cases(metric: Metric) -> Iterator[IndexCase]:
    few, all_, graph = {"nprobe": 1}, {"nprobe": 32}, _GRAPH | _REFINED
    parts = {"m": "12", "nbits": "6"}
    yield IndexCase("HNSW_SQ", metric, graph | {"sq_type": "SQ4U"}, {"ef": K}, _MUCH)
    yield IndexCase("HNSW_SQ", metric, graph | {"sq_type": "sq8"}, {"ef": K}, _MUCH, DataType.INT8_VECTOR)
    yield IndexCase("HNSW_PQ", metric, graph | parts, {"ef": K}, _MUCH)
    yield IndexCase("HNSW_PRQ", metric, graph | {"m": "6", "nbits": "5", "nrq": "2"}, {"ef": K}, _MUCH)
    yield IndexCase("IVF_SQ8", metric, {"nlist": "32"}, few, all_)
    yield IndexCase("IVF_PQ", metric, {"nlist": "32"} | parts, few, all_, recall_min=0.6)
    yield IndexCase("IVF_RABITQ", metric, {"nlist": "32"} | _REFINED, few, all_ | {"refine_k": 20.0})
    yield IndexCase("SCANN", metric, {"nlist": "32"}, few, all_ | {"reorder_k": 200})


@cache
def clustered(rows: int = ROWS, seed: int = 1) -> tuple[Floats, Floats]:
    """Vectors around 50 centres, a zero vector and some duplicates among them, and queries of the same kind."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(50, DIMENSION))
    values = centres[random.integers(0, 50, rows)] + 0.6 * random.normal(size=(rows, DIMENSION))
    queries = centres[random.integers(0, 50, QUERIES)] + 0.6 * random.normal(size=(QUERIES, DIMENSION))
    values[rows // 2] = 0
    values[rows // 3 : rows // 3 + 20] = values[rows // 3]
    return np.ascontiguousarray(values, np.float32), np.ascontiguousarray(queries, np.float32)


@cache
def data_of(data_type: DataType) -> Data:
    """`clustered()` as vectors of that type, or bits that are clustered likewise."""
    if data_type is DataType.SPARSE_FLOAT_VECTOR:
        return _sparse_data()
    if data_type is DataType.BINARY_VECTOR:
        random = np.random.default_rng(2)
        centres = random.integers(0, 256, (50, BINARY_DIMENSION // 8), np.uint8)
        flipped = np.packbits(random.random((ROWS + QUERIES, BINARY_DIMENSION)) < 0.15, axis=1)
        bits = centres[random.integers(0, 50, ROWS + QUERIES)] ^ flipped
        bits[ROWS // 2] = 0
        bits[ROWS // 3 : ROWS // 3 + 20] = bits[ROWS // 3]
        return Data(bits[:ROWS], bits[ROWS:])
    values, queries = clustered()
    match data_type:
        case DataType.FLOAT16_VECTOR:
            return Data(values.astype(np.float16), queries)
        case DataType.BFLOAT16_VECTOR:
            return Data((values.view(np.uint32) >> 16).astype(np.uint16), queries)
        case DataType.INT8_VECTOR:
            scaled = np.float32(25)
            return Data(np.clip(values * scaled, -128, 127).astype(np.int8), np.rint(queries * scaled))
    return Data(values, queries)


def twin_bit_scores(vectors: np.ndarray, queries: np.ndarray, metric: Metric) -> np.ndarray:
    """Every score (q, n) of vectors of bits, from the definition."""
    x, q = (np.unpackbits(array, axis=1).astype(np.float64) for array in (vectors, queries))
    both = q @ x.T
    either = q.sum(axis=1)[:, None] + x.sum(axis=1)[None, :] - both
    if metric is Metric.HAMMING:
        return np.asarray(either - both)
    return np.where(either > 0, 1 - both / np.maximum(either, 1), 0.0)


def twin_scores(vectors: Floats, queries: Floats, metric: Metric) -> np.ndarray:
    """Every score (q, n), in float64, straight from the definition."""
    x, q = vectors.astype(np.float64), queries.astype(np.float64)
    if metric is Metric.L2:
        return np.asarray(((q[:, None, :] - x[None, :, :]) ** 2).sum(axis=2))
    if metric is Metric.COSINE:
        x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300)
        q = q / np.maximum(np.linalg.norm(q, axis=1, keepdims=True), 1e-300)
    return np.asarray(q @ x.T)


def twin_best(scores: np.ndarray, k: int, metric: Metric, keep: Bools | None = None) -> Rows:
    """The k best kept rows (q, k), -1 where there are no more."""
    badness = -scores if metric.larger_is_better else scores.copy()
    kept = np.ones(scores.shape[1], np.bool_) if keep is None else keep
    badness[:, ~kept] = np.inf
    order = np.argsort(badness, axis=1, kind="stable")[:, :k]
    short = np.full((len(scores), k), -1, np.int64)
    short[:, : order.shape[1]] = np.where(np.take_along_axis(badness, order, axis=1) < np.inf, order, -1)
    return short


def recall_by_score(found: Found, scores: np.ndarray, truth: Rows, metric: Metric) -> float:
    """Share of true places that were filled by a row at least as good as the worst true one: equal scores count."""
    sign = -1.0 if metric.larger_is_better else 1.0
    real = np.take_along_axis(scores, np.maximum(truth, 0), axis=1) * sign
    limit = np.where(truth >= 0, real, np.finfo(np.float64).min).max(axis=1)
    got = np.take_along_axis(scores, np.maximum(found.rows, 0), axis=1) * sign
    good = (found.rows >= 0) & (got <= limit[:, None] + 1e-5 * (1 + np.abs(limit[:, None])))
    wanted = int((truth >= 0).sum())
    return 1.0 if wanted == 0 else min(1.0, int(good.sum()) / wanted)


def assert_well_formed(
    found: Found, scores: np.ndarray | None, k: int, metric: Metric, keep: Bools | None = None
) -> None:
    """Shape, dtypes, order, padding, no row twice, kept rows only, and scores that are the rows' own; `scores` None
    where those of an index are only near them."""
    assert found.scores.shape == found.rows.shape == (len(found.rows), k)
    assert found.scores.dtype == np.float32
    assert found.rows.dtype == np.int64
    present = found.rows >= 0
    assert (present[:, :-1] >= present[:, 1:]).all(), "pads come last"
    for rows in found.rows:
        real = rows[rows >= 0]
        assert len(np.unique(real)) == len(real), "a row came back twice"
    if keep is not None:
        assert keep[found.rows[present]].all(), "a row that does not pass came back"
    badness = np.where(present, -found.scores if metric.larger_is_better else found.scores, np.inf)
    assert (badness[:, :-1] <= badness[:, 1:]).all(), "not best first"
    if scores is not None:
        assert len(found.rows) == len(scores)
        own = np.take_along_axis(scores, np.maximum(found.rows, 0), axis=1)
        np.testing.assert_allclose(found.scores[present], own[present], rtol=1e-4, atol=1e-4)


_FILES: Final[dict[str, bytes]] = {}


def built(case: IndexCase) -> bytes:
    """The file of the case over its data; made once."""
    if case.label not in _FILES:
        _FILES[case.label] = file_of(case)
    return _FILES[case.label]


def file_of(case: IndexCase, data: Data | None = None) -> bytes:
    """The case's file over its data, or over other data of the kind."""
    return b"".join(registry.build(case.resolved, (data or case.data).buildable, 1))


def opened(case: IndexCase) -> VectorIndex:
    """The case's index over its data."""
    return registry.load(memoryview(built(case)))


def check_search_and_effort(case: IndexCase) -> None:
    """Enough effort finds nearly everything; more effort never finds less; what is found has its own score."""
    data = case.data
    index, scores = opened(case), data.scores(case.metric)
    assert (index.index_type, index.metric) == (case.index_type, case.metric)
    assert (index.row_count, index.dimension) == data.shape
    truth = twin_best(scores, K, case.metric)
    recalls = []
    for params in (case.weak, case.strong):
        found = nearest(index, case.column, SearchRequest(data.queries, K, case.metric), K, params)
        assert_well_formed(found, scores, K, case.metric)
        recalls.append(recall_by_score(found, scores, truth, case.metric))
    assert recalls[1] >= case.recall_min
    assert recalls[1] >= recalls[0]
    weak, strong = (index.cost_us(index.candidates(K, params), params) for params in (case.weak, case.strong))
    assert weak < strong


def check_file(case: IndexCase) -> None:
    """Two mappings of one file answer with the same bits, and many queries at once as one by one; a damaged file is
    refused."""
    queries, column = case.data.queries, case.column
    first, second = opened(case), opened(case)
    assert first.size_bytes == len(built(case))
    one, two = (index.search(queries, K, None, case.strong) for index in (first, second))
    assert one.scores.tobytes() == two.scores.tobytes()
    assert one.rows.tobytes() == two.rows.tobytes()
    together = nearest(first, column, SearchRequest(queries, K, case.metric), K, case.strong)
    single = [
        nearest(first, column, SearchRequest(query[None, :], K, case.metric), K, case.strong) for query in queries
    ]
    assert np.concatenate([found.scores for found in single]).tobytes() == together.scores.tobytes()
    for damaged in (b"", built(case)[:-1], built(case)[:-9] + b"?" * 9):
        try:
            registry.load(memoryview(damaged))
        except CorruptedError:
            continue
        raise AssertionError("a damaged file was opened")


def check_masks(case: IndexCase) -> None:
    """Only kept rows come back, from an empty mask to a full one, from the index itself."""
    data = case.data
    index, scores = opened(case), data.scores(case.metric)
    random = np.random.default_rng(7)
    for share in (0.0, *SHARES):
        keep = random.random(ROWS) < share
        found = index.search(data.queries, K, RowMask.of(keep), case.strong)
        assert_well_formed(found, scores if index.scores_exactly else None, K, case.metric, keep)


def check_small(case: IndexCase) -> None:
    """Fewer rows than k, than lists, than a graph's degree; every row is found where the effort allows it."""
    for rows in (1, 2, 7):
        data = case.data.first(rows)
        index = registry.load(memoryview(file_of(case, data)))
        found = index.search(data.queries, K, None, case.strong)
        assert_well_formed(found, data.scores(case.metric) if index.scores_exactly else None, K, case.metric)
        assert ((found.rows >= 0).sum(axis=1) == rows).all()


def check_planned(case: IndexCase) -> None:
    """Behind the planner: exactly min(k, passing) rows at every selectivity, and recall, for one query and for many."""
    data = case.data
    index, scores, column, queries = opened(case), data.scores(case.metric), case.column, data.queries
    random = np.random.default_rng(9)
    for share in SHARES:
        keep = random.random(ROWS) < share
        mask = RowMask.of(keep)
        truth = twin_best(scores, K, case.metric, keep)
        together = search_planned(index, column, SearchRequest(queries, K, case.metric, case.strong), mask)
        alone = [
            search_planned(index, column, SearchRequest(query[None, :], K, case.metric, case.strong), mask)
            for query in queries
        ]
        for found in (together, Found(*(np.concatenate(column) for column in zip(*alone, strict=True)))):
            assert_well_formed(found, scores, K, case.metric, keep)
            assert ((found.rows >= 0).sum(axis=1) == min(K, mask.count)).all()
            if share < NEARLY_ALL or case.recall_min == RECALL_MIN:
                assert recall_by_score(found, scores, truth, case.metric) >= RECALL_MIN, share


CHECKS: Final = (check_search_and_effort, check_file, check_masks, check_small, check_planned)


def check_index(case: IndexCase) -> None:
    """Everything above."""
    for check in CHECKS:
        check(case)
