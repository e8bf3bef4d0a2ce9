"""Codes of two bits a number, by which nearly all rows are ruled out of a search before their vectors are read.

Each number of a vector is told by which of four ranges of its dimension it is in: below, about, or above the mean, at
borders that lose least of a normal distribution (Max, "Quantizing for minimum distortion", 1960, table I). A pair of
numbers is one of 16 centroids, so that faiss's fast scan of product codes (André, Kermarrec, Le Scouarnec, "Cache
locality is not enough", 2015) estimates a score in a few nanoseconds, where a scan of the vectors waits for memory.
Nothing is trained but means, so that codes are made in the time of a few dozen scans.

An estimate is wrong by some error, and a row is left out when its estimate is worse than that of the k-th best one by
more than the *slack*. Codes try themselves out when they are made: rows search for their own neighbours, and the slack
is half as much again as the most by which a neighbour's estimate lagged behind. So queries like the data find nearly
all, with an effort that follows the data and is known to the planner; where rows cannot be told apart by two bits,
codes say that they do not pay. Queries unlike the data are tried, too, but not all that may come.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from elanus.index import kernels
from elanus.index.contract import Bytes, Floats, Found, Rows
from elanus.index.declaration import FLOAT_METRICS
from elanus.index.exact import pairs_cost_us, search_exact
from elanus.index.vectors import SAFE_SQUARE_MAX, SAFE_SQUARE_MIN, Vectors, normalised
from elanus.model.types import Metric

BORDER: Final = 0.9816
"""Of the standard deviation, from the mean: between the two ranges of a side."""
RANGES: Final = 4
DIMENSION_MIN: Final = 32
BYTE_NUMBERS: Final = 4
BLOCK_ROWS: Final = 1024
SAMPLE_ROWS: Final = 4096
SCANNED_FLOAT_NS: Final = 0.015
SCANNED_ROW_NS: Final = 1.0
CALL_US: Final = 100.0
"""Cost of one query. Measured at 60k x 384 on one core."""
CANDIDATES_MIN: Final = 100
CANDIDATES_STEP: Final = 4
"""Times more candidates are asked for where the last of them may still be among the best."""
CANDIDATES_SHARE_MAX: Final = 1 / 8
"""Of all rows. Beyond, the second look costs what the first one saved."""
TRIAL_QUERIES: Final = 16
TRIAL_K: Final = 50
TYPICAL_K: Final = 10
STRANGERS_SHARE: Final = 0.9
"""Of the neighbours of queries unlike the data, how many must not lag further behind than the slack."""
SLACK_FACTOR: Final = 1.5
LENGTH_MIN: Final = 1e-30


class CoarseCodes:
    """Codes of some vectors for one of Milvus's own metrics. They do not keep the vectors."""

    def __init__(self, vectors: Vectors, metric: Metric) -> None:
        """Takes about 2 µs a row of 384 numbers on one core. `can_be_coarse` must hold."""
        self.metric = metric
        self.row_count = len(vectors)
        self._padding = -vectors.dimension % BYTE_NUMBERS
        sample = self._prepared(vectors.take(_spread(vectors, SAMPLE_ROWS)))
        self._mean = sample.mean(axis=0)
        borders = _borders(sample)
        starts = range(0, len(vectors), BLOCK_ROWS)
        blocks = (self._prepared(vectors.block(start, start + BLOCK_ROWS)) for start in starts)
        codes = np.concatenate([_codes(block, borders) for block in blocks])
        self.size_bytes = codes.size
        self._scan = _fast_scan(_levels(sample, borders), codes, metric)
        self._typical_length = 1.0
        self._slack = 0.0
        self._candidates_for_one = math.inf
        self._try_out(vectors, sample)

    def candidates(self, query: Floats, k: int) -> Rows | None:
        """Rows (1, m) among which nearly all of the k best of one query (1, dim) are; None if they are too many. `k` is
        no more than there are rows."""
        if math.isinf(self._slack):
            return None
        query = self._prepared(query)
        slack = self._slack * self._length(query)
        limit = self._limit(k)
        wanted = min(limit, max(2 * k, CANDIDATES_MIN))
        while True:
            keys, rows = self._search(query, wanted)
            inside = np.count_nonzero(keys[0] <= keys[0, k - 1] + slack)
            if inside < wanted:
                return np.asarray(rows[:, :inside])
            if wanted == limit:
                return None
            wanted = min(limit, CANDIDATES_STEP * wanted)

    def cost_us(self, vectors: Vectors, k: int) -> float:
        """Estimated microseconds on one core of one query; infinite where codes do not tell rows apart."""
        count = max(k * self._candidates_for_one, k)
        if count >= self._limit(k):
            return math.inf
        scanned = self.row_count * (vectors.dimension * SCANNED_FLOAT_NS + SCANNED_ROW_NS) / 1000
        return CALL_US + scanned + pairs_cost_us(vectors, math.ceil(count))

    def _limit(self, k: int) -> int:
        return min(self.row_count, max(2 * k, CANDIDATES_MIN, int(CANDIDATES_SHARE_MAX * self.row_count)))

    def _prepared(self, vectors: Floats) -> Floats:
        """As the metric compares them, and whole bytes of code wide."""
        values = normalised(vectors) if self.metric is Metric.COSINE else np.ascontiguousarray(vectors)
        return np.pad(values, ((0, 0), (0, self._padding))) if self._padding else values

    def _search(self, queries: Floats, count: int) -> Found:
        """Keys, of which smaller is better, and rows. Where codes are all alike keys may be infinite, and rows -1."""
        scores, rows = self._scan.search(queries, count)
        keys = -scores if self.metric.larger_is_better else scores
        keys[(rows < 0) | np.isnan(keys)] = np.inf
        return Found(keys, rows)

    def _length(self, query: Floats) -> float:
        """What the errors of one query's estimates are proportional to."""
        if self.metric is Metric.L2:
            return max(float(np.linalg.norm(query - self._mean)), self._typical_length)
        return float(np.linalg.norm(query))

    def _try_out(self, vectors: Vectors, sample: Floats) -> None:
        """Set the slack, and how many candidates it leaves for each row wanted."""
        k, rows = min(TRIAL_K, self.row_count), _spread(vectors, TRIAL_QUERIES)
        strangers = _strangers(sample, len(rows))
        if self.metric is not Metric.L2:  # Not all of them share what all rows have in common.
            strangers[::2] -= self._mean
        queries = np.concatenate((vectors.take(rows), strangers[:, : vectors.dimension]))
        prepared = self._prepared(queries)
        if self.metric is Metric.L2:
            self._typical_length = float(np.median(np.linalg.norm(prepared[: len(rows)] - self._mean, axis=1)))
        truth = search_exact(vectors, queries, k, self.metric).rows
        keys, found = self._search(prepared, self._limit(k))
        lengths = np.array([max(self._length(query), LENGTH_MIN) for query in prepared])
        lags = np.stack([_lags(*one) for one in zip(keys, found, truth, strict=True)]) / lengths[:, None]
        strangers_lag = np.quantile(lags[len(rows) :], STRANGERS_SHARE, method="higher")
        self._slack = SLACK_FACTOR * max(float(lags[: len(rows)].max()), float(strangers_lag))
        first = min(TYPICAL_K, k)
        inside = keys <= keys[:, first - 1 : first] + self._slack * lengths[:, None]
        self._candidates_for_one = float(np.median(inside.sum(axis=1)[: len(rows)])) / first


