"""MANHATTAN: the sum of the absolute differences of two vectors' numbers.

Once this package is installed beside Elanus, any Milvus client can ask for the metric by name; the search is exact:

    index_params.add_index("vector", index_type="FLAT", metric_type="MANHATTAN")
    client.search(..., search_params={"metric_type": "MANHATTAN"})
"""

from __future__ import annotations

import numpy as np


class Manhattan:
    """The metric; see `elanus.model.metrics.MetricExtension` for what each name means."""

    name = "MANHATTAN"
    larger_is_better = False
    float_ns = 0.6

    def scores(self, query: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """One pass over the block."""
        return np.abs(vectors - query).sum(axis=1)
