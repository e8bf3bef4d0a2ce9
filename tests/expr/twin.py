"""A dumb twin of the filter language: generated expressions that know their text and their truth on one row.

A `Case` is a filter text together with a function from a row (a dict of Python values, None for NULL) to True, False
or None (UNKNOWN). The functions are written from the contract, value by value, with no columns and no parse trees.
"""

from __future__ import annotations

import json
import math
import operator as operators
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from elanus.expr import ShredCache
from elanus.model.columns import Batch, Column
from elanus.model.schema import CollectionSchema, FieldSchema, StructSchema
from elanus.model.types import DataType

Row = dict[str, Any]
Truth = bool | None

_DIM = {"dim": "2"}
SCHEMA = CollectionSchema(
    "rows",
    (
        FieldSchema(100, "pk", DataType.INT64, is_primary=True),
        FieldSchema(101, "i8", DataType.INT8, nullable=True),
        FieldSchema(102, "i64", DataType.INT64, nullable=True),
        FieldSchema(103, "f", DataType.FLOAT, nullable=True),
        FieldSchema(104, "d", DataType.DOUBLE, nullable=True),
        FieldSchema(105, "b", DataType.BOOL, nullable=True),
        FieldSchema(106, "s", DataType.VARCHAR, nullable=True),
        FieldSchema(107, "j", DataType.JSON, nullable=True),
        FieldSchema(108, "ai", DataType.ARRAY, element_type=DataType.INT64, nullable=True),
        FieldSchema(109, "as_", DataType.ARRAY, element_type=DataType.VARCHAR, nullable=True),
        FieldSchema(110, "i32", DataType.INT32),
        FieldSchema(111, "vector", DataType.FLOAT_VECTOR, type_params={"dim": "4"}),
        FieldSchema(112, "text", DataType.TEXT),
        FieldSchema(113, "ts", DataType.TIMESTAMPTZ, nullable=True),
        FieldSchema(116, "st[v]", DataType.ARRAY_OF_VECTOR, element_type=DataType.FLOAT_VECTOR, type_params=_DIM),
        FieldSchema(117, "st[a]", DataType.ARRAY, element_type=DataType.INT64),
        FieldSchema(118, "st[b]", DataType.ARRAY, element_type=DataType.VARCHAR),
        FieldSchema(119, "sv[v]", DataType.ARRAY_OF_VECTOR, element_type=DataType.FLOAT_VECTOR, type_params=_DIM),
        FieldSchema(114, "$meta", DataType.JSON, is_dynamic=True),
    ),
    enable_dynamic_field=True,
    structs=(StructSchema(115, "st"), StructSchema(120, "sv")),
)

_NUMPY = {"pk": "i8", "i8": "i1", "i64": "i8", "f": "f4", "d": "f8", "b": "?", "i32": "i4", "ts": "i8"}
_ARROW = {"s": pa.large_string(), "ai": pa.large_list(pa.int64()), "as_": pa.large_list(pa.large_string()),
          "st[a]": pa.large_list(pa.int64()), "st[b]": pa.large_list(pa.large_string())}  # fmt: skip
_FILLERS: dict[str, Any] = {"s": "", "ai": [], "as_": [], "st[a]": [], "st[b]": []}


class MemorySource:
    """Rows as a source that keeps shreds."""

    def __init__(self, rows: list[Row]) -> None:
        self.row_count = len(rows)
        self.shreds = ShredCache()
        self._columns = {field.field_id: column_of(field.name, rows) for field in SCHEMA.fields if _stored(field)}

    def column(self, field_id: int) -> Column:
        """All values of a field."""
        return self._columns[field_id]

    @property
    def batch(self) -> Batch:
        """The rows as a batch."""
        return Batch(self.row_count, self._columns)


def _stored(field: FieldSchema) -> bool:
    return field.name not in ("vector", "text", "st[v]")


