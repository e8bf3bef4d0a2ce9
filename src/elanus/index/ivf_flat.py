"""IVF_FLAT: raw vectors in lists, one per k-means centroid; a search reads the `nprobe` nearest lists (Sivic,
Zisserman 2003, "Video Google").

There are never more lists than vectors: a definition's `nlist` is capped when a small segment is built, and a search's
`nprobe` is capped at the number of lists.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from elanus.index.calibrate import calibrate, effort_for
from elanus.index.contract import Floats, Found, ResolvedIndex, RowMask, SearchParams, VectorIndex
from elanus.index.declaration import FLOAT_METRICS, FLOAT_TYPES, LIST_TYPES, Declaration
from elanus.index.file import Effort, Trailer, map_faiss, read_trailer, write
from elanus.index.kernels import faiss_metric, library, selector, threads_set
from elanus.index.parameters import IntegerParameter
from elanus.index.vectors import normalised
from elanus.model.schema import FieldSchema
from elanus.model.types import Metric

NPROBE_DEFAULT: Final = 8
NPROBE_MARGIN: Final = 1.5
"""Factor on the calibrated nprobe: real queries are harder than samples of the data."""
ROWS_READ_PER_RANK: Final = 4
"""Far beyond the calibrated ranks, lists with at least this many rows for each one wanted are read."""
TRAIN_SEED: Final = 1234

SEARCH_US: Final = 15.0
FLOAT_NS: Final = 0.15
"""Cost of one query: SEARCH_US + FLOAT_NS for each float of a centroid or of a vector in a list read."""


class IvfFlatIndex:
    """A mapped IVF_FLAT file."""

    index_type = "IVF_FLAT"
    scores_exactly = True

    def __init__(self, data: memoryview) -> None:
        trailer = read_trailer(data)
        self._index, self._alive = map_faiss(data)
        self._trailer = trailer
        self._normalises = trailer.metric is Metric.COSINE
        self._list_count = int(trailer.params["nlist"])
        self.metric = trailer.metric
        self.row_count = trailer.row_count
        self.dimension = trailer.dimension
        self.size_bytes = len(data)

    def search(self, queries: Floats, k: int, mask: RowMask | None, params: SearchParams) -> Found:
        """See the contract. A mask is applied inside the lists that are read."""
        queries = normalised(queries) if self._normalises else np.ascontiguousarray(queries, np.float32)
        return Found(*self._index.search(queries, k, params=_parameters(self._nprobe(params), mask)))

    def candidates(self, k: int, params: SearchParams) -> int:
        """See the contract."""
        return k

    def params_for(self, rank: int, params: SearchParams) -> SearchParams:
        """nprobe from the file's calibration, with a margin."""
        needed = max(
            effort_for(self._trailer.efforts, rank, self._list_count) * NPROBE_MARGIN,
            ROWS_READ_PER_RANK * rank * self._list_count / max(self.row_count, 1),
        )
        given = params.get("nprobe", 1)
        least = given if isinstance(given, int) else 1
        return {**params, "nprobe": min(self._list_count, max(least, math.ceil(needed)))}

    def cost_us(self, k: int, params: SearchParams) -> float:
        """See the constants."""
        read = self.row_count * self._nprobe(params) / self._list_count
        return SEARCH_US + (read + self._list_count) * self.dimension * FLOAT_NS / 1000

    def _nprobe(self, params: SearchParams) -> int:
        value = params.get("nprobe", NPROBE_DEFAULT)
        return min(self._list_count, value if isinstance(value, int) else NPROBE_DEFAULT)


class IvfFlat(Declaration):
    """The type itself."""

    name = "IVF_FLAT"
    data_types = FLOAT_TYPES | LIST_TYPES
    metrics = FLOAT_METRICS
    build_parameters = (IntegerParameter("nlist", 1, 65536, 128),)
    search_parameters = (IntegerParameter("nprobe", 1, 65536, NPROBE_DEFAULT),)

    def resolve(self, params: Mapping[str, str], field: FieldSchema) -> ResolvedIndex:
        """As given, defaults filled in."""
        return ResolvedIndex(self.name, Metric(params["metric_type"]), self.built(params), needs_file=True)

    def build(self, resolved: ResolvedIndex, vectors: Floats, threads: int) -> Sequence[memoryview]:
        """Centroids from a sample, then all vectors into their lists, calibrated."""
        faiss = library()
        metric = resolved.metric or Metric.COSINE
        values = normalised(vectors) if metric is Metric.COSINE else np.ascontiguousarray(vectors, np.float32)
        list_count = max(1, min(int(resolved.params["nlist"]), len(values)))
        dimension = values.shape[1]
        with threads_set(threads):
            quantizer = (faiss.IndexFlatL2 if metric is Metric.L2 else faiss.IndexFlatIP)(dimension)
            index = faiss.IndexIVFFlat(quantizer, dimension, list_count, faiss_metric(metric))
            index.cp.min_points_per_centroid = 1
            index.cp.seed = TRAIN_SEED
            index.cp.spherical = metric is Metric.COSINE
            index.train(values if len(values) else np.zeros((1, dimension), np.float32))
            if len(values):
                index.add(values)
            efforts = self._calibrated(index, values, metric)
        trailer = Trailer(self.name, metric, len(values), dimension, {"nlist": list_count}, efforts)
        return write(index, trailer)

    def load(self, data: memoryview) -> VectorIndex:
        """Maps the file."""
        return IvfFlatIndex(data)

    def _calibrated(self, index: Any, values: Floats, metric: Metric) -> tuple[Effort, ...]:
        def search(queries: Floats, k: int, nprobe: int) -> Found:
            return Found(*index.search(queries, k, params=_parameters(nprobe, None)))

        steps = sorted({min(index.nlist, max(1, round(1.5**step))) for step in range(28)})
        # Values are normalised already, so inner product orders them as the cosine does.
        plain = Metric.IP if metric is Metric.COSINE else metric
        return calibrate(search, values, plain, lambda rank: steps)


def _parameters(nprobe: int, mask: RowMask | None) -> Any:
    faiss = library()
    if mask is None:
        return faiss.SearchParametersIVF(nprobe=nprobe)
    return faiss.SearchParametersIVF(nprobe=nprobe, sel=selector(mask))
