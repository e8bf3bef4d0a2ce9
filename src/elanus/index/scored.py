"""Exact search over columns that score a whole query at once: binary and sparse vectors.

A column says what its scores are and which rows it can score at all; choosing the best, ranges and padding are the
same for all of them and stand here. The loop is over queries, never over rows.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

import numpy as np

from elanus.index.contract import Floats, Found, RowMask, Rows, SearchParams
from elanus.index.exact import best_of, empty_answer
from elanus.index.ranges import in_range
from elanus.model.types import Metric

CALL_US: Final = 30.0


class Scored(NamedTuple):
    """Rows, ascending, and the score of each."""

    rows: Rows
    scores: Floats


class ScoredVectors(Protocol):
    """A column of vectors, immutable."""

    def __len__(self) -> int: ...

    def cost_us(self, queries: np.ndarray) -> float:
        """Estimated microseconds on one core to score all rows for these queries."""
        ...

    def scored(self, query: np.ndarray, metric: Metric, rows: Rows | None) -> Scored:
        """The scores of one query with the given rows (None: all); rows that share nothing with it may be left out."""
        ...


def search_scored(
    vectors: ScoredVectors, queries: np.ndarray, k: int, metric: Metric, mask: RowMask | None, params: SearchParams
) -> Found:
    """The k best kept rows of every query, inside the range where `params` has a `radius`; padded as in `contract`."""
    answer = empty_answer(len(queries), k, metric)
    rows = None if mask is None else mask.rows
    if not len(vectors) or (rows is not None and not len(rows)):
        return answer
    for place, query in enumerate(queries):
        found = vectors.scored(query, metric, rows)
        if "radius" in params:
            inside = np.flatnonzero(in_range(found.scores, metric, params))
            found = Scored(found.rows[inside], found.scores[inside])
        best = best_of(found.scores, found.rows, k, metric)
        answer.scores[place], answer.rows[place] = best.scores[0], best.rows[0]
    return answer


def best_scored_among(vectors: ScoredVectors, queries: np.ndarray, k: int, metric: Metric, candidates: Rows) -> Found:
    """The k best of each query's candidates (q, anything), which are distinct but for the -1 that pad them."""
    answer = empty_answer(len(queries), k, metric)
    for place, query in enumerate(queries):
        found = vectors.scored(query, metric, np.sort(candidates[place][candidates[place] >= 0]))
        best = best_of(found.scores, found.rows, k, metric)
        answer.scores[place], answer.rows[place] = best.scores[0], best.rows[0]
    return answer


def scored_cost_us(vectors: ScoredVectors, queries: np.ndarray) -> float:
    """Estimated microseconds of `search_scored` on one core."""
    return CALL_US * len(queries) + vectors.cost_us(queries)
