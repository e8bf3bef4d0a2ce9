"""What every index with a file of its own must do, checked against a twin that computes everything in float64.

A test module calls `check_index(case)` for every case of `index_cases()`; a plug-in author adds their own type's cases.
Nothing here knows what an index does inside; thresholds hold for clustered data of a few thousand rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np

from elanus.base.errors import CorruptedError
from elanus.index import registry
from elanus.index.contract import Bools, Floats, Found, ResolvedIndex, RowMask, Rows, VectorIndex
from elanus.index.plan import SearchRequest, search_planned
from elanus.index.vectors import Vectors
from elanus.model.types import Metric

ROWS: Final = 3000
DIMENSION: Final = 24
QUERIES: Final = 40
K: Final = 10
RECALL_MIN: Final = 0.95
SHARES: Final = (0.0001, 0.003, 0.01, 0.1, 0.34, 0.5, 0.9, 0.99, 1.0)


@dataclass(frozen=True)
class IndexCase:
    """One index type under one metric. `weak` and `strong` are search parameters of little and of much effort."""

    index_type: str
    metric: Metric
    params: Mapping[str, int]
    weak: Mapping[str, object]
    strong: Mapping[str, object]

    @property
    def label(self) -> str:
        """For test ids."""
        return f"{self.index_type}-{self.metric}"

    @property
    def resolved(self) -> ResolvedIndex:
        """What to build."""
        return ResolvedIndex(self.index_type, self.metric, dict(self.params), needs_file=True)


def index_cases() -> Iterator[IndexCase]:
    """Every served index type with a file, under every metric."""
    for metric in (Metric.L2, Metric.IP, Metric.COSINE):
        yield IndexCase("HNSW", metric, {"M": 16, "efConstruction": 100}, {"ef": K}, {"ef": 400})
        yield IndexCase("IVF_FLAT", metric, {"nlist": 32}, {"nprobe": 1}, {"nprobe": 32})


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


def assert_well_formed(found: Found, scores: np.ndarray, k: int, metric: Metric, keep: Bools | None = None) -> None:
    """Shape, dtypes, order, padding, no row twice, kept rows only, and scores that are the rows' own."""
    assert found.scores.shape == found.rows.shape == (len(scores), k)
    assert found.scores.dtype == np.float32
    assert found.rows.dtype == np.int64
    present = found.rows >= 0
    assert (present[:, :-1] >= present[:, 1:]).all(), "pads come last"
    for rows in found.rows:
        real = rows[rows >= 0]
        assert len(np.unique(real)) == len(real), "a row came back twice"
    if keep is not None:
        assert keep[found.rows[present]].all(), "a row that does not pass came back"
    own = np.take_along_axis(scores, np.maximum(found.rows, 0), axis=1)
    np.testing.assert_allclose(found.scores[present], own[present], rtol=1e-4, atol=1e-4)
    badness = np.where(present, -found.scores if metric.larger_is_better else found.scores, np.inf)
    assert (badness[:, :-1] <= badness[:, 1:]).all(), "not best first"


@cache
def built(label: str) -> bytes:
    """The file of the case of that label over `clustered()`."""
    case = next(case for case in index_cases() if case.label == label)
    return b"".join(registry.build(case.resolved, clustered()[0], 1))


def opened(case: IndexCase) -> VectorIndex:
    """The case's index over `clustered()`."""
    return registry.load(memoryview(built(case.label)))


def check_search_and_effort(case: IndexCase) -> None:
    """Enough effort finds nearly everything; more effort never finds less."""
    vectors, queries = clustered()
    index, scores = opened(case), twin_scores(vectors, queries, case.metric)
    assert (index.index_type, index.metric) == (case.index_type, case.metric)
    assert (index.row_count, index.dimension) == vectors.shape
    truth = twin_best(scores, K, case.metric)
    recalls = []
    for params in (case.weak, case.strong):
        found = index.search(queries, K, None, params)
        assert_well_formed(found, scores, K, case.metric)
        recalls.append(recall_by_score(found, scores, truth, case.metric))
    assert recalls[1] >= RECALL_MIN
    assert recalls[1] >= recalls[0]
    assert index.cost_us(K, case.weak) < index.cost_us(K, case.strong)


def check_file(case: IndexCase) -> None:
    """Two mappings of one file answer with the same bits; a damaged one is refused."""
    _, queries = clustered()
    first, second = opened(case), opened(case)
    assert first.size_bytes == len(built(case.label))
    one, two = (index.search(queries, K, None, case.strong) for index in (first, second))
    assert one.scores.tobytes() == two.scores.tobytes()
    assert one.rows.tobytes() == two.rows.tobytes()
    single = [first.search(queries[place : place + 1], K, None, case.strong) for place in range(len(queries))]
    assert np.concatenate([found.rows for found in single]).tobytes() == one.rows.tobytes()
    for damaged in (b"", built(case.label)[:-1], built(case.label)[:-9] + b"?" * 9):
        try:
            registry.load(memoryview(damaged))
        except CorruptedError:
            continue
        raise AssertionError("a damaged file was opened")


def check_masks(case: IndexCase) -> None:
    """Only kept rows come back, from an empty mask to a full one, from the index itself."""
    vectors, queries = clustered()
    index, scores = opened(case), twin_scores(vectors, queries, case.metric)
    random = np.random.default_rng(7)
    for share in (0.0, *SHARES):
        keep = random.random(ROWS) < share
        found = index.search(queries, K, RowMask.of(keep), case.strong)
        assert_well_formed(found, scores, K, case.metric, keep)


def check_small(case: IndexCase) -> None:
    """Fewer rows than k, than lists, than a graph's degree; every row is found where the effort allows it."""
    for rows in (1, 2, 7):
        vectors, queries = clustered()[0][:rows].copy(), clustered()[1]
        index = registry.load(memoryview(b"".join(registry.build(case.resolved, vectors, 1))))
        scores = twin_scores(vectors, queries, case.metric)
        found = index.search(queries, K, None, case.strong)
        assert_well_formed(found, scores, K, case.metric)
        assert ((found.rows >= 0).sum(axis=1) == rows).all()


def check_planned(case: IndexCase) -> None:
    """Behind the planner: exactly min(k, passing) rows at every selectivity, and recall, for one query and for many."""
    vectors, queries = clustered()
    index, scores, column = opened(case), twin_scores(vectors, queries, case.metric), Vectors(vectors)
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
            assert recall_by_score(found, scores, truth, case.metric) >= RECALL_MIN, share


CHECKS: Final = (check_search_and_effort, check_file, check_masks, check_small, check_planned)


def check_index(case: IndexCase) -> None:
    """Everything above."""
    for check in CHECKS:
        check(case)
