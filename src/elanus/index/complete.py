"""Indexes that answer for every row: nothing is left for the planner to prove."""

from __future__ import annotations

import numpy as np

from elanus.index.contract import RowMask, SearchParams


class CompleteIndex:
    """Base of indexes whose `search` gives the very best kept rows with their own scores under every mask, and inside
    the range where the parameters have a `radius`: a short answer means that there are no more."""

    scores_exactly = True

    def candidates(self, k: int, params: SearchParams) -> int:
        """See the contract."""
        return k

    def params_for(self, k: int, rank: int, params: SearchParams) -> SearchParams:
        """See the contract."""
        return params

    def queries_cost_us(self, queries: np.ndarray, mask: RowMask | None) -> float:
        """Estimated microseconds on one core of all these queries."""
        raise NotImplementedError
