"""BIN_IVF_FLAT: binary vectors in lists, one per centroid (k-means over the bits, rounded back to bits); a search reads
the lists whose centroids are nearest by its own metric.

The file holds arrays, row numbers and vectors in the order of the lists:

    centroids uint8 (lists, width), offsets int64 (lists + 1), rows int32 (n), vectors uint8 (n, width)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from elanus.base.errors import check
from elanus.base.limits import KIB
from elanus.index.binary import BinaryVectors
from elanus.index.calibrate import POINTS_VERSION, Sample, calibrate, in_threads, sample_rows, sampled
from elanus.index.codes import quiet_clustering
from elanus.index.compiled.bits import BitLists, Wanted, nearest_bits
from elanus.index.contract import Bytes, Found, ResolvedIndex, RowMask, SearchParams, VectorIndex
from elanus.index.declaration import Declaration
from elanus.index.exact import empty_answer
from elanus.index.file import Effort, Trailer, read_array, read_trailer, write_arrays
from elanus.index.ivf import NLIST, NPROBE, NPROBE_DEFAULT, TRAIN_SEED, Probes
from elanus.index.kernels import library, threads_set
from elanus.index.scored import search_scored
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType, Metric

ROUND_MASK: Final = np.uint8(0b00010001)
"""Bits of a sample's bytes that come from another row."""
SEARCH_US: Final = 20.0
ROW_NS: Final = 1.5
WORD_NS: Final = 0.4
PLAIN_FACTOR: Final = 10.0
COMPILED_BYTES_MIN: Final = 512 * KIB
"""Cost of one query; for each row or centroid that is compared, and each 64 bits of it; how much more without numba.
Measured at 20k rows of 384 bits. A smaller file is not worth the memory that numba takes: see `Kernel.now`."""


class BinaryLists:
    """The lists themselves: what is built, and what is mapped."""

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        rows, offsets = arrays["rows"].view(), arrays["offsets"].view()
        rows.flags.writeable = offsets.flags.writeable = False
        self._lists = BitLists(_words(arrays["centroids"]), offsets, rows, _words(arrays["vectors"]))

    @property
    def count(self) -> int:
        """How many they are."""
        return len(self._lists.centroids)

    def search(self, queries: Bytes, k: int, nprobe: int, metric: Metric, keep: np.ndarray | None) -> Found:
        """The k best kept rows of the nearest lists, for every query (q, width)."""
        kept = np.empty(0, np.uint8) if keep is None else keep.view(np.uint8)
        wanted = Wanted(min(k, len(self._lists.rows)), nprobe, metric is Metric.JACCARD, kept)
        answer = empty_answer(len(queries), k, metric)
        if wanted.k and len(queries):
            ask = nearest_bits.soon if self._lists.vectors.nbytes >= COMPILED_BYTES_MIN else nearest_bits.now
            near, rows, counts = ask(self._lists, _words(queries), wanted)
            for place, count in enumerate(counts.tolist()):
                answer.rows[place, :count] = rows[place, :count]
                np.negative(near[place, :count], out=answer.scores[place, :count])
        return answer


def _words(vectors: Bytes) -> npt.NDArray[Any]:
    """Vectors as words, where they are whole ones; never writable (a kernel is compiled for either kind)."""
    words = np.ascontiguousarray(vectors)
    words = words.view(np.uint64) if words.shape[1] % 8 == 0 else words.view()
    words.flags.writeable = False
    return words


class BinIvfFlatIndex:
    """A mapped file."""

    index_type = "BIN_IVF_FLAT"
    scores_exactly = True

    def __init__(self, data: memoryview) -> None:
        trailer = read_trailer(data)
        self._efforts = trailer.efforts
        self._list_count = int(trailer.params["nlist"])
        self._lists = BinaryLists({name: read_array(data, trailer, name) for name in trailer.sections})
        self.metric = trailer.metric
        self.row_count = trailer.row_count
        self.dimension = trailer.dimension
        self.size_bytes = len(data)

    def search(self, queries: np.ndarray, k: int, mask: RowMask | None, params: SearchParams) -> Found:
        """See the contract; queries are uint8 (q, dim / 8)."""
        check(8 * queries.shape[1] == self.dimension, "queries and vectors differ in dimension")
        keep = None if mask is None else mask.keep
        nprobe = self._nprobe(params)
        return self._lists.search(np.ascontiguousarray(queries, np.uint8), k, nprobe, self.metric, keep)

    def candidates(self, k: int, params: SearchParams) -> int:
        """See the contract."""
        return k

    def params_for(self, k: int, rank: int, params: SearchParams) -> SearchParams:
        """nprobe from the file's calibration."""
        probes = Probes(self._efforts, self._list_count, self.row_count)
        return {**params, "nprobe": probes.needed(k, rank, params)}

    def cost_us(self, k: int, params: SearchParams) -> float:
        """See the constants."""
        nprobe = self._nprobe(params)
        rows = self._list_count + 2 * self.row_count * nprobe / self._list_count
        compiled_us = SEARCH_US + rows * (self.dimension / 64 * WORD_NS + ROW_NS) / 1000
        return compiled_us if nearest_bits.is_ready else PLAIN_FACTOR * compiled_us

    def _nprobe(self, params: SearchParams) -> int:
        value = params.get("nprobe", NPROBE_DEFAULT)
        return min(self._list_count, value if isinstance(value, int) else NPROBE_DEFAULT)


