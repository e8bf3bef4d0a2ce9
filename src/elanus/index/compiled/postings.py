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

A *dense* list, one that has many of the rows, also has a code for every row of the column: 0 where the row is not in
the list, else its weight in steps, rounded up. Codes of a window are added in whole vectors and looked up in place,
many times as fast as postings. Sums with codes are bounds from above, and so choose as safely.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from elanus.base.kernel import kernel, part
from elanus.index.compiled.heap import push

BLOCK: Final = 128
WINDOW: Final = 1 << 14
"""Rows whose sums are made together: 64 KB."""
CHUNK: Final = 32
SCATTERED: Final = 12
"""A list with fewer than this many postings for each row still in the race is added up, not looked up."""
GATHERED: Final = 64
"""The same for the codes of a dense list: rows of a window for each row still in the race. A row's code is likely to be
in memory that no cache has, while whole windows are fetched ahead."""
FEW: Final = 2048
"""Postings of a window up to which the rows that they name are noted; above, the sums are looked through."""
LIGHT: Final = 2
LIGHT_SHARE: Final = 0.25
"""The weakest terms are light while they add up to less than this share of the k-th best score."""
CODE_MAX: Final = 255
TINY: Final = np.float32(1e-30)
"""Keeps the sum of a row that was met from being 0."""
ROUNDING: Final = 1.2e-7
"""Relative error of one float32 operation, with a margin."""

Floats32 = npt.NDArray[np.float32]
Floats64 = npt.NDArray[np.float64]
Ints32 = npt.NDArray[np.int32]
Ints64 = npt.NDArray[np.int64]
Flags = npt.NDArray[np.uint8]


class Lists(NamedTuple):
    """All postings of a column of `row_count` rows, list after list, and the largest weight of each block. Of dense
    lists `codes` (dense, row_count), and `splits` (dense, windows + 1): where windows begin among their postings."""

    rows: Ints32
    weights: Floats32
    block_maxima: Floats32
    codes: Flags
    splits: Ints32
    row_count: int


