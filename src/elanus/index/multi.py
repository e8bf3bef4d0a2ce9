"""Lists of vectors: several vectors to a row, searched by several vectors at once or element by element, exactly.

MAX_SIM adds up, over the vectors of the query, the similarity of the row's best vector (late interaction: O. Khattab,
M. Zaharia, "ColBERT", SIGIR 2020); MAX_SIM_L2 adds up squared distances to the nearest ones. A row without vectors is
no hit. With a plain metric every element is found for itself: `MultiVectors.elements` is then what is searched.

A row is the bytes of its float32 vectors, one after another. A query is one line of floats, padded with NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import pyarrow as pa

from elanus.base.errors import InvariantError, check
from elanus.base.pieces import repeated
from elanus.index.contract import Floats, RowMask, Rows
from elanus.index.scored import Scored
from elanus.index.vectors import Vectors, normalised, squared_norms
from elanus.model.types import Metric

MULTI_METRICS: Final = frozenset({Metric.MAX_SIM, Metric.MAX_SIM_COSINE, Metric.MAX_SIM_IP, Metric.MAX_SIM_L2})
FLOAT_BYTES: Final = 4
PRODUCT_NS: Final = 0.2


@dataclass(frozen=True)
class MultiVectors:
    """`values` is a large_binary array without nulls; every row holds whole vectors of `dimension` floats."""

    values: pa.Array
    dimension: int

    def __len__(self) -> int:
        return len(self.values)

    def cost_us(self, queries: np.ndarray) -> float:
        """See `scored.ScoredVectors`."""
        return self.flat.size * queries.size / self.dimension * PRODUCT_NS / 1000

    @cached_property
    def bounds(self) -> Rows:
        """Row r owns the vectors [bounds[r], bounds[r + 1])."""
        if not len(self):
            return np.zeros(1, np.int64)
        offsets = np.frombuffer(self.values.buffers()[1], np.int64, len(self) + 1, self.values.offset * 8)
        return np.asarray((offsets - offsets[0]) // (FLOAT_BYTES * self.dimension))

    @cached_property
    def flat(self) -> Floats:
        """All vectors of all rows, (elements, dimension)."""
        count = int(self.bounds[-1])
        if not count:
            return np.empty((0, self.dimension), np.float32)
        _, offsets, data = self.values.buffers()
        first = int(np.frombuffer(offsets, np.int64, 1, self.values.offset * 8)[0])
        return np.frombuffer(data, np.float32, count * self.dimension, first).reshape(count, self.dimension)

    @cached_property
    def _units(self) -> Floats:
        return normalised(self.flat)

    @cached_property
    def _squares(self) -> Floats:
        return squared_norms(self.flat)

    @cached_property
    def elements(self) -> Vectors:
        """`flat` as a column of its own; element e belongs to the row `rows_of` says."""
        return Vectors(self.flat)

    def rows_of(self, elements: Rows) -> Rows:
        """The row of each element."""
        return np.asarray(np.searchsorted(self.bounds, elements, side="right") - 1, np.int64)

    def elements_in(self, mask: RowMask | None) -> RowMask | None:
        """The mask over elements that keeps those of the kept rows."""
        return None if mask is None else RowMask.of(repeated(mask.keep, np.diff(self.bounds)))

    def scored(self, query: np.ndarray, metric: Metric, rows: Rows | None) -> Scored:
        """See `scored.ScoredVectors`."""
        floats = query[~np.isnan(query)]
        check(len(floats) % self.dimension == 0, "a query of broken vectors")
        asked = floats.reshape(-1, self.dimension)
        chosen = np.arange(len(self)) if rows is None else rows
        chosen = chosen[self.bounds[chosen + 1] > self.bounds[chosen]]
        if not len(chosen) or not len(asked):
            return Scored(chosen[:0], np.empty(0, np.float32))
        starts, lengths = self.bounds[chosen], self.bounds[chosen + 1] - self.bounds[chosen]
        begins = np.cumsum(lengths) - lengths
        members = repeated(starts - begins, lengths) + np.arange(int(lengths.sum()))
        pairs = self._pairs(asked, metric, members)
        best = (np.minimum if metric is Metric.MAX_SIM_L2 else np.maximum).reduceat(pairs, begins, axis=0)
        return Scored(chosen, best.sum(axis=1, dtype=np.float64).astype(np.float32))

    def _pairs(self, asked: Floats, metric: Metric, members: Rows) -> Floats:
        """Scores of the given vectors with those of the query, (m, vectors of the query)."""
        match metric:
            case Metric.MAX_SIM | Metric.MAX_SIM_COSINE:
                return np.asarray(self._units[members] @ normalised(asked).T)
            case Metric.MAX_SIM_IP:
                return np.asarray(self.flat[members] @ asked.T)
            case Metric.MAX_SIM_L2:
                products = self.flat[members] @ asked.T
                squares = self._squares[members][:, None] + squared_norms(asked)[None, :]
                return np.asarray(np.maximum(squares - 2 * products, 0))
        raise InvariantError(f"{metric} does not compare lists of vectors")


def padded_lists(queries: Sequence[bytes]) -> Floats:
    """Queries of any number of float32 vectors as one array (q, floats of the longest), padded with NaN."""
    width = max(map(len, queries), default=0)
    filler = np.array([np.nan], "<f4").tobytes()
    joined = b"".join(query + filler * ((width - len(query)) // FLOAT_BYTES) for query in queries)
    return np.frombuffer(joined, "<f4").reshape(len(queries), width // FLOAT_BYTES)
