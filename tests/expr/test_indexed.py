"""Filters answered by scalar indexes give the rows that a scan gives, whatever field, type and predicate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elanus.expr import Lookup, evaluate, parse_filter
from elanus.expr.tree import ColumnCompare, RowLeaf
from elanus.index.registry import build_scalar, load_scalar, resolve
from elanus.index.scalars.contract import ScalarIndex
from elanus.model.index import IndexDefinition

from .twin import CASES, LEAVES, ROWS, SCHEMA, Case, MemorySource, Row

_SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
_TYPES = {
    "pk": ("INVERTED", "STL_SORT"),
    "i8": ("INVERTED", "STL_SORT", "BITMAP"),
    "i64": ("INVERTED", "STL_SORT", "BITMAP"),
    "f": ("INVERTED", "STL_SORT"),
    "d": ("INVERTED", "STL_SORT"),
    "b": ("INVERTED", "BITMAP"),
    "s": ("INVERTED", "STL_SORT", "BITMAP", "Trie", "NGRAM"),
    "ts": ("STL_SORT",),
    "ai": ("INVERTED", "BITMAP"),
    "as_": ("INVERTED", "BITMAP"),
    "st[a]": ("INVERTED",),
}
GRAMS = {"min_gram": "1", "max_gram": "2"}
_PATHS = ("j", 'j["a"]', "j['a']['b']", 'j["a"][0]', 'j["k/0"][1]', "dyn", 'dyn["a"]', '$meta["a"]')
_CASTS = ("BOOL", "DOUBLE", "VARCHAR", "ARRAY_BOOL", "ARRAY_DOUBLE", "ARRAY_VARCHAR", "JSON")


def _definitions() -> list[IndexDefinition]:
    made = []
    for name, types in _TYPES.items():
        field = SCHEMA.field(name)
        assert field is not None
        made += [IndexDefinition(0, "", field.field_id, name, {"index_type": one, **GRAMS}) for one in types]
    for path in _PATHS:
        field = SCHEMA.field("j" if path.startswith("j") else "$meta")
        assert field is not None
        for cast in _CASTS:
            params = {"json_cast_type": cast, "json_path": path}
            for one in ("INVERTED", "NGRAM") if cast == "VARCHAR" else ("INVERTED",):
                made.append(IndexDefinition(0, "", field.field_id, field.name, {"index_type": one, **params, **GRAMS}))
    return made


DEFINITIONS = _definitions()


def built(definition: IndexDefinition, source: Any, schema: Any = SCHEMA) -> ScalarIndex:
    """The index over a column of a source, written and mapped."""
    field = schema.field_by_id(definition.field_id)
    parts = build_scalar(definition, field, source.column(definition.field_id))
    data = np.frombuffer(b"".join(parts), np.uint8).data.toreadonly()
    return load_scalar(resolve(definition.params, field).index_type, data)


class IndexedRows(MemorySource):
    """Rows with indexes that are asked whatever it costs."""

    def __init__(self, rows: list[Row], definitions: list[IndexDefinition]) -> None:
        super().__init__(rows)
        self._definitions = definitions
        self._built: dict[int, list[ScalarIndex]] = {}

    def lookup(self, leaf: RowLeaf) -> Lookup | None:
        """The answer of the first index that has one, for nothing."""
        if isinstance(leaf, ColumnCompare):
            return None
        field_id = leaf.operand.field_id
        if field_id not in self._built:
            self._built[field_id] = [built(one, self) for one in self._definitions if one.field_id == field_id]
        asked = (index.lookup(leaf) for index in self._built[field_id])
        found = next((one for one in asked if one is not None), None)
        return None if found is None else replace(found, cost=-1.0)


def _check(case: Case, rows: list[Row], picks: list[int], order: Any) -> None:
    definitions = list(DEFINITIONS)
    order.shuffle(definitions)
    source = IndexedRows(rows, definitions)
    parsed = parse_filter(case.text, SCHEMA)
    wanted = [case.truth(row) is True for row in rows]
    assert evaluate(parsed, source).tolist() == wanted
    chosen = np.array([pick % len(rows) for pick in picks], np.int64)
    assert evaluate(parsed, source, chosen).tolist() == [wanted[row] for row in chosen.tolist()]


@pytest.mark.slow
@_SETTINGS
@given(LEAVES, ROWS, st.lists(st.integers(0, 11), max_size=6), st.randoms(use_true_random=False))
def test_leaves_agree_with_the_twin(case: Case, rows: list[Row], picks: list[int], order: Any) -> None:
    """Every kind of leaf over rows all of whose fields and paths are indexed in every way."""
    _check(case, rows, picks, order)


@pytest.mark.slow
@_SETTINGS
@given(CASES, ROWS, st.lists(st.integers(0, 11), max_size=6), st.randoms(use_true_random=False))
def test_trees_agree_with_the_twin(case: Case, rows: list[Row], picks: list[int], order: Any) -> None:
    """Nested and/or/not."""
    _check(case, rows, picks, order)


_ROW: Row = {
    "pk": 1, "i8": 2, "i64": 3, "f": 0.5, "d": 2.5, "b": True, "s": "abc", "ai": [1, 2], "as_": ["a"], "i32": 4,
    "ts": 0, "st": [], "sv[v]": 0, "st[a]": [], "st[b]": [],
}  # fmt: skip
ANSWERED = [
    ("INVERTED", "i64", "i64 == 3"),
    ("INVERTED", "i64", "i64 != 3"),
    ("STL_SORT", "i64", "i64 in [1, 3]"),
    ("STL_SORT", "d", "d not in [1, 3]"),
    ("STL_SORT", "d", "1 < d <= 2.5"),
    ("BITMAP", "b", "b == true"),
    ("BITMAP", "i8", "i8 > 1"),
    ("INVERTED", "i8", "i8 is null"),
    ("Trie", "s", "s like 'ab%'"),
    ("Trie", "s", "s == 'abc'"),
    ("Trie", "s", "not s like 'ab%'"),
    ("INVERTED", "s", "s like '%b%'"),
    ("INVERTED", "s", "s =~ 'b.'"),
    ("NGRAM", "s", "s like '%bc%'"),
    ("NGRAM", "s", "s like '%c'"),
    ("NGRAM", "s", "not s like '%bc%'"),
    ("INVERTED", "ai", "array_contains(ai, 1)"),
    ("BITMAP", "ai", "array_contains_all(ai, [1, 2])"),
    ("INVERTED", "as_", "array_contains_any(as_, ['a', 'b'])"),
]


@pytest.mark.parametrize(("index_type", "name", "text"), ANSWERED)
def test_what_an_index_answers(index_type: str, name: str, text: str) -> None:
    """The trace says what answered; without the index it was a scan, with the same rows."""
    rows = [
        {**_ROW, "pk": number, **({name: None} if number % 5 == 0 and name != "pk" else {})} for number in range(20)
    ]
    field = SCHEMA.field(name)
    assert field is not None
    definition = IndexDefinition(0, "", field.field_id, name, {"index_type": index_type, **GRAMS})
    traces: list[list[str]] = [[], []]
    parsed = parse_filter(text, SCHEMA)
    answers = [
        evaluate(parsed, source, trace=trace).tolist()
        for source, trace in zip((IndexedRows(rows, [definition]), IndexedRows(rows, [])), traces, strict=True)
    ]
    assert traces == [[index_type], ["scan"]]
    assert answers[0] == answers[1]
