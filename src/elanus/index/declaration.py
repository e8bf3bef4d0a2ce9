"""The part of an index type that is declared and not programmed."""

from __future__ import annotations

from collections.abc import Mapping

from elanus.index.contract import SearchParams
from elanus.index.errors import IndexParameterError
from elanus.index.parameters import Parameter, Setting
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType, Metric

FLOAT_TYPES = frozenset({DataType.FLOAT_VECTOR, DataType.FLOAT16_VECTOR, DataType.BFLOAT16_VECTOR})
DENSE_TYPES = FLOAT_TYPES | {DataType.INT8_VECTOR}
LIST_TYPES = frozenset({DataType.ARRAY_OF_VECTOR})
FLOAT_METRICS = frozenset({Metric.L2, Metric.IP, Metric.COSINE})


class Declaration:
    """Base of index types: what most of them answer the same way. Holds nothing."""

    name: str
    data_types: frozenset[DataType] = frozenset()
    metrics: frozenset[Metric] = frozenset()
    build_parameters: tuple[Parameter, ...] = ()
    search_parameters: tuple[Parameter, ...] = ()
    supports_mmap: bool = True
    file_version: int = 1
    answers_alone: bool = False

    def check_field(self, params: Mapping[str, str], field: FieldSchema) -> None:
        """The field's type must be one of `data_types`."""
        if field.data_type not in self.data_types:
            raise IndexParameterError(f"data type {field.data_type.label} can't build with this index {self.name}")

    def check_search(self, params: SearchParams, k: int) -> None:
        """Nothing to check beyond the ranges."""

    def built(self, params: Mapping[str, str]) -> dict[str, Setting]:
        """The build parameters with their defaults."""
        given: dict[str, Setting] = {
            one.name: one.parse(params[one.name]) for one in self.build_parameters if one.name in params
        }
        defaults = {one.name: one.default for one in self.build_parameters if one.default is not None}
        return defaults | given

    def resident_bytes(self, file_bytes: int, params: Mapping[str, str]) -> int:
        """All of the file: a search may touch any of it."""
        return file_bytes
