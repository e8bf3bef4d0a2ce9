"""HNSW: faiss's graph over the vectors themselves (Malkov, Yashunin 2016, "Efficient and robust approximate nearest
neighbor search using Hierarchical Navigable Small World graphs"); those of a narrow type as they are stored.

The types beside it have the same graph over codes: it is built over the vectors, and its storage exchanged.

COSINE is inner product over normalised vectors. Search parameters are faiss objects, built once per `ef` and shared:
faiss only reads them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from elanus.base.errors import check
from elanus.index.calibrate import POINTS_VERSION, calibrate, candidates_for, effort_for, sample_dense
from elanus.index.codes import CANDIDATES, candidate_count, natively_coded, scalar_codes
from elanus.index.contract import Floats, Found, ResolvedIndex, RowMask, SearchParams, VectorIndex
from elanus.index.declaration import FLOAT_METRICS, FLOAT_TYPES, LIST_TYPES, Declaration
from elanus.index.errors import SearchParameterError
from elanus.index.file import Effort, Trailer, map_faiss, read_trailer, write
from elanus.index.kernels import faiss_metric, library, selector, threads_set
from elanus.index.parameters import INT32_MAX, IntegerParameter, Parameter, Setting
from elanus.index.vectors import normalised
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType, Metric

M: Final = IntegerParameter("M", 2, 2048, 30)
EF_CONSTRUCTION: Final = IntegerParameter("efConstruction", 1, INT32_MAX, 360)
EF: Final = IntegerParameter("ef", 1, INT32_MAX)

EF_MIN_DEFAULT: Final = 48
EF_CACHE_MAX: Final = 256
EF_RATIOS: Final = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
EF_MARGIN: Final = 1.1
"""Factor on the calibrated ef: real queries may be harder than samples of the data."""
EF_PER_RANK_FALLBACK: Final = 3.0

HALF_SAMPLE_ROWS: Final = 4096
HALF_PROBES: Final = 256
HALF_VALUE_MAX: Final = 60000.0
HALF_RATIO_MIN: Final = 20.0

SEARCH_US: Final = 40.0
EF_US: Final = 0.3
EF_DIMENSION_US: Final = 0.005
"""Cost of one query: SEARCH_US + ef (EF_US + EF_DIMENSION_US dim M / 16). Measured at 60k x 384, M=16."""


class HnswIndex:
    """A mapped file of one of the types."""

    def __init__(self, kind: HnswType, data: memoryview) -> None:
        trailer = read_trailer(data)
        self._index, self._alive = map_faiss(data)
        self._trailer = trailer
        self._factor = kind.cost_factor(trailer.params)
        self.index_type = trailer.index_type
        self.scores_exactly = not kind.is_coded(trailer.params)
        self._normalises = trailer.metric is Metric.COSINE
        self._parameters: dict[int, Any] = {}
        self._needed: dict[int, int] = {}
        self.metric = trailer.metric
        self.row_count = trailer.row_count
        self.dimension = trailer.dimension
        self.size_bytes = len(data)

    def search(self, queries: np.ndarray, k: int, mask: RowMask | None, params: SearchParams) -> Found:
        """See the contract. With a mask, faiss walks the graph as without one and reports the kept rows it met."""
        check(queries.shape[1] == self.dimension, "queries and vectors differ in dimension")
        faiss = library()
        queries = normalised(queries) if self._normalises else np.ascontiguousarray(queries, np.float32)
        ef = self._ef(k, params)
        parameters = self._shared(ef) if mask is None else _parameters(ef, selector(mask))
        scores = np.empty((len(queries), k), np.float32)
        rows = np.empty((len(queries), k), np.int64)
        pointer = faiss.swig_ptr
        self._index.search_c(len(queries), pointer(queries), k, pointer(scores), pointer(rows), parameters)
        return Found(scores, rows)

    def candidates(self, k: int, params: SearchParams) -> int:
        """See the contract."""
        return k if self.scores_exactly else candidate_count(k, params, self._trailer.params)

    def params_for(self, k: int, rank: int, params: SearchParams) -> SearchParams:
        """ef and candidates from the file's calibration; of a larger ef as much more as the rank calls for."""
        needed = self._needed_ef(rank)
        given = self._given(params)
        if given:
            needed = max(needed, math.ceil(given * max(1.0, needed / self._needed_ef(k))))
        if self.scores_exactly:
            return {**params, "ef": max(needed, rank)}
        wanted = candidates_for(self._trailer.efforts, rank, self.row_count)
        return {**params, "ef": max(needed, wanted), CANDIDATES: wanted}

    def cost_us(self, k: int, params: SearchParams) -> float:
        """See the constants."""
        degree = int(self._trailer.params["M"]) / 16
        visit_us = EF_US + EF_DIMENSION_US * self.dimension * degree
        return SEARCH_US + self._ef(k, params) * visit_us * self._factor

    def _ef(self, k: int, params: SearchParams) -> int:
        given = self._given(params)
        return max(k, given or max(EF_MIN_DEFAULT, self._given(self.params_for(k, k, {}))))

    def _needed_ef(self, rank: int) -> int:
        found = self._needed.get(rank)
        if found is None:
            found = math.ceil(effort_for(self._trailer.efforts, rank, EF_PER_RANK_FALLBACK) * EF_MARGIN)
            if len(self._needed) < EF_CACHE_MAX:
                self._needed[rank] = found
        return found

    def _given(self, params: SearchParams) -> int:
        value = params.get("ef", 0)
        return value if isinstance(value, int) else 0

    def _shared(self, ef: int) -> Any:
        found = self._parameters.get(ef)
        if found is None:
            found = _parameters(ef, None)
            if len(self._parameters) < EF_CACHE_MAX:
                self._parameters[ef] = found
        return found


