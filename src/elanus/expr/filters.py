"""The entry: filter text to a `Filter`, memoised; and what can be read off a filter without running it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from elanus.expr.bind import Context, bind
from elanus.expr.errors import FilterError, UnknownFunctionError
from elanus.expr.parser import parse
from elanus.expr.sets import NumberSet, StringSet
from elanus.expr.syntax import Node
from elanus.expr.terms import Constant, Predicate, Term, label, require_unicode
from elanus.expr.timestamps import zone_of
from elanus.expr.tree import Always, And, Compare, Filter, InSet, Operand, OperandKind, Tree, operands
from elanus.model.index import CastPath
from elanus.model.schema import CollectionSchema

MEMO_ENTRIES_MAX: Final = 1024
"""Bound filters that are kept, and parse trees that are kept, each."""
MEMO_TEXT_CHARACTERS_MAX: Final = 8192
"""Longest text, and longest text with its templates, that is kept."""


class _Request:
    """A filter to be bound. Equal ones have the same outcome: the very schema (which the memo keeps alive, so that its
    identity is not used again), the same text, zone and template values."""

    __slots__ = ("casts", "hash", "key", "schema", "templates", "text", "timezone")

    def __init__(
        self,
        text: str,
        schema: CollectionSchema,
        templates: Mapping[str, object],
        timezone: str,
        casts: tuple[CastPath, ...],
    ) -> None:
        self.text = text
        self.schema = schema
        self.templates = templates
        self.timezone = timezone
        self.casts = casts
        self.key = template_key(templates)
        self.hash = hash((text, id(schema), timezone, casts, self.key))

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Request)
            and self.schema is other.schema
            and (self.text, self.timezone, self.casts, self.key) == (other.text, other.timezone, other.casts, other.key)
        )


def parse_filter(
    text: str,
    schema: CollectionSchema,
    templates: Mapping[str, object] | None = None,
    timezone: str = "UTC",
    casts: tuple[CastPath, ...] = (),
) -> Filter:
    """Parse, bind and type `text`; blank text matches every row. Raises FilterError.

    `templates` maps names to bool, int, float, str or lists (or NumPy arrays) of those. `timezone` is the IANA zone of
    ISO literals without an offset. At the paths of `casts` strings are compared as the numbers that they spell. Filters
    and, for other template values, parse trees are kept.
    """
    request = _Request(text, schema, templates or {}, timezone, casts)
    if len(text) + len(request.key) > MEMO_TEXT_CHARACTERS_MAX:
        return _bound(request)
    return kept_filter(request)


@lru_cache(maxsize=MEMO_ENTRIES_MAX)
def kept_filter(request: _Request) -> Filter:
    """The filter of a request, bound once."""
    return _bound(request)


@lru_cache(maxsize=MEMO_ENTRIES_MAX)
def parsed_tree(text: str) -> Node | None:
    """The parse tree of a text, made once."""
    return parse(text)


def _bound(request: _Request) -> Filter:
    text, schema = request.text, request.schema
    zone = zone_of(request.timezone)
    identity = f"{schema.name}\0{schema.version}\0{request.timezone}\0{request.casts}\0{text}\0"
    identity += request.key.decode("latin-1")
    try:
        require_unicode(text)
        node = parsed_tree(text) if len(text) <= MEMO_TEXT_CHARACTERS_MAX else parse(text)
        if node is None:
            return Filter(text, None, frozenset(), identity)
        term = bind(node, text, Context(schema, request.templates, zone, request.casts))
    except UnknownFunctionError:
        raise
    except FilterError as error:
        raise FilterError(f"cannot parse expression: {_printable(text)}, error: {error.message}") from error
    predicate = _predicate(term, text)
    fields: frozenset[int] = frozenset() if predicate.tree is None else _field_ids(predicate.tree)
    key = identity if predicate.sample is None else None
    return Filter(text, predicate.tree, fields, key, predicate.sample, predicate.elements)


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _predicate(term: Term, text: str) -> Predicate:
    match term:
        case Predicate(Always(True), sample, elements):
            return Predicate(None, sample, elements)
        case Predicate():
            return term
        case Constant(bool() as value, _, False):
            return Predicate(None if value else Always(False))
    raise FilterError(f"predicate is not a boolean expression: {text}, data type: {label(term)}")


def _field_ids(tree: Tree) -> frozenset[int]:
    return frozenset(operand.field_id for operand in operands(tree))


def template_key(templates: Mapping[str, object]) -> bytes:
    """What tells template values apart, their types included; longer than any that is kept where it has no form, which
    binding refuses with the reason.
    """
    try:
        return msgspec.msgpack.encode(dict(templates), enc_hook=_plain, order="deterministic") if templates else b""
    except (OverflowError, UnicodeEncodeError, FilterError):
        return b"\0" * (MEMO_TEXT_CHARACTERS_MAX + 1)


def _plain(value: object) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise FilterError("expression elements can only be scalars")


KeyValues = npt.NDArray[np.int64] | list[str]


def primary_key_values(filter: Filter, schema: CollectionSchema, *, exact: bool = False) -> KeyValues | None:
    """`field_values` of the primary key."""
    return field_values(filter, schema.primary.field_id, exact=exact)


def field_values(filter: Filter, field_id: int, *, exact: bool = False) -> KeyValues | None:
    """Values of an integer or VARCHAR field outside of which `filter` is never TRUE, ascending and distinct; None if
    it does not name them.

    With `exact`, only a filter that is nothing but `field == v` or `field in [...]` answers; otherwise the filter
    still has to be evaluated on the rows with these values.
    """
    root = filter.root
    if exact and filter.sample is not None:
        return None
    children = root.children if isinstance(root, And) and not exact else (root,)
    found = [values for child in children if (values := _values_of(child, field_id)) is not None]
    return min(found, key=len) if found else None


def _values_of(tree: Tree | None, field_id: int) -> KeyValues | None:
    match tree:
        case Compare(Operand() as operand, "==", str() as text) if _is_field(operand, field_id):
            return [text]
        case Compare(Operand() as operand, "==", int() as value) if _is_field(operand, field_id):
            return np.array([value], np.int64)
        case InSet(operand, NumberSet() as numbers) if _is_field(operand, field_id):
            return numbers.values if numbers.values.dtype.kind == "i" else None
        case InSet(operand, StringSet() as texts) if _is_field(operand, field_id):
            strings: list[str] = texts.values.to_pylist()
            return strings
    return None


def _is_field(operand: Operand, field_id: int) -> bool:
    return operand.kind is OperandKind.FIELD and operand.field_id == field_id
