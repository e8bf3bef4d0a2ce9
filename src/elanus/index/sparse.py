"""Sparse vectors: few entries (dimension, weight) of a huge space, compared by inner product, exactly.

A row is the bytes of its entries, a uint32 dimension and a float32 weight each, dimensions ascending. A sealed column
is searched through postings (for each dimension the rows that have it, sorted once); a growing one by finding its
entries among the query's dimensions. Rows that share no dimension with the query are no hits. Weights are summed in
float64 and rounded once, so that both ways give the same scores.

Queries travel as one uint32 array (q, 2 m) of entries in the same layout, padded with the dimension `PADDING`, which no
vector can have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from elanus.base.errors import InvariantError
from elanus.index.contract import Floats, ResolvedIndex, Rows
from elanus.index.declaration import Declaration
from elanus.index.errors import IndexParameterError
from elanus.index.parameters import NumberParameter
from elanus.index.scored import Scored
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType, Metric

ENTRY_BYTES: Final = 8
PADDING: Final = (1 << 32) - 1
ENTRY_NS: Final = 8.0
ALGORITHMS: Final = ("TAAT_NAIVE", "DAAT_WAND", "DAAT_MAXSCORE")

Dimensions = npt.NDArray[np.uint32]


class _Entries(NamedTuple):
    """All entries of a column, row after row; row r owns [offsets[r], offsets[r + 1])."""

    dimensions: Dimensions
    weights: Floats
    offsets: Rows


class _Postings(NamedTuple):
    """The same entries by dimension; `dimensions` are distinct and ascending, the i-th owns starts[i] to
    starts[i + 1]."""

    dimensions: Dimensions
    starts: Rows
    rows: Rows
    weights: Floats


@dataclass(frozen=True)
class SparseVectors:
    """`values` is a large_binary array without nulls; `is_sealed` says that postings are worth their making."""

    values: pa.Array
    is_sealed: bool = False

    def __len__(self) -> int:
        return len(self.values)

    @property
    def query_us(self) -> float:
        """See `scored.ScoredVectors`."""
        return 0.0 if self.is_sealed else len(self._entries.weights) * ENTRY_NS / 1000

    @cached_property
    def _entries(self) -> _Entries:
        _, offsets, data = self.values.buffers()
        bounds = np.frombuffer(offsets, np.int64, len(self.values) + 1, self.values.offset * 8) if len(self) else None
        if bounds is None or data is None:
            return _Entries(np.empty(0, np.uint32), np.empty(0, np.float32), np.zeros(len(self) + 1, np.int64))
        raw = np.frombuffer(data, np.uint8, int(bounds[-1] - bounds[0]), int(bounds[0])).view("<u4").reshape(-1, 2)
        weights = np.ascontiguousarray(raw[:, 1]).view(np.float32)
        return _Entries(np.ascontiguousarray(raw[:, 0]), weights, (bounds - bounds[0]) // ENTRY_BYTES)

    @cached_property
    def _postings(self) -> _Postings:
        entries = self._entries
        rows = np.repeat(np.arange(len(self)), np.diff(entries.offsets))
        order = np.argsort(entries.dimensions, kind="stable")
        ordered = entries.dimensions[order]
        starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1]))) if len(ordered) else np.empty(0)
        bounds = np.append(starts, len(ordered)).astype(np.int64)
        return _Postings(ordered[bounds[:-1]], bounds, rows[order], entries.weights[order])

    def scored(self, query: np.ndarray, metric: Metric, rows: Rows | None) -> Scored:
        """See `scored.ScoredVectors`; only rows that share a dimension with the query."""
        if metric is not Metric.IP:
            raise InvariantError(f"{metric} does not compare sparse vectors")
        pairs = query.view("<u4").reshape(-1, 2)
        pairs = pairs[pairs[:, 0] != PADDING]
        dimensions, weights = pairs[:, 0], np.ascontiguousarray(pairs[:, 1]).view(np.float32)
        found_rows, products = (self._by_postings if self.is_sealed else self._by_scan)(dimensions, weights)
        sums = np.bincount(found_rows, products, minlength=len(self))
        touched = np.zeros(len(self), np.bool_)
        touched[found_rows] = True
        if rows is not None:
            kept = np.zeros(len(self), np.bool_)
            kept[rows] = True
            touched &= kept
        chosen = np.flatnonzero(touched)
        return Scored(chosen, sums[chosen].astype(np.float32))

    def _by_postings(self, dimensions: Dimensions, weights: Floats) -> tuple[Rows, npt.NDArray[np.float64]]:
        postings = self._postings
        at = np.searchsorted(postings.dimensions, dimensions)
        known = np.flatnonzero(at < len(postings.dimensions))
        known = known[postings.dimensions[at[known]] == dimensions[known]]
        starts, stops = postings.starts[at[known]], postings.starts[at[known] + 1]
        lengths = stops - starts
        where = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(int(lengths.sum()))
        return postings.rows[where], postings.weights[where].astype(np.float64) * np.repeat(weights[known], lengths)

    def _by_scan(self, dimensions: Dimensions, weights: Floats) -> tuple[Rows, npt.NDArray[np.float64]]:
        entries = self._entries
        if not len(dimensions):
            return np.empty(0, np.int64), np.empty(0)
        at = np.minimum(np.searchsorted(dimensions, entries.dimensions), len(dimensions) - 1)
        hits = np.flatnonzero(dimensions[at] == entries.dimensions)
        rows = np.searchsorted(entries.offsets, hits, side="right") - 1
        return rows, entries.weights[hits].astype(np.float64) * weights[at[hits]]


def packed_queries(queries: Sequence[bytes]) -> npt.NDArray[np.uint32]:
    """Rows of entries as one padded array; every row's length is a multiple of `ENTRY_BYTES`."""
    width = max(map(len, queries), default=0)
    filler = np.array([PADDING, 0], "<u4").tobytes()
    joined = b"".join(query + filler * ((width - len(query)) // ENTRY_BYTES) for query in queries)
    return np.frombuffer(joined, "<u4").reshape(len(queries), width // 4)


class SparseInverted(Declaration):
    """SPARSE_INVERTED_INDEX: postings, made in memory when a segment is first searched. Nothing is dropped, neither
    when built nor when searched: the two drop ratios trade results for time, and are checked and kept."""

    name = "SPARSE_INVERTED_INDEX"
    data_types = frozenset({DataType.SPARSE_FLOAT_VECTOR})
    metrics = frozenset({Metric.IP})
    build_parameters = (NumberParameter("drop_ratio_build", 0.0, 1.0),)
    search_parameters = (
        NumberParameter("drop_ratio_search", 0.0, 1.0),
        NumberParameter("dim_max_score_ratio", 0.5, 1.3),
    )

    def check_field(self, params: Mapping[str, str], field: FieldSchema) -> None:
        """The algorithm is one of Milvus's; the same rows come back from each."""
        super().check_field(params, field)
        algorithm = params.get("inverted_index_algo", ALGORITHMS[0])
        if algorithm not in ALGORITHMS:
            raise IndexParameterError(
                f"sparse inverted index algo {algorithm} not found or not supported, "
                f"supported: [{' '.join(ALGORITHMS)}]"
            )

    def resolve(self, params: Mapping[str, str], field: FieldSchema) -> ResolvedIndex:
        """Needs no file."""
        return ResolvedIndex(self.name, Metric(params["metric_type"]), {}, needs_file=False)


class SparseWand(SparseInverted):
    """SPARSE_WAND: an older name of the same."""

    name = "SPARSE_WAND"
