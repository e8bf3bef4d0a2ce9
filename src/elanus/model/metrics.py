"""Metrics from other packages: the entry points of the group `elanus.metrics`.

An entry point's name is the metric's, as clients write it in `metric_type`; its value is a class that is built without
arguments and answers as `MetricExtension` says. Metrics of ours cannot be replaced so. A metric is code, no data: every
process that serves a collection needs the package.
"""

from __future__ import annotations

from functools import cache
from typing import Final, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from elanus.base.extensions import ExtensionError, load_extension

GROUP: Final = "elanus.metrics"


@runtime_checkable
class MetricExtension(Protocol):
    """A metric over dense vectors, stateless. Any number of threads use it at once."""

    @property
    def name(self) -> str:
        """As users write it, in capitals."""
        ...

    @property
    def larger_is_better(self) -> bool:
        """Direction of the score."""
        ...

    @property
    def float_ns(self) -> float:
        """Cost of scoring one number of a vector on one core; tells whether a search may stay on the event loop."""
        ...

    def scores(self, query: npt.NDArray[np.float32], vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The score of a query (dim,) with each of a block of vectors (n, dim), as (n,). A row's score depends on the
        row and the query alone, never on what else is in the block. NaN counts as the worst score."""
        ...


@cache
def find_metric_extension(name: str) -> MetricExtension | None:
    """The metric of that name in capitals; None if no installed package has it. ExtensionError if it is unusable."""
    try:
        made = load_extension(GROUP, name)
    except ExtensionError as error:
        raise ExtensionError(f"metric type {error.message}") from error
    if made is None:
        return None
    if not isinstance(made, MetricExtension) or made.name != name:
        raise ExtensionError(f"metric type {name}: {type(made).__qualname__} is no metric of that name")
    return made
