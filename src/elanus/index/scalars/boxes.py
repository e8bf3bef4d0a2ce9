"""The index of shapes: a packed R-tree of their bounding boxes in Sort-Tile-Recursive order (Leutenegger, Lopez and
Edgington, 1997), one array of boxes a level.

Node i of a level holds boxes i * NODE_BOXES to (i + 1) * NODE_BOXES of the level below. A search descends level by
level, all nodes of one at a time. What it finds are candidates: the predicate itself is left to GEOS. Shapes without a
box (empty ones) pass no predicate that asks here and are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from elanus.expr.geometry import Box, Shapes
from elanus.expr.indexed import Lookup
from elanus.expr.tree import IsNull, RowLeaf, Spatial
from elanus.index.scalars.contract import Indexed
from elanus.index.scalars.file import trailer_of, written
from elanus.index.scalars.mapped import MASK_COST, MappedIndex
from elanus.model.columns import Mask, Rows

Boxes = npt.NDArray[np.float64]
NODE_BOXES: Final = 16
COARSE_NODES: Final = 256
"""Nodes of the level by which it is estimated how many boxes meet."""
_CANDIDATE_COST: Final = 40.0
"""Of a shape that is read and compared, in numeric comparisons."""


def box_file(index_type: str, indexed: Indexed) -> Sequence[memoryview]:
    """The file of an index of these shapes, given as they are stored."""
    boxes = Shapes.of(indexed.values).boxes
    there = np.flatnonzero(~np.isnan(boxes).any(axis=1))
    order = there[tiled_order(boxes[there])]
    levels = [boxes[order]]
    while len(levels[-1]) > NODE_BOXES:
        levels.append(_parents(levels[-1]))
    arrays: dict[str, npt.NDArray[Any]] = {f"boxes_{number}": level for number, level in enumerate(levels)}
    arrays["rows"] = indexed.owners[order].astype(np.uint32)
    trailer = msgspec.structs.replace(trailer_of(index_type, indexed), level_count=len(levels))
    return written(arrays, trailer, indexed)


def tiled_order(boxes: Boxes) -> Rows:
    """Boxes by slices from left to right, from bottom to top within each, so that a node's boxes lie close together."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    slice_count = max(1, math.isqrt(-(-len(boxes) // NODE_BOXES)))
    by_x = np.argsort(centres[:, 0], kind="stable")
    slices = np.arange(len(boxes)) * slice_count // max(1, len(boxes))
    order: Rows = by_x[np.lexsort((centres[by_x, 1], slices))]
    return order


def _parents(boxes: Boxes) -> Boxes:
    firsts = np.arange(0, len(boxes), NODE_BOXES)
    lows, highs = np.minimum.reduceat(boxes[:, :2], firsts), np.maximum.reduceat(boxes[:, 2:], firsts)
    return np.concatenate((lows, highs), axis=1)


class BoxIndex(MappedIndex):
    """A mapped file of `box_file`; implements `contract.ScalarIndex`."""

    def __init__(self, data: memoryview) -> None:
        super().__init__(data)
        self._rows = self.file.array("rows")
        count = self.trailer.level_count
        self._levels = [np.asarray(self.file.array(f"boxes_{number}")) for number in reversed(range(count))]
        top = self._levels[0]
        self._bounds: Box | None = None
        if len(top):
            self._bounds = (*top[:, :2].min(axis=0).tolist(), *top[:, 2:].max(axis=0).tolist())

    def lookup(self, leaf: RowLeaf) -> Lookup | None:
        """See `contract.ScalarIndex`."""
        if isinstance(leaf, IsNull):
            return self.flags(self.null_rows)
        if not isinstance(leaf, Spatial) or self._bounds is None:
            return None
        box = leaf.test.box(self._bounds)
        if box is None:
            return None
        estimate = self._estimate(box)
        cost = MASK_COST * self.row_count + _CANDIDATE_COST * estimate
        return Lookup(self.index_type, cost, estimate, lambda: self._meeting(box), self.known, is_exact=False)

    def _estimate(self, box: Box) -> int:
        """About how many boxes meet this one."""
        level = next((one for one in self._levels if len(one) >= COARSE_NODES), self._levels[-1])
        met = int(np.count_nonzero(_meets(level, box)))
        return min(len(self._rows), met * -(-len(self._rows) // len(level)))

    def _meeting(self, box: Box) -> Mask:
        """The rows whose box meets this one."""
        places = np.arange(len(self._levels[0]))
        for number, level in enumerate(self._levels):
            if number:
                places = (places[:, None] * NODE_BOXES + np.arange(NODE_BOXES)).reshape(-1)
                places = places[places < len(level)]
            places = places[_meets(level[places], box)]
        mask = np.zeros(self.row_count, np.bool_)
        mask[self._rows[places]] = True
        return mask


def _meets(boxes: Boxes, box: Box) -> Mask:
    left, bottom, right, top = box
    return np.asarray((boxes[:, 0] <= right) & (boxes[:, 2] >= left) & (boxes[:, 1] <= top) & (boxes[:, 3] >= bottom))
