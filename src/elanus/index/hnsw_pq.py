"""HNSW_PQ: the graph over product codes: each vector cut into `m` parts of `nbits` each (Jégou, Douze, Schmid 2011,
"Product quantization for nearest neighbor search")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from elanus.index.codes import (
    PQ_NITER,
    REFINE,
    REFINE_K,
    check_product_code,
    code_bits,
    quiet_clustering,
    refine_type,
    training_rows,
)
from elanus.index.contract import Floats
from elanus.index.hnsw import EF, EF_CONSTRUCTION, HnswType, M
from elanus.index.kernels import library
from elanus.index.parameters import IntegerParameter, Parameter, Setting
from elanus.model.schema import FieldSchema

PARTS: Final = IntegerParameter("m", 1, 65536, 32)
BITS: Final = IntegerParameter("nbits", 1, 24, 8)


class HnswPq(HnswType):
    """The type itself."""

    name = "HNSW_PQ"
    build_parameters: tuple[Parameter, ...] = (M, EF_CONSTRUCTION, PARTS, BITS, REFINE, refine_type("SQ4U"))
    search_parameters = (EF, REFINE_K)

    def check_field(self, params: Mapping[str, str], field: FieldSchema) -> None:
        """`m` must divide the dimension."""
        super().check_field(params, field)
        check_product_code(self.built(params), field)

    def fitted(self, params: dict[str, Setting], row_count: int) -> dict[str, Setting]:
        """Fewer bits where there are few rows."""
        return params | {"nbits": code_bits(params["nbits"], row_count)}

    def storage(self, values: Floats, metric: int, params: Mapping[str, Setting]) -> Any:
        """Product codes."""
        parts, bits = int(params["m"]), int(params["nbits"])
        index = library().IndexPQ(values.shape[1], parts, bits, metric)
        index.do_polysemous_training = False
        quiet_clustering(index.pq.cp)
        index.pq.cp.niter = PQ_NITER
        index.train(training_rows(values, 2**bits))
        if len(values):
            index.add(values)
        return index