def column_of(name: str, rows: list[Row]) -> Column:
    """One field of the rows as a column, fillers where NULL."""
    cells = [row.get(name) for row in rows]
    valid = np.array([cell is not None for cell in cells], np.bool_)
    mask = None if valid.all() else valid
    if name in _NUMPY:
        return Column(np.array([0 if cell is None else cell for cell in cells], _NUMPY[name]), mask)
    if name in _ARROW:
        return Column(pa.array([_FILLERS[name] if cell is None else cell for cell in cells], _ARROW[name]), mask)
    if name == "sv[v]":
        return Column(pa.array([b"12345678" * (cell or 0) for cell in cells], pa.large_binary()), mask)
    documents = [b"" if cell is None else json.dumps(cell.value).encode() for cell in cells]
    return Column(pa.array(documents, pa.large_binary()), mask)


@dataclass(frozen=True)
class Document:
    """A JSON document (which may itself be null, unlike a NULL row)."""

    value: Any


@dataclass(frozen=True)
class Case:
    """A filter text and its truth on a row."""

    text: str
    truth: Callable[[Row], Truth]


# --- rows -----------------------------------------------------------------------------------------------------------

SMALL = st.integers(-4, 6)
INT64 = st.one_of(SMALL, st.integers(-(2**63), 2**63 - 1), st.sampled_from([2**53, 2**53 + 1, 2**63 - 1, -(2**63)]))
FLOATS = st.one_of(st.sampled_from([0.0, -0.0, 0.1, 0.5, 1.0, 2.0, 2.5, -3.5]), st.floats(-1e6, 1e6, width=32))
STRINGS = st.one_of(st.sampled_from(["", "a", "ab", "abc", "a%c", "a_c", "é", "aé", "中", "b\nc", "\\", "a\\b"]),
                    st.text("ab%_é", max_size=4))  # fmt: skip
SCALARS = st.one_of(st.none(), st.booleans(), SMALL, INT64, FLOATS, STRINGS)
JSON_VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["a", "b", "k/0", 'q"']), inner, max_size=3)
    ),
    max_leaves=6,
)
DOCUMENTS = st.one_of(st.dictionaries(st.sampled_from(["a", "b", "k/0", 'q"']), JSON_VALUES, max_size=4), JSON_VALUES)


def _maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), values, values, values)


def _with_parts(row: Row) -> Row:
    """The row with the parts of its structs as columns of their own."""
    return {**row, "st[a]": [a for a, _ in row["st"]], "st[b]": [b for _, b in row["st"]]}


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "pk": SMALL,
            "i8": _maybe(st.integers(-128, 127)),
            "i64": _maybe(INT64),
            "f": _maybe(FLOATS),
            "d": _maybe(FLOATS),
            "b": _maybe(st.booleans()),
            "s": _maybe(STRINGS),
            "j": _maybe(DOCUMENTS.map(Document)),
            "ai": _maybe(st.lists(SMALL, max_size=4)),
            "as_": _maybe(st.lists(STRINGS, max_size=3)),
            "i32": SMALL,
            "ts": st.none(),
            "st": st.lists(st.tuples(SMALL, STRINGS), max_size=4),
            "sv[v]": st.integers(0, 3),
            "$meta": st.dictionaries(st.sampled_from(["dyn", "a"]), JSON_VALUES, max_size=2).map(Document),
        }
    ),
    min_size=1,
    max_size=12,
).map(lambda rows: [_with_parts(row) for row in rows])

# --- text -----------------------------------------------------------------------------------------------------------


def quoted(text: str) -> str:
    """A string literal."""
    body = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{body}"'


def literal(value: Any) -> str:
    """A constant as filter text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list):
        return "[" + ", ".join(literal(item) for item in value) + "]"
    if isinstance(value, float):
        return repr(value) if "." in repr(value) or "e" in repr(value) else f"{value}.0"
    return repr(value)


# --- the semantics, one value at a time -----------------------------------------------------------------------------

COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda left, right: left == right,
    "!=": lambda left, right: left != right,
    "<": lambda left, right: left < right,
    "<=": lambda left, right: left <= right,
    ">": lambda left, right: left > right,
    ">=": lambda left, right: left >= right,
}
OPERATORS = st.sampled_from(sorted(COMPARE))
MISSING = object()


def narrowed(name: str, value: Any) -> Any:
    """A constant as the field sees it: FLOAT compares in 32 bits."""
    return float(np.float32(value)) if name == "f" else value


def stored(name: str, value: Any) -> Any:
    """A row's value as the field stores it."""
    return float(np.float32(value)) if name == "f" else value


