"""Sparse vectors: few entries (dimension, weight) of a huge space, compared by inner product, exactly.

A row is the bytes of its entries, a uint32 dimension and a float32 weight each, dimensions ascending. A sealed column
is searched through postings (for each dimension the rows that have it), sorted at the first search, which costs
`SORTED_NS` an entry; a growing one by finding its entries among the query's dimensions. Rows that share no dimension
with the query are no hits. Weights are summed in float64 and rounded once, so that both ways give the same scores.

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
from elanus.index.contract import Bools, Floats, ResolvedIndex, Rows
from elanus.index.declaration import Declaration
from elanus.index.errors import IndexParameterError
from elanus.index.parameters import NumberParameter
from elanus.index.scored import Scored
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType, Metric

ENTRY_BYTES: Final = 8
PADDING: Final = (1 << 32) - 1
ROW_NS: Final = 4.0
MET_NS: Final = 12.0
SCANNED_NS: Final = 10.0
SORTED_NS: Final = 150.0
"""Cost of one query for each row; each entry that a sealed column shares with it; each entry of a growing column; once,
each entry of a sealed column. Measured at 100k rows of 50 entries."""
_SIEVE_BITS: Final = 1 << 16
ALGORITHMS: Final = ("TAAT_NAIVE", "DAAT_WAND", "DAAT_MAXSCORE")

Dimensions = npt.NDArray[np.uint32]
Sums = npt.NDArray[np.float64]


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
    rows: npt.NDArray[np.int32]
    weights: Floats


@dataclass(frozen=True)
class SparseVectors:
    """`values` is a large_binary array without nulls; `is_sealed` says that postings are worth their making."""

    values: pa.Array
    is_sealed: bool = False

    def __len__(self) -> int:
        return len(self.values)

    def cost_us(self, queries: np.ndarray) -> float:
        """See `scored.ScoredVectors`."""
        rows_us = len(self) * ROW_NS * len(queries) / 1000
        entry_count = int(self._bounds[-1] - self._bounds[0]) // ENTRY_BYTES
        if not self.is_sealed:
            return rows_us + entry_count * SCANNED_NS * len(queries) / 1000
        if "_postings" not in self.__dict__:
            return rows_us + entry_count * SORTED_NS / 1000
        _, starts, stops = self._runs(queries.view("<u4").reshape(-1, 2)[:, 0])
        return rows_us + int((stops - starts).sum()) * MET_NS / 1000

    @property
    def _bounds(self) -> Rows:
        """Where each row's bytes start in the column's data, and where the last one's end, (n + 1,)."""
        offsets = self.values.buffers()[1]
        if not len(self) or offsets is None:
            return np.zeros(len(self) + 1, np.int64)
        return np.frombuffer(offsets, np.int64, len(self.values) + 1, self.values.offset * 8)

    def _read_entries(self) -> _Entries:
        bounds, data = self._bounds, self.values.buffers()[2]
        if data is None or bounds[0] == bounds[-1]:
            return _Entries(np.empty(0, np.uint32), np.empty(0, np.float32), np.zeros(len(self) + 1, np.int64))
        raw = np.frombuffer(data, np.uint8, int(bounds[-1] - bounds[0]), int(bounds[0])).view("<u4").reshape(-1, 2)
        weights = np.ascontiguousarray(raw[:, 1]).view(np.float32)
        return _Entries(np.ascontiguousarray(raw[:, 0]), weights, (bounds - bounds[0]) // ENTRY_BYTES)

    @cached_property
    def _entries(self) -> _Entries:
        return self._read_entries()

    @cached_property
    def _postings(self) -> _Postings:
        entries = self._read_entries()
        rows = np.repeat(np.arange(len(self), dtype=np.int32), np.diff(entries.offsets))
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
        sums, touched = (self._by_postings if self.is_sealed else self._by_scan)(dimensions, weights)
        chosen = np.flatnonzero(touched) if rows is None else rows[touched[rows]]
        return Scored(chosen, sums[chosen].astype(np.float32))

    def _runs(self, dimensions: Dimensions) -> tuple[Rows, Rows, Rows]:
        """Which of the dimensions the column knows, and where their postings start and stop."""
        postings = self._postings
        at = np.searchsorted(postings.dimensions, dimensions)
        known = np.flatnonzero(at < len(postings.dimensions))
        known = known[postings.dimensions[at[known]] == dimensions[known]]
        return known, postings.starts[at[known]], postings.starts[at[known] + 1]

    def _by_postings(self, dimensions: Dimensions, weights: Floats) -> tuple[Sums, Bools]:
        """A loop over the query's dimensions; each adds to the rows that have it."""
        postings = self._postings
        sums, touched = np.zeros(len(self)), np.zeros(len(self), np.bool_)
        for place, start, stop in zip(*self._runs(dimensions), strict=True):
            rows = postings.rows[start:stop]
            sums[rows] += postings.weights[start:stop] * np.float64(weights[place])
            touched[rows] = True
        return sums, touched

    def _by_scan(self, dimensions: Dimensions, weights: Floats) -> tuple[Sums, Bools]:
        entries, touched = self._entries, np.zeros(len(self), np.bool_)
        if not len(dimensions):
            return np.zeros(len(self)), touched
        # The low bits of a dimension say for nearly all entries that the query does not have it.
        sieve = np.zeros(_SIEVE_BITS, np.bool_)
        sieve[dimensions % _SIEVE_BITS] = True
        likely = np.flatnonzero(sieve[entries.dimensions.view("<u2")[::2]])
        found = entries.dimensions[likely]
        at = np.minimum(np.searchsorted(dimensions, found), len(dimensions) - 1)
        same = dimensions[at] == found
        hits, at = likely[same], at[same]
        rows = np.searchsorted(entries.offsets, hits, side="right") - 1
        touched[rows] = True
        products = entries.weights[hits].astype(np.float64) * weights[at]
        return np.asarray(np.bincount(rows, products, minlength=len(self)), np.float64), touched


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
    build_parameters = (NumberParameter("drop_ratio_build", 0.0, 1.0, is_open=True),)
    search_parameters = (
        NumberParameter("drop_ratio_search", 0.0, 1.0, is_open=True),
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
