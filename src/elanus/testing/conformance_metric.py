"""What a metric of another package must do to be served, checked against a twin of one pair in float64.

Who writes a metric calls `check_metric` with its name, once the package is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from elanus.index.compared import BLOCK_FLOATS, ComparedVectors, as_compared
from elanus.index.contract import Floats, RowMask
from elanus.index.plan import SearchRequest, search_planned
from elanus.index.vectors import Vectors, as_float32
from elanus.model.metrics import MetricExtension, find_metric_extension
from elanus.model.types import DataType, Metric
from elanus.testing.conformance_data import DENSE_TYPES, assert_well_formed, data_of, twin_best
from elanus.testing.conformance_filtered import SHARES, K

Twin = Callable[[np.ndarray, np.ndarray], float]
"""The score of two vectors, float64 (dim,)."""
TOLERANCE: Final = 1e-4
QUERIES: Final = 6


def check_metric(name: str, twin: Twin) -> None:
    """AssertionError, with what is wrong, if the installed metric of that name cannot be served."""
    assert name not in Metric.__members__, f"{name} is a metric of Elanus, which cannot be replaced"
    extension = find_metric_extension(name)
    assert extension is not None, f"no installed package has an entry point {name} in elanus.metrics"
    assert isinstance(extension.larger_is_better, bool)
    assert extension.float_ns > 0
    check_scores(extension, twin)
    for data_type in DENSE_TYPES:
        check_search(name, twin, data_type)


def check_scores(extension: MetricExtension, twin: Twin) -> None:
    """Blocks of every size, vectors of zeros and equal ones: each row scores what it scores alone."""
    data = data_of(DataType.FLOAT_VECTOR)
    vectors, query = as_float32(data.stored), data.queries[0]
    untouched = vectors.copy(), query.copy()
    wanted = _twin_scores(vectors, query[None], twin)[0]
    for count in (0, 1, 2, 7, len(vectors)):
        scores = np.asarray(extension.scores(query, vectors[:count]))
        assert scores.shape == (count,), f"scores of {count} vectors have shape {scores.shape}"
        np.testing.assert_allclose(scores, wanted[:count], rtol=TOLERANCE, atol=TOLERANCE)
    alone = np.concatenate([np.asarray(extension.scores(query, vectors[row : row + 1])) for row in range(50)])
    together = np.asarray(extension.scores(query, vectors))[:50]
    assert alone.tobytes() == together.tobytes(), "a row's score depends on the block it is in"
    assert (vectors == untouched[0]).all(), "vectors were changed"
    assert (query == untouched[1]).all(), "the query was changed"
    wide = np.ones((2, BLOCK_FLOATS), np.float32)
    assert np.asarray(extension.scores(wide[0], wide)).shape == (2,)


def check_search(name: str, twin: Twin, data_type: DataType) -> None:
    """Behind the planner: the best rows, best first, under every mask and in a range, for k beyond the rows too."""
    metric, data = Metric(name), data_of(data_type)
    column = as_compared(Vectors(data.stored), metric)
    assert isinstance(column, ComparedVectors)
    queries = data.queries[:QUERIES]
    scores = _twin_scores(as_float32(data.stored), queries, twin)
    random = np.random.default_rng(5)
    for share in (0.0, *SHARES):
        keep = random.random(len(column)) < share
        for k in (K, len(column) + 1):
            found = search_planned(None, column, SearchRequest(queries, k, metric), RowMask.of(keep))
            assert_well_formed(found, scores, k, metric, keep)
            assert ((found.rows >= 0).sum(axis=1) == min(k, keep.sum())).all()
            truth = np.sort(np.take_along_axis(scores, twin_best(scores, k, metric, keep), axis=1), axis=1)
            own = np.sort(np.take_along_axis(scores, found.rows, axis=1), axis=1)
            present = min(k, int(keep.sum()))
            if present == k:
                np.testing.assert_allclose(own, truth, rtol=TOLERANCE, atol=TOLERANCE)
    radius = float(np.median(scores))
    ranged = search_planned(None, column, SearchRequest(queries, K, metric, {"radius": radius}))
    inside = ranged.scores[ranged.rows >= 0]
    assert (inside > radius if metric.larger_is_better else inside < radius).all()


def _twin_scores(vectors: Floats, queries: Floats, twin: Twin) -> np.ndarray:
    x, q = vectors.astype(np.float64), queries.astype(np.float64)
    return np.array([[twin(query, vector) for vector in x] for query in q])