def ordered(value: Any) -> Any:
    """A key that orders strings by bytes."""
    return value.encode() if isinstance(value, str) else value


def is_number(value: Any) -> bool:
    """An int or float, not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def same_class(left: Any, right: Any) -> bool:
    """Whether two JSON scalars can be compared at all."""
    if is_number(left) and is_number(right):
        return True
    return type(left) is type(right) and isinstance(left, str | bool)


def json_number(value: Any, constant: Any) -> tuple[Any, Any]:
    """Both sides as they are compared: exactly if both are integers, else as doubles."""
    if isinstance(value, int) and isinstance(constant, int):
        return value, constant
    return float(value), float(constant)


def json_compare(value: Any, operator: str, constant: Any) -> bool:
    """A JSON scalar against a constant; mismatch is FALSE, and TRUE for !=."""
    if operator == "!=":
        return not json_compare(value, "==", constant)
    if value is MISSING or not same_class(value, constant):
        return False
    if is_number(value):
        return COMPARE[operator](*json_number(value, constant))
    return COMPARE[operator](ordered(value), ordered(constant))


def at_path(document: Any, path: tuple[str | int, ...]) -> Any:
    """The value at a path; MISSING where there is none or it is null."""
    for step in path:
        if isinstance(step, str):
            document = document.get(step) if isinstance(document, dict) else None
        else:
            document = document[step] if isinstance(document, list) and len(document) > step else None
    return MISSING if document is None else document


def is_solid(value: Any) -> bool:
    """What EXISTS asks."""
    if isinstance(value, dict):
        return any(is_solid(item) for item in value.values())
    if isinstance(value, list):
        return any(is_solid(item) for item in value)
    return value is not None and value is not MISSING


def strictly_equal(left: Any, right: Any) -> bool:
    """Same types, values and order, at every depth."""
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(strictly_equal, left, right))
    return type(left) is type(right) and left == right and not isinstance(left, dict)


def like_bytes(pattern: str) -> re.Pattern[bytes]:
    """The general LIKE engine as a regular expression over bytes, for patterns without backslashes."""
    pieces = [b".*" if byte == 37 else b"." if byte == 95 else re.escape(bytes([byte])) for byte in pattern.encode()]
    return re.compile(b"".join(pieces), re.DOTALL)


def wrap64(value: int) -> int:
    """Two's complement wrap-around."""
    return (value + 2**63) % 2**64 - 2**63


def arithmetic(value: Any, symbol: str, constant: Any) -> Any:
    """C arithmetic: wrapping, truncating integers or doubles."""
    if isinstance(value, int):
        if symbol in "/%":
            quotient = abs(value) // abs(constant) * (1 if (value < 0) == (constant < 0) else -1)
            return wrap64(quotient) if symbol == "/" else value - quotient * constant
        return wrap64({"+": value + constant, "-": value - constant, "*": value * constant}[symbol])
    if symbol == "%":
        return math.fmod(math.trunc(value), constant)
    if symbol == "/":
        return value / constant
    return {"+": value + constant, "-": value - constant, "*": value * constant}[symbol]


def kleene_not(value: Truth) -> Truth:
    """NOT in three values."""
    return None if value is None else not value


def kleene_and(values: list[Truth]) -> Truth:
    """AND in three values."""
    if any(value is False for value in values):
        return False
    return None if None in values else True


def kleene_or(values: list[Truth]) -> Truth:
    """OR in three values."""
    return kleene_not(kleene_and([kleene_not(value) for value in values]))


# --- generated leaves -----------------------------------------------------------------------------------------------

