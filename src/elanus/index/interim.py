"""An index for vectors that still grow: the first rows are in a built index, the *head*, those since, the *tail*, are
scanned.

To the planner it is an index of all rows, so that filters, ranges and scores are the same as everywhere; which rows may
be seen is the mask's affair, as in a scan. The head is a SCANN: it is built in about a second, takes a tenth of the
vectors' memory, and what it finds is scored by the vectors themselves. Whatever index the field is defined with, the
effort comes from the head's own calibration, so that recall is that of `calibrate.RECALL`.
"""

from __future__ import annotations

from functools import cached_property
from typing import Final

import numpy as np

from elanus.base.errors import check
from elanus.index import registry
from elanus.index.contract import Found, ResolvedIndex, RowMask, SearchParams, VectorIndex
from elanus.index.declaration import FLOAT_METRICS
from elanus.index.exact import cost_us, empty_answer, search_exact
from elanus.index.vectors import Vectors
from elanus.model.types import Metric

LISTS: Final = 128
EXACT_US_MIN: Final = 1000.0
"""A tail whose scan is estimated cheaper gets no head: about 12000 rows of 384 numbers. Measured on package
descriptions: with 5000 rows a head answers in 1.3 times the time of a scan, with 10000 in half, with 40000 in a fifth.
"""
TAIL_SHARE_MIN: Final = 0.5
"""A head is built again when the tail is that share of it, so that all builds together cost about three times the last
one."""


def build_head(vectors: Vectors, metric: Metric, threads: int) -> VectorIndex:
    """An index in memory over these rows. Takes about a second for 50k x 384 on one core. IndexBuildError."""
    # Codes of SCANN stand for two numbers each.
    kind = "IVF_SQ8" if vectors.dimension % 2 else "SCANN"
    resolved = ResolvedIndex(kind, metric, {"nlist": LISTS}, needs_file=True)
    return registry.load(memoryview(b"".join(registry.build(resolved, vectors.block(0, len(vectors)), threads))))


def is_worth_a_head(vectors: Vectors, head: VectorIndex | None, metric: Metric) -> bool:
    """Whether a head over all these rows should replace the one there is. There is none for other packages' metrics."""
    if metric not in FLOAT_METRICS:
        return False
    known = 0 if head is None or head.metric is not metric else head.row_count
    tail = len(vectors) - known
    return tail >= TAIL_SHARE_MIN * known and _scan_us(vectors, tail) >= EXACT_US_MIN


def _scan_us(vectors: Vectors, row_count: int) -> float:
    return cost_us(vectors, len(vectors), 1) * row_count / max(1, len(vectors))


class InterimIndex:
    """See the module's head. `head` indexes the first rows of `vectors`."""

    index_type = "INTERIM"

    def __init__(self, head: VectorIndex, vectors: Vectors) -> None:
        check(head.row_count <= len(vectors), "the head is of more rows than there are")
        self._head = head
        self._vectors = vectors
        self.metric = head.metric
        self.row_count = len(vectors)
        self.dimension = vectors.dimension
        self.size_bytes = head.size_bytes
        self.scores_exactly = head.scores_exactly

    @cached_property
    def _tail(self) -> Vectors:
        start = self._head.row_count
        return Vectors(self._vectors.values[start:], self._vectors.squares[start:])

    def search(self, queries: np.ndarray, k: int, mask: RowMask | None, params: SearchParams) -> Found:
        """See the contract. Scores of the head's rows are its own, those of the tail exact."""
        start = self._head.row_count
        head_mask, tail_mask = (None, None) if mask is None else (_part(mask, 0, start), _part(mask, start, None))
        first = self._head.search(queries, min(k, start), head_mask, self._head.params_for(k, k, params))
        last = search_exact(self._tail, queries, min(k, len(self._tail)), self.metric, tail_mask)
        rows = np.concatenate((first.rows, np.where(last.rows < 0, -1, last.rows + start)), axis=1)
        scores = np.concatenate((first.scores, last.scores), axis=1)
        badness = np.where(rows < 0, np.inf, -scores if self.metric.larger_is_better else scores)
        order = np.argsort(badness, axis=1, kind="stable")[:, :k]
        answer = empty_answer(len(queries), k, self.metric)
        taken = np.take_along_axis(rows, order, axis=1)
        answer.rows[:, : order.shape[1]] = taken
        answer.scores[:, : order.shape[1]][taken >= 0] = np.take_along_axis(scores, order, axis=1)[taken >= 0]
        return answer

    def candidates(self, k: int, params: SearchParams) -> int:
        """See the contract."""
        return self._head.candidates(k, self._head.params_for(k, k, params))

    def params_for(self, k: int, rank: int, params: SearchParams) -> SearchParams:
        """See the contract."""
        return self._head.params_for(k, rank, params)

    def cost_us(self, k: int, params: SearchParams) -> float:
        """The head's, and the scan of the tail."""
        tail_us = _scan_us(self._vectors, self.row_count - self._head.row_count)
        return self._head.cost_us(k, self._head.params_for(k, k, params)) + tail_us


def _part(mask: RowMask, start: int, stop: int | None) -> RowMask:
    return RowMask.of(mask.keep[start:stop])
