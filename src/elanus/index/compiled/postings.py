"""Best rows of a sparse query over postings: MaxScore by windows of rows, and its twin in NumPy.

Every term (a dimension of the query) has a list of rows, ascending, each with a weight; a row's score is the sum over
terms of query weight times row weight. A list is cut into blocks of `BLOCK` postings whose largest weight is known.

MaxScore (Turtle, Flood 1995, "Query evaluation: strategies and optimizations"), with bounds that hold for a window of
rows (Ding, Suel 2011, "Faster top-k document retrieval using block-max indexes", section 6): within each window terms
are ordered by the most they can add to a score. Those whose bounds together do not beat the k-th best score so far are
*not essential*: no row gets among the best by them alone. Lists of essential terms are added up row by row into an
array that fits the cache; only rows whose sum, with all that the other terms can add, beats the k-th best stay in the
race. The other lists follow one by one, the strongest first, and after each the rows that cannot win any more leave.

Sums made that way are float32 and only choose. The score that is reported, and that decides, is summed in float64 over
the terms in the query's order and rounded once, as the twin does: both give the same bits. Terms are bounded from above
only if query weights and row weights are not negative; otherwise `prunes` is False and everything is added up.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from elanus.base.kernel import kernel, part

BLOCK: Final = 128
WINDOW: Final = 1 << 14
"""Rows whose sums are made together: 64 KB."""
CHUNK: Final = 32
SCATTERED: Final = 12
"""A list with fewer than this many postings for each row still in the race is added up, not looked up."""
ROUNDING: Final = 1.2e-7
"""Relative error of one float32 operation, with a margin."""

Floats32 = npt.NDArray[np.float32]
Floats64 = npt.NDArray[np.float64]
Ints32 = npt.NDArray[np.int32]
Ints64 = npt.NDArray[np.int64]
Flags = npt.NDArray[np.uint8]


class Lists(NamedTuple):
    """All postings of a column of `row_count` rows, list after list, and the largest weight of each block."""

    rows: Ints32
    weights: Floats32
    block_maxima: Floats32
    row_count: int


class Terms(NamedTuple):
    """A query's terms in its own order: each owns the postings [starts, stops), its blocks begin at `blocks`; `weights`
    are the query's, `ratio` scales the bounds (below 1 some of the best may be missed)."""

    starts: Ints64
    stops: Ints64
    blocks: Ints64
    weights: Floats64
    ratio: float
    prunes: bool


class Wanted(NamedTuple):
    """The best `k` rows with floor < score <= ceiling; `keep` says which rows count, 1 or 0 each; empty: all."""

    k: int
    floor: float
    ceiling: float
    keep: Flags


Best = tuple[Floats32, Ints32]
"""Scores and rows, in no order, up to k of them."""


def best_rows_numpy(lists: Lists, terms: Terms, wanted: Wanted) -> Best:
    """The twin: all products added up, term by term."""
    sums, touched = np.zeros(lists.row_count), np.zeros(lists.row_count, np.bool_)
    for start, stop, weight in zip(terms.starts, terms.stops, terms.weights, strict=True):
        rows = lists.rows[start:stop]
        sums[rows] += lists.weights[start:stop] * weight
        touched[rows] = True
    if len(wanted.keep):
        touched &= wanted.keep.view(np.bool_)
    rows = np.flatnonzero(touched).astype(np.int32)
    scores = sums[rows].astype(np.float32)
    inside = (scores > wanted.floor) & (scores <= wanted.ceiling)
    rows, scores = rows[inside], scores[inside]
    order = np.lexsort((rows, -scores))[: wanted.k]
    return scores[order], rows[order]


@part
def _seek(rows: Ints32, begin: int, end: int, row: int) -> int:
    """The first place in [begin, end) whose row is not below `row`, or `end`; near `begin` is found first."""
    step = 1
    low = begin
    while low + step < end and rows[low + step] < row:
        low += step
        step *= 2
    high = min(low + step, end)
    while low < high:
        middle = (low + high) >> 1
        if rows[middle] < row:
            low = middle + 1
        else:
            high = middle
    return low


@part
def _is_worse(score: float, row: int, other_score: float, other_row: int) -> bool:
    return score < other_score or (score == other_score and row > other_row)


@part
def _push(scores: Floats32, rows: Ints32, count: int, score: float, row: int) -> int:
    """Put a row into a heap of the best whose first is the worst; a full heap loses that. Returns the new count."""
    capacity = len(scores)
    if count < capacity:
        at = count
        while at > 0:
            parent = (at - 1) >> 1
            if not _is_worse(score, row, scores[parent], rows[parent]):
                break
            scores[at], rows[at] = scores[parent], rows[parent]
            at = parent
        scores[at], rows[at] = score, row
        return count + 1
    at = 0
    while True:
        child = 2 * at + 1
        if child >= capacity:
            break
        if child + 1 < capacity and _is_worse(scores[child + 1], rows[child + 1], scores[child], rows[child]):
            child += 1
        if not _is_worse(scores[child], rows[child], score, row):
            break
        scores[at], rows[at] = scores[child], rows[child]
        at = child
    scores[at], rows[at] = score, row
    return count


@part
def _exact(lists: Lists, terms: Terms, begins: Ints64, ends: Ints64, row: int) -> float:
    """The score of one row as it is reported."""
    total = 0.0
    for term in range(len(begins)):
        at = _seek(lists.rows, begins[term], ends[term], row)
        if at < ends[term] and lists.rows[at] == row:
            total += lists.weights[at] * terms.weights[term]
    return np.float32(total)  # type: ignore[return-value]