_INT_CONSTANTS = st.one_of(SMALL, SMALL, INT64, st.sampled_from([127, 128, 300, -128, -129, -300]))
_NUMBER_CONSTANTS = st.one_of(SMALL, FLOATS)
_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "pk": _INT_CONSTANTS,
    "i8": _INT_CONSTANTS,
    "i64": _INT_CONSTANTS,
    "f": _NUMBER_CONSTANTS,
    "d": _NUMBER_CONSTANTS,
    "s": STRINGS,
}
_PATHS: list[tuple[str, str, tuple[str | int, ...]]] = [
    ("j", "j", ()),
    ('j["a"]', "j", ("a",)),
    ("j['a']['b']", "j", ("a", "b")),
    ('j["a"][0]', "j", ("a", 0)),
    ('j["k/0"][1]', "j", ("k/0", 1)),
    ("j['q\"']", "j", ('q"',)),
    ("dyn", "$meta", ("dyn",)),
    ('dyn["a"]', "$meta", ("dyn", "a")),
    ('$meta["a"]', "$meta", ("a",)),
]
PATHS = st.sampled_from(_PATHS)
_JSON_CONSTANTS = st.one_of(st.booleans(), SMALL, INT64, FLOATS, STRINGS)


@st.composite
def field_compare(draw: st.DrawFn) -> Case:
    """`field op constant`, either way round."""
    name = draw(st.sampled_from(sorted(_FIELDS)))
    operator, constant = draw(OPERATORS), draw(_FIELDS[name])
    flipped = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}.get(operator, operator)
    text = f"{name} {operator} {literal(constant)}"
    if draw(st.booleans()):
        text = f"{literal(constant)} {flipped} {name}"
    constant = narrowed(name, constant)

    def truth(row: Row) -> Truth:
        if row[name] is None:
            return None
        return COMPARE[operator](ordered(stored(name, row[name])), ordered(constant))

    return Case(text, truth)


@st.composite
def bool_compare(draw: st.DrawFn) -> Case:
    """`b == true`."""
    operator, constant = draw(st.sampled_from(["==", "!="])), draw(st.booleans())
    word = draw(st.sampled_from(["true", "True", "TRUE"] if constant else ["false", "False", "FALSE"]))
    return Case(f"b {operator} {word}", lambda row: None if row["b"] is None else COMPARE[operator](row["b"], constant))


@st.composite
def json_leaf(draw: st.DrawFn) -> Case:
    """A comparison of a JSON path with a scalar."""
    text, name, path = draw(PATHS)
    constant = draw(_JSON_CONSTANTS)
    operator = draw(st.sampled_from(["==", "!="]) if isinstance(constant, bool) else OPERATORS)

    def truth(row: Row) -> Truth:
        if row[name] is None:
            return None
        return json_compare(at_path(row[name].value, path), operator, constant)

    return Case(f"{text} {operator} {literal(constant)}", truth)


@st.composite
def json_list(draw: st.DrawFn) -> Case:
    """`path == [list]`."""
    text, name, path = draw(PATHS)
    operator = draw(st.sampled_from(["==", "!="]))
    constant = draw(st.lists(st.one_of(st.booleans(), SMALL, FLOATS, STRINGS), max_size=3))

    def truth(row: Row) -> Truth:
        if row[name] is None:
            return None
        value = at_path(row[name].value, path)
        if value is MISSING:
            return False
        return strictly_equal(value, constant) == (operator == "==")

    return Case(f"{text} {operator} {literal(constant)}", truth)


@st.composite
def membership(draw: st.DrawFn) -> Case:
    """`field in [...]` and `not in`."""
    name = draw(st.sampled_from(sorted(_FIELDS)))
    size = draw(st.sampled_from([4, 4, 40]))
    constants = draw(st.lists(_FIELDS[name], max_size=size))
    negated = draw(st.booleans())
    wanted = {narrowed(name, constant) for constant in constants}

    def truth(row: Row) -> Truth:
        return None if row[name] is None else (stored(name, row[name]) in wanted) != negated

    return Case(f"{name} {'not in' if negated else 'in'} {literal(constants)}", truth)


