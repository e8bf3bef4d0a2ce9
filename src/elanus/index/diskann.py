"""DISKANN: vectors and graph on disk, compressed codes in memory (Subramanya et al. 2019, "DiskANN: fast accurate
billion-point nearest neighbor search on a single node").

A search walks the graph (`compiled.beam`) by distances from codes, and reads from disk, `beam_width_ratio` nodes at a
time, only the nodes it passes through; each is scored from its own vector, so that what it returns is exact. The reads
are ours: pieces of whole sectors through `doors.ReadFile`, counted there. Memory holds the codes, and copies of the
nodes nearest the entry, which every search passes; both have a budget, a share of the vectors' bytes, and neither
grows. The file's other sections are mapped.

COSINE is inner product over vectors of length 1. For IP the graph is built over vectors made equally long by one more
number, whose distances order as inner products do; codes and records hold the plain vectors.

Sections: `codebooks`, `codes` (`graph.Codes`), `rows`, `starts` (`graph.Distinct`), and `nodes`, uint32 (groups,
words), as `disk_graph` says, records `max_degree` neighbours long. Nodes are in breadth-first order from the entry,
node 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from elanus.base.doors import ReadFile
from elanus.base.errors import check
from elanus.base.limits import GIB, MIB
from elanus.base.pieces import repeated
from elanus.index.calibrate import POINTS_VERSION, calibrate, effort_for, in_threads, sample_dense
from elanus.index.compiled.beam import Walk, step
from elanus.index.compiled.vamana import Adjacency
from elanus.index.contract import Floats, Found, ResolvedIndex, RowMask, Rows, SearchParams, VectorIndex
from elanus.index.declaration import FLOAT_METRICS, FLOAT_TYPES, LIST_TYPES, Declaration
from elanus.index.disk_graph import WORD_BYTES, DiskGraph, FileGroups, Groups, Layout, MappedGroups, pack
from elanus.index.errors import IndexParameterError, SearchParameterError
from elanus.index.exact import empty_answer
from elanus.index.file import Effort, Trailer, read_array, read_trailer, write_arrays
from elanus.index.graph import Distinct, augmented, breadth_first, build_graph, distinct, encode, entry_of
from elanus.index.parameters import INT32_MAX, IntegerParameter, NumberParameter, Setting
from elanus.index.vectors import normalised
from elanus.model.schema import FieldSchema
from elanus.model.types import Metric

PART_FLOATS_MIN: Final = 4
"""More codes than one for four numbers find nothing more."""
PARTS_MIN: Final = 32
CACHE_BYTES_MAX: Final = 32 * MIB
SEARCH_LIST_MIN: Final = 16
SEARCH_LIST_PER_RANK_FALLBACK: Final = 3.0
LIST_RATIOS: Final = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32)
BEAM_DEFAULT: Final = 4
QUERY_BLOCK: Final = 16
MET_BYTES_MAX: Final = 4 * MIB
"""Queries that walk side by side, so that one step of the interpreter serves all, and the memory for what they met."""

CALL_US: Final = 150.0
READ_US: Final = 20.0
PLAIN_READ_US: Final = 45.0
COMPILING_US: Final = 5e6
"""Cost of one query; for each node it reads, compiled or not; of the first search of a process that compiles."""
COMPILED_BYTES_MIN: Final = 2 * GIB
"""A smaller file is not worth the 100 MB of memory that numba takes: without it a query costs three times the CPU."""

_LENIENT: Final = (
    IntegerParameter("max_degree", 1, 512, 56),
    IntegerParameter("search_list_size", 1, INT32_MAX, 100),
    NumberParameter("pq_code_budget_gb_ratio", 1e-6, 0.25, 0.125),
    NumberParameter("search_cache_budget_gb_ratio", 0.0, 0.3, 0.1, is_open=True),
)
"""As Milvus does with them: what is out of range, or no number, counts as not given."""


class DiskAnnIndex:
    """A DISKANN file: sections mapped, nodes read piece by piece."""

    index_type = "DISKANN"
    scores_exactly = True

    def __init__(self, data: memoryview, file: ReadFile | None = None, in_memory: bool = False) -> None:
        """`in_memory`: all but the nodes is copied, so that none of what searches touch is mapped."""
        trailer = read_trailer(data)
        self.metric = trailer.metric
        self.row_count = trailer.row_count
        self.dimension = trailer.dimension
        self.size_bytes = len(data)
        self._compiles = len(data) >= COMPILED_BYTES_MIN
        self._efforts = trailer.efforts
        arrays = {name: read_array(data, trailer, name) for name in ("rows", "starts", "codebooks", "codes")}
        if in_memory:
            arrays = {name: array.copy() for name, array in arrays.items()}
        self._rows, self._starts = arrays["rows"], arrays["starts"]
        layout = Layout(trailer.dimension, int(trailer.params["max_degree"]))
        groups: Groups = MappedGroups(read_array(data, trailer, "nodes"))
        if file is not None:
            groups = FileGroups(file, trailer.sections["nodes"].offset, layout.group_words * WORD_BYTES)
        kept = int(trailer.params["kept_groups"])
        self._graph = DiskGraph(layout, arrays["codebooks"], arrays["codes"], groups, kept)

    def search(self, queries: Floats, k: int, mask: RowMask | None, params: SearchParams) -> Found:
        """See the contract. With a mask, the walk is that without one, and the kept rows it met are reported."""
        check(queries.shape[1] == self.dimension, "queries and vectors differ in dimension")
        answer = empty_answer(len(queries), k, self.metric)
        if self.row_count:
            asked = _prepared(queries, self.metric)
            list_size, is_distance = self._list_size(k, params), self.metric is Metric.L2
            step_size = max(1, min(QUERY_BLOCK, MET_BYTES_MAX // self.row_count))
            for start in range(0, len(asked), step_size):
                block = asked[start : start + step_size]
                walk = self._graph.walk(block, list_size, _beam(params), is_distance, self._compiles)
                for place in range(len(walk.found_counts)):
                    self._take_best(walk, place, mask, answer.scores[start + place], answer.rows[start + place])
        return answer

    def _take_best(self, walk: Walk, place: int, mask: RowMask | None, scores: Floats, rows: Rows) -> None:
        """Write a walk's best rows over the padding; equal vectors are rows of their own."""
        count = walk.found_counts[place]
        nodes, own = walk.found[place, :count], walk.scores[place, :count]
        sizes = self._starts[nodes + 1] - self._starts[nodes]
        offsets = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        met = self._rows[np.repeat(self._starts[nodes], sizes) + offsets].astype(np.int64)
        badness = np.repeat(own, sizes)
        if mask is not None:
            kept = mask.keep[met]
            met, badness = met[kept], badness[kept]
        order = np.lexsort((met, badness))[: len(rows)]
        rows[: len(order)] = met[order]
        scores[: len(order)] = _as_scores(badness[order], self.metric)

    def candidates(self, k: int, params: SearchParams) -> int:
        """See the contract."""
        return k

    def params_for(self, k: int, rank: int, params: SearchParams) -> SearchParams:
        """The list from the file's calibration; of a longer one as much more as the rank calls for."""
        needed = self._needed(rank)
        scaled = _given(params) * max(1.0, needed / self._needed(k))
        return {**params, "search_list": max(rank, math.ceil(max(needed, scaled)))}

    def _needed(self, rank: int) -> float:
        return effort_for(self._efforts, rank, SEARCH_LIST_PER_RANK_FALLBACK)

    def cost_us(self, k: int, params: SearchParams) -> float:
        """See the constants."""
        cost_us = CALL_US + self._list_size(k, params) * (READ_US if step.is_ready else PLAIN_READ_US)
        return cost_us + COMPILING_US if self._compiles and not step.is_ready else cost_us

    def _list_size(self, k: int, params: SearchParams) -> int:
        given = _given(params)
        return max(k, given or SEARCH_LIST_MIN, 0 if given else _given(self.params_for(k, k, {})))


