"""Finding rows by primary key: sorted search, never a loop over rows.

A sealed segment is sorted by key, so its key column is its own index. A growing segment keeps sorted runs that are
merged when they are of similar size (the logarithmic method of Bentley and Saxe, 1980): an append of n keys costs
O(log total) merges, a lookup O(log total) binary searches per run. Short runs are always merged: to sort so few keys
costs less than to search one run more.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from elanus.base.pieces import repeated
from elanus.model.columns import Rows, Values

_SHORT_ROWS: Final = 256
_NOTHING: Final = (np.empty(0, np.int64), np.empty(0, np.int64))


def concatenate_values(first: Values, second: Values) -> Values:
    """Two value arrays of one kind, one after the other."""
    if isinstance(first, np.ndarray):
        return np.concatenate([first, second])
    return pa.concat_arrays([first, second])


def take_values(values: Values, rows: Rows) -> Values:
    """The values at these indexes."""
    return values[rows] if isinstance(values, np.ndarray) else values.take(pa.array(rows))


def sort_order(keys: Values) -> Rows:
    """Indexes that sort the keys ascending (strings by bytes), equal keys in their given order."""
    if isinstance(keys, np.ndarray):
        return np.argsort(keys, kind="stable")
    return np.asarray(pc.array_sort_indices(keys)).astype(np.int64)


def has_duplicates(sorted_keys: Values) -> bool:
    """Whether a sorted key column holds some key twice."""
    if len(sorted_keys) < 2:
        return False
    if isinstance(sorted_keys, np.ndarray):
        return bool((sorted_keys[1:] == sorted_keys[:-1]).any())
    return bool(pc.any(pc.equal(sorted_keys[1:], sorted_keys[:-1])).as_py())


def find_rows(sorted_keys: Values, probes: Values) -> tuple[Rows, Rows]:
    """All pairs (index in `probes`, index in `sorted_keys`) with equal keys, as two int64 arrays."""
    if isinstance(sorted_keys, np.ndarray):
        left = sorted_keys.searchsorted(probes, side="left")
        right = sorted_keys.searchsorted(probes, side="right")
    else:
        left = np.asarray(pc.search_sorted(sorted_keys, probes, side="left")).astype(np.int64)
        right = np.asarray(pc.search_sorted(sorted_keys, probes, side="right")).astype(np.int64)
    counts = right - left
    most = int(counts.max(initial=0))
    if most == 0:
        return _NOTHING
    if most == 1:
        probe_rows = counts.nonzero()[0]
        return probe_rows, left[probe_rows]
    total = int(counts.sum())
    probe_rows = repeated(np.arange(len(counts)), counts)
    within = np.arange(total) - repeated(np.cumsum(counts) - counts, counts)
    return probe_rows, within + repeated(left, counts)


class KeyRuns:
    """Key lookup over rows that are appended; see the module's head."""

    def __init__(self) -> None:
        self._runs: list[tuple[Values, Rows]] = []

    def add(self, keys: Values, first_row: int) -> None:
        """Index `keys` as rows first_row, first_row + 1, ..."""
        if len(keys) == 0:
            return
        order = sort_order(keys)
        self._runs.append((take_values(keys, order), order + first_row))
        while len(self._runs) > 1 and len(self._runs[-2][1]) < max(2 * len(self._runs[-1][1]), _SHORT_ROWS):
            (old_keys, old_rows), (new_keys, new_rows) = self._runs[-2:]
            merged = concatenate_values(old_keys, new_keys)
            order = sort_order(merged)
            self._runs[-2:] = [(take_values(merged, order), np.concatenate([old_rows, new_rows])[order])]

    def find(self, probes: Values) -> tuple[Rows, Rows]:
        """All pairs (index in `probes`, row) with equal keys."""
        pairs = [(found[0], rows[found[1]]) for keys, rows in self._runs for found in [find_rows(keys, probes)]]
        if len(pairs) < 2:
            return pairs[0] if pairs else _NOTHING
        return np.concatenate([pair[0] for pair in pairs]), np.concatenate([pair[1] for pair in pairs])
