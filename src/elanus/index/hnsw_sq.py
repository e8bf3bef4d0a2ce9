"""HNSW_SQ: the graph over scalar codes, from four bits a number to halves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from elanus.index.codes import REFINE, REFINE_K, SCALAR_CODE, refine_type, scalar_codes
from elanus.index.contract import Floats
from elanus.index.hnsw import EF, EF_CONSTRUCTION, HnswType, M
from elanus.index.parameters import Setting

COST_FACTORS: Final = {"SQ4U": 0.7, "SQ6": 1.0, "SQ8": 0.7, "BF16": 0.8, "FP16": 0.8}


class HnswSq(HnswType):
    """The type itself."""

    name = "HNSW_SQ"
    build_parameters = (M, EF_CONSTRUCTION, SCALAR_CODE, REFINE, refine_type("SQ4U"))
    search_parameters = (EF, REFINE_K)

    def cost_factor(self, params: Mapping[str, Setting]) -> float:
        """Fewer bytes to read for each visit."""
        return COST_FACTORS[str(params["sq_type"])]

    def storage(self, values: Floats, metric: int, params: Mapping[str, Setting]) -> Any:
        """Scalar codes."""
        return scalar_codes(values, metric, str(params["sq_type"]))
