"""SCANN: parts of two numbers in four bits each, scored a block of rows at a time from registers, then the best
`reorder_k` once more (Guo and others 2020, "Accelerating large-scale inference with anisotropic vector quantization";
André, Kermarrec, Le Scouarnec 2015, "Cache locality is not enough", for the scan)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from elanus.index.codes import PQ_NITER, quiet_clustering
from elanus.index.contract import SearchParams
from elanus.index.errors import IndexParameterError, SearchParameterError
from elanus.index.ivf import NLIST, NPROBE, IvfType, Lists
from elanus.index.kernels import library
from elanus.index.parameters import INT32_MAX, FlagParameter, IntegerParameter, Setting
from elanus.model.schema import FieldSchema

PART: Final = 2
BITS: Final = 4
PART_NS: Final = 0.015
ROW_NS: Final = 10.0


class Scann(IvfType):
    """The type itself. `with_raw_data` is kept and described: a segment has its vectors, whatever it says."""

    name = "SCANN"
    build_parameters = (NLIST, FlagParameter("with_raw_data", True))
    search_parameters = (NPROBE, IntegerParameter("reorder_k", 1, INT32_MAX))

    def check_field(self, params: Mapping[str, str], field: FieldSchema) -> None:
        """The dimension must be even."""
        super().check_field(params, field)
        if field.dimension % PART:
            raise IndexParameterError(
                "The dimension of a vector (dim) should be a multiple of sub_dim. "
                f"Dimension:{field.dimension}, sub_dim:{PART}: invalid parameter"
            )

    def check_search(self, params: SearchParams, k: int) -> None:
        """reorder_k must hold k rows."""
        reorder = params.get("reorder_k", k)
        if isinstance(reorder, int) and reorder < k:
            raise SearchParameterError(f"reorder_k({reorder}) should be larger than k({k})")

    def row_ns(self, dimension: int, params: Mapping[str, Setting]) -> float:
        """By the part."""
        return dimension / PART * PART_NS + ROW_NS

    def training_rows_min(self, params: Mapping[str, Setting]) -> int:
        """One for each centroid of a part."""
        return int(2**BITS)

    def empty(self, lists: Lists) -> Any:
        """Codes of residuals in blocks."""
        parts = lists.dimension // PART
        index = library().IndexIVFPQFastScan(lists.quantizer, lists.dimension, lists.count, parts, BITS, lists.metric)
        quiet_clustering(index.pq.cp)
        index.pq.cp.niter = PQ_NITER
        return index
