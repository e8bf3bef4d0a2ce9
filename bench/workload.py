"""The data of a run, its exact answers, and how recall is counted.

Rows and queries are disjoint packages of one Parquet file, drawn with a fixed seed. Vectors are float32 of unit
length, so that a dot product is the cosine. A returned key counts as a hit when its own exact score is at least the
k-th exact score less `TIE_EPSILON`: equal texts have equal vectors, and any of them is a right answer. A key returned
twice counts once, and a filtered answer counts only if it passes the filter.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

K = 10
HELD_OUT = 3000
TIE_EPSILON = 1e-5
FILTER_SHARE = 1 / 3
SEED = 20260
FULL_ROWS_MIN = 30_000
"""Below this many packages the data are called a sample in the heading."""

_CHUNK = 250

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Dataset:
    """What one run inserts and asks.

    `vectors` (n, d) and `queries` (q, d) are float32 of unit length; `section`, `priority` and `size_kb` are the
    scalar fields by row; the key of a row is its position. The last third of the queries is asked with the filter
    ``installed_size_kb < size_bound``, the others without.
    """

    source: str
    vectors: Floats
    queries: Floats
    section: list[str]
    priority: list[str]
    size_kb: Ints
    size_bound: int
    is_sample: bool

    @property
    def timed(self) -> slice:
        """Queries timed without a filter."""
        return slice(0, len(self.queries) * 2 // 3)

    @property
    def filtered(self) -> slice:
        """Queries timed with the filter."""
        return slice(len(self.queries) * 2 // 3, len(self.queries))

    @property
    def expression(self) -> str:
        """The filter in Milvus's language."""
        return f"installed_size_kb < {self.size_bound}"

    @cached_property
    def mask(self) -> Bools:
        """Which rows pass the filter."""
        return self.size_kb < self.size_bound

    @cached_property
    def kth(self) -> Floats:
        """The k-th best exact score of each query over all rows."""
        return _kth_scores(self.vectors, self.queries)

    @cached_property
    def kth_filtered(self) -> Floats:
        """The k-th best exact score of each query over the rows that pass the filter."""
        return _kth_scores(self.vectors[self.mask], self.queries)

    def recall(self, answers: Ints, first: int = 0) -> float:
        """Share of right keys in `answers` (m, K), the answers to queries first … first + m; -1 fills gaps."""
        return self._recall(answers, first, self.kth, np.ones(len(self.vectors), dtype=np.bool_))

    def filtered_recall(self, answers: Ints, first: int) -> float:
        """As `recall`, against the rows that pass the filter."""
        return self._recall(answers, first, self.kth_filtered, self.mask)

    def _recall(self, answers: Ints, first: int, kth: Floats, mask: Bools) -> float:
        queries = self.queries[first : first + len(answers)]
        ordered = np.sort(answers, axis=1)
        fresh = ordered >= 0
        fresh[:, 1:] &= ordered[:, 1:] != ordered[:, :-1]
        scores = np.einsum("qd,qkd->qk", queries, self.vectors[ordered])
        right = fresh & mask[ordered] & (scores >= kth[first : first + len(answers), None] - TIE_EPSILON)
        return float(right.sum() / right.size)


def _kth_scores(vectors: Floats, queries: Floats) -> Floats:
    kth = np.empty(len(queries), dtype=np.float32)
    for at in range(0, len(queries), _CHUNK):
        scores = queries[at : at + _CHUNK] @ vectors.T
        kth[at : at + _CHUNK] = np.partition(scores, -K, axis=1)[:, -K]
    return kth


def load(path: Path, rows_max: int | None, held_out: int = HELD_OUT) -> Dataset:
    """Read `path` and draw queries and rows from it; at most a fifth of a small file is held out."""
    table = pq.read_table(path, columns=["section", "priority", "installed_size_kb", "embedding"])
    dim = table.schema.field("embedding").type.list_size
    flat = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    vectors = flat.astype(np.float32).reshape(-1, dim)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    order = np.random.default_rng(SEED).permutation(len(vectors))
    held_out = min(held_out, len(vectors) // 5)
    rows = np.sort(order[held_out:][:rows_max])
    chosen = table.take(rows)
    size_kb = chosen["installed_size_kb"].fill_null(0).to_numpy().astype(np.int64)
    return Dataset(
        source=str(path),
        vectors=np.ascontiguousarray(vectors[rows]),
        queries=np.ascontiguousarray(vectors[order[:held_out]]),
        section=chosen["section"].fill_null("").to_pylist(),
        priority=chosen["priority"].fill_null("").to_pylist(),
        size_kb=size_kb,
        size_bound=int(np.quantile(size_kb, FILTER_SHARE)),
        is_sample=len(vectors) < FULL_ROWS_MIN,
    )
