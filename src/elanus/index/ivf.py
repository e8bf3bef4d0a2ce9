"""Inverted lists: vectors, or codes of them, in lists, one per k-means centroid; a search reads the `nprobe` nearest
lists (Sivic, Zisserman 2003, "Video Google"). What one type differs in from the others is its codes.

There are never more lists than vectors: a definition's `nlist` is capped when a small segment is built, and a search's
`nprobe` is capped at the number of lists.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from elanus.base.errors import check
from elanus.index.calibrate import POINTS_VERSION, calibrate, candidates_for, effort_for, sample_dense
from elanus.index.codes import CANDIDATES, candidate_count, quiet_clustering, training_rows
from elanus.index.contract import Floats, Found, ResolvedIndex, RowMask, SearchParams, VectorIndex
from elanus.index.declaration import FLOAT_METRICS, FLOAT_TYPES, Declaration
from elanus.index.file import Effort, Trailer, map_faiss, read_trailer, write
from elanus.index.kernels import faiss_metric, library, selector, threads_set
from elanus.index.parameters import IntegerParameter, Parameter, Setting
from elanus.index.vectors import normalised
from elanus.model.schema import FieldSchema
from elanus.model.types import Metric

NPROBE_DEFAULT: Final = 8
NPROBE_MARGIN: Final = 1.3
"""Factor on the calibrated nprobe, and on the candidates: where few lists are read, one more or less tells."""
ROWS_READ_PER_RANK: Final = 8
"""Far beyond the calibrated ranks, lists with at least this many rows for each one wanted are read."""
TRAIN_SEED: Final = 1234

NLIST: Final = IntegerParameter("nlist", 1, 65536, 128)
NPROBE: Final = IntegerParameter("nprobe", 1, 65536, NPROBE_DEFAULT)

SEARCH_US: Final = 15.0
CENTROID_NS: Final = 0.15
"""Cost of one query: SEARCH_US, CENTROID_NS for each float of a centroid, and `IvfType.row_ns` for each row read."""


@dataclass(frozen=True)
class Lists:
    """What an empty index is made from. `metric` is faiss's number, `quantizer` its index of centroids."""

    quantizer: Any
    dimension: int
    count: int
    row_count: int
    metric: int
    params: Mapping[str, Setting]


class IvfType(Declaration):
    """Base of the types."""

    data_types = FLOAT_TYPES
    metrics = FLOAT_METRICS
    file_version = POINTS_VERSION
    build_parameters: tuple[Parameter, ...] = (NLIST,)
    search_parameters: tuple[Parameter, ...] = (NPROBE,)

    def is_coded(self, params: Mapping[str, Setting]) -> bool:
        """Whether lists hold something else than the vectors."""
        return True

    def row_ns(self, dimension: int, params: Mapping[str, Setting]) -> float:
        """Cost of each row in a list that is read."""
        raise NotImplementedError

    def empty(self, lists: Lists) -> Any:
        """A faiss index to be trained and filled."""
        raise NotImplementedError

    def training_rows_min(self, params: Mapping[str, Setting]) -> int:
        """Rows that training needs beside one for each list."""
        return 1

    def search_parameters_of(self, nprobe: int, chosen: Any, params: SearchParams) -> Any:
        """faiss's search parameters; `chosen` is a selector or None."""
        return library().SearchParametersIVF(nprobe=nprobe, sel=chosen)

    def fitted(self, params: dict[str, Setting], row_count: int) -> dict[str, Setting]:
        """The parameters as that many rows allow them."""
        return params | {"nlist": max(1, min(int(params["nlist"]), row_count))}

    def resolve(self, params: Mapping[str, str], field: FieldSchema) -> ResolvedIndex:
        """As given, defaults filled in."""
        return ResolvedIndex(self.name, Metric(params["metric_type"]), self.built(params), needs_file=True)

    def build(self, resolved: ResolvedIndex, vectors: Any, threads: int) -> Sequence[memoryview]:
        """Centroids from a sample, then all vectors into their lists, calibrated."""
        metric = resolved.metric or Metric.COSINE
        values = normalised(vectors) if metric is Metric.COSINE else np.ascontiguousarray(vectors, np.float32)
        params = self.fitted(resolved.params, len(values))
        trailer = Trailer(self.name, metric, len(values), values.shape[1], params)
        with threads_set(threads):
            index = self._filled(values, trailer)
            trailer = msgspec.structs.replace(trailer, efforts=self._efforts(index, values, trailer))
        return write(index, trailer)

    def load(self, data: memoryview) -> VectorIndex:
        """Maps the file."""
        return IvfIndex(self, data)

    def _filled(self, values: Floats, trailer: Trailer) -> Any:
        faiss = library()
        metric, count, dimension = trailer.metric, int(trailer.params["nlist"]), trailer.dimension
        coarse = (faiss.IndexFlatL2 if metric is Metric.L2 else faiss.IndexFlatIP)(dimension)
        index = self.empty(Lists(coarse, dimension, count, len(values), faiss_metric(metric), trailer.params))
        lists = faiss.extract_index_ivf(index)
        quiet_clustering(lists.cp)
        lists.cp.seed = TRAIN_SEED
        lists.cp.spherical = metric is Metric.COSINE
        index.train(training_rows(values, max(count, self.training_rows_min(trailer.params))))
        if len(values):
            index.add(values)
        return index

    def _efforts(self, index: Any, values: Floats, trailer: Trailer) -> Any:
        count = int(trailer.params["nlist"])
        coded = len(values) if self.is_coded(trailer.params) else 0

        def search(queries: np.ndarray, k: int, nprobe: int) -> Found:
            return Found(*index.search(queries, k, params=self.search_parameters_of(nprobe, None, {})))

        steps = sorted({min(count, max(1, round(1.5**step))) for step in range(28)})
        # Values are normalised already, so inner product orders them as the cosine does.
        plain = Metric.IP if trailer.metric is Metric.COSINE else trailer.metric
        return calibrate(search, sample_dense(values, plain), lambda rank: steps, coded)


