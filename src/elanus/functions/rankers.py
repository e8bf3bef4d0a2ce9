"""Rerankers: how the hits of one or several searches get the score they are ordered by.

A ranker first says what each search contributes for each of its hits, then how the contributions of one row are merged,
and, if it looks at a field, by what the merged score is multiplied. Scores are float32 throughout and contributions are
added in the order of the searches, as Milvus adds them, so that equal inputs give equal bits.

RRF is reciprocal rank fusion (Cormack, Clarke, Buettcher 2009).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Protocol, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from elanus.functions.scores import Scores, are_mixed, is_similarity, normalised, turned
from elanus.model.types import Metric

RRF_K_DEFAULT: Final = 60.0
SUM: Final = "sum"
MAX: Final = "max"
AVERAGE: Final = "avg"


class Ranker(Protocol):
    """What fusion needs of a reranker."""

    @property
    def merge(self) -> str:
        """How the contributions of several searches for one row are merged: sum, max or avg."""
        ...

    @property
    def input_field_id(self) -> int:
        """The field whose values `factors` takes; 0 for none."""
        ...

    def descends(self, metrics: Sequence[Metric]) -> bool:
        """Whether a larger score is better, given the metrics of the searches."""
        ...

    def contributions(
        self, search: int, ranks: npt.NDArray[np.int64], scores: Scores, metrics: Sequence[Metric]
    ) -> Scores:
        """What search number `search` says of its hits, which stand at `ranks` (from 1) with `scores`."""
        ...

    def factors(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """By what merged scores are multiplied, for these values of the input field."""
        ...


class ReciprocalRank(msgspec.Struct, frozen=True):
    """The sum of 1 / (k + rank) over the searches that found the row."""

    k: float = RRF_K_DEFAULT
    merge: str = SUM
    input_field_id: int = 0

    def descends(self, metrics: Sequence[Metric]) -> bool:
        return True

    def contributions(
        self, search: int, ranks: npt.NDArray[np.int64], scores: Scores, metrics: Sequence[Metric]
    ) -> Scores:
        fused: Scores = np.float32(1) / (np.float32(self.k) + ranks.astype(np.float32))
        return fused

    def factors(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        return np.ones(len(values), np.float32)


class Weighted(msgspec.Struct, frozen=True):
    """The weighted sum of the scores, made comparable where asked for, or where their directions differ."""

    weights: tuple[float, ...]
    normalises: bool = False
    merge: str = SUM
    input_field_id: int = 0

    def descends(self, metrics: Sequence[Metric]) -> bool:
        return self.normalises or are_mixed(metrics) or all(is_similarity(metric) for metric in metrics)

    def contributions(
        self, search: int, ranks: npt.NDArray[np.int64], scores: Scores, metrics: Sequence[Metric]
    ) -> Scores:
        metric = metrics[search]
        if self.normalises:
            scores = normalised(scores, metric)
        elif are_mixed(metrics):
            scores = turned(scores, metric)
        weighted: Scores = np.float32(self.weights[search]) * scores
        return weighted

    def factors(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        return np.ones(len(values), np.float32)


class Decay(msgspec.Struct, frozen=True, kw_only=True):
    """The score falls with the distance of a field's value from `origin`: not within `offset`, and at `scale` beyond it
    to `decay`. `shape`: gauss, exp, or linear, which falls no further than to `decay`."""

    shape: str
    origin: float
    scale: float
    offset: float = 0.0
    decay: float = 0.5
    normalises: bool = False
    merge: str = MAX
    input_field_id: int

    def descends(self, metrics: Sequence[Metric]) -> bool:
        return True

    def contributions(
        self, search: int, ranks: npt.NDArray[np.int64], scores: Scores, metrics: Sequence[Metric]
    ) -> Scores:
        return (normalised if self.normalises else turned)(scores, metrics[search])

    def factors(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        away = np.maximum(0.0, np.abs(values - self.origin) - self.offset)
        match self.shape:
            case "gauss":
                factors = np.exp(away * away * (math.log(self.decay) / (self.scale * self.scale)))
            case "exp":
                factors = np.exp(away * (math.log(self.decay) / self.scale))
            case _:
                factors = np.maximum(self.decay, 1 - away * ((1 - self.decay) / self.scale))
        return factors.astype(np.float32)


AnyRanker: TypeAlias = ReciprocalRank | Weighted | Decay
