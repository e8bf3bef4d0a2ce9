"""Dense vectors under a metric of another package: scored query by query, block by block, exactly.

To the planner they are a column like binary and sparse ones (`scored`), so that masks, ranges, ties and padding are the
same as everywhere, and so is an index of another package that declares the metric: what it finds is scored here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from elanus.index.contract import Floats, Rows
from elanus.index.errors import MetricError
from elanus.index.scored import Scored, ScoredVectors
from elanus.index.vectors import Vectors
from elanus.model.metrics import MetricExtension
from elanus.model.types import Metric

BLOCK_FLOATS: Final = 1 << 18
"""Numbers handed to a metric at once: what it makes of them on its way stays in the cache."""


def as_compared(vectors: Vectors | ScoredVectors, metric: Metric) -> Vectors | ScoredVectors:
    """The column as a search by that metric takes it."""
    extension = metric.extension
    return ComparedVectors(vectors, extension) if extension is not None and isinstance(vectors, Vectors) else vectors


@dataclass(frozen=True)
class ComparedVectors:
    """See `scored.ScoredVectors`."""

    vectors: Vectors
    extension: MetricExtension

    def __len__(self) -> int:
        return len(self.vectors)

    def cost_us(self, queries: np.ndarray) -> float:
        """Of all rows, widening included."""
        float_ns = self.extension.float_ns + self.vectors.widening_ns
        return len(queries) * len(self.vectors) * self.vectors.dimension * float_ns / 1000

    def scored(self, query: np.ndarray, metric: Metric, rows: Rows | None) -> Scored:
        """Every one of the rows has a score. MetricError if the metric fails."""
        chosen = np.arange(len(self.vectors)) if rows is None else rows
        step = max(1, BLOCK_FLOATS // max(1, self.vectors.dimension))
        scores = np.empty(len(chosen), np.float32)
        for start in range(0, len(chosen), step):
            stop = min(start + step, len(chosen))
            block = self.vectors.block(start, stop) if rows is None else self.vectors.take(chosen[start:stop])
            scores[start:stop] = self._block_scores(query, block)
        return Scored(chosen, scores)

    def _block_scores(self, query: np.ndarray, block: Floats) -> Floats:
        name = self.extension.name
        try:
            scores = np.asarray(self.extension.scores(query, block), np.float32)
        except Exception as error:
            raise MetricError(f"metric type {name}: {type(error).__name__}: {error}") from error
        if scores.shape != (len(block),):
            raise MetricError(f"metric type {name}: scores of {len(block)} vectors have shape {scores.shape}")
        worst = np.float32(-np.inf if self.extension.larger_is_better else np.inf)
        return np.where(np.isnan(scores), worst, scores)
