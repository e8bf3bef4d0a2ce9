"""Scalar indexes over thousands of rows: the rows of a scan, whichever of the two the cost calls for."""

from __future__ import annotations

import json
import math
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elanus.base.errors import CorruptedError
from elanus.expr import Lookup, ShredCache, evaluate, parse_filter
from elanus.expr.geometry import Shapes, from_texts
from elanus.expr.tree import ColumnCompare, RowLeaf
from elanus.index.registry import build_scalar, load_scalar, resolve
from elanus.index.scalars.contract import ScalarIndex
from elanus.index.scalars.documents import PATHS_MAX
from elanus.index.scalars.grams import gram_lists
from elanus.model.columns import Column, Mask
from elanus.model.index import IndexDefinition
from elanus.model.schema import CollectionSchema, FieldSchema
from elanus.model.types import DataType

ROWS = 4000
SCHEMA = CollectionSchema(
    "rows",
    (
        FieldSchema(100, "id", DataType.INT64, is_primary=True),
        FieldSchema(101, "few", DataType.INT16, nullable=True),
        FieldSchema(102, "many", DataType.INT64),
        FieldSchema(103, "real", DataType.DOUBLE, nullable=True),
        FieldSchema(104, "word", DataType.VARCHAR, nullable=True),
        FieldSchema(105, "tags", DataType.ARRAY, element_type=DataType.INT32, nullable=True),
        FieldSchema(106, "doc", DataType.JSON, nullable=True),
        FieldSchema(107, "place", DataType.GEOMETRY, nullable=True),
    ),
)
INDEXES: tuple[tuple[str, dict[str, str]], ...] = (
    ("few", {"index_type": "BITMAP"}),
    ("few", {"index_type": "INVERTED"}),
    ("many", {"index_type": "BITMAP"}),
    ("many", {"index_type": "STL_SORT"}),
    ("real", {"index_type": "INVERTED"}),
    ("word", {"index_type": "Trie"}),
    ("word", {"index_type": "NGRAM", "min_gram": "2", "max_gram": "3"}),
    ("word", {"index_type": "NGRAM", "min_gram": "3", "max_gram": "20"}),
    ("tags", {"index_type": "INVERTED"}),
    ("tags", {"index_type": "BITMAP"}),
    ("doc", {"index_type": "INVERTED", "json_cast_type": "DOUBLE", "json_path": "doc['n']"}),
    ("doc", {"index_type": "INVERTED", "json_cast_type": "VARCHAR", "json_path": "doc['s']"}),
    (
        "doc",
        {"index_type": "NGRAM", "json_cast_type": "varchar", "json_path": "doc['s']", "min_gram": "2", "max_gram": "2"},
    ),
    ("doc", {"index_type": "INVERTED", "json_cast_type": "ARRAY_DOUBLE", "json_path": "doc['l']"}),
    ("doc", {"index_type": "INVERTED", "json_cast_type": "JSON", "json_path": "doc"}),
    ("doc", {"index_type": "INVERTED", "json_cast_type": "json", "json_path": "doc['o']"}),
    ("place", {"index_type": "RTREE"}),
)
SQUARE = "POLYGON ((2 2, 9 2, 9 9, 2 9, 2 2))"


@cache
def columns() -> dict[int, Column]:
    """The same rows every time: NULLs, ties, NaN, empty texts and shapes."""
    chance = np.random.default_rng(5)
    valid = chance.random(ROWS) > 0.1
    words = [f"{chance.choice(['ab', 'é', 'xyz', ''])}{number:04d}{'q' * (number % 3)}" for number in range(700)]
    many = chance.integers(-(2**40), 2**40, ROWS)
    many[:100] = many[0]
    real = np.round(chance.normal(size=ROWS), 1)
    real[::50] = np.nan
    lengths = np.where(valid, chance.integers(0, 5, ROWS), 0)
    bounds = np.concatenate(([0], np.cumsum(lengths)))
    flat = chance.integers(0, 40, int(bounds[-1])).astype(np.int32)
    documents = [
        json.dumps(
            {
                "n": [int(n), n / 2, str(n), None, 2**53 + int(n)][n % 5],
                "s": words[n % 700],
                "l": [int(n % 9), 1.5],
                "o": {"a": n % 7, f"k{n % 40}": {"x": [n % 3, "t"]}} if n % 3 else [n % 2],
            }
        )
        if n % 11
        else "null"
        for n in range(ROWS)
    ]
    return {
        100: Column(np.arange(ROWS)),
        101: Column(chance.integers(-3, 60, ROWS).astype(np.int16), valid),
        102: Column(many),
        103: Column(real, valid),
        104: Column(pa.array(words, pa.large_string()).take(pa.array(chance.integers(0, 700, ROWS))), valid),
        105: Column(pa.LargeListArray.from_arrays(pa.array(bounds), pa.array(flat)), valid),
        106: Column(pa.array([text.encode() for text in documents], pa.large_binary()), valid),
        107: Column(from_texts(pa.array(shapes(chance), pa.large_string()), valid).values, valid),
    }