@part
def _bound_window(lists: Lists, terms: Terms, begins: Ints64, ends: Ints64, bounds: Floats64) -> None:
    """What each term can add to a score within its postings [begins, ends)."""
    for term in range(len(begins)):
        largest = np.float32(0)
        if begins[term] < ends[term]:
            first = terms.blocks[term] + (begins[term] - terms.starts[term]) // BLOCK
            last = terms.blocks[term] + (ends[term] - 1 - terms.starts[term]) // BLOCK
            for block in range(first, last + 1):
                largest = max(largest, lists.block_maxima[block])
        bounds[term] = largest * terms.weights[term] * terms.ratio


@part
def _add_up(lists: Lists, span: tuple[int, int], weight: float, window: int, sums: Floats32, touched: Flags) -> None:
    """Add the term's postings [span) to the sums of their rows, and mark these where `touched` is not empty."""
    factor = np.float32(weight)
    begin, end = span
    if len(touched):
        for at in range(begin, end):
            place = lists.rows[at] - window
            sums[place] += factor * lists.weights[at]
            touched[place] = 1
    else:
        for at in range(begin, end):
            sums[lists.rows[at] - window] += factor * lists.weights[at]


@part
def _candidates(sums: Floats32, touched: Flags, threshold: float, found: Ints32) -> int:
    """Places worth a look, ascending: those touched, or without `touched` those whose sum exceeds the threshold."""
    count = 0
    if len(touched):
        for place in range(len(sums)):
            found[count] = place
            count += touched[place]
        return count
    limit = np.float32(max(threshold, 0.0))
    for start in range(0, len(sums), CHUNK):
        largest = np.float32(0)
        for place in range(start, start + CHUNK):
            largest = max(largest, sums[place])
        if largest > limit:
            for place in range(start, start + CHUNK):
                found[count] = place
                count += sums[place] > limit
    return count


@part
def _only_kept(found: Ints32, count: int, keep: Flags, window: int) -> int:
    kept = 0
    for at in range(count):
        found[kept] = found[at]
        kept += keep[window + found[at]]
    return kept


@part
def _only_above(found: Ints32, count: int, sums: Floats32, limit: float) -> int:
    kept = 0
    for at in range(count):
        found[kept] = found[at]
        kept += sums[found[at]] > limit
    return kept


@part
def _look_up(lists: Lists, span: tuple[int, int], weight: float, window: int, found: Ints32, sums: Floats32) -> None:
    """Add the term to the sums of the places found."""
    factor = np.float32(weight)
    at, end = span
    for place in found:
        at = _seek(lists.rows, at, end, window + place)
        if at == end:
            break
        if lists.rows[at] == window + place:
            sums[place] += factor * lists.weights[at]


@part
def _essential_from(order: Ints64, bounds: Floats64, prefix: Floats64, least: float, prunes: bool) -> int:
    """How many terms of `order` are not essential; `prefix[i]` becomes what the first i of them can add together."""
    prefix[0] = 0.0
    for place in range(len(order)):
        prefix[place + 1] = prefix[place] + bounds[order[place]]
    if not prunes:
        return 0
    count = 0
    while count < len(order) and prefix[count + 1] * (1 + 1e-12) <= least:
        count += 1
    return count


@kernel(best_rows_numpy)
def best_rows(lists: Lists, terms: Terms, wanted: Wanted) -> Best:
    """See the module's head."""
    count_terms = len(terms.starts)
    heap_scores, heap_rows = np.empty(wanted.k, np.float32), np.empty(wanted.k, np.int32)
    count, least = 0, wanted.floor
    begins, ends = terms.starts.copy(), terms.starts.copy()
    bounds, prefix = np.zeros(count_terms), np.zeros(count_terms + 1)
    sums, found = np.zeros(WINDOW, np.float32), np.empty(WINDOW, np.int32)
    marks, no_marks = np.zeros(WINDOW, np.uint8), np.zeros(0, np.uint8)
    slack = 1.0 + (count_terms + 8) * ROUNDING
    for window in range(0, lists.row_count, WINDOW):
        for term in range(count_terms):
            begins[term] = ends[term]
            ends[term] = _seek(lists.rows, begins[term], terms.stops[term], window + WINDOW)
        _bound_window(lists, terms, begins, ends, bounds)
        order = np.argsort(bounds)
        skipped = _essential_from(order, bounds, prefix, least, terms.prunes)
        if skipped == count_terms:
            continue
        # Before k rows are known any row that was met counts, whatever its score.
        touched = no_marks if terms.prunes and least >= 0 else marks
        for place in range(skipped, count_terms):
            term = order[place]
            _add_up(lists, (begins[term], ends[term]), terms.weights[term], window, sums, touched)
        places = _candidates(sums, touched, least / slack - prefix[skipped], found)
        if len(wanted.keep):
            places = _only_kept(found, places, wanted.keep, window)
        for weaker in range(skipped - 1, -1, -1):
            places = _only_above(found, places, sums, least / slack - prefix[weaker + 1])
            if places == 0:
                break
            term = order[weaker]
            if ends[term] - begins[term] < SCATTERED * places:
                _add_up(lists, (begins[term], ends[term]), terms.weights[term], window, sums, no_marks)
            else:
                _look_up(lists, (begins[term], ends[term]), terms.weights[term], window, found[:places], sums)
        for place in found[:places]:
            if terms.prunes and sums[place] * slack <= least:
                continue
            row = window + place
            score = _exact(lists, terms, begins, ends, row)
            if score > least and score <= wanted.ceiling:
                count = _push(heap_scores, heap_rows, count, score, row)
                if count == wanted.k:
                    least = max(least, np.float64(heap_scores[0]))
        sums[:] = 0
        if len(touched):
            marks[:] = 0
    return heap_scores[:count], heap_rows[:count]
