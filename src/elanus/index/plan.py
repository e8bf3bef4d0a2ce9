"""Search through a row mask, with a promise.

*The promise.* min(k, passing) rows come back, every one of them passing, at every selectivity and whatever the mask has
to do with the query. Where no more than `NEARLY_ALL` of the rows pass, their recall, as a mean over queries like the
data, is at least 0.95, however little effort the search parameters ask for, and no less than what the same parameters
find without a mask. A mask that more rows pass, such as a few deletes, changes nothing: recall is what the parameters
give. `testing.conformance_filtered` holds every index type to it, those of other packages too.

An HNSW walk that merely drops the rows that fail breaks both halves: at 2 % passing, half of the answer is missing, and
where the failing rows surround the query, all of it. So a filtered search goes one of two ways.

*Neighbourhood*: ask the index, unfiltered, for the `width` nearest rows, with an effort that its calibration says finds
them, and keep those that pass. If k of them pass, they are the k nearest passing rows, because everything nearer was
seen. The answer proves itself, query by query; no estimate of the mask's correlation is needed. If fewer pass, their
share is a local estimate of the selectivity and says how wide to look next. An index over codes is asked for more
candidates than the width, again by its calibration, and these are scored from the vectors.

*Exact*: score the passing rows. Its cost is known beforehand and falls with the selectivity, while the width grows.

A cost model in measured constants picks the cheaper way first; a neighbourhood that turned out too small is widened
step by step, and only while that is estimated cheaper than scoring, so a search costs at most a small multiple of the
exact one.

If the index gives up early (a graph may leave rows unreachable), the exact search answers instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import numpy as np

from elanus.base.errors import check
from elanus.index.complete import CompleteIndex
from elanus.index.contract import Bools, Found, RowMask, Rows, SearchParams, VectorIndex
from elanus.index.exact import (
    best_among,
    best_of,
    cost_us,
    empty_answer,
    pairs_cost_us,
    score_all,
    search_exact,
)
from elanus.index.ranges import in_range
from elanus.index.scored import ScoredVectors, best_scored_among, scored_cost_us, search_scored
from elanus.index.vectors import Vectors
from elanus.model.types import Metric

ATTEMPTS_MAX: Final = 3
NEARLY_ALL: Final = 0.99
"""Passing share above which a mask does not change how hard the index tries."""
WIDENING_MAX: Final = 4
"""Times wider an attempt is than the one before, however few rows passed there: a handful tells little, and a step too
far costs more than one more step."""
WIDTH_ENTRIES_MAX: Final = 4 << 20
"""Entries (queries x width) of one unfiltered answer held at once."""
RANGE_FACTORS: Final = (4, 32)
"""How far beyond k a search looks for rows outside `range_filter` before it scores all of them."""


@dataclass(frozen=True)
class SearchRequest:
    """`queries` float32 (q, dim), for binary and sparse vectors as their modules say; `params` as
    `registry.validate_search` returned them, `radius` and `range_filter` included."""

    queries: np.ndarray
    k: int
    metric: Metric
    params: SearchParams = field(default_factory=dict)


def search_planned(
    index: VectorIndex | None, vectors: Vectors | ScoredVectors, request: SearchRequest, mask: RowMask | None = None
) -> Found:
    """The k best kept rows of every query, with their exact scores. `index` None searches exactly; otherwise it indexes
    all of `vectors`.

    With `radius` in the parameters only rows inside the range count, and answers may be short.
    """
    if index is not None:
        check(index.row_count == len(vectors) and index.metric is request.metric, "the index is of other vectors")
    elif not isinstance(vectors, Vectors):
        return search_scored(vectors, request.queries, request.k, request.metric, mask, request.params)
    if mask is not None:
        check(len(mask.keep) == len(vectors), "the mask is of other rows")
        mask = None if mask.count == len(vectors) else mask
    if isinstance(index, CompleteIndex):
        return index.search(request.queries, request.k, mask, request.params)
    if "radius" in request.params:
        return _search_range(index, vectors, request, mask)
    return _search_best(index, vectors, request, mask)


def estimate_us(
    index: VectorIndex | None, vectors: Vectors | ScoredVectors, request: SearchRequest, mask: RowMask | None = None
) -> float:
    """Estimated microseconds on one core; tells a caller whether to stay on its thread."""
    if isinstance(index, CompleteIndex):
        return index.queries_cost_us(request.queries, mask)
    exact = _exact_us(vectors, request, mask)
    if index is None:
        return exact
    reach = _Reach(request.k) if mask is None else _first_reach(request.k, mask)
    return min(exact, _index_us(index, vectors, reach, reach.params(index, request)) * len(request.queries))


# --- the best k -----------------------------------------------------------------------------------------------------


def _search_best(
    index: VectorIndex | None, vectors: Vectors | ScoredVectors, request: SearchRequest, mask: RowMask | None
) -> Found:
    passing = len(vectors) if mask is None else mask.count
    if index is None or passing <= request.k:
        return _exact(vectors, request, mask)
    if mask is None:
        return _search_whole(index, vectors, request)
    step = max(1, WIDTH_ENTRIES_MAX // _first_reach(request.k, mask).width)
    if len(request.queries) <= step:
        return _search_filtered(index, vectors, request, mask)
    blocks = [request.queries[start : start + step] for start in range(0, len(request.queries), step)]
    parts = [_search_filtered(index, vectors, replace(request, queries=block), mask) for block in blocks]
    return Found(np.concatenate([part.scores for part in parts]), np.concatenate([part.rows for part in parts]))


def _search_whole(index: VectorIndex, vectors: Vectors | ScoredVectors, request: SearchRequest) -> Found:
    index_us = _index_us(index, vectors, _Reach(request.k), request.params)
    if _exact_us(vectors, request, None) < index_us * len(request.queries):
        return _exact(vectors, request, None)
    found = nearest(index, vectors, request, request.k, request.params)
    short = found.rows[:, -1] < 0
    if short.any():
        _answer_exactly(found, np.flatnonzero(short), vectors, request, None)
    return _ties_ordered(found, request.metric)


def _exact(vectors: Vectors | ScoredVectors, request: SearchRequest, mask: RowMask | None) -> Found:
    """The best k of all kept rows, of whatever range."""
    if isinstance(vectors, Vectors):
        return search_exact(vectors, request.queries, request.k, request.metric, mask)
    return search_scored(vectors, request.queries, request.k, request.metric, mask, {})


def nearest(
    index: VectorIndex, vectors: Vectors | ScoredVectors, request: SearchRequest, width: int, params: SearchParams
) -> Found:
    """The `width` nearest rows that the index finds, by their own scores."""
    if index.scores_exactly:
        return index.search(request.queries, width, None, params)
    count = min(index.row_count, index.candidates(width, params))
    rows = index.search(request.queries, count, None, params).rows
    if isinstance(vectors, Vectors):
        return best_among(vectors, request.queries, width, request.metric, rows)
    return best_scored_among(vectors, request.queries, width, request.metric, rows)


def _search_filtered(
    index: VectorIndex, vectors: Vectors | ScoredVectors, request: SearchRequest, mask: RowMask
) -> Found:
    answer = empty_answer(len(request.queries), request.k, request.metric)
    left, pending = request, np.arange(len(request.queries))
    reach = _first_reach(request.k, mask)
    for _ in range(ATTEMPTS_MAX):
        params = reach.params(index, request)
        index_us = _index_us(index, vectors, reach, params) * len(pending)
        if index_us >= _exact_us(vectors, left, mask) or len(pending) * reach.width > 2 * WIDTH_ENTRIES_MAX:
            break
        near = nearest(index, vectors, left, reach.width, params)
        kept = mask.keep[near.rows] & (near.rows >= 0)
        counts = kept.sum(axis=1)
        done = counts >= request.k
        _take_first(answer, pending[done], Found(near.scores[done], near.rows[done]), kept[done])
        pending = pending[~done]
        if not len(pending):
            return _ties_ordered(answer, request.metric)
        left = replace(request, queries=request.queries[pending])
        reach = _wider(reach, request.k, float(counts[~done].mean()))
    _answer_exactly(answer, pending, vectors, request, mask)
    return _ties_ordered(answer, request.metric)


def _take_first(answer: Found, places: Rows, near: Found, kept: Bools) -> None:
    """Write the first k kept rows of each line of `near` to the lines `places` of `answer`."""
    k = answer.rows.shape[1]
    if len(kept) == 1:
        first = np.flatnonzero(kept[0])[:k]
        answer.scores[places], answer.rows[places] = near.scores[:, first], near.rows[:, first]
        return
    chosen = kept & (np.cumsum(kept, axis=1) <= k)
    answer.scores[places] = near.scores[chosen].reshape(-1, k)
    answer.rows[places] = near.rows[chosen].reshape(-1, k)


def _answer_exactly(
    answer: Found, places: Rows, vectors: Vectors | ScoredVectors, request: SearchRequest, mask: RowMask | None
) -> None:
    found = _exact(vectors, replace(request, queries=request.queries[places]), mask)
    answer.scores[places] = found.scores
    answer.rows[places] = found.rows


def _ties_ordered(found: Found, metric: Metric) -> Found:
    """Equal scores by row; indexes leave them as they met them."""
    tied = found.scores[:, 1:] == found.scores[:, :-1]
    if not (tied & (found.rows[:, 1:] < found.rows[:, :-1])).any():
        return found
    badness = -found.scores if metric.larger_is_better else found.scores
    rows = np.where(found.rows < 0, np.iinfo(np.int64).max, found.rows)
    order = np.lexsort((rows, badness), axis=-1)
    return Found(np.take_along_axis(found.scores, order, axis=1), np.take_along_axis(found.rows, order, axis=1))


# --- costs ----------------------------------------------------------------------------------------------------------


class _Reach(NamedTuple):
    """How far around a query an attempt looks: at the `width` nearest rows, with an effort that finds the `rank`
    nearest of them; with the user's own and no more where `rank` is None.

    The rest of the width is there to have k pass nearly always. Where a row of it is missed, its successor takes its
    place."""

    width: int
    rank: int | None = None

    def params(self, index: VectorIndex, request: SearchRequest) -> SearchParams:
        return request.params if self.rank is None else index.params_for(request.k, self.rank, request.params)


def _first_reach(k: int, mask: RowMask) -> _Reach:
    """As if the mask had nothing to do with the query: the k-th passing row stands at `rank` on average."""
    share = max(mask.count, 1) / len(mask.keep)
    return _Reach(_width(k, share), math.ceil(k / share) if share <= NEARLY_ALL else None)


def _wider(reach: _Reach, k: int, passed: float) -> _Reach:
    """After an attempt in which so few passed. The passing rows may all stand at the far end."""
    wanted = _width(k, (passed + 0.5) / reach.width)
    width = min(max(wanted, 2 * reach.width), WIDENING_MAX * reach.width)
    return _Reach(width, width)


def _width(k: int, share: float) -> int:
    """Nearest rows of which k pass where that share of all does: by the mean count and 1.5 standard deviations."""
    return math.ceil((k + 1.5 * math.sqrt(k) + 1) / share)


def _exact_us(vectors: Vectors | ScoredVectors, request: SearchRequest, mask: RowMask | None) -> float:
    if not isinstance(vectors, Vectors):
        return scored_cost_us(vectors, request.queries)
    passing = len(vectors) if mask is None else mask.count
    return cost_us(vectors, passing, len(request.queries))


def _index_us(index: VectorIndex, vectors: Vectors | ScoredVectors, reach: _Reach, params: SearchParams) -> float:
    """One query's cost, scoring what it finds included; infinite where the width is most of the index, or where no
    width would do."""
    count = index.candidates(reach.width, params)
    if reach.rank is not None and (2 * reach.width > index.row_count or count > index.row_count):
        return math.inf
    if index.scores_exactly:
        return index.cost_us(reach.width, params)
    scoring = pairs_cost_us(vectors, count) if isinstance(vectors, Vectors) else 0.0
    return index.cost_us(count, params) + scoring


# --- ranges ---------------------------------------------------------------------------------------------------------


def _search_range(
    index: VectorIndex | None, vectors: Vectors | ScoredVectors, request: SearchRequest, mask: RowMask | None
) -> Found:
    if "range_filter" not in request.params:
        found = _search_best(index, vectors, request, mask)
        outside = ~in_range(found.scores, request.metric, request.params)
        found.rows[outside] = -1
        found.scores[outside] = empty_answer(1, 1, request.metric).scores[0, 0]
        return found
    found_nearby = _search_ring(index, vectors, request, mask)
    if found_nearby is not None:
        return found_nearby
    if not isinstance(vectors, Vectors):
        return search_scored(vectors, request.queries, request.k, request.metric, mask, request.params)
    rows = np.arange(len(vectors)) if mask is None else mask.rows
    answer = empty_answer(len(request.queries), request.k, request.metric)
    for place, query in enumerate(request.queries):
        scores = score_all(vectors, query, request.metric, rows)
        inside = np.flatnonzero(in_range(scores, request.metric, request.params))
        best = best_of(scores[inside], rows[inside], request.k, request.metric)
        answer.scores[place], answer.rows[place] = best.scores[0], best.rows[0]
    return answer


def _search_ring(
    index: VectorIndex | None, vectors: Vectors | ScoredVectors, request: SearchRequest, mask: RowMask | None
) -> Found | None:
    """The answer if the nearest few multiples of k hold it: k rows inside the range, or a row already beyond it."""
    if index is None:
        return None
    passing = len(vectors) if mask is None else mask.count
    radius_only = {name: value for name, value in request.params.items() if name != "range_filter"}
    for factor in RANGE_FACTORS:
        wider = replace(request, k=factor * request.k)
        if wider.k >= passing or estimate_us(index, vectors, wider, mask) >= _exact_us(vectors, request, mask):
            return None
        found = _search_best(index, vectors, wider, mask)
        inside = in_range(found.scores, request.metric, request.params) & (found.rows >= 0)
        beyond = ~in_range(found.scores[:, -1], request.metric, radius_only)
        if (beyond | (inside.sum(axis=1) >= request.k)).all():
            return _first_inside(found, inside, request)
    return None


def _first_inside(found: Found, inside: Bools, request: SearchRequest) -> Found:
    answer = empty_answer(len(found.rows), request.k, request.metric)
    rank = np.cumsum(inside, axis=1) - 1
    chosen = inside & (rank < request.k)
    place = np.nonzero(chosen)[0]
    answer.scores[place, rank[chosen]] = found.scores[chosen]
    answer.rows[place, rank[chosen]] = found.rows[chosen]
    return answer