class BinIvfFlat(Declaration):
    """The type itself."""

    name = "BIN_IVF_FLAT"
    data_types = frozenset({DataType.BINARY_VECTOR})
    metrics = frozenset({Metric.HAMMING, Metric.JACCARD})
    file_version = POINTS_VERSION
    build_parameters = (NLIST,)
    search_parameters = (NPROBE,)

    def resolve(self, params: Mapping[str, str], field: FieldSchema) -> ResolvedIndex:
        """As given, defaults filled in."""
        return ResolvedIndex(self.name, Metric(params["metric_type"]), self.built(params), needs_file=True)

    def build(self, resolved: ResolvedIndex, vectors: Any, threads: int) -> Sequence[memoryview]:
        """Centroids from a sample, then all vectors into their lists, calibrated."""
        values = np.ascontiguousarray(vectors, np.uint8)
        row_count, width = values.shape
        list_count = max(1, min(int(resolved.params["nlist"]), row_count))
        metric = resolved.metric or Metric.HAMMING
        with threads_set(threads):
            arrays = _clustered(values, list_count)
            efforts = _efforts(BinaryLists(arrays), values, metric, threads)
        trailer = Trailer(self.name, metric, row_count, 8 * width, {"nlist": list_count}, efforts)
        return write_arrays(arrays, trailer)

    def load(self, data: memoryview) -> VectorIndex:
        """Maps the file."""
        return BinIvfFlatIndex(data)


def _clustered(values: Bytes, list_count: int) -> dict[str, npt.NDArray[Any]]:
    """The file's arrays."""
    faiss = library()
    width = values.shape[1]
    coarse = faiss.IndexBinaryFlat(8 * width)
    index = faiss.IndexBinaryIVF(coarse, 8 * width, list_count)
    quiet_clustering(index.cp)
    index.cp.seed = TRAIN_SEED
    index.train(_training_bits(values, list_count))
    centroids = faiss.vector_to_array(coarse.xb).reshape(list_count, width)
    nearest = coarse.search(values, 1)[1][:, 0] if len(values) else np.empty(0, np.int64)
    order = np.argsort(nearest, kind="stable")
    offsets = np.concatenate(([0], np.cumsum(np.bincount(nearest, minlength=list_count)))).astype(np.int64)
    return {"centroids": centroids, "offsets": offsets, "rows": order.astype(np.int32), "vectors": values[order]}


def _training_bits(values: Bytes, least: int) -> Bytes:
    if len(values):
        return values
    return np.zeros((least, values.shape[1]), np.uint8)


def _efforts(lists: BinaryLists, values: Bytes, metric: Metric, threads: int) -> tuple[Effort, ...]:
    def search(queries: np.ndarray, k: int, nprobe: int) -> Found:
        return lists.search(queries, k, nprobe, metric, None)

    count = lists.count
    steps = sorted({min(count, max(1, round(1.5**step))) for step in range(28)})
    return calibrate(in_threads(search, threads), _sample(values, metric), lambda rank: steps)


def _sample(values: Bytes, metric: Metric) -> Sample:
    """Rows left out, and rows with some bits of others."""
    rows, away = sample_rows(len(values))
    moved = values[rows] ^ ((values[rows] ^ values[away]) & ROUND_MASK)
    column = BinaryVectors(values)

    def exactly(queries: np.ndarray, k: int) -> Found:
        return search_scored(column, queries, k, metric, None, {})

    own = np.concatenate((rows, np.full(len(rows), -1)))
    return sampled(np.concatenate((values[rows], moved)), own, exactly, len(values))
