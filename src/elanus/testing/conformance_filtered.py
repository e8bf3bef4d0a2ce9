"""The promise of `index.plan` about filtered searches, held by any index type, whatever the rows that pass have to do
with the queries and however little effort the parameters ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from elanus.index.complete import CompleteIndex
from elanus.index.contract import Bools, Found, RowMask, SearchParams, VectorIndex
from elanus.index.plan import NEARLY_ALL, SearchRequest, search_planned
from elanus.index.scored import ScoredVectors
from elanus.index.vectors import Vectors
from elanus.model.types import Metric
from elanus.testing.conformance_data import Data, assert_well_formed, recall_by_score, twin_best

K: Final = 10
RECALL_MIN: Final = 0.95
SHARES: Final = (0.0001, 0.003, 0.01, 0.05, 0.1, 0.34, 0.5, 0.8, 0.95, 0.99, 1.0)
CORRELATED_QUERIES: Final = 24
COMPLETE_QUERIES: Final = 4
"""How many are asked with masks of their own; of an index that answers exactly."""


@dataclass(frozen=True)
class Subject:
    """An index, the vectors that it indexes, as stored and as the planner takes them, and search parameters of little
    and of much effort; `is_strong` if the latter reach `RECALL_MIN` without a mask."""

    index: VectorIndex
    data: Data
    column: Vectors | ScoredVectors
    weak: Mapping[str, object]
    strong: Mapping[str, object]
    is_strong: bool = True

    @property
    def metric(self) -> Metric:
        """Of the index."""
        return self.index.metric


def check_uncorrelated(subject: Subject) -> None:
    """Masks that have nothing to do with the queries, one query a call and many."""
    metric, column, queries = subject.metric, subject.column, subject.data.queries
    efforts = [subject.strong, subject.weak]
    if isinstance(subject.index, CompleteIndex):  # Its parameters trade results away, and are not made up for.
        queries, efforts = queries[:COMPLETE_QUERIES], [subject.strong]
    scores = subject.data.scores(metric)[: len(queries)]
    for share in SHARES:
        keep = kept_rows("random", share, scores[0], metric)
        mask = RowMask.of(keep)
        for params in efforts:
            asked = SearchRequest(queries, K, metric, params)
            together = search_planned(subject.index, column, asked, mask)
            alone = [search_planned(subject.index, column, replace(asked, queries=one[None]), mask) for one in queries]
            for found in (together, _joined(alone)):
                recalls = _check_promise(found, np.tile(keep, (len(queries), 1)), scores, metric)
                if share <= NEARLY_ALL or (params is subject.strong and subject.is_strong):
                    _check_recall(recalls, f"{share:g} pass")


def check_correlated(subject: Subject) -> None:
    """Masks of which the passing rows are near the query, far from it, or anywhere; little effort is asked of an index
    that is always asked, because it claims to cost nothing."""
    index, metric, data = subject.index, subject.metric, subject.data
    asked = SearchRequest(data.queries[:CORRELATED_QUERIES], K, metric, subject.weak)
    if isinstance(index, CompleteIndex):
        asked = replace(asked, queries=data.queries[:COMPLETE_QUERIES], params=subject.strong)
    else:
        index = FreeIndex(index)
    scores = data.scores(metric)[: len(asked.queries)]
    for kind in ("near", "far", "random"):
        recalls = []
        for share in SHARES[:-1]:
            keeps = np.array([kept_rows(kind, share, own, metric) for own in scores])
            found = [
                search_planned(index, subject.column, replace(asked, queries=query[None]), RowMask.of(keep))
                for query, keep in zip(asked.queries, keeps, strict=True)
            ]
            recalls.append(_check_promise(_joined(found), keeps, scores, metric))
            _check_recall(recalls[-1], f"{kind} {share:g} pass")
        assert np.mean(recalls) >= RECALL_MIN, f"recall {np.mean(recalls):.3f} over all shares, {kind}"


def _check_promise(found: Found, keeps: Bools, scores: np.ndarray, metric: Metric) -> np.ndarray:
    """min(k, passing) rows of each query that pass, with their own scores; the recall of each query."""
    assert_well_formed(found, scores, K, metric)
    present = found.rows >= 0
    assert np.take_along_axis(keeps, np.maximum(found.rows, 0), axis=1)[present].all(), "a row that does not pass"
    assert (present.sum(axis=1) == np.minimum(K, keeps.sum(axis=1))).all(), f"rows are missing: {keeps.mean():g} pass"
    truth = twin_best(scores, K, metric, keeps)
    lines = [slice(place, place + 1) for place in range(len(scores))]
    return np.array(
        [recall_by_score(Found(found.scores[one], found.rows[one]), scores[one], truth[one], metric) for one in lines]
    )


def _check_recall(recalls: np.ndarray, what: str) -> None:
    """Not less than promised beyond the noise of so few queries (two standard errors)."""
    noise = 2 * recalls.std() / np.sqrt(len(recalls))
    assert recalls.mean() + noise >= RECALL_MIN, f"recall {recalls.mean():.3f}, {what}"


def _joined(found: Sequence[Found]) -> Found:
    return Found(*(np.concatenate(column) for column in zip(*found, strict=True)))


def kept_rows(kind: str, share: float, scores: np.ndarray, metric: Metric) -> Bools:
    """A share of the rows, one at least: by chance, or those "near" to a query with these scores (n,), or those "far"
    from it, so that all that is near fails."""
    count = max(1, round(share * len(scores)))
    keep = np.zeros(len(scores), np.bool_)
    order = np.random.default_rng(count).permutation(len(scores))
    if kind != "random":
        order = np.argsort(-scores if metric.larger_is_better else scores, kind="stable")
    keep[order[-count:] if kind == "far" else order[:count]] = True
    return keep


class FreeIndex:
    """A real index that claims to cost nothing."""

    def __init__(self, index: VectorIndex) -> None:
        self.index_type, self.metric = index.index_type, index.metric
        self.row_count, self.dimension, self.size_bytes = index.row_count, index.dimension, index.size_bytes
        self.search, self.params_for, self.candidates = index.search, index.params_for, index.candidates
        self.scores_exactly = index.scores_exactly

    def cost_us(self, k: int, params: SearchParams) -> float:
        """Nothing."""
        return 0.0
