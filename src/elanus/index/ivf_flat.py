"""IVF_FLAT: the vectors themselves in lists; those of a narrow type as they are stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from elanus.index.codes import natively_coded, quantizer
from elanus.index.contract import ResolvedIndex
from elanus.index.declaration import FLOAT_TYPES, LIST_TYPES
from elanus.index.ivf import IvfType, Lists
from elanus.index.kernels import library
from elanus.index.parameters import Setting
from elanus.model.schema import FieldSchema

FLOAT_NS: Final = 0.15
CODE_NS: Final = 0.13


class IvfFlat(IvfType):
    """The type itself."""

    name = "IVF_FLAT"
    data_types = FLOAT_TYPES | LIST_TYPES

    def resolve(self, params: Mapping[str, str], field: FieldSchema) -> ResolvedIndex:
        """With the code that holds the field's numbers."""
        return natively_coded(super().resolve(params, field), field)

    def is_coded(self, params: Mapping[str, Setting]) -> bool:
        """Halves of normalised vectors are near them, no more."""
        return "code" in params

    def row_ns(self, dimension: int, params: Mapping[str, Setting]) -> float:
        """By the float."""
        return dimension * (CODE_NS if "code" in params else FLOAT_NS)

    def empty(self, lists: Lists) -> Any:
        """Floats, or scalar codes of the stored type."""
        faiss = library()
        if "code" not in lists.params:
            return faiss.IndexIVFFlat(lists.quantizer, lists.dimension, lists.count, lists.metric)
        code = quantizer(str(lists.params["code"]))
        return faiss.IndexIVFScalarQuantizer(lists.quantizer, lists.dimension, lists.count, code, lists.metric, False)
