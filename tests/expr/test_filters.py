"""Templates, LIKE escapes, sampling, primary keys, memo and cache keys, JSON corners, sets, and sorted sources."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elanus.base.errors import CorruptedError, InvariantError
from elanus.expr import FilterError, ShredCache, evaluate, filters, parse_filter, primary_key_values
from elanus.expr.arrays import ListView
from elanus.expr.like import LikeShape, compile_like
from elanus.expr.sets import NumberSet
from elanus.expr.shred import FLOAT, INTEGER, MISSING, STRING, shred_column
from elanus.model.columns import Column
from elanus.testing.clock import SeededRandom

from .twin import INT64, SCHEMA, MemorySource, Row


class Columns:
    """A source of given columns; `sorted_field_id` names the one in ascending order."""

    def __init__(self, columns: dict[int, Column], sorted_field_id: int = -1) -> None:
        self.row_count = len(next(iter(columns.values())))
        self.sorted_field_id = sorted_field_id
        self._columns = columns

    def column(self, field_id: int) -> Column:
        """All values of a field."""
        return self._columns[field_id]


def _integers(count: int) -> Columns:
    return Columns({100: Column(np.arange(count))})


def _row(**values: object) -> Row:
    names = ("pk", "i8", "i64", "f", "d", "b", "s", "j", "ai", "as_", "i32", "ts", "$meta")
    return {name: values.get(name) for name in names} | {"pk": 0, "i32": 0}


TEMPLATES = [
    ("i64 == {x}", {"x": 5}, "i64 == 5"),
    ("{lo} < i64 < {hi}", {"lo": 1, "hi": 5}, "1 < i64 < 5"),
    ("i64 in {ids}", {"ids": [3, 1, 2]}, "i64 in [1, 2, 3]"),
    ("i64 in {ids}", {"ids": np.array([3, 1, 2])}, "i64 in [1, 2, 3]"),
    ("s in {names}", {"names": ["a", "b"]}, "s in ['a', 'b']"),
    ("s like {p}", {"p": "a%"}, "s like 'a%'"),
    ("i64 + {n} == {m}", {"n": 1, "m": 3}, "i64 + 1 == 3"),
    ("json_contains_any(j, {v})", {"v": [1, "a", [2]]}, "json_contains_any(j, [1, 'a', [2]])"),
    ("b == { x }", {"x": True}, "b == true"),
    ("d < {x}", {"x": np.float64(0.5)}, "d < 0.5"),
]


@pytest.mark.parametrize(("text", "templates", "plain"), TEMPLATES)
def test_templates_mean_their_values(text: str, templates: dict[str, object], plain: str) -> None:
    """A template is as if its value had been written."""
    filled, written = parse_filter(text, SCHEMA, templates), parse_filter(plain, SCHEMA)
    rows = [_row(i64=n, s="ab"[n % 2], b=n > 2, d=n / 4) for n in range(6)]
    assert evaluate(filled, MemorySource(rows)).tolist() == evaluate(written, MemorySource(rows)).tolist()


def test_filters_with_templates_are_bound_once() -> None:
    """The same text and values give the same filter; other values share the parse tree alone."""
    first = parse_filter("i64 in {x}", SCHEMA, {"x": [1, 2]})
    assert parse_filter("i64 in {x}", SCHEMA, {"x": [1, 2]}) is first
    assert parse_filter("i64 in {x}", SCHEMA, {"x": np.array([1, 2])}) is first
    parsed = filters.parsed_tree.cache_info()
    assert parse_filter("i64 in {x}", SCHEMA, {"x": [1, 3]}) is not first
    assert filters.parsed_tree.cache_info().hits == parsed.hits + 1
    for kept in (filters.parsed_tree, filters.kept_filter):
        assert kept.cache_info().maxsize == filters.MEMO_ENTRIES_MAX
    long = {"x": list(range(filters.MEMO_TEXT_CHARACTERS_MAX))}
    assert parse_filter("i64 in {x}", SCHEMA, long) is not parse_filter("i64 in {x}", SCHEMA, long)


@pytest.mark.parametrize(
    ("one", "other"), [(math.inf, math.nan), (1, 1.0), (True, 1), ("1", 1), ([1], [1.0]), (math.inf, -math.inf)]
)
def test_template_values_are_told_apart(one: object, other: object) -> None:
    """Values that some encodings confuse."""
    assert filters.template_key({"x": one}) != filters.template_key({"x": other})


def test_cache_keys_tell_templates_apart() -> None:
    """Equal texts with other values are other filters."""
    first, second = (parse_filter("i64 in {x}", SCHEMA, {"x": np.array([value])}) for value in (1, 2))
    assert first.cache_key is not None
    assert first.cache_key != second.cache_key


BAD_TEMPLATES: list[tuple[str, dict[str, object], str]] = [
    ("i64 == {x}", {}, "the value of expression template variable name {x} is not found"),
    ("i64 == {x}", {"x": None}, "expression template variable value is nil, template name: {x}"),
    ("i64 in {x}", {"x": 1}, "the value of term expression template variable {x} is not array"),
    ("i64 == {x}", {"x": 1.5}, "cannot cast value to Int64, value: float_val:1.5"),
    ("i64 in {x}", {"x": ["a"]}, "value 'string_val:\"a\"' in list cannot be casted to Int64"),
    ("{x} == 1", {"x": 1}, "placeholder was not supported between two constants with operator: =="),
    ("i64 == {x}", {"x": 2**63}, "out of the range of Int64"),
    ("s == {x}", {"x": "\ud800"}, "UTF-8"),
    ("i64 == {x}", {"x": {"a": 1}}, "expression elements can only be scalars"),
]


@pytest.mark.parametrize(("text", "templates", "fragment"), BAD_TEMPLATES)
def test_bad_templates(text: str, templates: dict[str, object], fragment: str) -> None:
    """Refused like literals of the same type."""
    with pytest.raises(FilterError) as caught:
        parse_filter(text, SCHEMA, templates)
    assert fragment in caught.value.message


LIKES = [
    ("a\\%%", "a%bc", True),
    ("a\\%%", "abc", False),
    ("%\\_b", "x_b", True),
    ("%\\_b", "xxb", False),
    ("a\\b%", "a\\bc", True),
    ("%a\\%b%", "xa%by", True),
    ("a\\%", "a%", True),
    ("a\\%", "ab", False),
    ("a_\\%c", "ab%c", True),
    ("a_\\xc", "abxc", True),
    ("a_\\", "ab", True),
    ("_", "é", False),
    ("__", "é", True),
    ("a%c%e", "abcde", True),
    ("a%c%e", "a\nc\ne", True),
    ("", "", True),
    ("", "a", False),
    ("%", "", True),
    ("%%", "x", True),
    ("%%%", "x", True),
    ("abc", "abc", True),
    ("a.c", "abc", False),
    ("%.%_", "a.b", True),
]


@pytest.mark.parametrize(("pattern", "value", "expected"), LIKES)
def test_like(pattern: str, value: str, expected: bool) -> None:
    """Both readings of a backslash, and `_` as one byte."""
    assert compile_like(pattern).matches(pa.array([value], pa.large_string())).tolist() == [expected]


def test_simple_shapes_avoid_the_general_engine() -> None:
    """Prefix, suffix, infix and all."""
    shapes = [compile_like(pattern).shape for pattern in ("a%", "%a", "%a%", "%", "a\\%%", "a%b")]
    assert shapes == [
        LikeShape.PREFIX, LikeShape.SUFFIX, LikeShape.INFIX, LikeShape.ALL, LikeShape.PREFIX, LikeShape.GENERAL
    ]  # fmt: skip


def test_random_sample_keeps_a_share_of_what_passed() -> None:
    """At least one row; the share is of the rows that pass the rest; the draw comes from the door of chance."""
    source = _integers(1000)
    for text, kept in [
        ("random_sample(0.1)", 100),
        ("random_sample(0.75)", 750),
        ("random_sample(0.9999)", 999),
        ("pk < 500 and random_sample(0.1)", 50),
        ("pk < 500 and random_sample(0.9)", 450),
        ("pk < 3 and random_sample(0.01)", 1),
        ("pk < 0 and random_sample(0.5)", 0),
    ]:
        parsed = parse_filter(text, SCHEMA)
        mask = evaluate(parsed, source, chance=SeededRandom(1))
        assert np.count_nonzero(mask) == kept, text
        assert mask.tolist() == evaluate(parsed, source, chance=SeededRandom(1)).tolist()
        assert parsed.cache_key is None
    with pytest.raises(InvariantError):
        evaluate(parse_filter("random_sample(0.5)", SCHEMA), source)


def test_primary_keys_are_read_off() -> None:
    """Alone or and-ed; exact only if there is nothing else."""
    for text, keys, exact in [
        ("pk == 5", [5], True),
        ("5 == pk", [5], True),
        ("pk in [3, 1, 3]", [1, 3], True),
        ("pk == 5 or pk == 4", [4, 5], True),
        ("pk in [1, 2] and i64 > 5", [1, 2], False),
        ("pk in [1, 2, 3] and pk == 7", [7], False),
        ("pk > 5", None, False),
        ("pk == 5 or i64 == 1", None, False),
        ("pk not in [1]", None, False),
        ("pk == 5 and random_sample(0.5)", [5], False),
        ("", None, False),
    ]:
        parsed = parse_filter(text, SCHEMA)
        found = primary_key_values(parsed, SCHEMA)
        assert (None if found is None else list(found)) == keys, text
        assert (primary_key_values(parsed, SCHEMA, exact=True) is not None) == exact, text


def test_memo_is_by_schema_object() -> None:
    """A second parse is the same object; an equal name in another schema is another filter."""
    first = parse_filter("i64 == 12345", SCHEMA)
    assert parse_filter("i64 == 12345", SCHEMA) is first
    assert first.cache_key is not None
    assert first.field_ids == frozenset({102})
    assert parse_filter("", SCHEMA).root is None


MOMENTS = [
    ("2025-01-31T10:00:00", "P1M", "2025-03-03T10:00:00"),
    ("2024-01-31T10:00:00", "P1M", "2024-03-02T10:00:00"),
    ("2025-03-31T10:00:00", "-P1M", "2025-03-03T10:00:00"),
    ("1969-12-31T23:59:59.5", "PT1S", "1970-01-01T00:00:00"),
    ("2025-06-15T00:00:00", "P1Y2M3DT4H5M6S", "2026-08-18T04:05:06"),
    ("2025-06-15T00:00:00", "-P20D", "2025-05-26T00:00:00"),
]


@pytest.mark.parametrize(("moment", "interval", "expected"), MOMENTS)
def test_intervals_follow_the_calendar(moment: str, interval: str, expected: str) -> None:
    """Months overflow into the next one, parts of seconds are dropped, and a NULL counts as the epoch."""
    values = np.array([moment, "1970-01-01"], "M8[us]").astype(np.int64)
    source = Columns({113: Column(values, np.array([True, False]))})
    sign, length = ("-", interval[1:]) if interval[0] == "-" else ("+", interval)
    text = f"ts {sign} INTERVAL '{length}' == ISO '{expected}Z'"
    assert evaluate(parse_filter(text, SCHEMA), source).tolist() == [True, False]
    text = f"ISO '1980-01-01 00:00:00' > ts {sign} INTERVAL '{length}'"
    assert evaluate(parse_filter(text, SCHEMA), source).tolist()[1]


def test_naive_moments_are_read_in_the_request_zone() -> None:
    """UTC unless a zone is named; an offset in the text wins."""
    source = Columns({113: Column(np.array(["2025-06-15T12:00:00"], "M8[us]").astype(np.int64))})
    for text, zone, expected in [
        ("ts == ISO '2025-06-15 12:00:00'", "UTC", True),
        ("ts == ISO '2025-06-15 20:00:00'", "Asia/Shanghai", True),
        ("ts == ISO '2025-06-15 12:00:00'", "Asia/Shanghai", False),
        ("ts == ISO '2025-06-15T20:00:00+08:00'", "America/New_York", True),
    ]:
        assert evaluate(parse_filter(text, SCHEMA, timezone=zone), source).tolist() == [expected]
    with pytest.raises(FilterError, match="unknown or invalid IANA Time Zone ID: Mars/Base"):
        parse_filter("pk == 1", SCHEMA, timezone="Mars/Base")


def test_json_corners() -> None:
    """Huge integers, numbers beyond doubles, lone surrogates and escaped keys; what is not JSON is corruption."""
    documents = [
        b'{"a": 18446744073709551616}',
        b'{"a": 1e999}',
        b'{"a": "\\ud800"}',
        b'{"a": 5}',
        b"[1]",
        b"",
        b"null",
    ]
    shred = shred_column(Column(pa.array(documents, pa.large_binary())), ("a",))
    assert shred.kinds.tolist() == [FLOAT, FLOAT, STRING, INTEGER, MISSING, MISSING, MISSING]
    assert shred.numbers.tolist()[:2] == [2.0**64, float("inf")]
    assert shred.strings.to_pylist()[2] == "?"
    assert shred.integers.tolist()[3] == 5
    deep = b"[" * 30000 + b"]" * 30000
    assert shred_column(Column(pa.array([deep, b"5"], pa.large_binary())), ()).kinds.tolist() == [MISSING, INTEGER]
    with pytest.raises(CorruptedError):
        shred_column(Column(pa.array([b"{"], pa.large_binary())), ("a",))


def test_shred_cache_is_bounded() -> None:
    """Old paths leave; a sliced column decodes its own rows only."""
    cache = ShredCache()
    column = Column(pa.array([b"1", b'"x"', b"2.5"], pa.large_binary())).slice(1, 3)
    shred = shred_column(column, ())
    assert shred.kinds.tolist() == [STRING, FLOAT]
    for number in range(100):
        cache.put((number,), shred)
    assert cache.get((0,), type(shred)) is None
    assert cache.get((99,), type(shred)) is shred


def test_sliced_and_empty_arrays() -> None:
    """Offsets of a slice start elsewhere; a column without any element still answers."""
    arrays = pa.array([[1], [2, 3], [], [3]], pa.large_list(pa.int64()))
    sliced = Columns({108: Column(arrays).slice(1, 4)})
    assert evaluate(parse_filter("array_contains(ai, 3)", SCHEMA), sliced).tolist() == [True, False, True]
    assert evaluate(parse_filter("ai[1] == 3", SCHEMA), sliced).tolist() == [True, False, False]
    empty = Columns({108: Column(pa.array([[], []], pa.large_list(pa.int64())))})
    for text in ("ai[0] == 0", "ai[0] != 0", "array_contains(ai, 0)", "ai == [0]"):
        assert evaluate(parse_filter(text, SCHEMA), empty).tolist() == [False, False]


def test_no_rows() -> None:
    """Every kind of leaf on a source without rows."""
    source = MemorySource([])
    for text in (
        "i64 == 1",
        "s like 'a_%'",
        "j['a'] == 1",
        "json_contains(j, 1)",
        "ai[0] == 1",
        "pk in [1, 900, 77, 5]",
    ):
        assert evaluate(parse_filter(text, SCHEMA), source).tolist() == []


@settings(max_examples=40, deadline=None)
@given(st.lists(INT64, max_size=12), st.lists(INT64, max_size=30), st.integers(-(2**63), 2**63 - 2**14))
def test_number_sets_agree_with_python_sets(values: list[int], probes: list[int], base: int) -> None:
    """Direct tables, hashed tables and binary search, at the edges of 64 bits too."""
    near = [base + value % 5000 for value in values]
    for wanted in (values, near, near + list(range(base, base + 500))):
        column = np.array(probes + wanted + [value + 1 for value in near], np.int64)
        members = set(wanted)
        expected = [value in members for value in column.tolist()]
        assert NumberSet.of(wanted, "<i8").contains(column).tolist() == expected
    members = {(value * 0x9E3779B97F4A7C15 + base) % 2**64 - 2**63 for value in range(4500)}
    spread = list(members)
    column = np.array(probes + spread[:50], np.int64)
    assert NumberSet.of(spread, "<i8").contains(column).tolist() == [value in members for value in column.tolist()]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(-20, 20), min_size=1, max_size=20),
    st.sampled_from(["pk {} {}", "{1} < pk < 30", "-30 <= pk <= {1}"]),
    st.sampled_from(["==", "!=", "<", "<=", ">", ">="]),
    st.one_of(st.integers(-22, 22), st.sampled_from([2**63 - 1, -(2**63)])),
)
def test_sorted_sources_answer_like_others(keys: list[int], form: str, operator: str, constant: int) -> None:
    """Binary search over ascending keys gives what the comparison gives."""
    if form != "pk {} {}":
        constant = max(min(constant, 22), -22)
    parsed = parse_filter(form.format(operator, constant), SCHEMA)
    column = Column(np.array(sorted(keys)))
    plain, ordered = Columns({100: column}), Columns({100: column}, 100)
    assert evaluate(parsed, ordered).tolist() == evaluate(parsed, plain).tolist()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.data())
def test_any_element_by_row(lengths: list[int], data: st.DataObject) -> None:
    """Few hits and many hits give what a loop over the rows gives."""
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    density = data.draw(st.sampled_from([0.0, 0.02, 0.5, 1.0]))
    hits = np.random.default_rng(data.draw(st.integers(0, 9))).random(int(offsets[-1])) < density
    expected = [bool(hits[start:stop].any()) for start, stop in pairwise(offsets.tolist())]
    assert ListView(offsets, hits).any(hits).tolist() == expected
