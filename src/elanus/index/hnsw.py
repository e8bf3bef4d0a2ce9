"""HNSW: faiss's graph over raw float32 vectors (Malkov, Yashunin 2016, "Efficient and robust approximate nearest
neighbor search using Hierarchical Navigable Small World graphs").

COSINE is inner product over normalised vectors. Search parameters are faiss objects, built once per `ef` and shared:
faiss only reads them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from elanus.base.errors import check
from elanus.index.calibrate import calibrate, effort_for
from elanus.index.contract import Floats, Found, ResolvedIndex, RowMask, SearchParams, VectorIndex
from elanus.index.declaration import FLOAT_METRICS, FLOAT_TYPES, LIST_TYPES, Declaration
from elanus.index.errors import SearchParameterError
from elanus.index.file import Effort, Trailer, map_faiss, read_trailer, write
from elanus.index.kernels import faiss_metric, library, selector, threads_set
from elanus.index.parameters import INT32_MAX, IntegerParameter, Setting
from elanus.index.vectors import normalised
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType, Metric

EF_MIN_DEFAULT: Final = 48
EF_CACHE_MAX: Final = 256
EF_RATIOS: Final = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
EF_MARGIN: Final = 1.5
"""Factor on the calibrated ef: real queries are harder than samples of the data."""
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
    """A mapped HNSW file."""

    index_type = "HNSW"
    scores_exactly = True

    def __init__(self, data: memoryview) -> None:
        trailer = read_trailer(data)
        self._index, self._alive = map_faiss(data)
        self._trailer = trailer
        self._normalises = trailer.metric is Metric.COSINE
        self._parameters: dict[int, Any] = {}
        self._defaults: dict[int, int] = {}
        self.metric = trailer.metric
        self.row_count = trailer.row_count
        self.dimension = trailer.dimension
        self.size_bytes = len(data)

    def search(self, queries: Floats, k: int, mask: RowMask | None, params: SearchParams) -> Found:
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
        return k

    def params_for(self, rank: int, params: SearchParams) -> SearchParams:
        """ef from the file's calibration, with a margin."""
        needed = effort_for(self._trailer.efforts, rank, EF_PER_RANK_FALLBACK) * EF_MARGIN
        return {**params, "ef": max(self._given(params), rank, math.ceil(needed))}

    def cost_us(self, k: int, params: SearchParams) -> float:
        """See the constants."""
        degree = int(self._trailer.params["M"]) / 16
        return SEARCH_US + self._ef(k, params) * (EF_US + EF_DIMENSION_US * self.dimension * degree)

    def _ef(self, k: int, params: SearchParams) -> int:
        given = self._given(params)
        return max(k, given) if given else self._default_ef(k)

    def _default_ef(self, k: int) -> int:
        found = self._defaults.get(k)
        if found is None:
            found = self._given(self.params_for(k, {"ef": EF_MIN_DEFAULT}))
            if len(self._defaults) < EF_CACHE_MAX:
                self._defaults[k] = found
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


class Hnsw(Declaration):
    """The type itself."""

    name = "HNSW"
    data_types = FLOAT_TYPES | LIST_TYPES | {DataType.INT8_VECTOR}
    metrics = FLOAT_METRICS
    build_parameters = (IntegerParameter("M", 2, 2048, 30), IntegerParameter("efConstruction", 1, INT32_MAX, 360))
    search_parameters = (IntegerParameter("ef", 1, INT32_MAX),)

    def resolve(self, params: Mapping[str, str], field: FieldSchema) -> ResolvedIndex:
        """As given, defaults filled in."""
        return ResolvedIndex(self.name, Metric(params["metric_type"]), self.built(params), needs_file=True)

    def check_search(self, params: SearchParams, k: int) -> None:
        """ef must hold k rows."""
        ef = params.get("ef", k)
        if isinstance(ef, int) and ef < k:
            raise SearchParameterError(f"ef({ef}) should be larger than k({k})")

    def build(self, resolved: ResolvedIndex, vectors: Floats, threads: int) -> Sequence[memoryview]:
        """The graph over all vectors, calibrated."""
        metric = resolved.metric or Metric.COSINE
        values = normalised(vectors) if metric is Metric.COSINE else np.ascontiguousarray(vectors, np.float32)
        with threads_set(threads):
            index = _graph(values, faiss_metric(metric), resolved.params)
            efforts = self._calibrated(index, values, metric)
        trailer = Trailer(self.name, metric, len(values), values.shape[1], resolved.params, efforts)
        return write(index, trailer)

    def load(self, data: memoryview) -> VectorIndex:
        """Maps the file."""
        return HnswIndex(data)

    def _calibrated(self, index: Any, values: Floats, metric: Metric) -> tuple[Effort, ...]:
        def search(queries: Floats, k: int, ef: int) -> Found:
            return Found(*index.search(queries, k, params=_parameters(ef, None)))

        # Values are normalised already, so inner product orders them as the cosine does.
        plain = Metric.IP if metric is Metric.COSINE else metric
        return calibrate(search, values, plain, lambda rank: [math.ceil(rank * ratio) for ratio in EF_RATIOS])


def _graph(values: Floats, metric: int, params: Mapping[str, Setting]) -> Any:
    """The index over float32 values. Building reads vectors at random, so that memory bandwidth is what it costs; where
    half precision tells neighbours apart as well, the graph is built over halves and then given the floats."""
    faiss = library()
    index = faiss.IndexHNSWFlat(values.shape[1], params["M"], metric)
    index.hnsw.efConstruction = params["efConstruction"]
    if not len(values):
        return index
    if not _half_is_enough(values):
        index.add(values)
        return index
    halves = faiss.IndexHNSWSQ(values.shape[1], faiss.ScalarQuantizer.QT_fp16, params["M"], metric)
    halves.hnsw.efConstruction = params["efConstruction"]
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
