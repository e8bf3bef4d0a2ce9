"""The vectors that the suites for indexes and metrics are played on, and twins that compute everything in float64."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

import numpy as np
import pyarrow as pa

from elanus.index.binary import BinaryVectors
from elanus.index.contract import Bools, Floats, Found, Rows
from elanus.index.scored import ScoredVectors
from elanus.index.sparse import SparseVectors, packed_queries, query_terms
from elanus.index.vectors import Vectors, as_float32
from elanus.model.types import DataType, Metric

ROWS: Final = 3000
DIMENSION: Final = 24
BINARY_DIMENSION: Final = 128
SPARSE_SPACE: Final = 200
QUERIES: Final = 40
DENSE_TYPES: Final = (
    DataType.FLOAT_VECTOR,
    DataType.FLOAT16_VECTOR,
    DataType.BFLOAT16_VECTOR,
    DataType.INT8_VECTOR,
)


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

    def asking(self, queries: np.ndarray) -> Data:
        """The same with other queries."""
        return replace(self, queries=queries)

    def query_of(self, row: int) -> np.ndarray:
        """A row as the one query (1, …) that it makes."""
        return self.stored[row : row + 1] if self.is_binary else as_float32(self.stored[row : row + 1])

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
        return pa.array([entries_of(row) for row in self.stored], pa.large_binary())

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.stored), int(np.flatnonzero(self.stored.any(axis=0))[-1]) + 1

    def query_of(self, row: int) -> np.ndarray:
        return packed_queries([entries_of(self.stored[row])])

    def first(self, count: int) -> Data:
        return SparseData(self.stored[:count].copy(), self.queries)

    def scores(self, metric: Metric) -> np.ndarray:
        dense = np.zeros((len(self.queries), self.stored.shape[1]))
        for query, packed in zip(dense, self.queries, strict=True):
            dimensions, weights = query_terms(packed)
            query[dimensions] = weights
        return dense @ self.stored.astype(np.float64).T


def entries_of(row: np.ndarray) -> bytes:
    """A dense row (space,) as a sparse vector is stored, its zeros left out."""
    dimensions = np.flatnonzero(row).astype(np.uint32)
    return np.column_stack((dimensions, row[dimensions].view(np.uint32))).tobytes()


def _sparse_data() -> SparseData:
    """Rows of about 20 dimensions of 200, low ones more often."""
    random = np.random.default_rng(3)
    shares = 1 / np.arange(1, SPARSE_SPACE + 1)
    has = random.random((ROWS + QUERIES, SPARSE_SPACE)) < np.minimum(1, 5 * shares)
    dense = np.where(has, random.gamma(2.0, 1.0, has.shape), 0).astype(np.float32)
    dense[:, 0] += np.float32(0.01)
    dense[ROWS // 3 : ROWS // 3 + 20] = dense[ROWS // 3]
    return SparseData(dense[:ROWS], packed_queries([entries_of(row) for row in dense[ROWS:]]))


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
    """The k best kept rows (q, k), -1 where there are no more; `keep` is (n,), or (q, n)."""
    badness = -scores if metric.larger_is_better else scores.copy()
    kept = np.ones(scores.shape[1], np.bool_) if keep is None else keep
    badness[np.broadcast_to(~kept, badness.shape)] = np.inf
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
