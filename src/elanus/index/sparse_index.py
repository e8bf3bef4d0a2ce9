"""SPARSE_INVERTED_INDEX: for each dimension its postings, the rows that have it and their weights, in a file.

The file is arrays (`file.write_arrays`): `dimensions` uint32 (d,), distinct and ascending; the i-th owns the postings
[starts[i], starts[i + 1]) of `rows` int32 and `weights` float32, and the blocks from blocks[i] on of `block_maxima`
float32. A dimension that many of the rows have is *dense*, number `dense` int32 (d,) or else -1: it also has `codes`
uint8 (dense, n), `steps` float32 (dense,) and `splits` int32 (dense, windows + 1), as `compiled.postings` says. All of
it is mapped, nothing is copied.

A search finds the same rows with the same scores as a plain product, whichever `inverted_index_algo` was chosen:
DAAT_MAXSCORE and DAAT_WAND leave out what cannot be among the best, TAAT_NAIVE adds everything up. Two parameters trade
results for time, as in Milvus: `drop_ratio_search` lets the smallest weights of a query have no part in choosing
candidates (which are then scored with all of them), and `dim_max_score_ratio` below 1 understates what a dimension can
add. `drop_ratio_build` is checked and has no effect.

Where few rows pass a mask they are looked up in the postings, one dimension after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from elanus.base.errors import check
from elanus.base.pieces import repeated
from elanus.index.compiled.postings import BLOCK, CODE_MAX, WINDOW, Lists, Terms, Wanted, best_rows
from elanus.index.complete import CompleteIndex
from elanus.index.contract import Floats, Found, ResolvedIndex, RowMask, Rows, SearchParams, VectorIndex
from elanus.index.declaration import Declaration
from elanus.index.exact import best_of, empty_answer
from elanus.index.file import Trailer, read_array, read_trailer, write_arrays
from elanus.index.parameters import ChoiceParameter, NumberParameter, Setting
from elanus.index.ranges import in_range
from elanus.index.sparse import SparseVectors, query_terms
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType, Metric

ALGORITHMS: Final = ("DAAT_MAXSCORE", "DAAT_WAND", "TAAT_NAIVE")
CANDIDATES_FACTOR: Final = 10
"""Rows chosen for each one wanted where part of the query has no say in it."""

DENSE_SHARE: Final = 1 / 12
"""Share of the rows from which a dimension is dense: its codes take at most 1.5 times the bytes of its postings."""

CALL_US: Final = 60.0
WINDOW_TERM_NS: Final = 4.0
POSTING_NS: Final = 1.5
CODE_NS: Final = 0.12
LOOKED_UP_NS: Final = 60.0
COMPILING_US: Final = 5e6
"""Cost of one query; for each row of the column and 1000 terms; for each posting of its terms, or for each row of the
column where a term is dense; for each row and term where rows are looked up; of the first search of a process."""


class _Query(NamedTuple):
    """The terms of a query that the column has, dimensions ascending."""

    starts: Rows
    stops: Rows
    blocks: Rows
    dense: Rows
    steps: np.ndarray
    weights: np.ndarray

    def lists_ns(self, row_count: int) -> float:
        """What going through the lists costs."""
        sparse = self.dense < 0
        postings = float((self.stops - self.starts)[sparse].sum()) * POSTING_NS
        codes = np.count_nonzero(~sparse) * row_count * CODE_NS
        return postings + codes + row_count * len(self.weights) * WINDOW_TERM_NS / 1000

    def only(self, chosen: np.ndarray) -> _Query:
        return _Query(*(column[chosen] for column in self))


class PostingsIndex(CompleteIndex):
    """A mapped file of postings."""

    def __init__(self, data: memoryview) -> None:
        trailer = read_trailer(data)
        self.index_type = trailer.index_type
        self.metric = trailer.metric
        self.row_count = trailer.row_count
        self.dimension = trailer.dimension
        self.size_bytes = len(data)
        self._prunes = trailer.params["inverted_index_algo"] != "TAAT_NAIVE"
        self._is_negative = bool(trailer.params["is_negative"])
        self._dimensions, self._starts, self._blocks, rows, weights, maxima, self._dense, self._steps, codes, splits = (
            read_array(data, trailer, name) for name in _SECTIONS
        )
        self._lists = Lists(rows, weights, maxima, codes, splits, trailer.row_count)

    def search(self, queries: np.ndarray, k: int, mask: RowMask | None, params: SearchParams) -> Found:
        """See the contract and `CompleteIndex`; `queries` are packed as `sparse` says."""
        answer = empty_answer(len(queries), k, self.metric)
        for place, packed in enumerate(queries):
            query = self._terms(packed)
            if len(query.weights) and (mask is None or mask.count):
                best = self._search_one(query, k, mask, params)
                answer.scores[place], answer.rows[place] = best.scores[0], best.rows[0]
        return answer

    def cost_us(self, k: int, params: SearchParams) -> float:
        """Of a query of ten terms of mean length; `queries_cost_us` knows better."""
        kept = 1 - _number(params, "drop_ratio_search", 0.0)
        return CALL_US + kept * 10 * len(self._lists.rows) / max(1, len(self._dimensions)) * POSTING_NS / 1000

    def queries_cost_us(self, queries: np.ndarray, mask: RowMask | None) -> float:
        """See `CompleteIndex`."""
        known = [self._terms(packed) for packed in queries]
        costs = (min(query.lists_ns(self.row_count), self._rows_ns(query, mask)) for query in known)
        return CALL_US * len(known) + sum(costs) / 1000 + (0 if best_rows.is_ready else COMPILING_US)

    def _rows_ns(self, query: _Query, mask: RowMask | None) -> float:
        return float("inf") if mask is None else mask.count * len(query.weights) * LOOKED_UP_NS

    def _terms(self, packed: np.ndarray) -> _Query:
        dimensions, weights = query_terms(packed)
        at = np.searchsorted(self._dimensions, dimensions)
        known = np.flatnonzero(at < len(self._dimensions))
        known = known[self._dimensions[at[known]] == dimensions[known]]
        at = at[known]
        asked, dense = weights[known].astype(np.float64), self._dense[at].astype(np.int64)
        steps = np.zeros(len(at))
        steps[dense >= 0] = self._steps[dense[dense >= 0]]
        return _Query(self._starts[at], self._starts[at + 1], self._blocks[at], dense, steps * asked, asked)

    def _search_one(self, query: _Query, k: int, mask: RowMask | None, params: SearchParams) -> Found:
        heavy = query.only(_heaviest(query.weights, _number(params, "drop_ratio_search", 0.0)))
        if len(heavy.weights) < len(query.weights):
            wanted = Wanted(min(CANDIDATES_FACTOR * k, self.row_count), -np.inf, np.inf, _kept(mask))
            candidates = np.sort(self._best(heavy, wanted, params)[1]).astype(np.int64)
            return self._best_among(query, candidates, k, params)
        if mask is not None and self._rows_ns(query, mask) < query.lists_ns(self.row_count):
            return self._best_among(query, mask.rows, k, params)
        floor, ceiling = (float(np.float32(_number(params, name, end))) for name, end in _RANGE)
        wanted = Wanted(min(k, self.row_count), floor, ceiling, _kept(mask))
        scores, rows = self._best(query, wanted, params)
        order = np.argsort(rows)
        return best_of(scores[order], rows[order].astype(np.int64), k, self.metric)

    def _best(self, query: _Query, wanted: Wanted, params: SearchParams) -> tuple[Floats, np.ndarray]:
        ratio = min(1.0, _number(params, "dim_max_score_ratio", 1.0))
        terms = Terms(*query, ratio=ratio, prunes=self._prunes)
        if self._is_negative or (query.weights < 0).any():
            return best_rows.twin(self._lists, terms, wanted)
        return best_rows(self._lists, terms, wanted)

    def _best_among(self, query: _Query, rows: Rows, k: int, params: SearchParams) -> Found:
        """The best of these rows, which ascend, by all terms."""
        lists, sums, touched = self._lists, np.zeros(len(rows)), np.zeros(len(rows), np.bool_)
        for start, stop, weight in zip(query.starts, query.stops, query.weights, strict=True):
            own = lists.rows[start:stop]
            at = np.minimum(np.searchsorted(own, rows), len(own) - 1)
            met = np.flatnonzero(own[at] == rows)
            sums[met] += lists.weights[start:stop][at[met]] * weight
            touched[met] = True
        scores = sums.astype(np.float32)
        if "radius" in params:
            touched &= in_range(scores, self.metric, params)
        chosen = np.flatnonzero(touched)
        return best_of(scores[chosen], rows[chosen], k, self.metric)


_SECTIONS: Final = (
    *("dimensions", "starts", "blocks", "rows", "weights", "block_maxima"),
    *("dense", "steps", "codes", "splits"),
)
_RANGE: Final = (("radius", -np.inf), ("range_filter", np.inf))


def _number(params: SearchParams, name: str, default: float) -> float:
    value = params.get(name, default)
    check(isinstance(value, float), f"{name} was not validated")
    return float(value)  # type: ignore[arg-type]


def _kept(mask: RowMask | None) -> np.ndarray:
    return np.empty(0, np.uint8) if mask is None else mask.keep.view(np.uint8)


def _heaviest(weights: np.ndarray, dropped_ratio: float) -> np.ndarray:
    """Which weights stay when that share of them, the smallest, leaves; equal weights stay together."""
    sizes = np.abs(weights)
    dropped = int(dropped_ratio * len(sizes))
    if not dropped:
        return np.ones(len(sizes), np.bool_)
    return np.asarray(sizes >= np.partition(sizes, dropped)[dropped])


def _postings(column: SparseVectors) -> dict[str, np.ndarray]:
    """The sections of a column's file."""
    entries = column.read_entries()
    rows = repeated(np.arange(len(column), dtype=np.int32), np.diff(entries.offsets))
    order = np.argsort(entries.dimensions, kind="stable")
    ordered = entries.dimensions[order]
    first = np.flatnonzero(np.concatenate((np.ones(1, np.bool_), ordered[1:] != ordered[:-1])) if len(ordered) else [])
    starts = np.append(first, len(ordered)).astype(np.int64)
    block_counts = -(-np.diff(starts) // BLOCK)
    blocks = np.concatenate((np.zeros(1, np.int64), np.cumsum(block_counts)))
    within = np.arange(blocks[-1]) - repeated(blocks[:-1], block_counts)
    weights = entries.weights[order]
    maxima = (
        np.maximum.reduceat(weights, repeated(starts[:-1], block_counts) + within * BLOCK) if len(weights) else weights
    )
    rows = rows[order]
    sections = (ordered[first], starts, blocks, rows, weights, maxima, *_dense(starts, rows, weights, len(column)))
    return dict(zip(_SECTIONS, sections, strict=True))


def _dense(starts: Rows, rows: np.ndarray, weights: Floats, row_count: int) -> tuple[np.ndarray, ...]:
    """The sections of dense dimensions; there are none where weights may be negative."""
    counts = np.diff(starts)
    is_dense = counts >= max(1.0, DENSE_SHARE * row_count)
    if len(weights) and weights.min() < 0:
        is_dense[:] = False
    chosen = np.flatnonzero(is_dense)
    numbers = np.where(is_dense, np.cumsum(is_dense) - 1, -1).astype(np.int32)
    steps = np.empty(len(chosen), np.float32)
    codes = np.zeros((len(chosen), row_count), np.uint8)
    windows = np.arange(0, row_count + WINDOW, WINDOW)
    splits = np.empty((len(chosen), len(windows)), np.int32)
    for place, one in enumerate(chosen):
        own, its = rows[starts[one] : starts[one + 1]], weights[starts[one] : starts[one + 1]]
        steps[place] = np.nextafter(its.max() / np.float32(CODE_MAX), np.float32(np.inf))
        codes[place, own] = np.clip(np.ceil(its / steps[place]), 1, CODE_MAX)
        splits[place] = np.searchsorted(own, windows)
    return numbers, steps, codes, splits


class SparseInverted(Declaration):
    """The type itself."""

    name = "SPARSE_INVERTED_INDEX"
    data_types = frozenset({DataType.SPARSE_FLOAT_VECTOR})
    metrics = frozenset({Metric.IP})
    file_version = 2
    answers_alone = True
    build_parameters = (
        ChoiceParameter(
            "inverted_index_algo",
            ALGORITHMS,
            ALGORITHMS[0],
            f"sparse inverted index algo {{}} not found or not supported, supported: [{' '.join(ALGORITHMS)}]",
        ),
        NumberParameter("drop_ratio_build", 0.0, 1.0, is_open=True),
        NumberParameter("bm25_k1", 0.0, 3.0),
        NumberParameter("bm25_b", 0.0, 1.0),
    )
    search_parameters = (
        NumberParameter("drop_ratio_search", 0.0, 1.0, is_open=True),
        NumberParameter("dim_max_score_ratio", 0.5, 1.3),
    )
    algorithm: str | None = None
    """The one that the type's name stands for."""

    def resolve(self, params: Mapping[str, str], field: FieldSchema) -> ResolvedIndex:
        """The algorithm; nothing else shapes the file."""
        built: dict[str, Setting] = {"inverted_index_algo": self.algorithm or self.built(params)["inverted_index_algo"]}
        return ResolvedIndex(self.name, Metric(params["metric_type"]), built, needs_file=True)

    def build(self, resolved: ResolvedIndex, vectors: Any, threads: int) -> Sequence[memoryview]:
        """All postings, sorted on one core: about a second for ten million entries."""
        column = SparseVectors(vectors)
        sections = _postings(column)
        params = {**resolved.params, "is_negative": bool((sections["weights"] < 0).any())}
        dimension = int(sections["dimensions"][-1]) + 1 if len(sections["dimensions"]) else 0
        trailer = Trailer(self.name, resolved.metric or Metric.IP, len(column), dimension, params)
        return write_arrays(sections, trailer)

    def load(self, data: memoryview) -> VectorIndex:
        """Maps the file."""
        return PostingsIndex(data)


class SparseWand(SparseInverted):
    """SPARSE_WAND: an older name of the same, with WAND."""

    name = "SPARSE_WAND"
    algorithm = "DAAT_WAND"