@st.composite
def json_membership(draw: st.DrawFn) -> Case:
    """`path in [...]`, all of one class."""
    text, name, path = draw(PATHS)
    kinds = [st.booleans(), STRINGS, st.one_of(SMALL, INT64), st.one_of(SMALL, FLOATS)]
    constants: list[Any] = draw(st.one_of([st.lists(kind, max_size=5) for kind in kinds]))
    negated = draw(st.booleans())
    if any(isinstance(constant, float) for constant in constants):
        constants = [float(constant) for constant in constants]

    def truth(row: Row) -> Truth:
        if row[name] is None:
            return None
        value = at_path(row[name].value, path)
        return any(json_compare(value, "==", constant) for constant in constants) != negated

    return Case(f"{text} {'NOT IN' if negated else 'IN'} {literal(constants)}", truth)


@st.composite
def between(draw: st.DrawFn) -> Case:
    """`low < field <= high` and the other way round."""
    name = draw(st.sampled_from(["i8", "i64", "d", "s"]))
    low, high = sorted([draw(_FIELDS[name]), draw(_FIELDS[name])], key=ordered)
    first, second = (
        ("<=", "<=") if ordered(low) == ordered(high) else draw(st.tuples(*[st.sampled_from(["<", "<="])] * 2))
    )
    if draw(st.booleans()):
        text = f"{literal(low)} {first} {name} {second} {literal(high)}"
    else:
        text = f"{literal(high)} {second.replace('<', '>')} {name} {first.replace('<', '>')} {literal(low)}"

    def truth(row: Row) -> Truth:
        if row[name] is None:
            return None
        value = ordered(row[name])
        return COMPARE[first](ordered(low), value) and COMPARE[second](value, ordered(high))

    return Case(text, truth)


@st.composite
def json_between(draw: st.DrawFn) -> Case:
    """`1 < path < 3.5`."""
    text, name, path = draw(PATHS)
    low: int = draw(SMALL)
    high: int | float = draw(st.one_of(st.integers(7, 20), st.floats(6.5, 20)))

    def truth(row: Row) -> Truth:
        if row[name] is None:
            return None
        value = at_path(row[name].value, path)
        return json_compare(value, ">=", low) and json_compare(value, "<", high)

    return Case(f"{low} <= {text} < {literal(high)}", truth)


TEXT_TARGETS = {"s": "s", "as_[1]": "as_", 'j["a"]': "j"}
"""What a pattern is held against, and the field it is in."""


def text_at(row: Row, target: str) -> str | None:
    """The text there, in a row whose field is not null."""
    value = row[TEXT_TARGETS[target]]
    if target == "as_[1]":
        value = value[1] if len(value) > 1 else None
    elif target == 'j["a"]':
        value = at_path(value.value, ("a",))
    return value if isinstance(value, str) else None


@st.composite
def like(draw: st.DrawFn) -> Case:
    """LIKE over a field, a JSON path or an array element, without backslashes."""
    pattern = draw(st.text("ab%_é", max_size=5))
    expression = like_bytes(pattern)
    target = draw(st.sampled_from(list(TEXT_TARGETS)))

    def truth(row: Row) -> Truth:
        if row[TEXT_TARGETS[target]] is None:
            return None
        text = text_at(row, target)
        return text is not None and expression.fullmatch(text.encode()) is not None

    return Case(f"{target} like {quoted(pattern)}", truth)


REGEXES = ["", "a", "^a", "b$", "a.c", "a|中", "[ab]+", "(?i)A", "^é?$", r"a\\b", "b\nc", ".."]


@st.composite
def regex(draw: st.DrawFn) -> Case:
    """`=~` and `!~` over a field, a JSON path or an array element."""
    pattern = draw(st.sampled_from(REGEXES))
    expression = re.compile(pattern)
    target = draw(st.sampled_from(list(TEXT_TARGETS)))
    negated = draw(st.booleans())

    def truth(row: Row) -> Truth:
        if row[TEXT_TARGETS[target]] is None:
            return None
        text = text_at(row, target)
        return (text is not None and expression.search(text) is not None) != negated

    shown = quoted(pattern) if "\n" in pattern or draw(st.booleans()) else f"r'{pattern}'"
    return Case(f"{target} {'!~' if negated else '=~'} {shown}", truth)


