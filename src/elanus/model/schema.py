"""Collection schemas as frozen values. Field ids: 0 is the row id, 1 the row timestamp, user fields start at 100."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from elanus.model.types import DataType

FIRST_USER_FIELD_ID: Final = 100
DYNAMIC_FIELD_NAME: Final = "$meta"
DEFAULT_DATABASE: Final = "default"
DEFAULT_PARTITION: Final = "_default"


class FieldSchema(msgspec.Struct, frozen=True, omit_defaults=True):
    """One field. `default` is a plain bool, int, float, str or bytes; None means no default."""

    field_id: int
    name: str
    data_type: DataType
    description: str = ""
    element_type: DataType = DataType.NONE
    is_primary: bool = False
    auto_id: bool = False
    nullable: bool = False
    default: Any = None
    is_dynamic: bool = False
    is_partition_key: bool = False
    is_clustering_key: bool = False
    is_function_output: bool = False
    type_params: dict[str, str] = {}

    @property
    def struct_name(self) -> str:
        """The struct array that a field named `struct[sub]` is part of; empty for all others."""
        base, bracket, _ = self.name.partition("[")
        return base if bracket else ""

    @property
    def dimension(self) -> int:
        """`dim` of a dense vector field; 0 where there is none."""
        return int(self.type_params.get("dim", 0))

    @property
    def max_length(self) -> int:
        """Bytes allowed in a VARCHAR value or element."""
        return int(self.type_params.get("max_length", 65535))

    @property
    def max_capacity(self) -> int:
        """Elements allowed in an ARRAY value."""
        return int(self.type_params.get("max_capacity", 4096))


class FunctionSchema(msgspec.Struct, frozen=True, omit_defaults=True):
    """A computed field: type 1 BM25, 2 text embedding, 3 rerank."""

    function_id: int
    name: str
    function_type: int
    description: str = ""
    input_field_names: tuple[str, ...] = ()
    output_field_names: tuple[str, ...] = ()
    params: dict[str, str] = {}


class StructSchema(msgspec.Struct, frozen=True, omit_defaults=True):
    """An array of structs. Its parts are fields of the collection, named `struct[sub]`, of equal length in each row."""

    field_id: int
    name: str
    description: str = ""
    type_params: dict[str, str] = {}


class CollectionSchema(msgspec.Struct, frozen=True, omit_defaults=True):
    """Fields in order, the dynamic field included (last, `is_dynamic`)."""

    name: str
    fields: tuple[FieldSchema, ...]
    description: str = ""
    enable_dynamic_field: bool = False
    functions: tuple[FunctionSchema, ...] = ()
    version: int = 0
    structs: tuple[StructSchema, ...] = ()

    @property
    def primary(self) -> FieldSchema:
        """The primary key field."""
        return next(field for field in self.fields if field.is_primary)

    @property
    def dynamic(self) -> FieldSchema | None:
        """The hidden JSON field of undeclared keys."""
        return next((field for field in self.fields if field.is_dynamic), None)

    @property
    def partition_key(self) -> FieldSchema | None:
        """The field whose hash picks the partition."""
        return next((field for field in self.fields if field.is_partition_key), None)

    @property
    def vector_fields(self) -> tuple[FieldSchema, ...]:
        """All vector fields in order."""
        return tuple(field for field in self.fields if field.data_type.is_vector)

    def fields_of(self, struct: str) -> tuple[FieldSchema, ...]:
        """The parts of a struct array, in order."""
        return tuple(field for field in self.fields if field.struct_name == struct)

    def field(self, name: str) -> FieldSchema | None:
        """The field of that name."""
        return next((field for field in self.fields if field.name == name), None)

    def field_by_id(self, field_id: int) -> FieldSchema | None:
        """The field of that id."""
        return next((field for field in self.fields if field.field_id == field_id), None)