def shapes(chance: np.random.Generator) -> list[str]:
    """Points, lines and squares, some of them empty."""
    made = []
    for number, (x, y) in enumerate(chance.uniform(-60, 60, (ROWS, 2)).round(2).tolist()):
        side = 1 + number % 4
        made.append(
            (
                f"POINT ({x} {y})",
                f"LINESTRING ({x} {y}, {x + side} {y + side})",
                f"POLYGON (({x} {y}, {x + side} {y}, {x + side} {y + side}, {x} {y}))",
                "POINT EMPTY" if number % 40 == 3 else f"POINT ({x} {y})",
            )[number % 4]
        )
    return made


class Rows:
    """The rows as a source, with some indexes that are asked as they cost, or always."""

    def __init__(self, indexes: list[tuple[int, ScalarIndex]], *, always: bool) -> None:
        self.row_count = ROWS
        self.shreds = ShredCache()
        self._indexes = indexes
        self._always = always

    def column(self, field_id: int) -> Column:
        """All values of a field."""
        return columns()[field_id]

    def lookup(self, leaf: RowLeaf) -> Lookup | None:
        """The cheapest answer."""
        if isinstance(leaf, ColumnCompare):
            return None
        asked = [index.lookup(leaf) for field_id, index in self._indexes if field_id == leaf.operand.field_id]
        found = min((one for one in asked if one is not None), key=lambda one: one.cost, default=None)
        if found is None or not self._always:
            return found
        return Lookup(found.index_type, -1.0, found.row_estimate, found.mask, found.known, found.is_exact)


@cache
def index_of(number: int) -> tuple[int, ScalarIndex, list[memoryview]]:
    """An index of `INDEXES`, written and mapped."""
    name, params = INDEXES[number]
    field = SCHEMA.field(name)
    assert field is not None
    definition = IndexDefinition(0, "", field.field_id, name, params)
    parts = list(build_scalar(definition, field, columns()[field.field_id]))
    data = np.frombuffer(b"".join(parts), np.uint8).data.toreadonly()
    return field.field_id, load_scalar(resolve(params, field).index_type, data), parts


def scanned(text: str) -> Mask:
    """The rows that pass, by a scan."""
    return evaluate(parse_filter(text, SCHEMA), Rows([], always=False))


def indexed(text: str, numbers: Any, *, always: bool) -> tuple[Mask, list[str]]:
    """The rows that pass, and what answered."""
    trace: list[str] = []
    rows = Rows([index_of(number)[:2] for number in numbers], always=always)
    return evaluate(parse_filter(text, SCHEMA), rows, trace=trace), trace


NUMBER = st.one_of(st.integers(-5, 65), st.integers(-(2**41), 2**41))
REAL = st.one_of(st.integers(-3, 3), st.floats(-3, 3).map(lambda value: round(value, 1)))
COMPARISON = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
PIECE = st.text("abéxyz0123q", max_size=4)


def joined(values: list[Any]) -> str:
    """As a list of the filter language."""
    return "[" + ", ".join(map(str, values)) + "]"