@st.composite
def bitwise(draw: st.DrawFn) -> Case:
    """`(field & 6) == 2` over integer fields and array elements."""
    target = draw(st.sampled_from(["i8", "i64", "pk", "ai[0]"]))
    symbol = draw(st.sampled_from("&|^"))
    constant, value, operator = draw(INT64), draw(st.one_of(SMALL, INT64)), draw(OPERATORS)
    apply: Callable[[int, int], int] = {"&": operators.and_, "|": operators.or_, "^": operators.xor}[symbol]

    def truth(row: Row) -> Truth:
        stored_value = row[target.partition("[")[0]]
        if stored_value is None:
            return None
        if target == "ai[0]":
            if not stored_value:
                return False
            stored_value = stored_value[0]
        return COMPARE[operator](apply(stored_value, constant), value)

    inner = (
        f"{target} {symbol} {literal(constant)}" if draw(st.booleans()) else f"{literal(constant)} {symbol} {target}"
    )
    return Case(f"({inner}) {operator} {literal(value)}", truth)


Element = tuple[int, str]


@st.composite
def element_predicate(draw: st.DrawFn) -> tuple[str, Callable[[Element], bool]]:
    """A predicate over `$[a]` and `$[b]`."""
    kind = draw(st.sampled_from(["number", "text", "in", "range", "like", "regex", "arithmetic", "and", "or", "not"]))
    constant, operator, word = draw(SMALL), draw(OPERATORS), draw(STRINGS)
    if kind == "number":
        return f"$[a] {operator} {constant}", lambda element: COMPARE[operator](element[0], constant)
    if kind == "text":
        return f"$[b] {operator} {quoted(word)}", lambda element: COMPARE[operator](ordered(element[1]), ordered(word))
    if kind == "in":
        return f"$[a] in [{constant}, 3]", lambda element: element[0] in (constant, 3)
    if kind == "range":
        return f"{constant} <= $[a] < 7", lambda element: constant <= element[0] < 7
    if kind == "like":
        return '$[b] like "a%"', lambda element: element[1].startswith("a")
    if kind == "regex":
        return '$[b] =~ "b$"', lambda element: re.search(r"b\Z", element[1]) is not None
    if kind == "arithmetic":
        return f"$[a] * 2 == {constant}", lambda element: element[0] * 2 == constant
    first, passes_first = draw(element_predicate())
    if kind == "not":
        return f"not ({first})", lambda element: not passes_first(element)
    second, passes_second = draw(element_predicate())
    if kind == "and":
        return f"({first}) and ({second})", lambda element: passes_first(element) and passes_second(element)
    return f"({first}) or ({second})", lambda element: passes_first(element) or passes_second(element)


@st.composite
def struct_leaf(draw: st.DrawFn) -> Case:
    """MATCH_*, lengths and parts of struct arrays."""
    kind = draw(st.sampled_from(["any", "all", "least", "most", "exact", "length", "vectors", "part", "element"]))
    operator, constant = draw(OPERATORS), draw(SMALL)
    if kind == "length":
        return Case(f"array_length(st) {operator} {constant}", lambda row: COMPARE[operator](len(row["st"]), constant))
    if kind == "vectors":
        return Case(f"array_length(sv) {operator} {constant}", lambda row: COMPARE[operator](row["sv[v]"], constant))
    if kind == "part":
        return Case(f"array_contains(st[a], {constant})", lambda row: constant in row["st[a]"])
    if kind == "element":
        return Case(
            f"st[1][a] {operator} {constant}",
            lambda row: len(row["st"]) > 1 and COMPARE[operator](row["st[a]"][1], constant),
        )
    text, passes = draw(element_predicate())
    threshold = draw(st.integers(1 if kind == "least" else 0, 3))
    option = f", threshold={threshold}" if kind in ("least", "most", "exact") else ""
    wanted: dict[str, Callable[[int, int], bool]] = {
        "any": lambda found, _: found > 0,
        "all": lambda found, count: found == count,
        "least": lambda found, _: found >= threshold,
        "most": lambda found, _: found <= threshold,
        "exact": lambda found, _: found == threshold,
    }
    call = draw(st.sampled_from([f"match_{kind}", f"MATCH_{kind.upper()}"]))
    return Case(f"{call}(st, {text}{option})", lambda row: wanted[kind](sum(map(passes, row["st"])), len(row["st"])))


