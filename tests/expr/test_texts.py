"""Which texts are accepted, which are refused and with what words, precedence, and that nothing crashes."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elanus.expr import FilterError, evaluate, parse_filter
from elanus.expr.errors import UnknownFunctionError
from elanus.expr.parser import NESTING_MAX, parse
from elanus.model.schema import CollectionSchema, FieldSchema
from elanus.model.types import DataType
from elanus.testing.clock import SeededRandom

from .twin import SCHEMA, Document, MemorySource, Row

PLAIN = CollectionSchema("plain", (FieldSchema(100, "pk", DataType.INT64, is_primary=True),))

_FULL: Row = {
    "pk": 1, "i8": 2, "i64": 3, "f": 0.5, "d": 2.5, "b": True, "s": "abc", "j": Document({"a": [1, {"b": "x"}]}),
    "ai": [1, 2], "as_": ["a"], "i32": 4, "ts": 0, "$meta": Document({"undeclared": 5}),
}  # fmt: skip
SOURCE = MemorySource([_FULL, dict.fromkeys(_FULL) | {"pk": 0, "i32": 0, "$meta": Document({})}])

ACCEPTED = [
    "",
    "  \n\t ",
    "i64 == 0x10",
    "i64 == 0B1",
    "i64 == 010",
    "i64 == -9223372036854775808",
    "i64 in [1, 2, 3,]",
    "(i64 & 6) == 2",
    "(3 | i8) != 0x0f and (i8 ^ 1) > 2",
    "(6 & 3) == 2",
    "s =~ 'a+' and s !~ r'\\d' and j['a'] =~ R\"x\"",
    "s like r'8\\_0%'",
    "element_filter(st, $[a] > 1 && $[b] like 'x%')",
    "i64 == 1 and ELEMENT_FILTER(st, 1 < $[ a ] <= 5)",
    "match_any(st, $[a] in [1, 2]) or not MATCH_ALL(st, $[b] == 'x')",
    "match_least(st, $[a] == 1, threshold=2) and MATCH_MOST(st, $[a] == 1, THRESHOLD=0)",
    "match_exact(st, not ($[a] == 1), threshold = 0x1)",
    "st[a] == [1, 2] and st[0][b] == 'x' and array_length(st) > 1 and array_contains(st[b], 'x')",
    "i64 in []",
    "d in [1, 2.5]",
    "ai in []",
    "ai[0] in [1, 2]",
    "s == 'it\\'s' or s == \"\\x41\\u4e2d\\101\"",
    "s like '中%'",
    "f < .5 and f > 1e-3 and f != 5. and f != 0x1p-2",
    "1 < i64 <= 5",
    "5 > i64 >= 1",
    'j["a"]["b"][0] > 5',
    "undeclared == 5",
    'undeclared["x"][2] like "a%"',
    "$meta['k'] == true",
    "not (i64 == 1) && !(b == true) || b != false",
    "not i64 in [1]".replace("not i64 in", "i64 NOT IN"),
    "not s like 'a%'",
    "not exists j['k']",
    "not json_contains(j, 1)",
    "JSON_CONTAINS_ALL(j['a'], [1, 'x', [2]])",
    "i64 + 1 == 5 and 2 * i64 > 4 and 3 == i64 % 2",
    "d / 2 > 1.5",
    "j['a'] * 2 == 4",
    "array_length(ai) >= 2",
    "1 == 1",
    "true and false",
    "not true",
    "i64 == i8",
    "random_sample(0.5)",
    "i64 > 1 and random_sample(0.01)",
    "i64 > 1 and (b == true and random_sample(0.01))",
    "1 == 1 and i64 > 2",
    "empty(s) or starts_with(s, 'a')",
    "s is null and j is not null and j['a'] is null",
    "ts >= ISO '2025-01-01T00:00:00Z' and ISO '2026-01-01 00:00:00' > ts",
    "ts + INTERVAL 'P1Y2M3DT4H5M6S' > ISO '2025-01-01T00:00:00Z'",
    "ISO '2025-01-01T00:00:00+08:00' != ts - INTERVAL 'PT1S'",
    "exists undeclared",
    "2 ** -1 == 0.5",
    "i64 == 7 / 2",
]


@pytest.mark.parametrize("text", ACCEPTED)
def test_accepted(text: str) -> None:
    """Texts that Milvus 2.6 takes, and that run."""
    assert len(evaluate(parse_filter(text, SCHEMA), SOURCE, chance=SeededRandom(0))) == SOURCE.row_count


REJECTED = [
    ("i64", "predicate is not a boolean expression: i64, data type: Int64"),
    ("b", "predicate is not a boolean expression: b, data type: Bool"),
    ("true", "predicate is not a boolean expression: true, data type: Bool"),
    ("1 + 1", "predicate is not a boolean expression"),
    ("1 - undeclared", "predicate is not a boolean expression: 1 - undeclared, data type: Int64"),
    ("i64 in not [1, 2]", "not can only apply on boolean"),
    ("not i64 == 1", "not op can only be applied on boolean expression"),
    ("not i64 in [1]", "not op can only be applied on boolean expression"),
    ("true and i64 == 1", "'and' can only be used between boolean expressions"),
    ("i64 == 1 or b", "'or' can only be used between boolean expressions"),
    ("i64 == 1.5", "cannot cast value to Int64, value: float_val:1.5"),
    ("s == 5", "comparisons between VarChar and Int64 are not supported"),
    ("5 == s", "comparisons between Int64 and VarChar are not supported"),
    ("b == 1", "comparisons between Bool and Int64 are not supported"),
    ("b < true", "comparisons between Bool and Bool are not supported"),
    ("vector == 1", "comparisons between FloatVector and Int64 are not supported"),
    ("text == 'a'", "filter on text field (text) is not supported yet"),
    ("i64 == j", "two column comparison with JSON type is not supported"),
    ("i64 == s", "comparisons between Int64 and VarChar are not supported"),
    ("ai < [1]", "can not comparisons array fields directly"),
    ("ai == []", "are not supported"),
    ("i8['a'] == 1", "Int8 data type not supported accessed with []"),
    ("ai['a'] == 1", "can only access array field with integer index"),
    ("j[a] == 1", "json key must be enclosed in double quotes or single quotes"),
    ("j[''] == 1", "invalid identifier"),
    ("1 == 'a'", "comparison operations cannot be applied to two incompatible operands"),
    ("i64 == 1 / 0", "cannot divide by zero"),
    ("i64 == 1 % 0", "cannot modulo by zero"),
    ("i64 ** 2 == 4", "power can only apply on constants"),
    ("-i64 == 4", "unary"),
    ("~1 == 4", "BNOT"),
    ("i64 + i8 == 4", "not supported to do arithmetic operations between multiple fields"),
    ("i64 + 1 + 2 == 4", "complicated arithmetic operations are not supported"),
    ("1 - i64 == 4", "module field is not yet supported"),
    ("d % 2 == 1", "modulo can only apply on integer types"),
    ("i64 / 0 == 1", "division or modulus by zero"),
    ("i64 + 1.5 == 2", "'add' cannot perform arithmetic between Int64 field and Double"),
    ("s + 1 == 2", "'add' can only be used between integer or floating or json field expressions"),
    ("i64 << 1 == 2", "shift is not supported"),
    ("i64 & 1 == 1", "bitwise operations can only apply on integer types"),
    ("(d | 1) == 1", "bitwise operations can only apply on integer types"),
    ("(i64 ^ 1.5) == 1", "bitwise operations can only apply on integer types"),
    ("(i64 & i8) == 1", "bitwise operations can only apply on integer types"),
    ("(j & 1) == 1", "bitwise operations can only apply on integer types"),
    ("i8 < i64 < 5", "lowerbound cannot be a non-const expression"),
    ("5 < i64 < i8", "upperbound cannot be a non-const expression"),
    ("5 < i64 < 1", "invalid range: lowerbound is greater than upperbound"),
    ("5 < i64 <= 5", "invalid range: lowerbound is greater than upperbound"),
    ("true < b < false", "invalid range operations on boolean expr"),
    ("1.5 < i64 < 5", "invalid range operations"),
    ("i64 in 5", "the right-hand side of 'in' must be a list, but got: 5"),
    ("1 in [1]", "'term' can only be used on non-const expression, but got: 1"),
    ("i64 + 1 in [1]", "'term' can only be used on single field, but got: i64+1"),
    ("i64 in [1.0, 2.5]", "value 'float_val:1' in list cannot be casted to Int64"),
    ("b in [0]", "value 'int64_val:0' in list cannot be casted to Bool"),
    ("i64 in ['x']", "value 'string_val:\"x\"' in list cannot be casted to Int64"),
    ("ai in [1]", "in list cannot be casted to Array"),
    ("i64 in [1, {x}]", "expression elements can only be scalars"),
    ("i64 like 'a%'", "like operation on non-string or no-json field is unsupported"),
    ("i64 + 1 like 'a%'", "like operation on complicated expr is unsupported"),
    ("s like 5", "like pattern should be a string literal or template variable, got: 5"),
    ("exists i64", "exists operations are only supportted on json field, got:"),
    ("vector is null", "IsNull/IsNotNull operations are not supported on vector fields"),
    ("ai[0] is null", "not supported on array element access, got: ai[0]"),
    ("json_contains(i64, 1)", "contains operation are only supported on json or array fields now, got: i64"),
    ("array_contains(ai, 'x')", "Contains operation can't compare between array element type: Int64 and VarChar"),
    ("json_contains_all(j, 1)", "ContainsAll operation element must be an array"),
    ("json_contains_any(j, 1)", "ContainsAny operation element must be an array"),
    ("array_length(ai) == 2.2", "cannot cast value"),
    ("array_length(ai) + 1 == 2", "array_length"),
    ("random_sample(1)", "the sample factor should be between 0 and 1 and not too close to 0 or 1"),
    ("random_sample(0.5) and i64 == 1", "random sample expression can only be the last expression"),
    ("i64 == 1 or random_sample(0.5)", "random sample expression cannot be used in logical and expression"),
    ("not random_sample(0.5)", "random sample expression cannot be used in unary expression"),
    ("text_match(s, 'a')", "text_match is not supported yet"),
    ("phrase_match(s, 'a', 2)", "phrase_match is not supported yet"),
    ("ST_WITHIN(g, 'POINT(1 1)')", "STWithin operation are only supported on geometry fields now, got: g"),
    ("element_filter(s, i64 == 1)", "element_filter needs a struct array field, got: s"),
    ("element_filter(st, i64 == 1)", "only $[...] of struct st can be used here, got: i64"),
    ("element_filter(st, st[a] == [1])", "only $[...] of struct st can be used here, got: st[a]"),
    ("element_filter(st, $[a])", "element_filter needs a boolean expression over $[...], got: $[a]"),
    ("element_filter(st, $[c] == 1)", "field c not exist in struct st"),
    ("element_filter(st, $[v] == 1)", "$[v] of type ArrayOfVector cannot be compared"),
    ("element_filter(st, $[a] == 'x')", "comparisons between Int64 and VarChar are not supported"),
    ("element_filter(st, element_filter(st, $[a] == 1))", "nested ElementFilter is not supported"),
    ("match_any(st, match_all(st, $[a] == 1))", "nested ElementFilter is not supported"),
    ("element_filter(st, $[a] == 1) and i64 == 1", "element filter expression can only be the last expression"),
    ("i64 == 1 or element_filter(st, $[a] == 1)", "element filter expression cannot be used in logical"),
    ("not element_filter(st, $[a] == 1)", "element filter expression cannot be used in unary expression"),
    ("match_least(st, $[a] == 1, threshold=0)", "count in MATCH_LEAST must be positive, got: 0"),
    ("match_most(st, $[a] == 1, threshold=-1)", "count in MATCH_MOST must be non-negative, got: -1"),
    ("match_exact(st, $[a] == 1, threshold=1.5)", "threshold in MATCH_EXACT must be an integer"),
    ("match_exact(st, $[a] == 1, 2)", "it takes 2 and threshold=<integer>"),
    ("match_any(st, $[a] == 1, threshold=2)", "it takes 2"),
    ("$[a] == 1", "$[a] syntax can only be used inside ElementFilter or MATCH_*"),
    ("1 < $[a] < 3", "$[a] syntax can only be used inside ElementFilter or MATCH_*"),
    ("st[c] == [1]", "json key must be enclosed in double quotes or single quotes: st[c]"),
    ("st[a] < [1]", "can not comparisons array fields directly"),
    ("st[a][0] == 1", "invalid expression: st[a][0] == 1"),
    ("i64 =~ 'a'", "regex match on non-string or non-json field is unsupported"),
    ("as_ =~ 'a'", "regex match on non-string or non-json field is unsupported"),
    ("s =~ 5", "regex pattern should be a string literal or template variable, got: 5"),
    ("s =~ 'a('", "invalid regex pattern a("),
    ("i64 in (i8)", "value '(i8)' in list cannot be a non-const expression"),
    ("i64 in 1", "the right-hand side of 'in' must be a list, but got: 1"),
    ("s == null", "two column comparison with JSON type is not supported"),
    ("ts + INTERVAL 'P1.5D' > ISO '2025-01-01T00:00:00Z'", "invalid ISO 8601 duration: P1.5D"),
    ("ts + INTERVAL 'P' > ISO '2025-01-01T00:00:00Z'", "invalid ISO 8601 duration: P"),
    ("i64 + INTERVAL 'P1D' > ISO '2025-01-01T00:00:00Z'", "field 'i64' is not a timestamptz datatype"),
    ("ts + INTERVAL 'P1D' > 5", "can only be compared with an ISO literal"),
    ("ts > ISO 'soon'", "invalid timestamp string: 'soon'. Does not match any known format"),
    ("ts > ISO '2025-01-01T00:00:00+15:00'", "UTC offset hour 15 is out of the valid range [-12, 14]"),
    ("i64 > ISO '2025-01-01T00:00:00Z'", "field 'i64' is not a timestamptz datatype"),
    ("i64 is  null", "invalid expression"),
    ("i64 == 1 i8", "invalid expression: i64 == 1 i8"),
    ("i64 == 08", "invalid expression"),
    ("\u00a0", "token recognition error"),
    ("i64 ==", "line 1:6 mismatched input"),
    ("(i64 == 1", "line 1:9 mismatched input"),
    ("i64 == 1 and\n i64 = 'x", "line 2:7 token recognition error"),
    ("s == 'a\\qb'", "token recognition error"),
    ("s == '\\xff'", "not valid UTF-8"),
    ("i64 == 9223372036854775808", "value out of range"),
    ("i64 == 99999999999999999999", "value out of range"),
    ("i64 And i8 == 1", "invalid expression"),
    ("(" * 500 + "i64 == 1" + ")" * 500, "nests deeper"),
    ("i64 == " + "1+" * 5000 + "1", "chains more than"),
]


@pytest.mark.parametrize(("text", "fragment"), REJECTED, ids=[text[:40] for text, _ in REJECTED])
def test_rejected(text: str, fragment: str) -> None:
    """Refused with Milvus's code and words, the text quoted."""
    with pytest.raises(FilterError) as caught:
        parse_filter(text, SCHEMA)
    assert fragment in caught.value.message
    assert caught.value.code == 1100
    shape = (
        "predicate is not a boolean"
        if fragment.startswith("predicate")
        else f"cannot parse expression: {text}, error: "
    )
    assert caught.value.message.startswith(shape)