class Terms(NamedTuple):
    """A query's terms in its own order: each owns the postings [starts, stops), its blocks begin at `blocks`; `weights`
    are the query's, `ratio` scales the bounds (below 1 some of the best may be missed). `dense` is the term's number
    among dense lists or -1, `steps` what one step of its codes adds to a score."""

    starts: Ints64
    stops: Ints64
    blocks: Ints64
    dense: Ints64
    steps: Floats64
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
def _window_end(lists: Lists, terms: Terms, term: int, begin: int, window: int) -> int:
    """Where the term's postings of the window end that begin there."""
    if terms.dense[term] >= 0:
        return int(terms.starts[term] + lists.splits[terms.dense[term], window // WINDOW + 1])
    return _seek(lists.rows, begin, terms.stops[term], window + WINDOW)


@part
def _exact(lists: Lists, terms: Terms, begins: Ints64, ends: Ints64, row: int) -> float:
    """The score of one row as it is reported."""
    total = 0.0
    for term in range(len(begins)):
        if terms.dense[term] >= 0 and lists.codes[terms.dense[term], row] == 0:
            continue
        at = _seek(lists.rows, begins[term], ends[term], row)
        if at < ends[term] and lists.rows[at] == row:
            total += lists.weights[at] * terms.weights[term]
    return np.float32(total)  # type: ignore[return-value]


@part
def _bound_window(lists: Lists, terms: Terms, begins: Ints64, ends: Ints64, bounds: Floats64) -> None:
    """What each term can add to a score within its postings [begins, ends)."""
    for term in range(len(begins)):
        if terms.dense[term] >= 0:
            bounds[term] = CODE_MAX * terms.steps[term] * terms.ratio
            continue
        largest = np.float32(0)
        if begins[term] < ends[term]:
            first = terms.blocks[term] + (begins[term] - terms.starts[term]) // BLOCK
            last = terms.blocks[term] + (ends[term] - 1 - terms.starts[term]) // BLOCK
            for block in range(first, last + 1):
                largest = max(largest, lists.block_maxima[block])
        bounds[term] = largest * terms.weights[term] * terms.ratio


class Scratch(NamedTuple):
    """What a kernel works with: of each term its postings [begins, ends) in the window, what it can add there, and
    whether it is not essential; of each row of the window its sum, 0 between windows; places noted and found; the heap
    of the best rows so far."""

    begins: Ints64
    ends: Ints64
    bounds: Floats64
    is_weak: Flags
    sums: Floats32
    noted: Ints32
    found: Ints32
    kept_scores: Floats32
    kept_rows: Ints32


@part
def _add_up(lists: Lists, span: tuple[int, int], weight: float, window: int, sums: Floats32) -> None:
    """Add the term's postings [span) to the sums of their rows."""
    factor = np.float32(weight)
    rows, weights = lists.rows[span[0] : span[1]], lists.weights[span[0] : span[1]]
    for at in range(len(rows)):
        sums[np.uint32(rows[at] - window)] += factor * weights[at]


@part
def _add_noting(lists: Lists, span: tuple[int, int], weight: float, window: int, scratch: Scratch, count: int) -> int:
    """The same, and note the places that had no sum before, after the `count` noted; returns how many there are."""
    factor, sums, noted = np.float32(weight), scratch.sums, scratch.noted
    for at in range(span[0], span[1]):
        place = lists.rows[at] - window
        noted[count] = place
        count += sums[place] == 0
        sums[place] += factor * lists.weights[at] + TINY
    return count


@part
def _add_codes(codes: Flags, step: float, sums: Floats32) -> None:
    """Add a dense term's codes of a window to the sums of their rows."""
    factor = np.float32(step)
    for place in range(len(codes)):
        sums[place] += factor * np.float32(codes[place])


@part
def _add_four_codes(lists: Lists, window: int, dense: Ints64, steps: Floats64, sums: Floats32) -> None:
    """The same for four dense terms, in half of the time."""
    end = min(window + WINDOW, lists.row_count)
    first, second = lists.codes[dense[0], window:end], lists.codes[dense[1], window:end]
    third, fourth = lists.codes[dense[2], window:end], lists.codes[dense[3], window:end]
    one, two, three, four = np.float32(steps[0]), np.float32(steps[1]), np.float32(steps[2]), np.float32(steps[3])
    for place in range(len(first)):
        sums[place] += (one * np.float32(first[place]) + two * np.float32(second[place])) + (
            three * np.float32(third[place]) + four * np.float32(fourth[place])
        )


@part
def _places_above(sums: Floats32, threshold: float, found: Ints32) -> int:
    """Places whose sum exceeds the threshold and 0, ascending."""
    count = 0
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
    for place in found:
        at = _seek(lists.rows, span[0], span[1], window + place)
        if at < span[1] and lists.rows[at] == window + place:
            sums[place] += factor * lists.weights[at]


@part
def _look_up_codes(codes: Flags, step: float, found: Ints32, sums: Floats32) -> None:
    """Add a dense term to the sums of the places found."""
    factor = np.float32(step)
    for place in found:
        sums[place] += factor * np.float32(codes[place])


@part
def _mark_weak(order: Ints64, least: float, scratch: Scratch) -> int:
    """Mark the terms that are not essential, the first of `order`, and the first of them as light; returns how many
    they are."""
    total, count = 0.0, 0
    scratch.is_weak[:] = 0
    for term in order:
        total += scratch.bounds[term]
        if total * (1 + 1e-12) > least:
            break
        scratch.is_weak[term] = LIGHT if total < LIGHT_SHARE * least else 1
        count += 1
    return count


@part
def _are_few(terms: Terms, scratch: Scratch) -> bool:
    """Whether essential terms have so few postings in the window that their rows are better noted than looked for."""
    total = 0
    for term in range(len(terms.starts)):
        if not scratch.is_weak[term]:
            total += scratch.ends[term] - scratch.begins[term] if terms.dense[term] < 0 else WINDOW
    return total <= FEW


@part
def _add_essential_noting(lists: Lists, terms: Terms, window: int, scratch: Scratch) -> int:
    count = 0
    for term in range(len(terms.starts)):
        if not scratch.is_weak[term]:
            span = (scratch.begins[term], scratch.ends[term])
            count = _add_noting(lists, span, terms.weights[term], window, scratch, count)
    return count


@part
def _add_essential(lists: Lists, terms: Terms, window: int, scratch: Scratch) -> None:
    """Dense terms count as essential here unless they are light: adding their codes costs less than the rows that they
    rule out."""
    sums, count = scratch.sums, 0
    dense, steps = np.empty(4, np.int64), np.empty(4, np.float64)
    for term in range(len(terms.starts)):
        if scratch.is_weak[term] == LIGHT:
            continue
        if terms.dense[term] >= 0:
            scratch.is_weak[term] = 0
            dense[count], steps[count] = terms.dense[term], terms.steps[term]
            count += 1
            if count == 4:
                _add_four_codes(lists, window, dense, steps, sums)
                count = 0
        elif not scratch.is_weak[term]:
            _add_up(lists, (scratch.begins[term], scratch.ends[term]), terms.weights[term], window, sums)
    for at in range(count):
        _add_codes(lists.codes[dense[at], window : window + WINDOW], steps[at], sums)


@part
def _add_weak(lists: Lists, terms: Terms, term: int, window: int, scratch: Scratch, places: int) -> bool:
    """Add a term that is not essential to the places found; where that is faster to all, which is told."""
    span, found, sums = (scratch.begins[term], scratch.ends[term]), scratch.found[:places], scratch.sums
    if terms.dense[term] >= 0:
        codes = lists.codes[terms.dense[term], window : window + WINDOW]
        if places * GATHERED > len(codes):
            _add_codes(codes, terms.steps[term], sums)
            return True
        _look_up_codes(codes, terms.steps[term], found, sums)
        return False
    if span[1] - span[0] < SCATTERED * places:
        _add_up(lists, span, terms.weights[term], window, sums)
        return True
    _look_up(lists, span, terms.weights[term], window, found, sums)
    return False


@part
def _enter(lists: Lists, terms: Terms, window: int, scratch: Scratch) -> None:
    """Go on to the postings of a window."""
    for term in range(len(terms.starts)):
        begin = terms.starts[term] if window == 0 else scratch.ends[term]
        scratch.begins[term] = begin
        scratch.ends[term] = _window_end(lists, terms, term, begin, window)


@part
def _offer(lists: Lists, terms: Terms, scratch: Scratch, count: int, row: int, limits: tuple[float, float]) -> int:
    """Put a row into the heap if its score is within the limits, which are above and up to; returns the new count.
    Rows come ascending: of equal scores, one that comes after k others is not among the best."""
    score = _exact(lists, terms, scratch.begins, scratch.ends, row)
    if score > limits[0] and score <= limits[1]:
        return push(scratch.kept_scores, scratch.kept_rows, count, score, row)
    return count


@part
def _race(lists: Lists, terms: Terms, wanted: Wanted, window: int, scratch: Scratch, count: int) -> int:
    """The rows of one window with a score above 0 that are among the best; returns the heap's new count."""
    least = max(wanted.floor, 0.0)
    if count == wanted.k:
        least = max(least, np.float64(scratch.kept_scores[0]))
    _bound_window(lists, terms, scratch.begins, scratch.ends, scratch.bounds)
    order = np.argsort(scratch.bounds)
    weak_count = _mark_weak(order, least, scratch)
    if weak_count == len(order):
        return count
    few = _are_few(terms, scratch)
    noted = 0
    if few:
        noted = _add_essential_noting(lists, terms, window, scratch)
        scratch.found[:noted] = scratch.noted[:noted]
    else:
        _add_essential(lists, terms, window, scratch)
    rest = 0.0
    for term in order[:weak_count]:
        rest += scratch.bounds[term] if scratch.is_weak[term] else 0.0
    slack = 1.0 + (len(order) + 8) * ROUNDING
    places = noted if few else _places_above(scratch.sums, least / slack - rest, scratch.found)
    if len(wanted.keep):
        places = _only_kept(scratch.found, places, wanted.keep, window)
    for term in order[:weak_count][::-1]:
        if scratch.is_weak[term]:
            places = _only_above(scratch.found, places, scratch.sums, least / slack - rest)
            if places == 0:
                break
            few &= not _add_weak(lists, terms, term, window, scratch, places)
            rest -= scratch.bounds[term]
    if noted:
        scratch.found[:places].sort()
    for place in scratch.found[:places]:
        if scratch.sums[place] * slack > least:
            count = _offer(lists, terms, scratch, count, window + place, (least, wanted.ceiling))
            if count == wanted.k:
                least = max(least, np.float64(scratch.kept_scores[0]))
    if few:
        for place in scratch.noted[:noted]:
            scratch.sums[place] = 0
    else:
        scratch.sums[:] = 0
    return count


@part
def _take_all(lists: Lists, terms: Terms, wanted: Wanted, window: int, scratch: Scratch, count: int) -> int:
    """The same with every row that any term has, whatever its score."""
    least = max(wanted.floor, np.float64(scratch.kept_scores[0])) if count == wanted.k else wanted.floor
    places = 0
    for term in range(len(terms.starts)):
        for at in range(scratch.begins[term], scratch.ends[term]):
            place = lists.rows[at] - window
            scratch.found[places] = place
            places += scratch.sums[place] == 0
            scratch.sums[place] = 1
    scratch.found[:places].sort()
    for place in scratch.found[:places]:
        scratch.sums[place] = 0
        if len(wanted.keep) == 0 or wanted.keep[window + place]:
            count = _offer(lists, terms, scratch, count, window + place, (least, wanted.ceiling))
            if count == wanted.k:
                least = max(least, np.float64(scratch.kept_scores[0]))
    return count


@kernel(best_rows_numpy)
def best_rows(lists: Lists, terms: Terms, wanted: Wanted) -> Best:
    """See the module's head. Rows with a score of 0 or less count only where no k others are found."""
    size = len(terms.starts)
    scratch = Scratch(
        np.empty(size, np.int64),
        np.empty(size, np.int64),
        np.empty(size, np.float64),
        np.empty(size, np.uint8),
        np.zeros(WINDOW, np.float32),
        np.empty(WINDOW + 1, np.int32),
        np.empty(WINDOW + 1, np.int32),
        np.empty(wanted.k, np.float32),
        np.empty(wanted.k, np.int32),
    )
    count = 0
    if terms.prunes:
        for window in range(0, lists.row_count, WINDOW):
            _enter(lists, terms, window, scratch)
            count = _race(lists, terms, wanted, window, scratch, count)
    if not terms.prunes or (count < wanted.k and wanted.floor < 0):
        count = 0
        for window in range(0, lists.row_count, WINDOW):
            _enter(lists, terms, window, scratch)
            count = _take_all(lists, terms, wanted, window, scratch, count)
    return scratch.kept_scores[:count], scratch.kept_rows[:count]
