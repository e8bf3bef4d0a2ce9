"""IVF_PQ: what is left of a vector after its centroid, cut into `m` parts of `nbits` each (Jégou, Douze, Schmid 2011,
"Product quantization for nearest neighbor search", section IV)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from elanus.index.codes import PQ_NITER, check_product_code, code_bits, quiet_clustering
from elanus.index.errors import IndexParameterError
from elanus.index.ivf import NLIST, IvfType, Lists
from elanus.index.kernels import library
from elanus.index.parameters import IntegerParameter, Setting
from elanus.model.schema import FieldSchema

PART_NS: Final = 2.5
LIST_SHARE_NS: Final = 2.0
"""Cost of a row: for each part of its code, and once."""


class IvfPq(IvfType):
    """The type itself."""

    name = "IVF_PQ"
    build_parameters = (NLIST, IntegerParameter("m", 1, 65536), IntegerParameter("nbits", 1, 24, 8))

    def check_field(self, params: Mapping[str, str], field: FieldSchema) -> None:
        """`m` must be there and divide the dimension."""
        super().check_field(params, field)
        if "m" not in params:
            raise IndexParameterError("param 'm' not exist in json")
        check_product_code(self.built(params), field)

    def row_ns(self, dimension: int, params: Mapping[str, Setting]) -> float:
        """By the part."""
        return int(params["m"]) * PART_NS + LIST_SHARE_NS

    def fitted(self, params: dict[str, Setting], row_count: int) -> dict[str, Setting]:
        """Fewer bits where there are few rows."""
        return super().fitted(params, row_count) | {"nbits": code_bits(params["nbits"], row_count)}

    def training_rows_min(self, params: Mapping[str, Setting]) -> int:
        """One for each centroid of a part."""
        return int(2 ** int(params["nbits"]))

    def empty(self, lists: Lists) -> Any:
        """Codes of residuals."""
        parts, bits = int(lists.params["m"]), int(lists.params["nbits"])
        index = library().IndexIVFPQ(lists.quantizer, lists.dimension, lists.count, parts, bits, lists.metric)
        quiet_clustering(index.pq.cp)
        index.pq.cp.niter = PQ_NITER
        return index
