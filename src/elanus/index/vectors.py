"""A vector column as searches see it: the array, and its norms computed once.

COSINE follows Milvus's engine: vectors are divided by their norm, a zero vector stays zero, and so its cosine with
anything is 0. Norms of vectors so short or long that their squares leave float32 are computed in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from elanus.base.errors import check
from elanus.index.contract import Floats
from elanus.model.types import DataType

SAFE_SQUARE_MIN: Final = 1e-30
SAFE_SQUARE_MAX: Final = 1e30


def squared_norms(vectors: Floats) -> Floats:
    """Squared norms as float32 (n,), in one pass."""
    return np.asarray(np.einsum("ij,ij->i", vectors, vectors), np.float32)


def norms(vectors: Floats, squares: Floats | None = None) -> Floats:
    """Norms as float32 (n,); `squares` saves a pass where they are known."""
    squares = squared_norms(vectors) if squares is None else squares
    out = np.sqrt(squares)
    unsafe = np.flatnonzero(~((squares > SAFE_SQUARE_MIN) & (squares < SAFE_SQUARE_MAX)))
    if len(unsafe):
        out[unsafe] = np.linalg.norm(vectors[unsafe].astype(np.float64), axis=1)
    return out


def inverse(lengths: Floats) -> Floats:
    """1 / length, and 0 where the length is 0."""
    with np.errstate(divide="ignore", over="ignore"):
        return np.where(lengths > 0, np.minimum(np.float32(1) / lengths, np.finfo(np.float32).max), np.float32(0))


def normalised(vectors: Floats) -> Floats:
    """A copy with every vector at length 1; zero vectors stay zero."""
    squares = squared_norms(vectors)
    if len(squares) == 1 and SAFE_SQUARE_MIN < squares[0] < SAFE_SQUARE_MAX:
        return np.asarray(vectors / np.sqrt(squares), np.float32)
    lengths = norms(vectors, squares)
    lengths[lengths == 0] = 1
    return vectors / lengths[:, None]


def as_float32(values: np.ndarray, data_type: DataType) -> Floats:
    """Dense vectors of any storage type as float32, C-contiguous, exactly; a float32 array is not copied."""
    if data_type is DataType.BFLOAT16_VECTOR:
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return np.ascontiguousarray(values, dtype=np.float32)


@dataclass(frozen=True)
class Vectors:
    """`values` is float32 (n, dim), C-contiguous, and never changes. `known_squares` are its squared norms where the
    caller keeps them (a growing segment's); otherwise they are computed at first need and kept here."""

    values: Floats
    known_squares: Floats | None = None

    def __post_init__(self) -> None:
        # The kernels read raw memory: a wrong layout would not fail, it would answer from other bytes.
        right = self.values.ndim == 2 and self.values.dtype == np.float32 and self.values.flags.c_contiguous
        check(right, f"vectors are {self.values.dtype} {self.values.shape}, not contiguous float32 (n, dim)")

    def __len__(self) -> int:
        return len(self.values)

    @property
    def dimension(self) -> int:
        """Floats in a vector."""
        return int(self.values.shape[1])

    @cached_property
    def squares(self) -> Floats:
        """Squared norms, (n,)."""
        return squared_norms(self.values) if self.known_squares is None else self.known_squares

    @cached_property
    def inverse_norms(self) -> Floats:
        """What turns an inner product with a unit query into a cosine, (n,)."""
        return inverse(norms(self.values, self.squares))

    @cached_property
    def largest_square(self) -> float:
        """The largest squared norm."""
        return float(self.squares.max()) if len(self.values) else 0.0
