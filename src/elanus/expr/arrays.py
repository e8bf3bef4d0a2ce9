"""ARRAY columns as offsets and flat elements; every predicate is a reduction over the flat elements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from elanus.expr.constants import COMPARISONS
from elanus.model.columns import Mask, Rows, Values

_SPARSE_SHARE: Final = 16
_KERNELS = {
    "==": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}


def compare_values(left: Values, symbol: str, right: Any) -> Mask:
    """`left symbol right`, element by element; `right` is a constant or values of equal length."""
    if isinstance(left, np.ndarray):
        return np.asarray(COMPARISONS[symbol](left, right), np.bool_)
    if not isinstance(right, pa.Array):
        right = pa.scalar(right, left.type)
    return np.asarray(_KERNELS[symbol](left, right).to_numpy(zero_copy_only=False), np.bool_)


def sorted_span(values: Values, symbol: str, value: Any) -> tuple[int, int]:
    """Which of ascending values stand in that relation (not `!=`) to a constant: from, to."""
    start = 0 if symbol in ("<", "<=") else _first(values, value, after=symbol == ">")
    stop = len(values) if symbol in (">", ">=") else _first(values, value, after=symbol != "<")
    return start, stop


def _first(values: Values, value: Any, *, after: bool) -> int:
    """Index of the first entry not below (`after`: above) `value`, which may lie outside the dtype."""
    side: Literal["left", "right"] = "right" if after else "left"
    if not isinstance(values, np.ndarray):
        return int(pc.search_sorted(values, pa.scalar(value, values.type), side=side).as_py())
    if values.dtype.kind in "iu":
        limits = np.iinfo(values.dtype)
        if value > limits.max:
            return len(values)
        if value < limits.min:
            return 0
    return int(np.searchsorted(values, values.dtype.type(value), side=side))


def take_values(values: Values, places: Rows) -> Values:
    """The values at these places."""
    return values[places] if isinstance(values, np.ndarray) else values.take(pa.array(places))


@dataclass(frozen=True, slots=True)
class ListView:
    """Row i owns elements offsets[i] to offsets[i + 1] of `flat`; offsets is int64 of shape (rows + 1,)."""

    offsets: npt.NDArray[np.int64]
    flat: Values

    @staticmethod
    def of(array: pa.Array) -> ListView:
        """View a large_list array; numbers and bools become NumPy, strings stay in Arrow."""
        offsets = np.asarray(array.offsets, np.int64)
        start, stop = int(offsets[0]), int(offsets[-1])
        flat = array.values.slice(start, stop - start)
        is_string = pa.types.is_large_string(flat.type) or pa.types.is_string(flat.type)
        return ListView(offsets - start, flat if is_string else flat.to_numpy(zero_copy_only=False))

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Elements per row."""
        return np.diff(self.offsets)

    def any(self, hits: Mask) -> Mask:
        """Rows that own at least one element where `hits` is True."""
        if np.count_nonzero(hits) * _SPARSE_SHARE < len(self.offsets):
            owners = np.searchsorted(self.offsets, np.flatnonzero(hits), side="right") - 1
            found = np.zeros(len(self.offsets) - 1, np.bool_)
            found[owners] = True
            return found
        wide: np.dtype[Any] = np.dtype(np.int32 if len(hits) < 1 << 31 else np.int64)
        totals: npt.NDArray[Any] = np.zeros(len(hits) + 1, wide)
        np.cumsum(hits.view(np.uint8), out=totals[1:], dtype=wide)
        ends = totals[self.offsets]
        return np.asarray(ends[1:] > ends[:-1])

    def element(self, index: int) -> tuple[Values, Mask]:
        """Element `index` of each row (a filler where there is none) and whether there is one."""
        index = min(index, len(self.flat))
        places = self.offsets[:-1] + index
        present = np.asarray(places < self.offsets[1:])
        if len(self.flat) == 0:
            filler = np.zeros(len(present), np.int64)
            if isinstance(self.flat, np.ndarray):
                return filler.astype(self.flat.dtype), present
            return pa.array([""] * len(present), self.flat.type), present
        return take_values(self.flat, np.where(present, places, 0)), present

    def equals(self, wanted: list[Any]) -> Mask:
        """Rows whose elements are `wanted`, in order."""
        equal = np.asarray(self.lengths == len(wanted))
        rows = np.flatnonzero(equal)
        for place, value in enumerate(wanted):
            elements = take_values(self.flat, self.offsets[rows] + place)
            rows = rows[compare_values(elements, "==", value)]
        result = np.zeros(len(equal), np.bool_)
        result[rows] = True
        return result
