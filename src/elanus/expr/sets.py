"""Sets of constants, prepared once per filter and probed a column at a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Mask = npt.NDArray[np.bool_]

_TABLE_SPAN_MAX: Final = 1 << 22
_CHAIN_MAX: Final = 3
_HASH_BITS: Final = 16
_HASH_SIZE_MAX: Final = 1 << 12
_HASH_FACTOR: Final = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True, eq=False)
class NumberSet:
    """Distinct numbers in ascending order, of the dtype of the columns they are probed with (integers: int64).

    `table` is, for integers that lie close together, one truth value per integer from values[0] - 1 to values[-1] + 1;
    otherwise a table over the top 16 bits of a multiplicative hash, which lets few strangers through to an exact probe.
    """

    values: npt.NDArray[Any]
    table: Mask | None
    hashed: bool

    @staticmethod
    def of(values: Iterable[int | float], dtype: str) -> NumberSet:
        """The set of `values`, narrowed to `dtype`."""
        with np.errstate(over="ignore"):
            distinct = np.unique(np.array(list(values), np.dtype(dtype)))
        if distinct.dtype.kind != "i" or len(distinct) <= _CHAIN_MAX:
            return NumberSet(distinct, None, False)
        span = int(distinct[-1]) - int(distinct[0]) + 1
        if span <= _TABLE_SPAN_MAX:
            table = np.zeros(span + 2, np.bool_)
            table[distinct - distinct[0] + 1] = True
            return NumberSet(distinct, table, False)
        if len(distinct) > _HASH_SIZE_MAX:
            return NumberSet(distinct, None, False)
        table = np.zeros(1 << _HASH_BITS, np.bool_)
        table[_hash(distinct)] = True
        return NumberSet(distinct, table, True)

    def contains(self, column: npt.NDArray[Any]) -> Mask:
        """Which entries of `column` are in the set."""
        if len(self.values) <= _CHAIN_MAX:
            found = np.zeros(len(column), np.bool_)
            for value in self.values.tolist() if self.values.dtype.kind == "i" else self.values:
                found |= column == value
            return found
        if self.table is None:
            return self._search(column)
        if not self.hashed:
            return self._direct(column, self.table)
        wide = column.astype(np.int64, copy=False)
        found = self.table[_hash(wide)]
        candidates = np.flatnonzero(found)
        found[candidates] = self._search(wide[candidates])
        return found

    def _direct(self, column: npt.NDArray[Any], table: Mask) -> Mask:
        # Wrapping subtraction maps the range one to one; everything outside it is clipped onto the two False ends.
        base = np.uint64((int(self.values[0]) - 1) % (1 << 64))
        places = (column.astype(np.int64, copy=False).view(np.uint64) - base).view(np.int64)
        return table.take(places, mode="clip")

    def _search(self, column: npt.NDArray[Any]) -> Mask:
        if len(self.values) == 0:
            return np.zeros(len(column), np.bool_)
        places = np.searchsorted(self.values, column)
        np.minimum(places, len(self.values) - 1, out=places)
        return np.asarray(self.values[places] == column)


def _hash(values: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    return (values.view(np.uint64) * _HASH_FACTOR) >> np.uint64(64 - _HASH_BITS)


@dataclass(frozen=True, slots=True, eq=False)
class StringSet:
    """Distinct strings in byte order, as large_string."""

    values: pa.Array

    @staticmethod
    def of(values: Iterable[str]) -> StringSet:
        """The set of `values`."""
        return StringSet(pa.array(sorted(set(values), key=str.encode), pa.large_string()))

    def contains(self, column: pa.Array) -> Mask:
        """Which entries of the large_string `column` are in the set."""
        found = pc.is_in(column, options=pc.SetLookupOptions(self.values))
        return np.asarray(found.to_numpy(zero_copy_only=False), np.bool_)


@dataclass(frozen=True, slots=True, eq=False)
class BoolSet:
    """Which of the two truth values are members."""

    has_false: bool
    has_true: bool

    def contains(self, column: Mask) -> Mask:
        """Which entries of `column` are in the set."""
        return np.where(column, self.has_true, self.has_false)


ValueSet = NumberSet | StringSet | BoolSet