@st.composite
def null_test(draw: st.DrawFn) -> Case:
    """`is null` on fields and paths, and `exists`."""
    kind = draw(st.sampled_from(["field", "path", "exists"]))
    if kind == "field":
        name = draw(st.sampled_from(["i8", "d", "s", "ai", "j", "pk"]))
        negated = draw(st.booleans())
        word = draw(st.sampled_from(["is not null", "IS NOT NULL"] if negated else ["is null", "IS NULL"]))
        return Case(f"{name} {word}", lambda row: (row[name] is None) != negated)
    text, name, path = draw(PATHS.filter(lambda item: item[2] != ()))

    def solid(row: Row) -> bool:
        return row[name] is not None and is_solid(at_path(row[name].value, path))

    if kind == "exists":
        return Case(f"exists {text}", solid)
    negated = draw(st.booleans())
    return Case(f"{text} {'is not null' if negated else 'is null'}", lambda row: solid(row) == negated)


@st.composite
def contains(draw: st.DrawFn) -> Case:
    """The contains family over ARRAY fields and JSON paths."""
    mode = draw(st.sampled_from(["", "_all", "_any"]))
    is_json = draw(st.booleans())
    if is_json:
        text, name, path = draw(PATHS)
        element = st.one_of(_JSON_CONSTANTS, st.lists(st.one_of(SMALL, STRINGS), max_size=2))
    else:
        name, path = draw(st.sampled_from(["ai", "as_"])), ()
        text, element = name, SMALL if name == "ai" else STRINGS
    wanted = draw(st.lists(element, max_size=3)) if mode else [draw(element)]
    prefix = draw(st.sampled_from(["json", "array"]))

    def held(value: Any, constant: Any) -> bool:
        if isinstance(constant, list):
            return strictly_equal(value, constant)
        return json_compare(MISSING if value is None else value, "==", constant)

    def truth(row: Row) -> Truth:
        if not wanted:
            return mode == "_all"
        if row[name] is None:
            return None
        items = at_path(row[name].value, path) if is_json else row[name]
        items = items if isinstance(items, list) else []
        found = [any(held(item, constant) for item in items) for constant in wanted]
        return all(found) if mode == "_all" else any(found)

    argument = literal(wanted) if mode else literal(wanted[0])
    call = f"{prefix}_contains{mode}({text}, {argument})"
    return Case(
        call if draw(st.booleans()) else call.replace(f"{prefix}_contains{mode}", f"{prefix}_contains{mode}".upper()),
        truth,
    )


@st.composite
def array_leaf(draw: st.DrawFn) -> Case:
    """Elements, lengths and equality of ARRAY fields."""
    kind = draw(st.sampled_from(["element", "length", "json length", "equals", "element in"]))
    operator, constant = draw(OPERATORS), draw(SMALL)
    if kind == "length":
        return Case(
            f"array_length(ai) {operator} {constant}",
            lambda row: None if row["ai"] is None else COMPARE[operator](len(row["ai"]), constant),
        )
    if kind == "json length":
        text, name, path = draw(PATHS)

        def length(row: Row) -> Truth:
            if row[name] is None:
                return None
            value = at_path(row[name].value, path)
            return COMPARE[operator](len(value) if isinstance(value, list) else 0, constant)

        return Case(f"array_length({text}) {operator} {constant}", length)
    if kind == "equals":
        wanted = draw(st.lists(SMALL, min_size=1, max_size=2))
        symbol = draw(st.sampled_from(["==", "!="]))
        return Case(
            f"ai {symbol} {literal(wanted)}",
            lambda row: None if row["ai"] is None else COMPARE[symbol](row["ai"], wanted),
        )
    index = draw(st.integers(0, 4))

    def element(row: Row) -> Truth:
        if row["ai"] is None:
            return None
        if index >= len(row["ai"]):
            return False
        return row["ai"][index] == constant if kind == "element in" else COMPARE[operator](row["ai"][index], constant)

    return Case(
        f"ai[{index}] in [{constant}]" if kind == "element in" else f"ai[{index}] {operator} {constant}", element
    )


