"""Binary vectors: eight dimensions to a byte, compared bit by bit, exactly.

With h the number of bits in which a row differs from a query, and r and q how many each has, they share
(r + q - h) / 2 bits, so that every metric follows from h and r.

HAMMING counts the bits that differ. JACCARD is 1 - |a and b| / |a or b|, that is h / |a or b|, and 0 between two
vectors without a bit. SUBSTRUCTURE is 0 where every bit of the query is set in the row, SUPERSTRUCTURE where every bit
of the row is set in the query; a row that fails either is no hit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from elanus.base.errors import InvariantError, check
from elanus.index.contract import Bytes, Floats, ResolvedIndex, Rows
from elanus.index.declaration import Declaration
from elanus.index.kernels import hamming
from elanus.index.scored import Scored
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType, Metric

BINARY_METRICS: Final = frozenset({Metric.HAMMING, Metric.JACCARD, Metric.SUBSTRUCTURE, Metric.SUPERSTRUCTURE})
BYTE_NS: Final = 0.06
ROW_NS: Final = 10.0
"""Cost of one query for each byte and row. Measured at 100k rows of 768 bits."""
COUNT_ROWS: Final = 1 << 14


@dataclass(frozen=True)
class BinaryVectors:
    """`values` is uint8 (n, dim / 8), C-contiguous, and never changes."""

    values: Bytes

    def __post_init__(self) -> None:
        right = self.values.ndim == 2 and self.values.dtype == np.uint8 and self.values.flags.c_contiguous
        check(right, f"binary vectors are {self.values.dtype} {self.values.shape}, not contiguous uint8 (n, dim / 8)")

    def __len__(self) -> int:
        return len(self.values)

    def cost_us(self, queries: np.ndarray) -> float:
        """See `scored.ScoredVectors`."""
        return (self.values.size * BYTE_NS + len(self) * ROW_NS) * len(queries) / 1000

    @cached_property
    def _bit_counts(self) -> Floats:
        blocks = [self.values[start : start + COUNT_ROWS] for start in range(0, len(self), COUNT_ROWS)]
        return np.concatenate([np.bitwise_count(block).sum(axis=1, dtype=np.float32) for block in blocks])

    def scored(self, query: np.ndarray, metric: Metric, rows: Rows | None) -> Scored:
        """See `scored.ScoredVectors`; rows that fail SUBSTRUCTURE or SUPERSTRUCTURE are left out."""
        query = np.ascontiguousarray(query, np.uint8)
        chosen = np.arange(len(self)) if rows is None else rows
        differing = hamming(query, self.values if rows is None else self.values[rows]).astype(np.float32)
        if metric is Metric.HAMMING:
            return Scored(chosen, differing)
        own, asked = self._bit_counts[chosen], float(np.bitwise_count(query).sum())
        match metric:
            case Metric.JACCARD:
                return Scored(chosen, _jaccard(own + asked, differing))
            case Metric.SUBSTRUCTURE:
                holds = differing == own - asked
            case Metric.SUPERSTRUCTURE:
                holds = differing == asked - own
            case _:
                raise InvariantError(f"{metric} does not compare binary vectors")
        return Scored(chosen[holds], np.zeros(int(holds.sum()), np.float32))


def _jaccard(counted: Floats, differing: Floats) -> Floats:
    """From the bits of both sides together, where shared ones count twice, and those that differ."""
    union = (counted + differing) / 2
    return np.divide(differing, union, out=np.zeros(len(union), np.float32), where=union > 0)


class BinFlat(Declaration):
    """BIN_FLAT: the column itself, scanned."""

    name = "BIN_FLAT"
    data_types = frozenset({DataType.BINARY_VECTOR})
    metrics = BINARY_METRICS

    def resolve(self, params: Mapping[str, str], field: FieldSchema) -> ResolvedIndex:
        """Needs no file."""
        return ResolvedIndex(self.name, Metric(params["metric_type"]), {}, needs_file=False)
