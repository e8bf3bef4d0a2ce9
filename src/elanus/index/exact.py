"""Exact search: the k best rows, the same ones and in the same order whichever way they were computed.

A pair's score is what `kernels.score_pairs` says; rows are ordered by score, then by row. To find the best without
scoring every pair so, a search computes *keys* (larger is better) by the fastest means, keeps every row whose key is
not provably worse than the k-th best, and scores those few:

- one or a few queries stream the vectors through faiss's kernels, which are bound by memory bandwidth; where few rows
  pass a mask, only those are touched, in place;
- many queries go through a blocked matrix product. For L2 the key is 2 q·x - |x|², whose cancellation is covered by
  the tolerance, and the distance reported is recomputed from the differences.

The bound comes from group maxima: rows are dealt into groups, and the k-th largest group maximum is a lower bound of
the k-th best key, because k groups each hold a row at least as good. One reduction instead of a partition.

The tolerance is the textbook bound on the error of an inner product of dimension d, d·u·|q|·|x| for each of the two
sides (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from elanus.base.errors import check
from elanus.index.contract import Bools, Floats, Found, RowMask, Rows
from elanus.index.scans import scan_column, scan_column_rows, score_column_pairs
from elanus.index.vectors import Vectors, normalised
from elanus.model.types import Metric

FEW_QUERIES: Final = 5
"""Up to here streaming beats the matrix product (measured: 60k x 384, equal at 6)."""
SPARSE_SHARE: Final = 0.5
"""Passing share of a mask below which only the passing rows are touched."""
ROW_BLOCK: Final = 8192
QUERY_BLOCK_MAX: Final = 256
CANDIDATES_MAX: Final = 4 << 20
GROUP_ROWS_MAX: Final = 64
CALL_US: Final = 15.0
SCANNED_FLOAT_NS: Final = 0.2
SCANNED_ROW_NS: Final = 1.5
GATHERED_FLOAT_NS: Final = 0.4
MATRIX_FLOAT_NS: Final = 0.03
MATRIX_ROW_NS: Final = 1.0
SCORED_ROW_NS: Final = 40.0
"""Cost of one query for each float or row touched. Measured at 60k x 384 on one core, beyond its caches."""
UNIT_ROUNDOFF: Final = 2.0**-24
WORST: Final = np.float32(-np.inf)


@dataclass(frozen=True)
class _Task:
    """One exact search, with COSINE queries already normalised. At most one of `rows` and `keep` is given."""

    vectors: Vectors
    queries: Floats
    k: int
    metric: Metric
    rows: Rows | None
    keep: Bools | None

    @property
    def is_distance(self) -> bool:
        return self.metric is Metric.L2

    @property
    def row_count(self) -> int:
        return len(self.vectors) if self.rows is None else len(self.rows)


def search_exact(vectors: Vectors, queries: Floats, k: int, metric: Metric, mask: RowMask | None = None) -> Found:
    """The k best kept rows of every query; short answers are padded as `contract` says. `mask` None keeps all."""
    if mask is None or mask.count == len(vectors):
        return _search(_task(vectors, queries, k, metric, None, None))
    if mask.count < SPARSE_SHARE * len(vectors):
        return search_rows(vectors, queries, k, metric, mask.rows)
    return _search(_task(vectors, queries, k, metric, None, mask.keep))


def search_rows(vectors: Vectors, queries: Floats, k: int, metric: Metric, rows: Rows) -> Found:
    """The k best of the given rows; `rows` are distinct and ascending."""
    return _search(_task(vectors, queries, k, metric, rows, None))


def score_all(vectors: Vectors, query: Floats, metric: Metric, rows: Rows) -> Floats:
    """The scores of one query (dim,) with the given rows, (m,)."""
    query = _prepared(query[None, :], metric)[0]
    return _finished(scan_column_rows(query, vectors, rows, metric is Metric.L2), vectors, rows, metric)


def best_of(scores: Floats, rows: Rows, k: int, metric: Metric) -> Found:
    """The k best of scored rows (m,) of one query, as a (1, k) answer; `rows` ascend."""
    keys = scores if metric.larger_is_better else -scores
    chosen = np.flatnonzero(keys >= _bound(keys[:, None], k)[0]) if len(keys) > k else np.arange(len(keys))
    return _packed(np.zeros(len(chosen), np.int64), rows[chosen], scores[chosen], (1, k), metric)


def best_among(vectors: Vectors, queries: Floats, k: int, metric: Metric, candidates: Rows) -> Found:
    """The k best of each query's candidates (q, anything), which are distinct but for the -1 that pad them."""
    task = _task(vectors, queries, k, metric, None, None)
    present = np.flatnonzero(candidates >= 0)
    places, rows = present // max(1, candidates.shape[1]), candidates.reshape(-1)[present]
    scores = score_column_pairs(task.queries, places, vectors, rows, task.is_distance)
    scores = _without_nan(_finished(scores, vectors, rows, metric), task)
    return _packed(places, rows, scores, (len(queries), k), metric)


