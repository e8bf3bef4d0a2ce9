"""IVF_SQ8: eight bits for each number of a vector, between the least and the largest of its dimension."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from elanus.index.codes import quantizer
from elanus.index.ivf import IvfType, Lists
from elanus.index.kernels import library
from elanus.index.parameters import Setting

CODE_NS: Final = 0.15


class IvfSq8(IvfType):
    """The type itself."""

    name = "IVF_SQ8"

    def row_ns(self, dimension: int, params: Mapping[str, Setting]) -> float:
        """By the code."""
        return dimension * CODE_NS

    def empty(self, lists: Lists) -> Any:
        """Codes of the vectors, not of what is left after the centroid: decoding is all that a score costs then."""
        code = quantizer("SQ8")
        return library().IndexIVFScalarQuantizer(
            lists.quantizer, lists.dimension, lists.count, code, lists.metric, False
        )
