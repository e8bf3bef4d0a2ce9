"""An index for vectors that still grow: the first rows have codes, the *head*, those since, the *tail*, are scanned.

To the planner it is an index of all rows, so that filters, ranges and scores are the same as everywhere; which rows may
be seen is the mask's affair, as in a scan. The head is a `CoarseCodes`: it needs no training, is made in the time of a
few dozen scans, and takes a sixteenth of the vectors' memory. Whatever index the field is defined with, recall is what
the head's own trial says.
"""

from __future__ import annotations

from functools import cached_property
from typing import Final

import numpy as np

from elanus.base.errors import check
from elanus.index.coarse import TYPICAL_K, CoarseCodes, can_be_coarse
from elanus.index.contract import Floats, Found, RowMask, SearchParams
from elanus.index.exact import best_among, cost_us, search_exact
from elanus.index.vectors import Vectors
from elanus.model.types import Metric

EXACT_US_MIN: Final = 1000.0
"""A tail whose scan is estimated cheaper gets no head: about 12000 rows of 384 numbers."""
TAIL_SHARE_MIN: Final = 0.5
"""A head is built again when the tail is that share of it, so that all builds together cost about three times the last
one."""


def build_head(vectors: Vectors, metric: Metric) -> CoarseCodes | None:
    """Codes of these rows; None where searches would not gain by them."""
    if not can_be_coarse(vectors, metric):
        return None
    head = CoarseCodes(vectors, metric)
    return head if head.cost_us(vectors, TYPICAL_K) < cost_us(vectors, len(vectors), 1) else None


def is_worth_a_head(vectors: Vectors, head: CoarseCodes | None, metric: Metric) -> bool:
    """Whether a head over all these rows should replace the one there is. There is none for other packages' metrics."""
    if metric.extension is not None:
        return False
    known = 0 if head is None or head.metric is not metric else head.row_count
    tail = len(vectors) - known
    return tail >= TAIL_SHARE_MIN * known and _scan_us(vectors, tail) >= EXACT_US_MIN


def _scan_us(vectors: Vectors, row_count: int) -> float:
    return cost_us(vectors, len(vectors), 1) * row_count / max(1, len(vectors))


class InterimIndex:
    """See the module's head. `head` indexes the first rows of `vectors`."""

    index_type = "INTERIM"
    scores_exactly = True

    def __init__(self, head: CoarseCodes, vectors: Vectors) -> None:
        check(head.row_count <= len(vectors), "the head is of more rows than there are")
        self._head = head
        self._vectors = vectors
        self.metric = head.metric
        self.row_count = len(vectors)
        self.dimension = vectors.dimension
        self.size_bytes = head.size_bytes

    @cached_property
    def _tail(self) -> Vectors:
        start = self._head.row_count
        return Vectors(self._vectors.values[start:], self._vectors.squares[start:])

    def search(self, queries: np.ndarray, k: int, mask: RowMask | None, params: SearchParams) -> Found:
        """See the contract. Under a mask it is an exact search: the planner asks without."""
        if mask is not None:
            return search_exact(self._vectors, queries, k, self.metric, mask)
        found = [self._search_one(query[None], k) for query in queries]
        return Found(np.concatenate([one.scores for one in found]), np.concatenate([one.rows for one in found]))

    def _search_one(self, query: Floats, k: int) -> Found:
        start = self._head.row_count
        near = self._head.candidates(query, min(k, start))
        if near is None:
            return search_exact(self._vectors, query, k, self.metric)
        late = search_exact(self._tail, query, min(k, len(self._tail)), self.metric).rows + start
        return best_among(self._vectors, query, k, self.metric, np.concatenate((near, late), axis=1))

    def candidates(self, k: int, params: SearchParams) -> int:
        """See the contract."""
        return k

    def params_for(self, k: int, rank: int, params: SearchParams) -> SearchParams:
        """See the contract."""
        return params

    def cost_us(self, k: int, params: SearchParams) -> float:
        """The head's, and the scan of the tail."""
        return self._head.cost_us(self._vectors, k) + _scan_us(self._vectors, len(self._tail))