def test_unknown_functions_fail_as_when_a_filter_is_run() -> None:
    """Not parsed as anything, and not Milvus's code of a parse error either."""
    for text in ("Json_Contains(j, 1)", "ST_CONTAIN(j, 'POINT (1 1)')"):
        with pytest.raises(UnknownFunctionError) as caught:
            parse_filter(text, SCHEMA)
        assert caught.value.code == 65535


def test_undeclared_names_need_a_dynamic_field() -> None:
    """Without one they do not exist."""
    for text in ("x == 1", "$meta['x'] == 1"):
        with pytest.raises(FilterError, match="not exist"):
            parse_filter(text, PLAIN)
    # With one the word is a key like any other, as in Milvus 2.6.
    with pytest.raises(FilterError, match="NULL literal is not supported"):
        parse_filter("pk == null", PLAIN)
    assert parse_filter("null is null", SCHEMA).root is not None


SAME = [
    ("i64 == 1 or i64 == 2 and b == true", "i64 == 1 or (i64 == 2 and b == true)"),
    ("not s like 'a' and b == true", "(not (s like 'a')) and (b == true)"),
    ("1 + 2 * 3 == i64", "(1 + (2 * 3)) == i64"),
    ("-2 ** 2 == i64", "(-(2 ** 2)) == i64"),
    ("10 - 2 - 3 == i64", "((10 - 2) - 3) == i64"),
    ("i64 + 1 < 5 == true", None),
    ("i64 in [1] and i8 in [2]", "(i64 in [1]) and (i8 in [2])"),
    ("1 < i64 < 2 + 3", "1 < i64 < 5"),
    ("2 ** 3 ** 2 == i64", "(2 ** 3) ** 2 == i64"),
]