def pairs_cost_us(vectors: Vectors, count: int) -> float:
    """Estimated microseconds on one core of scoring that many rows of `best_among`."""
    return count * (vectors.dimension * (GATHERED_FLOAT_NS + vectors.widening_ns) + SCORED_ROW_NS) / 1000


def cost_us(vectors: Vectors, passing: int, query_count: int) -> float:
    """Estimated microseconds on one core of `search_exact` for all queries, from the constants above."""
    row_count, dimension = len(vectors), vectors.dimension
    sparse = passing < SPARSE_SHARE * row_count
    rows = passing if sparse else row_count
    widened_us = rows * dimension * vectors.widening_ns / 1000
    if query_count > FEW_QUERIES:
        passes = -(-query_count // QUERY_BLOCK_MAX)
        return rows * (dimension * MATRIX_FLOAT_NS + MATRIX_ROW_NS) * query_count / 1000 + widened_us * passes
    gathered = passing * dimension * GATHERED_FLOAT_NS
    scanned = row_count * (dimension * SCANNED_FLOAT_NS + SCANNED_ROW_NS)
    return (CALL_US + (gathered if sparse else scanned) / 1000 + widened_us) * query_count


def empty_answer(query_count: int, k: int, metric: Metric) -> Found:
    """An answer without rows."""
    worst = -np.inf if metric.larger_is_better else np.inf
    return Found(np.full((query_count, k), worst, np.float32), np.full((query_count, k), -1, np.int64))


def _task(vectors: Vectors, queries: Floats, k: int, metric: Metric, rows: Rows | None, keep: Bools | None) -> _Task:
    check(queries.shape[1] == vectors.dimension, "queries and vectors differ in dimension")
    check(keep is None or len(keep) == len(vectors), "the mask is of other rows")
    return _Task(vectors, _prepared(queries, metric), k, metric, rows, keep)


def _prepared(queries: Floats, metric: Metric) -> Floats:
    return normalised(queries) if metric is Metric.COSINE else np.ascontiguousarray(queries, np.float32)


def _search(task: _Task) -> Found:
    query_count = len(task.queries)
    if task.row_count == 0 or query_count == 0:
        return empty_answer(query_count, task.k, task.metric)
    if query_count <= FEW_QUERIES:
        found = [_search_one(task, place) for place in range(query_count)]
        if query_count == 1:
            return found[0]
        return Found(np.concatenate([one.scores for one in found]), np.concatenate([one.rows for one in found]))
    return _search_matrix(task)


# --- few queries ----------------------------------------------------------------------------------------------------


def _search_one(task: _Task, place: int) -> Found:
    query, vectors = task.queries[place], task.vectors
    if task.rows is not None:
        scores = scan_column_rows(query, vectors, task.rows, task.is_distance)
        scores = _finished(scores, vectors, task.rows, task.metric)
        return best_of(_without_nan(scores, task), task.rows, task.k, task.metric)
    keys = scan_column(query, vectors, task.is_distance)
    if task.is_distance:
        np.negative(keys, out=keys)
    elif task.metric is Metric.COSINE:
        keys *= vectors.inverse_norms
    if task.keep is not None:
        keys[~task.keep] = WORST
    bound = float(_bound(keys[:, None], task.k)[0])
    slack = 2 * (vectors.dimension + 4) * UNIT_ROUNDOFF * _scale(task, query, bound)
    rows = np.flatnonzero(keys >= np.float32(bound - slack)) if np.isfinite(slack) else np.arange(len(keys))
    if task.keep is not None:
        rows = rows[task.keep[rows]]
    scores = score_column_pairs(task.queries, np.full(len(rows), place, np.int64), vectors, rows, task.is_distance)
    scores = _without_nan(_finished(scores, vectors, rows, task.metric), task)
    return _packed(np.zeros(len(rows), np.int64), rows, scores, (1, task.k), task.metric)


def _scale(task: _Task, query: Floats, bound: float) -> float:
    """What the rounding error of a streamed key is proportional to."""
    if task.metric is Metric.COSINE:
        return 1.0
    if task.metric is Metric.L2:
        return abs(bound)
    return float(np.sqrt(float(np.dot(query, query)) * task.vectors.largest_square))


# --- many queries ---------------------------------------------------------------------------------------------------


def _search_matrix(task: _Task) -> Found:
    step = max(1, min(QUERY_BLOCK_MAX, CANDIDATES_MAX // max(task.k, 1)))
    parts = [_search_block(task, start, start + step) for start in range(0, len(task.queries), step)]
    if len(parts) == 1:
        return parts[0]
    return Found(np.concatenate([part.scores for part in parts]), np.concatenate([part.rows for part in parts]))


def _search_block(task: _Task, start: int, stop: int) -> Found:
    """The queries [start, stop): candidates block by block, then one scoring of those that may be among the best."""
    queries = task.queries[start:stop]
    transposed = np.ascontiguousarray(queries.T)
    slack = _slack(task, queries)
    best: Floats | None = None
    bound = np.full(len(queries), WORST)
    taken: list[tuple[Rows, Rows, Floats]] = []
    for rows, keys in _key_blocks(task, transposed):
        best = _best_maxima(best, _maxima(keys, task.k), task.k)
        if len(best) == task.k:
            bound = best.min(axis=0) - slack
        hits = np.flatnonzero(keys >= bound)
        at, place = np.divmod(hits, len(queries))
        taken.append((place, rows[at], keys.reshape(-1)[hits]))
    place, row, key = (np.concatenate(column) for column in zip(*taken, strict=True))
    stay = key >= bound[place]
    if task.keep is not None:
        stay &= task.keep[row]
    place, row = place[stay], row[stay]
    scores = score_column_pairs(queries, place, task.vectors, row, task.is_distance)
    scores = _without_nan(_finished(scores, task.vectors, row, task.metric), task)
    return _packed(place, row, scores, (len(queries), task.k), task.metric)


def _key_blocks(task: _Task, transposed: Floats) -> Iterator[tuple[Rows, Floats]]:
    """Rows and keys (rows, q), block by block; a row that is not kept has the worst key."""
    vectors = task.vectors
    for start in range(0, task.row_count, ROW_BLOCK):
        stop = min(start + ROW_BLOCK, task.row_count)
        rows = np.arange(start, stop) if task.rows is None else task.rows[start:stop]
        values = vectors.block(start, stop) if task.rows is None else vectors.take(rows)
        keys = values @ transposed
        if task.is_distance:
            keys *= 2
            keys -= vectors.squares[rows][:, None]
        elif task.metric is Metric.COSINE:
            keys *= vectors.inverse_norms[rows][:, None]
        if _overflows(task):
            keys[np.isnan(keys)] = WORST
        if task.keep is not None:
            keys[~task.keep[start:stop]] = WORST
        yield rows, keys


def _slack(task: _Task, queries: Floats) -> Floats:
    """Per query: how far apart two keys can be while their pair scores are ordered the other way; inf if unknown."""
    lengths = np.sqrt(np.einsum("ij,ij->i", queries, queries, dtype=np.float64))
    largest = np.sqrt(task.vectors.largest_square)
    match task.metric:
        case Metric.COSINE:
            scale = np.ones(len(queries))
        case Metric.L2:
            scale = 2 * lengths * largest + largest**2 + lengths**2
        case _:
            scale = lengths * largest
    return np.asarray(2 * (task.vectors.dimension + 4) * UNIT_ROUNDOFF * scale, np.float32)


def _overflows(task: _Task) -> bool:
    return not np.isfinite(task.vectors.largest_square)


# --- both -----------------------------------------------------------------------------------------------------------


def _group_rows(row_count: int, k: int) -> int:
    """Rows in a group: a power of two, such that there are at least 2 k groups where that is possible."""
    size = GROUP_ROWS_MAX
    while size > 1 and row_count // size < 2 * k:
        size //= 2
    return size


def _maxima(keys: Floats, k: int) -> Floats:
    """Group maxima (groups, q) of keys (rows, q); a remainder of rows belongs to no group."""
    size = _group_rows(len(keys), k)
    groups = len(keys) // size
    if size == 1:
        return keys
    return np.asarray(keys[: groups * size].reshape(size, groups, -1).max(axis=0))


def _best_maxima(best: Floats | None, maxima: Floats, k: int) -> Floats:
    """The k largest of both along the first axis, unordered; all of them while there are fewer than k."""
    merged = maxima if best is None else np.concatenate([best, maxima])
    if len(merged) <= k:
        return merged
    return np.partition(merged, len(merged) - k, axis=0)[len(merged) - k :]


def _bound(keys: Floats, k: int) -> Floats:
    """A lower bound (q,) of the k-th best key of each column of keys (rows, q)."""
    maxima = _maxima(keys, k)
    if len(maxima) < k:
        return np.full(keys.shape[1], WORST)
    return np.asarray(np.partition(maxima, len(maxima) - k, axis=0)[len(maxima) - k])


def _finished(scores: Floats, vectors: Vectors, rows: Rows, metric: Metric) -> Floats:
    """Pair kernel results as Milvus's scores."""
    if metric is Metric.COSINE:
        scores *= vectors.inverse_norms[rows]
        np.clip(scores, -1, 1, out=scores)
    return scores


def _without_nan(scores: Floats, task: _Task) -> Floats:
    """Overflowing vectors score worst instead of not at all."""
    if _overflows(task):
        scores[np.isnan(scores)] = WORST if task.metric.larger_is_better else np.float32(np.inf)
    return scores


def _packed(places: Rows, rows: Rows, scores: Floats, shape: tuple[int, int], metric: Metric) -> Found:
    """The first k of each query's scored rows, as a padded answer of `shape` (q, k)."""
    query_count, k = shape
    badness = -scores if metric.larger_is_better else scores
    order = np.lexsort((rows, badness, places))
    counts = np.bincount(places, minlength=query_count)
    at = (np.cumsum(counts) - counts)[:, None] + np.arange(k)
    present = np.arange(k) < counts[:, None]
    found = empty_answer(query_count, k, metric)
    chosen = order[at[present]]
    found.scores[present] = scores[chosen]
    found.rows[present] = rows[chosen]
    return found
