"""Indexes over lists of vectors: any dense index over all vectors of all rows, and which row each belongs to.

A search for whole rows (MAX_SIM and its kin) asks the inner index for the nearest vectors of every vector of the query.
The rows these belong to are candidates. A candidate is not met by every vector of the query; where one did not meet it,
the worst similarity that it did meet stands in (Lee and others 2023, "Rethinking the role of token retrieval in
multi-vector retrieval"). The best by that sum are scored exactly by whoever asked.

With a plain metric the file is the inner index's own, and its rows are the vectors.

The file of the former: the inner file, then `bounds`, int64 (rows + 1): row r owns vectors bounds[r] to bounds[r + 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import numpy as np

from elanus.base.errors import check
from elanus.index.codes import CANDIDATES
from elanus.index.contract import (
    FileIndexType,
    Floats,
    Found,
    ResolvedIndex,
    RowMask,
    Rows,
    SearchParams,
    VectorIndex,
)
from elanus.index.exact import empty_answer
from elanus.index.file import ALIGNMENT, Trailer, read_array, read_trailer, write_arrays
from elanus.index.multi import MULTI_METRICS, PRODUCT_NS, MultiVectors
from elanus.model.types import Metric

INNER_BYTES: Final = "inner_bytes"
INNER_METRICS: Final = {
    Metric.MAX_SIM: Metric.COSINE,
    Metric.MAX_SIM_COSINE: Metric.COSINE,
    Metric.MAX_SIM_IP: Metric.IP,
    Metric.MAX_SIM_L2: Metric.L2,
}
RETRIEVAL_RATIO: Final = 3
"""Candidates for each row wanted."""
VECTORS_PER_CANDIDATE: Final = 2
"""Nearest vectors looked for, for each candidate wanted: several may be of one row."""
QUERY_VECTORS: Final = 8
"""Vectors of a query, as costs are estimated."""


def build_lists(
    kind: FileIndexType, resolved: ResolvedIndex, lists: MultiVectors, threads: int
) -> Sequence[memoryview]:
    """The file."""
    if resolved.metric not in INNER_METRICS:
        return kind.build(resolved, lists.flat, threads)
    inner = kind.build(msgspec.structs.replace(resolved, metric=INNER_METRICS[resolved.metric]), lists.flat, threads)
    size = sum(len(part) for part in inner)
    padding = -size % ALIGNMENT
    trailer = Trailer(resolved.index_type, resolved.metric, len(lists), lists.dimension, {INNER_BYTES: size})
    # Sections count from where the arrays begin.
    return [*inner, memoryview(bytes(padding)), *write_arrays({"bounds": lists.bounds}, trailer)]


def is_of_lists(trailer: Trailer) -> bool:
    """Whether a file is what `build_lists` made for whole rows."""
    return trailer.metric in MULTI_METRICS


class ListIndex:
    """A mapped file."""

    scores_exactly = False

    def __init__(self, data: memoryview, open_inner: Callable[[memoryview], VectorIndex]) -> None:
        """`open_inner` opens the inner index's file, with which `data` begins."""
        trailer = read_trailer(data)
        size = int(trailer.params[INNER_BYTES])
        self._inner = open_inner(data[:size])
        # Copied, so that what is opened in memory of this process keeps nothing mapped.
        self._bounds: Rows = read_array(data[size + -size % ALIGNMENT :], trailer, "bounds").copy()
        self.index_type = trailer.index_type
        self.metric = trailer.metric
        self.row_count = trailer.row_count
        self.dimension = trailer.dimension
        self.size_bytes = len(data)

    def search(self, queries: np.ndarray, k: int, mask: RowMask | None, params: SearchParams) -> Found:
        """See the contract; queries are as `multi` says, and scores those of the module's head."""
        answer = empty_answer(len(queries), k, self.metric)
        for place, query in enumerate(queries):
            floats = query[~np.isnan(query)]
            check(len(floats) % self.dimension == 0, "a query of broken vectors")
            if not len(floats) or not self._inner.row_count:
                continue
            rows, scores = self._candidates(floats.reshape(-1, self.dimension), k, params)
            if mask is not None:
                rows, scores = rows[mask.keep[rows]], scores[mask.keep[rows]]
            best = np.lexsort((rows, -scores))[:k]
            answer.rows[place, : len(best)] = rows[best]
            answer.scores[place, : len(best)] = scores[best] if self.metric.larger_is_better else -scores[best]
        return answer

    def _candidates(self, asked: Floats, k: int, params: SearchParams) -> tuple[Rows, Floats]:
        """Rows of which a vector was met, and the sum of similarities of each."""
        width = min(self._inner.row_count, VECTORS_PER_CANDIDATE * k)
        found = self._inner.search(asked, width, None, params)
        sign = np.float32(1 if self._inner.metric.larger_is_better else -1)
        met = found.rows >= 0
        worst = np.where(met, sign * found.scores, np.inf).min(axis=1)
        places, at = np.nonzero(met)
        rows = np.searchsorted(self._bounds, found.rows[places, at], side="right") - 1
        # The first of a vector's hits in a row is its best.
        _, first = np.unique(places * self.row_count + rows, return_index=True)
        gains = (sign * found.scores[places, at] - worst[places])[first]
        chosen, owner = np.unique(rows[first], return_inverse=True)
        total = np.bincount(owner, gains) + worst[np.isfinite(worst)].sum()
        return chosen.astype(np.int64), total.astype(np.float32)

    def candidates(self, k: int, params: SearchParams) -> int:
        """See the contract."""
        planned = params.get(CANDIDATES, 0)
        return max(RETRIEVAL_RATIO * k, planned if isinstance(planned, int) else 0)

    def params_for(self, k: int, rank: int, params: SearchParams) -> SearchParams:
        """Nothing is promised: under a filter, rows are scored one by one."""
        return {**params, CANDIDATES: self.row_count + 1}

    def cost_us(self, k: int, params: SearchParams) -> float:
        """Of a query of `QUERY_VECTORS`, the exact scores of the candidates included."""
        inner = self._inner.cost_us(min(self._inner.row_count, VECTORS_PER_CANDIDATE * k), params)
        scored = k * math.ceil(self._inner.row_count / max(self.row_count, 1))
        return QUERY_VECTORS * (inner + scored * self.dimension * PRODUCT_NS / 1000)
