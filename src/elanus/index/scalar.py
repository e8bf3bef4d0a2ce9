"""Scalar indexes by name, with Milvus's rules on which field takes which.

Few structures stand behind the names: most are distinct values in order with the rows that hold each
(`scalars.keyed`). A filter is answered with the same rows by a scan of the column, so that an index is a promise about
speed alone. One thing a definition says of rows, indexed or not: with a cast function strings that spell numbers are
compared as these (`model.index.CastPath`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from elanus.index.contract import ResolvedIndex
from elanus.index.declaration import Declaration
from elanus.index.errors import IndexParameterError
from elanus.index.scalars.boxes import BoxIndex, box_file
from elanus.index.scalars.contract import Indexed, ScalarIndex
from elanus.index.scalars.documents import DocumentIndex, document_file
from elanus.index.scalars.file import is_of_documents
from elanus.index.scalars.grams import GramIndex, gram_file
from elanus.index.scalars.keyed import KeyedIndex, keyed_file
from elanus.index.scalars.values import JSON_TYPES, LIST_PREFIX, Cast, column_values, path_values
from elanus.model.columns import Column
from elanus.model.index import IndexDefinition
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType

CAST_TYPES: Final = frozenset({"BOOL", "DOUBLE", "VARCHAR", "ARRAY_BOOL", "ARRAY_DOUBLE", "ARRAY_VARCHAR", "JSON"})
WHOLE: Final = "JSON"
"""The cast of an index of all that stands beneath a path."""
CAST_FUNCTIONS: Final = {"STRING_TO_DOUBLE": "DOUBLE"}
INTEGERS: Final = frozenset({DataType.INT8, DataType.INT16, DataType.INT32, DataType.INT64})
NUMBERS: Final = INTEGERS | {DataType.FLOAT, DataType.DOUBLE}


class ScalarType(Declaration):
    """Base of them: no metric, and the file of distinct values."""

    def resolve(self, params: Mapping[str, str], field: FieldSchema) -> ResolvedIndex:
        """See the module's head."""
        return ResolvedIndex(self.name, None, {}, needs_file=True)

    def build(self, definition: IndexDefinition, field: FieldSchema, column: Column) -> Sequence[memoryview]:
        """The file, as consecutive parts."""
        return keyed_file(self.name, indexed_values(definition, field, column))

    def load(self, data: memoryview) -> ScalarIndex:
        """Open a file without copying it; `data` must stay unchanged and is kept alive."""
        return KeyedIndex(data)


class Inverted(ScalarType):
    """INVERTED: values and array elements, or a JSON path with a cast."""

    name = "INVERTED"
    _elements: ClassVar = NUMBERS | {DataType.BOOL, DataType.VARCHAR}

    def check_field(self, params: Mapping[str, str], field: FieldSchema) -> None:
        """JSON needs a cast type."""
        if field.data_type is DataType.JSON:
            _check_cast(params)
            return
        if _value_type(field) not in self._elements:
            raise IndexParameterError(
                f"INVERTED are not supported on {field.data_type.label} field: "
                "invalid parameter[expected=valid index params][actual=invalid index params]"
            )

    def build(self, definition: IndexDefinition, field: FieldSchema, column: Column) -> Sequence[memoryview]:
        """Documents are laid flat."""
        if field.data_type is DataType.JSON and _cast_name(definition) == WHOLE:
            return document_file(self.name, column, definition.document_path(field))
        return super().build(definition, field, column)

    def load(self, data: memoryview) -> ScalarIndex:
        """Of either."""
        return DocumentIndex(data) if is_of_documents(data) else KeyedIndex(data)


class Bitmap(ScalarType):
    """BITMAP: few distinct values, never the primary key."""

    name = "BITMAP"
    _elements: ClassVar = INTEGERS | {DataType.BOOL, DataType.VARCHAR}

    def check_field(self, params: Mapping[str, str], field: FieldSchema) -> None:
        """Floats are refused too."""
        if field.is_primary:
            raise IndexParameterError("create bitmap index on primary key not supported")
        if _value_type(field) not in self._elements:
            raise IndexParameterError("bitmap index are only supported on bool, int, string and array field")

    def build(self, definition: IndexDefinition, field: FieldSchema, column: Column) -> Sequence[memoryview]:
        """A bit for each row and value; lists of rows where values are many."""
        return keyed_file(self.name, indexed_values(definition, field, column), has_bitmaps=True)


class Sorted(ScalarType):
    """STL_SORT."""

    name = "STL_SORT"
    supports_mmap = False
    _elements: ClassVar = NUMBERS | {DataType.VARCHAR, DataType.TIMESTAMPTZ}

    def check_field(self, params: Mapping[str, str], field: FieldSchema) -> None:
        """Ordered types only."""
        if field.data_type not in self._elements:
            raise IndexParameterError(
                f"STL_SORT are only supported on numeric, varchar or timestamptz field, got {field.data_type.label}"
            )


