"""NumPy calls that hold the interpreter's lock for as long as they run, in pieces short enough for serving threads.

`np.repeat` takes about 10 ms for a million entries, during which no other Python thread runs. Sorting, indexing and
arithmetic let the lock go and need nothing of this.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

REPEATED_ENTRIES: Final = 1 << 15
"""Entries that are written while no other thread runs; one value's own are never split."""
REPEATED_VALUES: Final = 1 << 12
"""Values that are read meanwhile."""


def repeated(values: npt.NDArray[Any], counts: npt.NDArray[np.integer[Any]]) -> npt.NDArray[Any]:
    """`np.repeat(values, counts)`: each value (n,) as often as its count (n,) says."""
    if len(values) <= REPEATED_VALUES and (not len(counts) or int(counts.sum()) <= REPEATED_ENTRIES):
        return np.repeat(values, counts)
    ends = np.cumsum(counts)
    out = np.empty(int(ends[-1]), values.dtype)
    first = 0
    while first < len(values):
        done = int(ends[first - 1]) if first else 0
        last = int(np.searchsorted(ends, done + REPEATED_ENTRIES, side="right"))
        last = min(max(last, first + 1), first + REPEATED_VALUES, len(values))
        out[done : int(ends[last - 1])] = np.repeat(values[first:last], counts[first:last])
        first = last
    return out


def copied(data: memoryview) -> memoryview:
    """The same bytes in memory of this process, so that no file is mapped for them; other threads run meanwhile."""
    return np.frombuffer(data, np.uint8).copy().data
