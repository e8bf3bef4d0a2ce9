"""Binary vectors: eight dimensions to a byte, compared bit by bit, exactly.

HAMMING counts the bits that differ. JACCARD is 1 - |a and b| / |a or b|, and 0 between two vectors without a bit.
SUBSTRUCTURE is 0 where every bit of the query is set in the row, SUPERSTRUCTURE where every bit of the row is set in
the query; a row that fails either is no hit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from elanus.base.errors import InvariantError, check
from elanus.index.contract import Bytes, Floats, ResolvedIndex, Rows
from elanus.index.declaration import Declaration
from elanus.index.parameters import IntegerParameter
from elanus.index.scored import Scored
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType, Metric

BINARY_METRICS: Final = frozenset({Metric.HAMMING, Metric.JACCARD, Metric.SUBSTRUCTURE, Metric.SUPERSTRUCTURE})
BYTE_NS: Final = 0.6
ROW_NS: Final = 15.0
"""Cost of one query for each byte and row. Measured at 100k rows of 768 bits."""
_WORD_BYTES: Final = 8

Counts = npt.NDArray[np.int64]
Words = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class BinaryVectors:
    """`values` is uint8 (n, dim / 8), C-contiguous, and never changes."""

    values: Bytes

    def __post_init__(self) -> None:
        right = self.values.ndim == 2 and self.values.dtype == np.uint8
        check(right, f"binary vectors are {self.values.dtype} {self.values.shape}, not uint8 (n, dim / 8)")

    def __len__(self) -> int:
        return len(self.values)

    def cost_us(self, queries: np.ndarray) -> float:
        """See `scored.ScoredVectors`."""
        return (self.values.size * BYTE_NS + len(self) * ROW_NS) * len(queries) / 1000

    @cached_property
    def _words(self) -> Words:
        return _as_words(self.values)

    @cached_property
    def _bit_counts(self) -> Counts:
        return _bits(self._words)

    def scored(self, query: np.ndarray, metric: Metric, rows: Rows | None) -> Scored:
        """See `scored.ScoredVectors`; rows that fail SUBSTRUCTURE or SUPERSTRUCTURE are left out."""
        values = self._words if rows is None else self._words[rows]
        word = _as_words(np.ascontiguousarray(query, np.uint8)[None, :])
        chosen = np.arange(len(values)) if rows is None else rows
        match metric:
            case Metric.HAMMING:
                return Scored(chosen, _bits(values ^ word).astype(np.float32))
            case Metric.JACCARD:
                counts = self._bit_counts if rows is None else self._bit_counts[rows]
                return Scored(chosen, _jaccard(_bits(values & word), counts, int(_bits(word)[0])))
            case Metric.SUBSTRUCTURE:
                holds = ((values & word) == word).all(axis=1)
            case Metric.SUPERSTRUCTURE:
                holds = ((values & word) == values).all(axis=1)
            case _:
                raise InvariantError(f"{metric} does not compare binary vectors")
        return Scored(chosen[holds], np.zeros(int(holds.sum()), np.float32))


def _as_words(values: Bytes) -> Words:
    """The same bits in the widest words that divide a row."""
    values = np.ascontiguousarray(values)
    return values.view(np.uint64) if values.shape[1] % _WORD_BYTES == 0 and values.shape[1] else values


def _bits(words: Words) -> Counts:
    return np.asarray(np.bitwise_count(words).sum(axis=1, dtype=np.int64))


def _jaccard(common: Counts, counts: Counts, query_count: int) -> Floats:
    union = counts + query_count - common
    shares = np.divide(common, union, out=np.ones(len(union)), where=union > 0)
    return np.asarray(1 - shares, np.float32)


class BinFlat(Declaration):
    """BIN_FLAT: the column itself, scanned."""

    name = "BIN_FLAT"
    data_types = frozenset({DataType.BINARY_VECTOR})
    metrics = BINARY_METRICS

    def resolve(self, params: Mapping[str, str], field: FieldSchema) -> ResolvedIndex:
        """Needs no file."""
        return ResolvedIndex(self.name, Metric(params["metric_type"]), {}, needs_file=False)


class BinIvfFlat(BinFlat):
    """BIN_IVF_FLAT: its parameters are checked and kept; the scan, which finds everything that lists would, answers."""

    name = "BIN_IVF_FLAT"
    metrics = frozenset({Metric.HAMMING, Metric.JACCARD})
    build_parameters = (IntegerParameter("nlist", 1, 65536, 128),)
    search_parameters = (IntegerParameter("nprobe", 1, 65536, 8),)
