"""A dense vector column as searches see it: the stored array, read as float32, and its norms computed once.

Columns of halves, bfloat16 and int8 stay as they are stored (mapped, usually) and are widened block by block while they
are read, exactly: a copy of the whole column as float32 would cost twice to four times its memory.

COSINE follows Milvus's engine: vectors are divided by their norm, a zero vector stays zero, and so its cosine with
anything is 0. Norms of vectors so short or long that their squares leave float32 are computed in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from elanus.base.errors import check
from elanus.index.contract import Floats, Rows

SAFE_SQUARE_MIN: Final = 1e-30
SAFE_SQUARE_MAX: Final = 1e30
BLOCK_FLOATS: Final = 1 << 18
"""Floats widened at once: a megabyte, which stays in the cache."""
WIDENING_NS: Final = {"f": {4: 0.0, 2: 0.7}, "u": {2: 0.4}, "i": {1: 0.2}}
"""Cost of widening one number, by kind and size of the dtype: float32, half, bfloat16 (as its bits), int8. Measured."""
_HALF_BIAS: Final = np.float32(2.0**112)
_HALF_BITS: Final = np.int32(-0x70002000)

Stored = npt.NDArray[Any]


def squared_norms(vectors: Floats) -> Floats:
    """Squared norms as float32 (n,), in one pass."""
    return np.asarray(np.einsum("ij,ij->i", vectors, vectors), np.float32)


def inverse(lengths: Floats) -> Floats:
    """1 / length, and 0 where the length is 0."""
    with np.errstate(divide="ignore", over="ignore"):
        return np.where(lengths > 0, np.minimum(np.float32(1) / lengths, np.finfo(np.float32).max), np.float32(0))


def normalised(vectors: Floats) -> Floats:
    """A copy with every vector at length 1; zero vectors stay zero."""
    squares = squared_norms(vectors)
    if len(squares) == 1 and SAFE_SQUARE_MIN < squares[0] < SAFE_SQUARE_MAX:
        return np.asarray(vectors / np.sqrt(squares), np.float32)
    lengths = _lengths(squares, vectors.shape[1], vectors.__getitem__)
    lengths[lengths == 0] = 1
    return vectors / lengths[:, None]


def as_float32(values: Stored) -> Floats:
    """Stored vectors as float32, C-contiguous, exactly; a float32 array is not copied. Halves must be finite, which
    the proxy sees to."""
    if values.dtype == np.float32:
        return np.ascontiguousarray(values)
    wide = np.empty(values.shape, np.float32)
    step = _block_rows(values)
    for start in range(0, len(values), step):
        _widen(values[start : start + step], wide[start : start + step])
    return wide


def _widen(values: Stored, wide: Floats) -> None:
    """Write `values` to `wide`. NumPy converts halves one by one; this does it in whole passes: the bits of a half, in
    the place where float32 has its own, are the same number but for the bias of the exponent."""
    if values.dtype == np.float16:
        bits = wide.view(np.int32)
        np.left_shift(values.view(np.int16), 13, out=bits, dtype=np.int32)
        np.bitwise_and(bits, _HALF_BITS, out=bits)
        np.multiply(wide, _HALF_BIAS, out=wide)
    elif values.dtype == np.uint16:
        np.left_shift(values, 16, out=wide.view(np.uint32), dtype=np.uint32)
    else:
        np.copyto(wide, values)


def _block_rows(values: Stored) -> int:
    return max(1, BLOCK_FLOATS // max(1, int(values.shape[1])))


def _lengths(squares: Floats, dimension: int, take: Callable[[Rows], Floats]) -> Floats:
    """Norms from squared norms; where those left float32, from the vectors that `take` gives."""
    out = np.sqrt(squares)
    unsafe = np.flatnonzero(~((squares > SAFE_SQUARE_MIN) & (squares < SAFE_SQUARE_MAX)))
    step = max(1, BLOCK_FLOATS // max(1, dimension))
    for start in range(0, len(unsafe), step):
        rows = unsafe[start : start + step]
        out[rows] = np.linalg.norm(take(rows).astype(np.float64), axis=1)
    return out


@dataclass(frozen=True)
class Vectors:
    """`values` is float32, float16, int8, or uint16 for bfloat16, (n, dim), C-contiguous, and never changes.
    `known_squares` are its squared norms where the caller keeps them (a growing segment's); otherwise they are
    computed at first need and kept here."""

    values: Stored
    known_squares: Floats | None = None

    def __post_init__(self) -> None:
        # The kernels read raw memory: a wrong layout would not fail, it would answer from other bytes.
        known = self.values.dtype.itemsize in WIDENING_NS.get(self.values.dtype.kind, {})
        right = self.values.ndim == 2 and known and self.values.flags.c_contiguous
        check(right, f"vectors are {self.values.dtype} {self.values.shape}, not contiguous numbers (n, dim)")

    def __len__(self) -> int:
        return len(self.values)

    @property
    def dimension(self) -> int:
        """Numbers in a vector."""
        return int(self.values.shape[1])

    @property
    def is_wide(self) -> bool:
        """Whether the column is stored as float32: reading it copies nothing."""
        return self.values.dtype == np.float32

    @property
    def widening_ns(self) -> float:
        """What reading one number costs beside using it."""
        return WIDENING_NS[self.values.dtype.kind][self.values.dtype.itemsize]

    def block(self, start: int, stop: int) -> Floats:
        """The rows [start, stop)."""
        return as_float32(self.values[start:stop])

    def take(self, rows: Rows) -> Floats:
        """The vectors of these rows."""
        return as_float32(self.values[rows])

    def blocks(self) -> Iterator[Floats]:
        """All rows, in blocks small enough to be widened; one block where nothing is."""
        step = max(1, len(self)) if self.is_wide else _block_rows(self.values)
        for start in range(0, len(self), step):
            yield self.block(start, start + step)

    @cached_property
    def squares(self) -> Floats:
        """Squared norms, (n,)."""
        if self.known_squares is not None:
            return self.known_squares
        return np.concatenate([squared_norms(block) for block in self.blocks()] or [np.empty(0, np.float32)])

    @cached_property
    def inverse_norms(self) -> Floats:
        """What turns an inner product with a unit query into a cosine, (n,)."""
        return inverse(_lengths(self.squares, self.dimension, self.take))

    @cached_property
    def largest_square(self) -> float:
        """The largest squared norm."""
        return float(self.squares.max()) if len(self.values) else 0.0
