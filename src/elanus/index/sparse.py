"""Sparse vectors: few entries (dimension, weight) of a huge space, compared by inner product, exactly.

A row is the bytes of its entries, a uint32 dimension and a float32 weight each, dimensions ascending. Without an index
a search looks for its dimensions among all entries of the column; `sparse_index` has postings. Rows that share no
dimension with the query are no hits. Weights are summed in float64 in the order of dimensions and rounded once, so that
both ways give the same scores.

Queries travel as one uint32 array (q, 2 m) of entries in the same layout, padded with the dimension `PADDING`, which no
vector can have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from elanus.base.errors import InvariantError
from elanus.index.contract import Bools, Floats, Rows
from elanus.index.scored import Scored
from elanus.model.types import Metric

ENTRY_BYTES: Final = 8
PADDING: Final = (1 << 32) - 1
ROW_NS: Final = 4.0
SCANNED_NS: Final = 10.0
"""Cost of one query for each row and for each entry. Measured at 100k rows of 50 entries."""
_SIEVE_BITS: Final = 1 << 16

Dimensions = npt.NDArray[np.uint32]
Sums = npt.NDArray[np.float64]


class Entries(NamedTuple):
    """All entries of a column, row after row; row r owns [offsets[r], offsets[r + 1])."""

    dimensions: Dimensions
    weights: Floats
    offsets: Rows


@dataclass(frozen=True)
class SparseVectors:
    """`values` is a large_binary array; null rows have no entries."""

    values: pa.Array

    def __len__(self) -> int:
        return len(self.values)

    def cost_us(self, queries: np.ndarray) -> float:
        """See `scored.ScoredVectors`."""
        rows_us = len(self) * ROW_NS * len(queries) / 1000
        entry_count = int(self._bounds[-1] - self._bounds[0]) // ENTRY_BYTES
        return rows_us + entry_count * SCANNED_NS * len(queries) / 1000

    @property
    def _bounds(self) -> Rows:
        """Where each row's bytes start in the column's data, and where the last one's end, (n + 1,)."""
        offsets = self.values.buffers()[1]
        if not len(self) or offsets is None:
            return np.zeros(len(self) + 1, np.int64)
        return np.frombuffer(offsets, np.int64, len(self.values) + 1, self.values.offset * 8)

    def read_entries(self) -> Entries:
        """All entries, viewing the column, which may be mapped: copies of them would be as large as it is."""
        bounds, data = self._bounds, self.values.buffers()[2]
        if data is None or bounds[0] == bounds[-1]:
            return Entries(np.empty(0, np.uint32), np.empty(0, np.float32), np.zeros(len(self) + 1, np.int64))
        raw = np.frombuffer(data, np.uint8, int(bounds[-1] - bounds[0]), int(bounds[0])).view("<u4").reshape(-1, 2)
        return Entries(raw[:, 0], raw.view("<f4")[:, 1], (bounds - bounds[0]) // ENTRY_BYTES)

    @cached_property
    def _entries(self) -> Entries:
        return self.read_entries()

    def scored(self, query: np.ndarray, metric: Metric, rows: Rows | None) -> Scored:
        """See `scored.ScoredVectors`; only rows that share a dimension with the query."""
        if metric is not Metric.IP:
            raise InvariantError(f"{metric} does not compare sparse vectors")
        dimensions, weights = query_terms(query)
        sums, touched = self._by_scan(dimensions, weights)
        chosen = np.flatnonzero(touched) if rows is None else rows[touched[rows]]
        return Scored(chosen, sums[chosen].astype(np.float32))

    def _by_scan(self, dimensions: Dimensions, weights: Floats) -> tuple[Sums, Bools]:
        entries, touched = self._entries, np.zeros(len(self), np.bool_)
        if not len(dimensions):
            return np.zeros(len(self)), touched
        # The low bits of a dimension say for nearly all entries that the query does not have it.
        sieve = np.zeros(_SIEVE_BITS, np.bool_)
        sieve[dimensions % _SIEVE_BITS] = True
        likely = np.flatnonzero(sieve[entries.dimensions.astype(np.uint16)])
        found = entries.dimensions[likely]
        at = np.minimum(np.searchsorted(dimensions, found), len(dimensions) - 1)
        same = dimensions[at] == found
        hits, at = likely[same], at[same]
        rows = np.searchsorted(entries.offsets, hits, side="right") - 1
        touched[rows] = True
        products = entries.weights[hits].astype(np.float64) * weights[at]
        return np.asarray(np.bincount(rows, products, minlength=len(self)), np.float64), touched


def query_terms(query: np.ndarray) -> tuple[Dimensions, Floats]:
    """The dimensions and weights of one query, without its padding."""
    pairs = query.view("<u4").reshape(-1, 2)
    pairs = pairs[pairs[:, 0] != PADDING]
    return pairs[:, 0], np.ascontiguousarray(pairs[:, 1]).view(np.float32)


def packed_queries(queries: Sequence[bytes]) -> npt.NDArray[np.uint32]:
    """Rows of entries as one padded array; every row's length is a multiple of `ENTRY_BYTES`."""
    width = max(map(len, queries), default=0)
    filler = np.array([PADDING, 0], "<u4").tobytes()
    joined = b"".join(query + filler * ((width - len(query)) // ENTRY_BYTES) for query in queries)
    return np.frombuffer(joined, "<u4").reshape(len(queries), width // 4)