LEAF = st.one_of(
    st.builds("{} {} {}".format, st.sampled_from(["few", "many", "doc['n']", "doc['o']['a']"]), COMPARISON, NUMBER),
    st.builds("json_contains(doc['o']['k{}']['x'], {})".format, st.integers(0, 41), st.sampled_from([1, "'t'", "2.0"])),
    st.integers(0, 41).map("exists doc['o']['k{}']".format),
    st.sampled_from(["doc['o'] == 1", "doc['o'] == [1]", "doc['o'] != [1]", "doc['none'] == 1", "exists doc['o']",
                     "not (doc['none'] == 'a')", "doc['o']['a'] == true", "doc['l'][0] == 3"]),
    st.builds("{} {} {}".format, st.sampled_from(["real", "doc['n']"]), COMPARISON, REAL),
    st.builds("{} <= {} < 30".format, st.integers(-5, 20), st.sampled_from(["few", "many", "real"])),
    st.builds(
        "{} in {}".format, st.sampled_from(["few", "many", "doc['n']"]), st.lists(NUMBER, max_size=6).map(joined)
    ),
    st.integers(1, 900).map(lambda count: f"few in {list(range(count))}"),
    st.integers(1, 900).map(lambda count: f"many in {columns()[102].values[:count].tolist()}"),
    st.integers(200, 700).map(lambda count: f"word in {[f'ab{number:04d}' for number in range(count)]}"),
    st.builds("many == {}".format, st.sampled_from([0, 1]).map(lambda place: int(columns()[102].values[place]))),
    st.builds(
        "{} like '{}{}{}'".format,
        st.sampled_from(["word", "doc['s']"]), st.sampled_from(["", "%"]), PIECE, st.sampled_from(["", "%", "_%"]),
    ),
    st.builds("word {} '{}'".format, COMPARISON, PIECE),
    st.builds("{}({}, {})".format, st.sampled_from(["array_contains_all", "array_contains_any"]),
              st.sampled_from(["tags", "doc['l']"]), st.lists(st.integers(-1, 41), min_size=1, max_size=3).map(joined)),
    st.sampled_from(["few is null", "word is not null", "place is null", "exists doc['n']", "exists doc['s']",
                     "exists doc", "doc is null", "exists doc['none']", "exists doc['l']"]),
    st.builds(
        "{}(place, 'POLYGON (({x} {y}, {x} 30, 30 30, {x} {y}))')".format,
        st.sampled_from(["st_within", "st_intersects", "st_contains", "st_touches"]), x=st.integers(-60, 29),
        y=st.integers(-60, 29),
    ),
    st.builds("st_dwithin(place, 'POINT ({} {})', {})".format, st.integers(-180, 180), st.integers(-90, 90),
              st.sampled_from([0, 1e5, 5e5, 3e6, 9e6, 2e7])),
)  # fmt: skip
TREE = st.recursive(
    LEAF,
    lambda inner: st.one_of(
        st.builds("({}) and ({})".format, inner, inner),
        st.builds("({}) or ({})".format, inner, inner),
        inner.map("not ({})".format),
    ),
    max_leaves=3,
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(TREE, st.sets(st.integers(0, len(INDEXES) - 1)), st.booleans())
def test_the_rows_of_a_scan(text: str, numbers: set[int], always: bool) -> None:
    assert np.array_equal(indexed(text, sorted(numbers), always=always)[0], scanned(text))


@pytest.mark.parametrize(
    ("text", "index_type"),
    [
        ("few == 7", "BITMAP"),
        ("many > 1000000000000", "STL_SORT"),
        ("word like 'ab00%'", "Trie"),
        ("word like '%b00%'", "NGRAM"),
        ("array_contains(tags, 3)", "BITMAP"),
        ("doc['n'] == 10", "INVERTED"),
        ("json_contains(doc['l'], 3)", "INVERTED"),
        (f"st_within(place, '{SQUARE}')", "RTREE"),
        ("st_dwithin(place, 'POINT (5 5)', 100000)", "RTREE"),
    ],
)
def test_a_selective_predicate_is_left_to_the_index(text: str, index_type: str) -> None:
    numbers = [number for number, (_, params) in enumerate(INDEXES) if params["index_type"] == index_type]
    found, trace = indexed(text, numbers, always=False)
    assert trace == [index_type]
    assert np.array_equal(found, scanned(text))
    assert found.any()


@pytest.mark.parametrize("text", ["many > -1000000000", "st_isvalid(place)", "few + 1 == 3"])
def test_what_a_scan_does_better_is_scanned(text: str) -> None:
    assert indexed(text, range(len(INDEXES)), always=False)[1] == ["scan"]


def test_of_too_many_paths_the_others_are_scanned() -> None:
    documents = [{"common": row % 3, "map": {f"k{row}": row}} for row in range(PATHS_MAX + 500)]
    column = Column(pa.array([json.dumps(one).encode() for one in documents], pa.large_binary()))
    field = SCHEMA.field("doc")
    assert field is not None
    definition = IndexDefinition(
        0, "", field.field_id, "doc", {"index_type": "INVERTED", "json_cast_type": "JSON", "json_path": "doc"}
    )
    index = load_scalar("INVERTED", memoryview(b"".join(build_scalar(definition, field, column))))
    answered = 0
    for row in (*range(0, len(documents), 50), None):
        path = "doc['common']" if row is None else f"doc['map']['k{row}']"
        leaf: Any = parse_filter(f"{path} == {row or 0}", SCHEMA).root
        lookup = index.lookup(leaf)
        if lookup is not None:
            answered += 1
            wanted = [one["common"] == 0 if row is None else one["map"].get(f"k{row}") == row for one in documents]
            assert lookup.mask().tolist() == wanted
    assert lookup is not None, "the path that all documents have"
    assert 0 < answered < len(documents) // 50
    none: Any = parse_filter("doc['none'] == 1", SCHEMA).root
    assert index.lookup(none) is None


def test_numbers_that_doubles_cannot_hold_are_scanned() -> None:
    valid = columns()[106].valid
    assert valid is not None
    text = f"doc['n'] == {2**53 + next(n for n in range(4, ROWS, 5) if n % 11 and valid[n])}"
    found, trace = indexed(text, range(len(INDEXES)), always=True)
    assert trace == ["scan"]
    assert np.flatnonzero(found).tolist() == np.flatnonzero(scanned(text)).tolist() != []


@pytest.mark.parametrize("number", range(len(INDEXES)))
def test_a_torn_file_is_refused(number: int) -> None:
    _, index, parts = index_of(number)
    whole = b"".join(parts)
    assert index.size_bytes == len(whole)
    assert index.row_count == ROWS
    for data in (whole[:-1], whole[:-9] + b"x" + whole[-8:], b""):
        with pytest.raises(CorruptedError):
            load_scalar(index.index_type, memoryview(data))


def test_no_rows_and_rows_of_nulls() -> None:
    for valid in (np.zeros(0, np.bool_), np.zeros(9, np.bool_)):
        count = len(valid)
        column = Column(pa.array([""] * count, pa.large_string()), valid)
        field = SCHEMA.field("word")
        assert field is not None
        for params in ({"index_type": "Trie"}, {"index_type": "NGRAM", "min_gram": "1", "max_gram": "3"}):
            definition = IndexDefinition(0, "", field.field_id, "word", params)
            data = memoryview(b"".join(build_scalar(definition, field, column)))
            index = load_scalar(params["index_type"], data)
            for text in ("word == ''", "word like '%a%'", "word like 'a%'", "word in ['', 'a']"):
                leaf: Any = parse_filter(text, SCHEMA).root
                lookup = index.lookup(leaf)
                assert lookup is not None
                assert lookup.mask().tolist() == [False] * count


def test_boxes_reach_around_the_globe_where_they_must() -> None:
    """Points either side of the date line and over the pole are near; the box of the search may not cut them off."""
    for x, y, metres in ((179.9, 0.0, 50_000.0), (0.0, 89.9, 30_000.0), (10.0, 60.0, 300_000.0)):
        angle = math.degrees(metres / 6_371_000.0)
        points = [
            (x + 0.3 - 360 if x > 179 else x - 180, y),
            (x, max(-90.0, y - angle * 0.99)),
            (x, min(90.0, y + angle * 0.5)),
        ]
        field = SCHEMA.field("place")
        assert field is not None
        texts = pa.array([f"POINT ({a} {b})" for a, b in points], pa.large_string())
        column = Column(from_texts(texts, None).values)
        definition = IndexDefinition(0, "", field.field_id, "place", {"index_type": "RTREE"})
        index = load_scalar("RTREE", memoryview(b"".join(build_scalar(definition, field, column))))
        leaf: Any = parse_filter(f"st_dwithin(place, 'POINT ({x} {y})', {metres})", SCHEMA).root
        lookup = index.lookup(leaf)
        near = leaf.test.matches(Shapes.of(column.values))
        assert lookup is not None
        assert near.any()
        assert not (near & ~lookup.mask()).any()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text("abé\0", max_size=12), min_size=1, max_size=30), st.integers(1, 8), st.integers(5, 40))
def test_grams_in_passes_are_those_of_one_pass(texts: list[str], length: int, windows_max: int) -> None:
    data = b"".join(text.encode() for text in texts)
    offsets = np.cumsum([0, *(len(text.encode()) for text in texts)])
    whole = gram_lists(np.frombuffer(data, np.uint8), offsets, length)
    parts = gram_lists(np.frombuffer(data, np.uint8), offsets, length, windows_max)
    for one, other in zip(whole, parts, strict=True):
        assert one.tolist() == other.tolist()
    expected = {text.encode()[at : at + length] for text in texts for at in range(len(text.encode()) - length + 1)}
    assert [int(gram) for gram in whole.labels] == sorted(int.from_bytes(gram, "big") for gram in expected)
