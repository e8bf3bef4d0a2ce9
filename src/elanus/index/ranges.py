"""Which scores a range search keeps."""

from __future__ import annotations

import numpy as np

from elanus.base.errors import InvariantError
from elanus.index.contract import Bools, Floats, SearchParams
from elanus.model.types import Metric


def in_range(scores: Floats, metric: Metric, params: SearchParams) -> Bools:
    """Which scores a range search keeps: better than `radius`, and not better than `range_filter`."""
    radius, inner = np.float32(_number(params, "radius")), params.get("range_filter")
    inside = scores > radius if metric.larger_is_better else scores < radius
    if inner is not None:
        limit = np.float32(_number(params, "range_filter"))
        inside &= scores <= limit if metric.larger_is_better else scores >= limit
    return np.asarray(inside)


def _number(params: SearchParams, name: str) -> float:
    value = params[name]
    if not isinstance(value, float):
        raise InvariantError(f"{name} was not validated")
    return value
