"""What a bound sub-expression can be, and how names and templates become one.

A term is a constant, an operand (one value per row), arithmetic on an operand, an array's length, or a predicate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np

from elanus.expr import syntax
from elanus.expr.constants import type_of
from elanus.expr.errors import FilterError
from elanus.expr.lexer import INT64_MAX, INT64_MIN
from elanus.expr.timestamps import Interval
from elanus.expr.tree import MatchElements, Operand, OperandKind, Tree
from elanus.model.index import CastPath
from elanus.model.schema import DYNAMIC_FIELD_NAME, CollectionSchema, FieldSchema
from elanus.model.types import DataType

_NULL_WORDS: Final = ("null", "NULL")
_NO_NULL: Final = "NULL literal is not supported in expressions; use '<field> is null' or '<field> is not null' instead"
_FLOAT_BYTES: Final = 4


class Constant(msgspec.Struct, frozen=True):
    """A value known at parse time. `is_bare_bool`: a literal true or false, which is not a predicate by itself."""

    value: Any
    is_template: bool = False
    is_bare_bool: bool = False


class ArithmeticTerm(msgspec.Struct, frozen=True):
    """`operand symbol constant`; `is_reversed` for `constant symbol operand`, which nothing can be made of."""

    operand: Operand
    symbol: str
    constant: Any
    is_reversed: bool = False


class LengthTerm(msgspec.Struct, frozen=True):
    """`array_length(operand)`; `width` as in `LengthCompare`."""

    operand: Operand
    width: int = 0


class TimeTerm(msgspec.Struct, frozen=True):
    """`ISO '…'` in microseconds since the epoch."""

    microseconds: int


class IntervalTerm(msgspec.Struct, frozen=True):
    """`INTERVAL '…'`."""

    interval: Interval


class ShiftedTerm(msgspec.Struct, frozen=True):
    """A TIMESTAMPTZ field plus an interval."""

    operand: Operand
    interval: Interval


class Predicate(msgspec.Struct, frozen=True):
    """A truth value per row; `sample` is set once `random_sample` was and-ed to it (`tree` None: nothing else was),
    `elements` once `element_filter` was, which is part of `tree` too."""

    tree: Tree | None
    sample: float | None = None
    elements: MatchElements | None = None


Term: TypeAlias = Constant | Operand | ArithmeticTerm | LengthTerm | TimeTerm | IntervalTerm | ShiftedTerm | Predicate


def label(term: Term) -> str:
    """The term's type in messages."""
    match term:
        case Constant(value):
            return type_of(value).label
        case Operand():
            return term.value_type.label
        case ArithmeticTerm(operand, _, constant):
            return type_of(constant).label if operand.value_type is DataType.JSON else operand.value_type.label
        case LengthTerm():
            return DataType.INT64.label
        case TimeTerm() | IntervalTerm() | ShiftedTerm():
            return DataType.TIMESTAMPTZ.label
    return DataType.BOOL.label


class Names:
    """Resolves identifiers against one schema."""

    __slots__ = ("_casts", "_dynamic", "_fields", "_structs")

    def __init__(self, schema: CollectionSchema, casts: Sequence[CastPath] = ()) -> None:
        """`casts`: paths whose strings are compared as the numbers that they spell."""
        self._casts = frozenset((cast.field_id, cast.path) for cast in casts)
        self._fields = {field.name: field for field in schema.fields}
        self._structs = frozenset(struct.name for struct in schema.structs)
        self._dynamic = schema.dynamic

    def resolve(self, node: syntax.Name, text: str) -> Operand:
        """The operand a name stands for; an undeclared one is a key of the dynamic field, where there is one."""
        field = self._fields.get(node.name)
        if field is not None:
            return self._cast(_declared(field, node, text))
        if self._dynamic is None:
            raise FilterError(_NO_NULL if node.name in _NULL_WORDS else f"field {node.name} not exist")
        path = node.path if node.name == DYNAMIC_FIELD_NAME else (node.name, *node.path)
        return self._cast(Operand(OperandKind.JSON, self._dynamic.field_id, node.name, DataType.JSON, path=path))

    def _cast(self, operand: Operand) -> Operand:
        if (operand.field_id, operand.path) not in self._casts:
            return operand
        return msgspec.structs.replace(operand, numeric_texts=True)

    def is_struct(self, name: str) -> bool:
        """Whether this is a struct array."""
        return name in self._structs

    def struct_part(self, node: syntax.StructPart, text: str) -> Operand:
        """The operand `struct[part]` or `struct[index][part]`."""
        field = self._fields.get(f"{node.struct}[{node.name}]")
        if field is None:
            shown = text[node.start : node.end]
            raise FilterError(f"json key must be enclosed in double quotes or single quotes: {shown}")
        path = () if node.index is None else (node.index,)
        return _declared(field, syntax.Name(node.start, node.end, field.name, path), text)

    def counted(self, struct: str) -> tuple[Operand, int]:
        """A part by which the elements of the struct array are counted, and the bytes of an element if it holds
        vectors (else 0)."""
        parts = [field for field in self._fields.values() if field.struct_name == struct]
        part = next((field for field in parts if field.data_type is DataType.ARRAY), parts[0])
        width = 0 if part.data_type is DataType.ARRAY else _FLOAT_BYTES * part.dimension
        return Operand(OperandKind.FIELD, part.field_id, struct, part.data_type, part.element_type), width

    def element(self, struct: str, part: str) -> Operand:
        """The operand `$[part]`: a value for each element of the struct array."""
        field = self._fields.get(f"{struct}[{part}]")
        if field is None:
            raise FilterError(f"field {part} not exist in struct {struct}")
        if field.data_type is not DataType.ARRAY:
            raise FilterError(f"$[{part}] of type {field.data_type.label} cannot be compared")
        return Operand(OperandKind.FIELD, field.field_id, f"$[{part}]", field.element_type)


def _declared(field: FieldSchema, node: syntax.Name, text: str) -> Operand:
    kind = field.data_type
    if kind is DataType.TEXT:
        raise FilterError(f"filter on text field ({field.name}) is not supported yet")
    if kind is DataType.JSON:
        return Operand(OperandKind.JSON, field.field_id, field.name, kind, path=node.path)
    if kind is DataType.ARRAY and node.path:
        step = node.path[0]
        if len(node.path) != 1 or not isinstance(step, int):
            raise FilterError("can only access array field with integer index")
        return Operand(OperandKind.ELEMENT, field.field_id, field.name, kind, field.element_type, index=step)
    if node.path:
        raise FilterError(f"{kind.label} data type not supported accessed with []")
    return Operand(OperandKind.FIELD, field.field_id, field.name, kind, field.element_type, is_primary=field.is_primary)


def template_value(name: str, templates: Mapping[str, object]) -> Any:
    """The constant behind `{name}`: bool, int, float, str, or a list of those."""
    if name not in templates:
        raise FilterError(f"the value of expression template variable name {{{name}}} is not found")
    value = templates[name]
    if value is None:
        raise FilterError(f"expression template variable value is nil, template name: {{{name}}}")
    return _plain(value)


def _plain(value: object) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        if not INT64_MIN <= value <= INT64_MAX:
            raise FilterError(f"expression template value {value} is out of the range of Int64")
        return value
    if isinstance(value, str):
        return require_unicode(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    raise FilterError("expression elements can only be scalars")


def require_unicode(text: str) -> str:
    """`text`, or FilterError where it cannot be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise FilterError("text is not valid UTF-8") from error
    return text