@st.composite
def arithmetic_leaf(draw: st.DrawFn) -> Case:
    """`field + 2 == 5` over integer and double fields and array elements."""
    name = draw(st.sampled_from(["i8", "i64", "d"]))
    symbol = draw(st.sampled_from("+-*/" if name == "d" else "+-*/%"))
    whole = INT64 if name == "i64" else SMALL
    constant = draw(FLOATS if name == "d" else whole)
    constant = 3 if constant == 0 and symbol in "/%" else constant
    operator, value = draw(OPERATORS), draw(FLOATS if name == "d" else whole)
    text = f"{name} {symbol} {literal(constant)} {operator} {literal(value)}"

    def truth(row: Row) -> Truth:
        if row[name] is None:
            return None
        left = float(row[name]) if name == "d" else row[name]
        return COMPARE[operator](arithmetic(left, symbol, float(constant) if name == "d" else constant), value)

    return Case(text, truth)


@st.composite
def json_arithmetic(draw: st.DrawFn) -> Case:
    """`path * 2 == 4`: integers stay integers only if all three are."""
    text, name, path = draw(PATHS)
    symbol = draw(st.sampled_from("+-*/%"))
    constant = draw(st.integers(1, 5) if symbol == "%" else st.one_of(SMALL, FLOATS).filter(bool))
    operator, value = draw(OPERATORS), draw(st.one_of(SMALL, FLOATS))

    def truth(row: Row) -> Truth:
        if row[name] is None:
            return None
        left = at_path(row[name].value, path)
        if left is MISSING or not is_number(left):
            return operator == "!="
        if all(isinstance(item, int) for item in (left, constant, value)):
            return COMPARE[operator](arithmetic(left, symbol, constant), value)
        return COMPARE[operator](arithmetic(float(left), symbol, float(constant)), float(value))

    return Case(f"{text} {symbol} {literal(constant)} {operator} {literal(value)}", truth)


@st.composite
def two_columns(draw: st.DrawFn) -> Case:
    """`field op field`."""
    left, right = draw(st.sampled_from([("i8", "i64"), ("pk", "i32"), ("d", "f"), ("pk", "i8"), ("s", "s")]))
    operator = draw(OPERATORS)

    def truth(row: Row) -> Truth:
        if row[left] is None or row[right] is None:
            return None
        return COMPARE[operator](ordered(stored(left, row[left])), ordered(stored(right, row[right])))

    return Case(f"{left} {operator} {right}", truth)


def constant_case() -> st.SearchStrategy[Case]:
    """Comparisons between constants."""
    return st.sampled_from(
        [Case("1 == 1", lambda _: True), Case("2 ** 3 + 1 < 9", lambda _: False), Case("'a' < 'b'", lambda _: True)]
    )


LEAVES = st.one_of(
    field_compare(), bool_compare(), json_leaf(), json_list(), membership(), json_membership(), between(),
    json_between(), like(), null_test(), contains(), array_leaf(), arithmetic_leaf(), json_arithmetic(), two_columns(),
    constant_case(), regex(), bitwise(), struct_leaf(),
)  # fmt: skip


def _negation(case: Case, word: str) -> Case:
    return Case(f"{word} ({case.text})", lambda row: kleene_not(case.truth(row)))


def _junction(cases: list[Case], word: str, join: Callable[[list[Truth]], Truth]) -> Case:
    text = f" {word} ".join(f"({case.text})" for case in cases)
    return Case(text, lambda row: join([case.truth(row) for case in cases]))


def _compound(inner: st.SearchStrategy[Case]) -> st.SearchStrategy[Case]:
    several = st.lists(inner, min_size=2, max_size=3)
    return st.one_of(
        st.builds(_negation, inner, st.sampled_from(["not", "NOT", "!"])),
        st.builds(_junction, several, st.sampled_from(["and", "AND", "&&"]), st.just(kleene_and)),
        st.builds(_junction, several, st.sampled_from(["or", "OR", "||"]), st.just(kleene_or)),
    )


CASES = st.recursive(LEAVES, _compound, max_leaves=6)