class Trie(ScalarType):
    """Trie."""

    name = "Trie"

    def check_field(self, params: Mapping[str, str], field: FieldSchema) -> None:
        """Strings only."""
        if field.data_type is not DataType.VARCHAR:
            raise IndexParameterError("TRIE are only supported on varchar field")


class Ngram(ScalarType):
    """NGRAM."""

    name = "NGRAM"

    def check_field(self, params: Mapping[str, str], field: FieldSchema) -> None:
        """Strings, or JSON cast to them, and both lengths."""
        if field.data_type is DataType.JSON:
            if "json_cast_type" not in params:
                raise IndexParameterError("JSON field with ngram index must specify json_cast_type")
            if params["json_cast_type"].upper() != "VARCHAR":
                raise IndexParameterError(f"json_cast_type {params['json_cast_type']} is not supported")
        elif field.data_type is not DataType.VARCHAR:
            raise IndexParameterError("Ngram index can only be created on VARCHAR or JSON field")
        if "min_gram" not in params or "max_gram" not in params:
            raise IndexParameterError("Ngram index must specify both min_gram and max_gram")
        low, high = (_gram(name, params[name]) for name in ("min_gram", "max_gram"))
        if not 0 < low <= high:
            raise IndexParameterError(
                f"invalid min_gram or max_gram value for Ngram index, min_gram: {low}, max_gram: {high}"
            )

    def build(self, definition: IndexDefinition, field: FieldSchema, column: Column) -> Sequence[memoryview]:
        """Distinct texts and their grams."""
        lengths = [int(definition.params[name]) for name in ("min_gram", "max_gram")]
        return gram_file(self.name, indexed_values(definition, field, column), lengths)

    def load(self, data: memoryview) -> ScalarIndex:
        """Of those."""
        return GramIndex(data)


class RTree(ScalarType):
    """RTREE."""

    name = "RTREE"

    def check_field(self, params: Mapping[str, str], field: FieldSchema) -> None:
        """Geometry only."""
        if field.data_type is not DataType.GEOMETRY:
            raise IndexParameterError(f"RTREE index can only be built on geometry field, got {field.data_type.label}")

    def build(self, definition: IndexDefinition, field: FieldSchema, column: Column) -> Sequence[memoryview]:
        """A tree of bounding boxes."""
        return box_file(self.name, indexed_values(definition, field, column))

    def load(self, data: memoryview) -> ScalarIndex:
        """Of that tree."""
        return BoxIndex(data)


SCALAR_TYPES: Final = (Inverted(), Bitmap(), Sorted(), Trie(), Ngram(), RTree())
_BY_NAME: Final = {one.name: one for one in SCALAR_TYPES}


def auto_scalar(field: FieldSchema) -> ScalarType:
    """What AUTOINDEX means on a scalar field."""
    match _value_type(field):
        case DataType.BOOL:
            return _BY_NAME["BITMAP"]
        case DataType.TIMESTAMPTZ:
            return _BY_NAME["STL_SORT"]
        case DataType.GEOMETRY:
            return _BY_NAME["RTREE"]
        case DataType.JSON:
            return _BY_NAME["INVERTED"]
        case kind if (kind in INTEGERS or kind is DataType.VARCHAR) and not field.is_primary:
            return _BY_NAME["BITMAP"]  # which has lists where values are many
        case kind if kind in NUMBERS or kind is DataType.VARCHAR:
            return _BY_NAME["INVERTED"]
    raise IndexParameterError(f"create auto index on type:{field.data_type.label} is not supported")


def indexed_values(definition: IndexDefinition, field: FieldSchema, column: Column) -> Indexed:
    """What of a column such an index holds."""
    if field.data_type is not DataType.JSON:
        return column_values(column, field)
    name = _cast_name(definition)
    kind = JSON_TYPES[name.removeprefix(LIST_PREFIX)]
    path = definition.document_path(field)
    return path_values(column, Cast(path, kind, name.startswith(LIST_PREFIX), definition.casts_texts))


def _cast_name(definition: IndexDefinition) -> str:
    return definition.params["json_cast_type"].upper()


def _value_type(field: FieldSchema) -> DataType:
    return field.element_type if field.data_type is DataType.ARRAY else field.data_type


def _check_cast(params: Mapping[str, str]) -> None:
    cast = params.get("json_cast_type")
    if cast is None:
        raise IndexParameterError("json index must specify cast type: missing parameter[missing_param=json_cast_type]")
    if cast.upper() not in CAST_TYPES:
        raise IndexParameterError(f"json_cast_type {cast} is not supported")
    function = params.get("json_cast_function")
    if function is not None and CAST_FUNCTIONS.get(function.upper()) != cast.upper():
        raise IndexParameterError(f"json_cast_function {function} is not supported for json_cast_type {cast}")


def _gram(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise IndexParameterError(f"{name} for Ngram index must be an integer, got: {text}") from None
