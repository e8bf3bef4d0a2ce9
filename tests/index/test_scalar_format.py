"""Files of scalar indexes as they were written once, one folder for each version of the format, still answer."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from elanus.expr import parse_filter
from elanus.index.registry import load_scalar
from elanus.model.schema import CollectionSchema, FieldSchema
from elanus.model.types import DataType

FOLDER = Path(__file__).parent / "format"
SCHEMA = CollectionSchema(
    "stored",
    (
        FieldSchema(100, "id", DataType.INT64, is_primary=True),
        FieldSchema(101, "number", DataType.INT32, nullable=True),
        FieldSchema(102, "word", DataType.VARCHAR, nullable=True),
        FieldSchema(103, "tags", DataType.ARRAY, element_type=DataType.VARCHAR),
        FieldSchema(104, "doc", DataType.JSON),
        FieldSchema(105, "place", DataType.GEOMETRY),
    ),
)
# Row n of 40: number n % 5 and word `word n`, both NULL where n is 7; tags `t` n % 3 and `u`; doc {"a": [n, "x"]} in
# even rows, {"a": n} in odd ones; place POINT (n n).
ANSWERS = {
    "number.stl_sort": [
        ("number == 2", [2, 12, 17, 22, 27, 32, 37]),
        ("number is null", [7]),
        ("3 < number < 9", [4, 9, 14, 19, 24, 29, 34, 39]),
    ],
    "number.bitmap": [("number in [0, 9]", [0, 5, 10, 15, 20, 25, 30, 35])],
    "word.trie": [("word like 'word 3%'", [3, *range(30, 40)]), ("word == 'word 7'", [])],
    "word.ngram": [("word like '%d 1%'", [1, *range(10, 20)]), ("word like '%9'", [9, 19, 29, 39])],
    "tags.inverted": [("array_contains_all(tags, ['t1', 'u'])", list(range(1, 40, 3)))],
    "doc.inverted": [("doc['a'] > 35", [37, 39]), ("exists doc['a']", list(range(40)))],
    "place.rtree": [("st_within(place, 'POLYGON ((2.5 2.5, 2.5 6, 6 6, 2.5 2.5))')", [3, 4, 5, 6])],
}


@pytest.mark.parametrize("version", sorted(path.name for path in FOLDER.iterdir()))
@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_stored_files_answer(version: str, name: str) -> None:
    data = memoryview(gzip.decompress((FOLDER / version / f"{name}.gz").read_bytes()))
    types = {"trie": "Trie"}
    ending = name.rpartition(".")[2]
    index = load_scalar(types.get(ending, ending.upper()), data)
    assert index.row_count == 40
    for text, rows in ANSWERS[name]:
        leaf: Any = parse_filter(text, SCHEMA).root
        lookup = index.lookup(leaf)
        assert lookup is not None, text
        assert [row for row, found in enumerate(lookup.mask()) if found] == rows, text