def can_be_coarse(vectors: Vectors, metric: Metric) -> bool:
    """Whether codes of these vectors tell anything: not by a handful of numbers, nor near the ends of float32."""
    is_wide, square = vectors.dimension >= DIMENSION_MIN, vectors.largest_square
    return is_wide and metric in FLOAT_METRICS and SAFE_SQUARE_MIN < square < SAFE_SQUARE_MAX


def _lags(keys: Floats, found: Rows, truth: Rows) -> Floats:
    """How much worse than the k-th best key those of the k true rows are, (k,); infinite for one that was not found."""
    lags = np.full(len(truth), np.inf, np.float32)
    met = keys[np.isin(found, truth) & np.isfinite(keys)]
    lags[: len(met)] = met - keys[len(truth) - 1]
    return lags


def _strangers(sample: Floats, count: int) -> Floats:
    """Vectors whose numbers are each of another row: unlike all rows, within the same bounds."""
    rows = (np.arange(count)[:, None] * 61 + np.arange(sample.shape[1]) * 97) % len(sample)
    return np.take_along_axis(sample, rows, axis=0)


def _spread(vectors: Vectors, count: int) -> Rows:
    """So many rows, evenly spread over all."""
    return np.unique(np.linspace(0, len(vectors) - 1, min(count, len(vectors)), dtype=np.int64))


def _borders(sample: Floats) -> Floats:
    """Between the ranges of each dimension (3, dim), ascending."""
    mean, distance = sample.mean(axis=0), BORDER * sample.std(axis=0)
    return np.stack((mean - distance, mean, mean + distance))


def _ranges(values: Floats, borders: Floats) -> Bytes:
    """Which range each number is in, (n, dim)."""
    return np.asarray(sum((values > border).view(np.uint8) for border in borders), np.uint8)


def _levels(sample: Floats, borders: Floats) -> Floats:
    """What each range stands for, (4, dim): the mean of the sample's numbers in it."""
    ranges = _ranges(sample, borders)
    levels = np.empty((RANGES, sample.shape[1]), np.float32)
    edges = np.concatenate((borders[:1], borders, borders[-1:]))
    for place in range(RANGES):
        inside = ranges == place
        middle = (edges[place] + edges[place + 1]) / 2
        counts = inside.sum(axis=0)
        levels[place] = np.where(counts > 0, (sample * inside).sum(axis=0) / np.maximum(counts, 1), middle)
    return levels


def _codes(values: Floats, borders: Floats) -> Bytes:
    """Four numbers a byte, the first in the lowest bits, (n, dim / 4)."""
    words = _ranges(values, borders).view("<u4")
    return np.asarray(words | words >> 6 | words >> 12 | words >> 18).astype(np.uint8)


def _fast_scan(levels: Floats, codes: Bytes, metric: Metric) -> Any:
    """faiss's scan over the codes: pairs of numbers, each one of 16 centroids."""
    faiss = kernels.library()
    dimension = levels.shape[1]
    pairs = levels.T.reshape(dimension // 2, 2, RANGES)
    centroids = np.empty((dimension // 2, RANGES, RANGES, 2), np.float32)
    centroids[..., 0] = pairs[:, 0, None, :]
    centroids[..., 1] = pairs[:, 1, :, None]
    index = faiss.IndexPQ(dimension, dimension // 2, 4, kernels.faiss_metric(metric))
    faiss.copy_array_to_vector(centroids.reshape(-1), index.pq.centroids)
    index.is_trained = True
    index.add_sa_codes(codes)
    return faiss.IndexPQFastScan(index)