class HnswType(Declaration):
    """Base of the types."""

    data_types = FLOAT_TYPES | LIST_TYPES | {DataType.INT8_VECTOR}
    metrics = FLOAT_METRICS
    file_version = POINTS_VERSION
    build_parameters: tuple[Parameter, ...] = (M, EF_CONSTRUCTION)
    search_parameters: tuple[Parameter, ...] = (EF,)

    def is_coded(self, params: Mapping[str, Setting]) -> bool:
        """Whether the graph stands over something else than the vectors."""
        return True

    def cost_factor(self, params: Mapping[str, Setting]) -> float:
        """What a visit costs, where one over floats costs 1."""
        return 1.0

    def storage(self, values: Floats, metric: int, params: Mapping[str, Setting]) -> Any:
        """A faiss index that holds the codes of all vectors, row by row; None for the vectors themselves."""
        raise NotImplementedError

    def fitted(self, params: dict[str, Setting], row_count: int) -> dict[str, Setting]:
        """The parameters as that many rows allow them."""
        return params

    def resolve(self, params: Mapping[str, str], field: FieldSchema) -> ResolvedIndex:
        """As given, defaults filled in."""
        return ResolvedIndex(self.name, Metric(params["metric_type"]), self.built(params), needs_file=True)

    def check_search(self, params: SearchParams, k: int) -> None:
        """ef must hold k rows."""
        ef = params.get("ef", k)
        if isinstance(ef, int) and ef < k:
            raise SearchParameterError(f"ef({ef}) should be larger than k({k})")

    def build(self, resolved: ResolvedIndex, vectors: Any, threads: int) -> Sequence[memoryview]:
        """The graph over all vectors, calibrated."""
        metric = resolved.metric or Metric.COSINE
        values = normalised(vectors) if metric is Metric.COSINE else np.ascontiguousarray(vectors, np.float32)
        params = self.fitted(resolved.params, len(values))
        trailer = Trailer(self.name, metric, len(values), values.shape[1], params)
        with threads_set(threads):
            codes = self.storage(values, faiss_metric(metric), params)
            index = _graph(values, faiss_metric(metric), params)
            if codes is not None:
                index = _over(index, codes, trailer)
            trailer = msgspec.structs.replace(trailer, efforts=self._efforts(index, values, trailer))
        return write(index, trailer)

    def load(self, data: memoryview) -> VectorIndex:
        """Maps the file."""
        return HnswIndex(self, data)

    def _efforts(self, index: Any, values: Floats, trailer: Trailer) -> tuple[Effort, ...]:
        def search(queries: np.ndarray, k: int, ef: int) -> Found:
            return Found(*index.search(queries, k, params=_parameters(ef, None)))

        def ladder(rank: int) -> Sequence[int]:
            return [math.ceil(rank * ratio) for ratio in EF_RATIOS]

        # Values are normalised already, so inner product orders them as the cosine does.
        plain = Metric.IP if trailer.metric is Metric.COSINE else trailer.metric
        coded = len(values) if self.is_coded(trailer.params) else 0
        return calibrate(search, sample_dense(values, plain), ladder, coded)


