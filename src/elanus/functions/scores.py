"""Scores of different metrics made comparable: larger is better, and near 0 to 1.

The formulas are Milvus's, with one exception: Milvus takes every metric but COSINE, IP and BM25 for a distance, and so
puts the best hits of MAX_SIM, whose larger scores are better, last. Here they count as the inner products they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from elanus.model.types import Metric

Scores = npt.NDArray[np.float32]


def is_similarity(metric: Metric) -> bool:
    """Whether rerankers take larger scores of the metric for better."""
    return metric.larger_is_better


def are_mixed(metrics: Sequence[Metric]) -> bool:
    """Whether of some metrics larger scores are better and of others smaller ones."""
    return len({is_similarity(metric) for metric in metrics}) > 1


def normalised(scores: Scores, metric: Metric) -> Scores:
    """Every metric on one scale, larger is better."""
    exact = scores.astype(np.float64)
    match metric:
        case Metric.COSINE:
            scaled = (1 + exact) / 2
        case Metric.BM25:
            scaled = 2 * np.arctan(exact) / math.pi
        case _ if metric.larger_is_better:
            scaled = 0.5 + np.arctan(exact) / math.pi
        case _:
            scaled = 1 - 2 * np.arctan(exact) / math.pi
    return scaled.astype(np.float32)


def turned(scores: Scores, metric: Metric) -> Scores:
    """Similarities as they are, distances on the scale of `normalised`: larger is better."""
    return scores if is_similarity(metric) else normalised(scores, metric)
