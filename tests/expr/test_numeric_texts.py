"""Strings that spell numbers, at the path of an index with a cast function: compared as these, indexed or not."""

from __future__ import annotations

import json
import operator
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elanus.expr import Lookup, ShredCache, evaluate, parse_filter
from elanus.expr.tree import ColumnCompare, RowLeaf
from elanus.index.registry import build_scalar, load_scalar
from elanus.index.scalars.contract import ScalarIndex
from elanus.model.columns import Column
from elanus.model.index import CastPath, IndexDefinition
from elanus.model.schema import CollectionSchema, FieldSchema
from elanus.model.types import DataType

DOC = FieldSchema(101, "doc", DataType.JSON, nullable=True)
SCHEMA = CollectionSchema("rows", (FieldSchema(100, "id", DataType.INT64, is_primary=True), DOC))
CAST = {"json_cast_type": "double", "json_cast_function": "string_to_double", "json_path": "doc['p']"}
DEFINITIONS = tuple(
    IndexDefinition(number, "", 101, "doc", {"index_type": "INVERTED", **params})
    for number, params in enumerate((CAST, {"json_cast_type": "JSON", "json_path": "doc"}))
)
CASTS = tuple(CastPath(one.field_id, one.document_path(DOC)) for one in DEFINITIONS if one.casts_texts)
COMPARISONS = {
    "==": operator.eq, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "!=": operator.ne,
}  # fmt: skip


class Rows:
    """Documents as a source, with indexes that are asked whatever it costs."""

    def __init__(self, documents: list[Any], definitions: tuple[IndexDefinition, ...] = ()) -> None:
        self.row_count = len(documents)
        self.shreds = ShredCache()
        texts = [b"" if one is None else json.dumps(one).encode() for one in documents]
        valid = np.array([one is not None for one in documents])
        self._column = Column(pa.array(texts, pa.large_binary()), valid)
        self._indexes = [self._built(one) for one in definitions]

    def _built(self, definition: IndexDefinition) -> ScalarIndex:
        data = b"".join(build_scalar(definition, DOC, self._column))
        return load_scalar("INVERTED", np.frombuffer(data, np.uint8).data.toreadonly())

    def column(self, field_id: int) -> Column:
        """The documents."""
        return self._column

    def lookup(self, leaf: RowLeaf) -> Lookup | None:
        """The answer of the first index that has one."""
        asked = () if isinstance(leaf, ColumnCompare) else (one.lookup(leaf) for one in self._indexes)
        found = next((one for one in asked if one is not None), None)
        if found is None:
            return None
        return Lookup(found.index_type, -1.0, found.row_estimate, found.mask, found.known, found.is_exact)


def number_at(document: Any) -> float | None:
    """Twin: what is at the path, as a number."""
    value = document.get("p") if isinstance(document, dict) else None
    if isinstance(value, str):
        spelled = re.fullmatch(r"[ \t\r\n]*(-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?)[ \t\r\n]*", value, re.ASCII)
        return float(spelled.group(1)) if spelled else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def passes(document: Any, symbol: str, constant: float) -> bool:
    """Twin: a NULL document is UNKNOWN; what is no number is equal to none; doubles are compared as doubles."""
    number = number_at(document)
    if document is None or number is None:
        return document is not None and symbol == "!="
    return bool(COMPARISONS[symbol](number, float(constant) if isinstance(number, float) else constant))


TEXT = st.one_of(
    st.integers(-5, 5).map(str),
    st.sampled_from(["", " 2", "2\n", "2.0", "2e0", "-0", "+2", ".5", "2.", "02", "0x2", "inf", "nan", "1_0", "2 2",
                     "12abc", "1e999", "٢", "\u00a02", str(2**53 + 1)]),
)  # fmt: skip
VALUE = st.one_of(TEXT, st.integers(-5, 5), st.floats(-5, 5), st.booleans(), st.none(), st.just([2]), st.just({"q": 2}))
DOCUMENT = st.one_of(st.none(), st.just({}), VALUE.map(lambda value: {"p": value, "other": value}))
CONSTANT = st.one_of(st.integers(-5, 5), st.floats(-5, 5).map(lambda value: round(value, 1)), st.just(2**53 + 1))


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    st.lists(DOCUMENT, min_size=1, max_size=12),
    st.sampled_from(list(COMPARISONS)),
    CONSTANT,
    st.permutations(DEFINITIONS),
    st.integers(0, 2),
)
def test_the_rows_of_the_twin_with_and_without_indexes(
    documents: list[Any], symbol: str, constant: float, definitions: list[IndexDefinition], count: int
) -> None:
    source = Rows(documents, tuple(definitions[:count]))
    for text, wanted in (
        (f"doc['p'] {symbol} {constant}", [passes(one, symbol, constant) for one in documents]),
        (f"doc['p'] in [{constant}, 1]", [passes(one, "==", constant) or passes(one, "==", 1) for one in documents]),
        (
            f"{constant} <= doc['p'] < {2**60}",
            [passes(one, ">=", constant) and passes(one, "<", 2**60) for one in documents],
        ),
        ("doc['p'] == '2'", [isinstance(one, dict) and one.get("p") == "2" for one in documents]),
        (f"doc['other'] == {constant} and doc['p'] is null", [False] * len(documents)),
    ):
        assert evaluate(parse_filter(text, SCHEMA, casts=CASTS), source).tolist() == wanted, text


def test_what_answers() -> None:
    """The index where numbers are compared, at that path alone and only for filters that ask for casts."""
    source = Rows([{"p": str(number), "q": str(number)} for number in range(50)], DEFINITIONS[:1])
    for text, casts, answered_by, count in (
        ("doc['p'] > 40", CASTS, "INVERTED", 9),
        ("doc['p'] in [1, 2, 99]", CASTS, "INVERTED", 2),
        ("doc['p'] != 3", CASTS, "INVERTED", 49),
        ("doc['p'] + 1 == 3", CASTS, "scan", 1),
        ("doc['p'] == '3'", CASTS, "scan", 1),
        ("doc['q'] > 40", CASTS, "scan", 0),
        ("doc['p'] > 40", (), "scan", 0),
    ):
        trace: list[str] = []
        found = evaluate(parse_filter(text, SCHEMA, casts=casts), source, trace=trace)
        assert (trace, int(found.sum())) == ([answered_by], count), text


def test_filters_with_and_without_casts_are_kept_apart() -> None:
    plain, cast = (parse_filter("doc['p'] > 1", SCHEMA, casts=casts) for casts in ((), CASTS))
    assert plain.cache_key != cast.cache_key