@pytest.mark.parametrize(("text", "explicit"), SAME)
def test_precedence(text: str, explicit: str | None) -> None:
    """The bare text means the parenthesised one; None: it is refused."""
    if explicit is None:
        with pytest.raises(FilterError):
            parse_filter(text, SCHEMA)
        return
    assert repr(parse_filter(text, SCHEMA).root) == repr(parse_filter(explicit, SCHEMA).root)


@pytest.mark.slow
def test_nesting_up_to_the_bound_parses() -> None:
    """The bound leaves room for what programs write."""
    depth = NESTING_MAX - 2
    parse_filter("(" * depth + "i64 == 1" + ")" * depth, SCHEMA)
    parse_filter(" or ".join(f"(i64 == {n} and b == true)" for n in range(5000)), SCHEMA)


_WORD_TEXT = (
    "and or not in like is null exists i64 s j ai b undeclared == != < <= > >= + - * / % ** ( ) [ ] , 1 2.5 'a' true "
    "random_sample json_contains array_length {x} & | ^ ~ << $meta j['a'] ai[0] ISO INTERVAL [1,2] ['a'] empty = "
)
_WORDS = st.sampled_from(_WORD_TEXT.split())


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=40), st.lists(_WORDS, max_size=14).map(" ".join)))
def test_no_text_raises_anything_but_filter_error(text: str) -> None:
    """Arbitrary text and arbitrary sequences of words either parse or are refused."""
    with suppress(FilterError):
        parse(text)
    with suppress(FilterError):
        parsed = parse_filter(text, SCHEMA, {"x": [1, "a"]})
        assert len(evaluate(parsed, SOURCE, chance=SeededRandom(0))) == SOURCE.row_count
