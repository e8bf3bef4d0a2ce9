"""A bounded heap of rows with scores, larger ones better, equal ones by row: what kernels keep the best in."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from elanus.base.kernel import part

Floats32 = npt.NDArray[np.float32]
Ints32 = npt.NDArray[np.int32]


@part
def _is_worse(score: float, row: int, other_score: float, other_row: int) -> bool:
    return score < other_score or (score == other_score and row > other_row)


@part
def _sink(scores: Floats32, rows: Ints32, count: int, score: float, row: int) -> None:
    """Put a row in the place of the first of `count`, and the heap in order again."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= count:
            break
        if child + 1 < count and _is_worse(scores[child + 1], rows[child + 1], scores[child], rows[child]):
            child += 1
        if not _is_worse(scores[child], rows[child], score, row):
            break
        scores[at], rows[at] = scores[child], rows[child]
        at = child
    scores[at], rows[at] = score, row


@part
def push(scores: Floats32, rows: Ints32, count: int, score: float, row: int) -> int:
    """Put a row into a heap of `count` rows whose first is the worst; a full heap loses the worse of that and the new
    one. Returns the new count."""
    capacity = len(scores)
    if count < capacity:
        at = count
        while at > 0:
            parent = (at - 1) >> 1
            if not _is_worse(score, row, scores[parent], rows[parent]):
                break
            scores[at], rows[at] = scores[parent], rows[parent]
            at = parent
        scores[at], rows[at] = score, row
        return count + 1
    if not _is_worse(scores[0], rows[0], score, row):
        return count
    _sink(scores, rows, capacity, score, row)
    return count


@part
def order(scores: Floats32, rows: Ints32, count: int) -> None:
    """Turn a heap of `count` rows into a list, best first."""
    for last in range(count - 1, 0, -1):
        score, row = scores[last], rows[last]
        scores[last], rows[last] = scores[0], rows[0]
        _sink(scores, rows, last, score, row)