def _given(params: SearchParams) -> int:
    value = params.get("search_list", params.get("search_list_size", 0))
    return value if isinstance(value, int) else 0


def _beam(params: SearchParams) -> int:
    value = params.get("beam_width_ratio", BEAM_DEFAULT)
    return max(1, int(value)) if isinstance(value, float | int) else BEAM_DEFAULT


def _prepared(vectors: Floats, metric: Metric) -> Floats:
    return normalised(vectors) if metric is Metric.COSINE else np.ascontiguousarray(vectors, np.float32)


def _as_scores(badness: Floats, metric: Metric) -> Floats:
    """What walks score, smaller is better, as Milvus's scores."""
    if metric is Metric.L2:
        return badness
    return np.clip(-badness, -1, 1) if metric is Metric.COSINE else -badness


class DiskAnn(Declaration):
    """The type itself."""

    name = "DISKANN"
    data_types = FLOAT_TYPES | LIST_TYPES
    metrics = FLOAT_METRICS
    file_version = POINTS_VERSION
    supports_mmap = False
    search_parameters = (
        IntegerParameter("search_list", 1, INT32_MAX),
        IntegerParameter("search_list_size", 1, INT32_MAX),
        NumberParameter("beam_width_ratio", 1.0, 128.0),
    )

    def resolve(self, params: Mapping[str, str], field: FieldSchema) -> ResolvedIndex:
        """As given, where that is in range; defaults for the rest."""
        built: dict[str, Setting] = {}
        for one in _LENIENT:
            built[one.name] = _parsed(one, params.get(one.name))
        built["dim"] = field.dimension
        return ResolvedIndex(self.name, Metric(params["metric_type"]), built, needs_file=True)

    def check_search(self, params: SearchParams, k: int) -> None:
        """The list must hold k rows."""
        given = _given(params)
        if given and given < k:
            raise SearchParameterError(f"search_list_size({given}) should be larger than k({k})")

    def resident_bytes(self, file_bytes: int, params: Mapping[str, str]) -> int:
        """Codes, kept nodes and what maps nodes to rows."""
        layout = Layout(int(params["dim"]), int(params["max_degree"]))
        share = float(params["pq_code_budget_gb_ratio"])
        node_bytes = layout.group_words * WORD_BYTES / layout.group_nodes + part_count(layout.dimension, share) + 12
        nodes = file_bytes / node_bytes
        kept = kept_bytes(int(nodes), layout.dimension, float(params["search_cache_budget_gb_ratio"]))
        return int(nodes * (part_count(layout.dimension, share) + 12)) + kept

    def build(self, resolved: ResolvedIndex, vectors: Any, threads: int) -> Sequence[memoryview]:
        """Graph, codes and nodes in their order, calibrated. Holds the file in memory besides the vectors."""
        metric, params = resolved.metric or Metric.COSINE, dict(resolved.params)
        unique = distinct(_prepared(vectors, metric))
        dimension = unique.vectors.shape[1]
        layout = Layout(dimension, int(params["max_degree"]))
        if not len(unique.vectors):
            return write_arrays(_empty_sections(layout), Trailer(self.name, metric, 0, dimension, _stored(params, 0)))
        points = augmented(unique.vectors) if metric is Metric.IP else unique.vectors
        graph = build_graph(points, layout.degree, int(params["search_list_size"]), threads)
        order = breadth_first(graph, entry_of(points))
        unique, graph = _reordered(unique, graph, order)
        parts = part_count(dimension, float(params["pq_code_budget_gb_ratio"]))
        codes = encode(unique.vectors, parts, threads)
        nodes = pack(layout, unique.vectors, graph)
        kept = kept_bytes(len(order), dimension, float(params["search_cache_budget_gb_ratio"]))
        kept_groups = min(len(nodes), kept // (layout.group_words * WORD_BYTES))
        sections: dict[str, np.ndarray] = {
            "codebooks": codes.codebooks,
            "codes": codes.codes,
            "rows": unique.rows,
            "starts": unique.starts,
            "nodes": nodes,
        }
        disk_graph = DiskGraph(layout, codes.codebooks, codes.codes, MappedGroups(nodes), kept_groups)
        efforts = _calibrated(disk_graph, unique.vectors, metric, threads)
        trailer = Trailer(self.name, metric, len(vectors), dimension, _stored(params, kept_groups), efforts)
        return write_arrays(sections, trailer)

    def load(self, data: memoryview) -> VectorIndex:
        """Reads nodes from the mapping; for where there is no local file."""
        return DiskAnnIndex(data)

    def load_with(self, data: memoryview, file: ReadFile, in_memory: bool) -> VectorIndex:
        """Reads nodes from the file, of which `data` is the mapping."""
        return DiskAnnIndex(data, file, in_memory)


def part_count(dimension: int, share: float) -> int:
    """Codes of one byte for a vector: as many as the share of its bytes allows and are of use."""
    useful = max(dimension // PART_FLOATS_MIN, min(dimension, PARTS_MIN))
    return max(1, min(useful, int(share * dimension * WORD_BYTES)))


def kept_bytes(node_count: int, dimension: int, share: float) -> int:
    """Memory for nodes near the entry."""
    return min(CACHE_BYTES_MAX, int(share * node_count * dimension * WORD_BYTES))


def _reordered(unique: Distinct, graph: Adjacency, order: Rows) -> tuple[Distinct, Adjacency]:
    """Vectors and graph with node i being what was node order[i]."""
    numbers = np.empty(len(order), np.int32)
    numbers[order] = np.arange(len(order), dtype=np.int32)
    neighbours = numbers[np.maximum(graph.neighbours[order], 0)]
    sizes = np.diff(unique.starts)[order]
    offsets = np.arange(sizes.sum()) - repeated(np.cumsum(sizes) - sizes, sizes)
    rows = unique.rows[repeated(unique.starts[:-1][order], sizes) + offsets]
    starts = np.concatenate((np.zeros(1, np.int64), np.cumsum(sizes)))
    return Distinct(unique.vectors[order], rows, starts), Adjacency(neighbours, graph.degrees[order])


def _calibrated(graph: DiskGraph, vectors: Floats, metric: Metric, threads: int) -> tuple[Effort, ...]:
    # Vectors of COSINE are normalised already, so inner product orders them as the cosine does.
    plain = Metric.IP if metric is Metric.COSINE else metric

    def search(queries: Floats, k: int, list_size: int) -> Found:
        walk = graph.walk(queries, max(k, list_size), BEAM_DEFAULT, metric is Metric.L2, compiles=True)
        order = np.argsort(walk.scores, axis=1)[:, :k]
        scores = np.take_along_axis(walk.scores, order, axis=1)
        rows = np.take_along_axis(walk.found, order, axis=1).astype(np.int64)
        return Found(scores, rows)

    def ladder(rank: int) -> Sequence[int]:
        return [math.ceil(rank * ratio) for ratio in LIST_RATIOS]

    return calibrate(in_threads(search, threads), sample_dense(vectors, plain), ladder)


def _stored(params: dict[str, Setting], kept_groups: int) -> dict[str, Setting]:
    return {**params, "kept_groups": kept_groups}


def _empty_sections(layout: Layout) -> dict[str, np.ndarray]:
    return {
        "codebooks": np.zeros((1, 256, layout.dimension), np.float32),
        "codes": np.zeros((0, 1), np.uint8),
        "rows": np.zeros(0, np.int32),
        "starts": np.zeros(1, np.int64),
        "nodes": np.zeros((0, layout.group_words), np.uint32),
    }


def _parsed(parameter: IntegerParameter | NumberParameter, text: str | None) -> Setting:
    default = parameter.default
    check(default is not None, f"{parameter.name} has a default")
    assert default is not None
    if text is None:
        return default
    try:
        return parameter.parse(text)
    except IndexParameterError:
        return default
