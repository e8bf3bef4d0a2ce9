"""HYPERPLANES: signs of random projections (Charikar 2002, "Similarity estimation techniques from rounding
algorithms").

Each of `bits` random hyperplanes says on which side of it a vector lies. Two vectors at an angle of t lie on different
sides of a hyperplane with probability t / pi, so that the bits in which their signatures differ order rows by cosine,
roughly. A search takes the `shortlist` times k rows whose signatures differ least; Elanus scores these by the vectors
themselves and returns the best k.

Once this package is installed beside Elanus, any Milvus client can ask for the index by name:

    index_params.add_index("vector", index_type="HYPERPLANES", metric_type="COSINE", params={"bits": 512})
    client.search(..., search_params={"params": {"shortlist": 20}})
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from elanus.index.calibrate import calibrate, candidates_for, sample_dense
from elanus.index.contract import Found, ResolvedIndex, RowMask, SearchParams
from elanus.index.declaration import FLOAT_TYPES, Declaration
from elanus.index.errors import IndexParameterError
from elanus.index.file import Trailer, read_array, read_trailer, write_arrays
from elanus.index.parameters import IntegerParameter
from elanus.index.vectors import normalised
from elanus.model.schema import FieldSchema
from elanus.model.types import Metric

SHORTLIST_DEFAULT = 10
CANDIDATES = "hyperplane_candidates"
WORD_NS = 1.2
"""Cost of comparing 64 bits of one row."""


def signatures(vectors: np.ndarray, planes: np.ndarray) -> np.ndarray:
    """uint64 (n, bits / 64)."""
    return np.packbits(vectors @ planes.T > 0, axis=1).view(np.uint64)


class HyperplanesIndex:
    """A mapped file; see `elanus.index.contract.VectorIndex` for what each name means."""

    scores_exactly = False

    def __init__(self, data: memoryview) -> None:
        trailer = read_trailer(data)
        self._efforts = trailer.efforts
        self._planes = read_array(data, trailer, "planes")
        self._signatures = read_array(data, trailer, "signatures")
        self.index_type = trailer.index_type
        self.metric = trailer.metric
        self.row_count = trailer.row_count
        self.dimension = trailer.dimension
        self.size_bytes = len(data)

    def search(self, queries: np.ndarray, k: int, mask: RowMask | None, params: SearchParams) -> Found:
        """The k kept rows whose signatures differ least; the score falls with the bits that differ."""
        scores = np.full((len(queries), k), -np.inf, np.float32)
        rows = np.full((len(queries), k), -1, np.int64)
        kept = np.arange(self.row_count) if mask is None else mask.rows
        for place, signature in enumerate(signatures(normalised(queries), self._planes)):
            differing = np.bitwise_count(self._signatures[kept] ^ signature).sum(axis=1, dtype=np.int64)
            best = np.argsort(differing, kind="stable")[:k]
            rows[place, : len(best)] = kept[best]
            scores[place, : len(best)] = -differing[best]
        return Found(scores, rows)

    def candidates(self, k: int, params: SearchParams) -> int:
        """What `params_for` found, or the shortlist."""
        planned, factor = params.get(CANDIDATES), params.get("shortlist", SHORTLIST_DEFAULT)
        if isinstance(planned, int):
            return max(k, planned)
        return k * (factor if isinstance(factor, int) else SHORTLIST_DEFAULT)

    def params_for(self, k: int, rank: int, params: SearchParams) -> SearchParams:
        """Candidates from the calibration in the file, with a margin."""
        return {**params, CANDIDATES: math.ceil(1.5 * candidates_for(self._efforts, rank, self.row_count))}

    def cost_us(self, k: int, params: SearchParams) -> float:
        """Every signature is compared; then the best are sorted out."""
        return 20 + self.row_count * self._signatures.shape[1] * WORD_NS / 1000 + k * 0.05


class Hyperplanes(Declaration):
    """The type; see `elanus.index.contract.FileIndexType`."""

    name = "HYPERPLANES"
    data_types = FLOAT_TYPES
    metrics = frozenset({Metric.COSINE})
    build_parameters = (IntegerParameter("bits", 64, 8192, 512), IntegerParameter("seed", 0, 2**31 - 1, 0))
    search_parameters = (IntegerParameter("shortlist", 1, 1000, SHORTLIST_DEFAULT),)

    def check_field(self, params: Mapping[str, str], field: FieldSchema) -> None:
        """Signatures are whole words."""
        super().check_field(params, field)
        bits = self.built(params)["bits"]
        if int(bits) % 64:
            raise IndexParameterError(f"bits ({bits}) should be a multiple of 64")

    def resolve(self, params: Mapping[str, str], field: FieldSchema) -> ResolvedIndex:
        """As given, defaults filled in."""
        return ResolvedIndex(self.name, Metric(params["metric_type"]), self.built(params), needs_file=True)

    def build(self, resolved: ResolvedIndex, vectors: Any, threads: int) -> Sequence[memoryview]:
        """Hyperplanes, the signature of every vector, and how long a shortlist must be on this data."""
        values = normalised(vectors)
        bits, seed = int(resolved.params["bits"]), int(resolved.params["seed"])
        planes = np.random.default_rng(seed).normal(size=(bits, values.shape[1])).astype(np.float32)
        signed = signatures(values, planes)

        def search(queries: np.ndarray, k: int, effort: int) -> Found:
            differing = np.bitwise_count(signed[None] ^ signatures(queries, planes)[:, None]).sum(
                axis=2, dtype=np.int64
            )
            rows = np.argsort(differing, axis=1, kind="stable")[:, :k]
            return Found(-np.take_along_axis(differing, rows, axis=1).astype(np.float32), rows)

        efforts = calibrate(search, sample_dense(values, Metric.IP), lambda rank: [1], coded_rows=len(values))
        trailer = Trailer(self.name, Metric.COSINE, len(values), values.shape[1], resolved.params, efforts)
        return write_arrays({"planes": planes, "signatures": signed}, trailer)

    def load(self, data: memoryview) -> HyperplanesIndex:
        """Maps the file."""
        return HyperplanesIndex(data)
