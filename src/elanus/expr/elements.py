"""Struct arrays element by element: their parts as columns with one row per element, and reductions back to rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from elanus.expr.arrays import ListView
from elanus.expr.source import Scope
from elanus.expr.tree import MatchElements, Quantity
from elanus.model.columns import Column, Mask


class ElementSource:
    """The elements of a struct array in the rows of a scope, row after row; a field is one of the struct's parts.

    Row i of the scope owns elements offsets[i] to offsets[i + 1]; all parts have the same offsets.
    """

    __slots__ = ("_scope", "_views", "offsets")

    def __init__(self, scope: Scope, part_id: int) -> None:
        self._scope = scope
        self._views: dict[int, ListView] = {}
        self.offsets = self._view(part_id).offsets

    @property
    def row_count(self) -> int:
        """Number of elements."""
        return int(self.offsets[-1])

    def column(self, field_id: int) -> Column:
        """One part of all elements."""
        return Column(self._view(field_id).flat)

    def _view(self, field_id: int) -> ListView:
        if field_id not in self._views:
            self._views[field_id] = ListView.of(self._scope.column(field_id).values)
        return self._views[field_id]

    def counts(self, passing: Mask) -> npt.NDArray[np.int64]:
        """How many elements of each row are in `passing`."""
        totals = np.concatenate((np.zeros(1, np.int64), np.cumsum(passing, dtype=np.int64)))
        return np.diff(totals[self.offsets])


def enough(leaf: MatchElements, source: ElementSource, passing: Mask) -> Mask:
    """The rows of which as many elements as the leaf asks for are in `passing`."""
    counts = source.counts(passing)
    match leaf.quantity:
        case Quantity.ALL:
            return np.asarray(counts == np.diff(source.offsets))
        case Quantity.AT_LEAST:
            return np.asarray(counts >= leaf.threshold)
        case Quantity.AT_MOST:
            return np.asarray(counts <= leaf.threshold)
    return np.asarray(counts == leaf.threshold)
