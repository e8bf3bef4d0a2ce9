"""Which vector fields of a growing segment have an interim index, and over how many of its first rows.

A head (`index.interim`) is built from rows that never change, beside appends and searches, and put in place in one
assignment. A reader of fewer rows than a head has does without it. Changed on the event loop only.
"""

from __future__ import annotations

from elanus.index.coarse import CoarseCodes
from elanus.index.contract import VectorIndex
from elanus.index.interim import InterimIndex, is_worth_a_head
from elanus.index.scored import ScoredVectors
from elanus.index.vectors import Vectors
from elanus.model.types import Metric


class InterimHeads:
    """The heads of one segment, by field."""

    def __init__(self) -> None:
        self._heads: dict[int, CoarseCodes] = {}
        self._busy: set[int] = set()

    def index(self, field_id: int, vectors: Vectors | ScoredVectors) -> VectorIndex | None:
        """The index of these first rows of the field, where there is one."""
        head = self._heads.get(field_id)
        if head is None or not isinstance(vectors, Vectors) or head.row_count > len(vectors):
            return None
        return InterimIndex(head, vectors)

    def begin(self, field_id: int, vectors: Vectors | ScoredVectors, metric: Metric) -> bool:
        """Whether a head over these rows should be built now; until `end` nobody else is told so."""
        if field_id in self._busy or not isinstance(vectors, Vectors):
            return False
        wanted = is_worth_a_head(vectors, self._heads.get(field_id), metric)
        if wanted:
            self._busy.add(field_id)
        return wanted

    def end(self, field_id: int, head: CoarseCodes | None) -> None:
        """A build has ended. After one that gave no head another would not either."""
        if head is not None:
            self._busy.discard(field_id)
            self._heads[field_id] = head