class Hnsw(HnswType):
    """HNSW itself."""

    name = "HNSW"

    def resolve(self, params: Mapping[str, str], field: FieldSchema) -> ResolvedIndex:
        """With the code that holds the field's numbers."""
        return natively_coded(super().resolve(params, field), field)

    def is_coded(self, params: Mapping[str, Setting]) -> bool:
        """Halves of normalised vectors are near them, no more."""
        return "code" in params

    def storage(self, values: Floats, metric: int, params: Mapping[str, Setting]) -> Any:
        """Floats, or scalar codes of the stored type."""
        return scalar_codes(values, metric, str(params["code"])) if "code" in params else None


def _over(graph: Any, codes: Any, trailer: Trailer) -> Any:
    """The same graph over codes; `codes` must outlive it."""
    index = library().IndexHNSWFlat()
    index.d, index.ntotal, index.metric_type = trailer.dimension, trailer.row_count, graph.metric_type
    index.is_trained = True
    index.hnsw = graph.hnsw
    index.storage, index.own_fields = codes, False
    return index


def _graph(values: Floats, metric: int, params: Mapping[str, Setting]) -> Any:
    """The index over float32 values. Building reads vectors at random, so that memory bandwidth is what it costs; where
    half precision tells neighbours apart as well, the graph is built over halves and then given the floats."""
    faiss = library()
    degree, effort = int(params["M"]), int(params["efConstruction"])
    index = faiss.IndexHNSWFlat(values.shape[1], degree, metric)
    index.hnsw.efConstruction = effort
    if not len(values):
        return index
    if not _half_is_enough(values):
        index.add(values)
        return index
    halves = faiss.IndexHNSWSQ(values.shape[1], faiss.ScalarQuantizer.QT_fp16, degree, metric)
    halves.hnsw.efConstruction = effort
    halves.train(values)
    halves.add(values)
    index.hnsw = halves.hnsw
    index.storage.add(values)
    index.ntotal = len(values)
    return index


def _half_is_enough(values: Floats) -> bool:
    """Whether rounding to half precision moves vectors by much less than what lies between them and their nearest
    neighbours, judged on a sample."""
    step = max(1, len(values) // HALF_SAMPLE_ROWS)
    sample = np.ascontiguousarray(values[::step][:HALF_SAMPLE_ROWS])
    if len(sample) < 2 or not np.abs(sample).max() < HALF_VALUE_MAX or not np.abs(values).max() < HALF_VALUE_MAX:
        return False
    moved = np.linalg.norm(sample - sample.astype(np.float16).astype(np.float32), axis=1)
    flat = library().IndexFlatL2(values.shape[1])
    flat.add(sample)
    squares, _ = flat.search(sample[:HALF_PROBES], 2)
    apart = np.sqrt(np.maximum(squares[:, 1], 0))
    return bool(np.quantile(apart, 0.05) > HALF_RATIO_MIN * moved.max())


def _parameters(ef: int, chosen: Any) -> Any:
    faiss = library()
    if chosen is None:
        return faiss.SearchParametersHNSW(efSearch=ef)
    return faiss.SearchParametersHNSW(efSearch=ef, sel=chosen)