class Probes(NamedTuple):
    """How many of the lists are to be read, by the calibration of a file."""

    efforts: Sequence[Effort]
    list_count: int
    row_count: int

    def needed(self, k: int, rank: int, params: SearchParams) -> int:
        """As `contract.VectorIndex.params_for`: of a larger nprobe as much more as the rank calls for."""
        needed, given = self._of(rank), params.get("nprobe", 1)
        scaled = given * max(1.0, needed / self._of(k)) if isinstance(given, int) else 1
        return min(self.list_count, math.ceil(max(needed, scaled)))

    def _of(self, rank: int) -> float:
        rows_read = ROWS_READ_PER_RANK * rank * self.list_count / max(self.row_count, 1)
        return max(effort_for(self.efforts, rank, self.list_count) * NPROBE_MARGIN, rows_read)


class IvfIndex:
    """A mapped file of one of the types."""

    def __init__(self, kind: IvfType, data: memoryview) -> None:
        trailer = read_trailer(data)
        self._index, self._alive = map_faiss(data)
        self._kind = kind
        self._trailer = trailer
        self._list_count = int(trailer.params["nlist"])
        self.index_type = trailer.index_type
        self.scores_exactly = not kind.is_coded(trailer.params)
        self.metric = trailer.metric
        self.row_count = trailer.row_count
        self.dimension = trailer.dimension
        self.size_bytes = len(data)

    def search(self, queries: np.ndarray, k: int, mask: RowMask | None, params: SearchParams) -> Found:
        """See the contract. A mask is applied inside the lists that are read."""
        check(queries.shape[1] == self.dimension, "queries and vectors differ in dimension")
        is_cosine = self.metric is Metric.COSINE
        queries = normalised(queries) if is_cosine else np.ascontiguousarray(queries, np.float32)
        chosen = None if mask is None else selector(mask)
        wanted = self._kind.search_parameters_of(self._nprobe(params), chosen, params)
        scores, rows = self._index.search(queries, k, params=wanted)
        if not self.scores_exactly:
            # Where all codes of a list are alike, the tables of a fast scan are scaled by nothing.
            np.nan_to_num(scores, copy=False, nan=0.0, posinf=np.inf, neginf=-np.inf)
        return Found(scores, rows)

    def candidates(self, k: int, params: SearchParams) -> int:
        """See the contract."""
        return k if self.scores_exactly else candidate_count(k, params, self._trailer.params)

    def params_for(self, k: int, rank: int, params: SearchParams) -> SearchParams:
        """nprobe and candidates from the file's calibration."""
        efforts = self._trailer.efforts
        nprobe = Probes(efforts, self._list_count, self.row_count).needed(k, rank, params)
        if self.scores_exactly:
            return {**params, "nprobe": nprobe}
        wanted = math.ceil(candidates_for(efforts, rank, self.row_count) * NPROBE_MARGIN)
        return {**params, "nprobe": nprobe, CANDIDATES: wanted}

    def cost_us(self, k: int, params: SearchParams) -> float:
        """See the constants."""
        read = self.row_count * self._nprobe(params) / self._list_count
        rows_ns = read * self._kind.row_ns(self.dimension, self._trailer.params)
        return SEARCH_US + (self._list_count * self.dimension * CENTROID_NS + rows_ns) / 1000

    def _nprobe(self, params: SearchParams) -> int:
        value = params.get("nprobe", NPROBE_DEFAULT)
        return min(self._list_count, value if isinstance(value, int) else NPROBE_DEFAULT)
