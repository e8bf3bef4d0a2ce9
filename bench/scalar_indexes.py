"""Filters over one million sealed rows with a scalar index and without: `python -m bench.scalar_indexes`.

Each filter is evaluated as a query node does it on its first read, in one thread: by a scan (the column is decoded
already; `first` also reads the JSON path or the shapes, which are kept for the next scan) and by the index that its
type names, just mapped. Printed are CPU milliseconds, how long the build took, and the size of the file.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from bench.filters import best, made_columns, milliseconds, opened, sealed_file
from elanus.expr import ShredCache, evaluate, parse_filter
from elanus.index.registry import build_scalar, load_scalar, resolve
from elanus.model.index import IndexDefinition
from elanus.model.schema import CollectionSchema, FieldSchema
from elanus.model.segment import FileRef, IndexFile
from elanus.model.types import DataType
from elanus.search.masks import filter_mask
from elanus.segment.sealed import BuiltScalar, SealedSegment

ROWS = 1_000_000
LOSS_MS_MAX = 2.0
"""Of an index, beside a scan of a JSON path that is kept already: the choice does not know that it is."""
SCHEMA = CollectionSchema(
    "bench",
    (
        FieldSchema(100, "id", DataType.INT64, is_primary=True),
        FieldSchema(101, "a", DataType.INT64),
        FieldSchema(102, "s", DataType.VARCHAR),
        FieldSchema(103, "j", DataType.JSON),
        FieldSchema(104, "t", DataType.ARRAY, element_type=DataType.INT64),
        FieldSchema(105, "title", DataType.VARCHAR),
        FieldSchema(106, "kind", DataType.VARCHAR),
        FieldSchema(107, "place", DataType.GEOMETRY),
    ),
)
GRAMS = {"min_gram": "2", "max_gram": "4"}
PATH = {"json_cast_type": "DOUBLE", "json_path": 'j["k"]["n"]'}


class Case(NamedTuple):
    """A filter, and the index that answers it."""

    name: str
    field: str
    index_type: str
    text: str
    params: dict[str, str] = {}


class Figures(NamedTuple):
    """Milliseconds, seconds, bytes."""

    first: float
    scan: float
    index_first: float
    index: float
    build_s: float
    file_bytes: int
    hits: int


def wkb_points(count: int) -> pa.Array:
    """Points spread over the globe, as they are stored."""
    chance = np.random.default_rng(11)
    points = np.zeros(count, np.dtype([("order", "u1"), ("kind", "<u4"), ("x", "<f8"), ("y", "<f8")]))
    points["order"], points["kind"] = 1, 1
    points["x"], points["y"] = chance.uniform(-180, 180, count), chance.uniform(-90, 90, count)
    offsets = np.arange(count + 1) * points.dtype.itemsize
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), count, [None, pa.py_buffer(offsets), pa.py_buffer(points.tobytes())]
    )


def made_cases(columns: dict[str, Any]) -> list[Case]:
    """One for each predicate that an index answers."""
    wanted = np.random.default_rng(3).choice(columns["a"], 100, replace=False).tolist()
    one = int(columns["a"][0])
    square = "POLYGON ((10 10, 13.6 10, 13.6 11.8, 10 11.8, 10 10))"
    return [
        Case("a == constant", "a", "STL_SORT", f"a == {one}"),
        Case("a in 100", "a", "STL_SORT", f"a in {wanted}"),
        Case("1 % of a", "a", "STL_SORT", "500000 <= a < 510000"),
        Case("s == constant", "s", "INVERTED", "s == 'x000023-package'"),
        Case("s like 'x00%'", "s", "Trie", "s like 'x00%'"),
        Case("s like '%77-p%'", "s", "INVERTED", "s like '%77-p%'"),
        Case("title like '%777%'", "title", "NGRAM", "title like '%7773%'", GRAMS),
        Case("kind == constant", "kind", "BITMAP", "kind == 'kind 3'"),
        Case("kind in 5 of 20", "kind", "BITMAP", "kind in ['kind 3', 'kind 4', 'kind 5', 'kind 6', 'kind 7']"),
        Case("json path range", "j", "INVERTED", 'j["k"]["n"] > 990', PATH),
        Case("json path half", "j", "INVERTED", 'j["k"]["n"] > 500', PATH),
        Case("array_contains", "t", "INVERTED", "array_contains(t, 7)"),
        Case("contains_all", "t", "INVERTED", "array_contains_all(t, [7, 8])"),
        Case("st_within", "place", "RTREE", f"st_within(place, '{square}')"),
        Case("st_dwithin", "place", "RTREE", "st_dwithin(place, 'POINT (10 10)', 100000)"),
        Case("two of them", "a", "STL_SORT", "500000 <= a < 510000 and kind == 'kind 3'"),
    ]


def made(row_count: int) -> dict[str, Any]:
    """The columns of `bench.filters`, and texts that are all different, few kinds, and places."""
    numbers = np.arange(row_count)
    titles = [f"title {number * 7919 % 1_000_003:07d} of many" for number in range(row_count)]
    kinds = pa.array([f"kind {number}" for number in range(20)], pa.large_string())
    return made_columns(row_count) | {
        "title": pa.array(titles, pa.large_string()),
        "kind": kinds.take(pa.array(numbers * 31 % 20)),
        "place": wkb_points(row_count),
    }


def measured(segment: SealedSegment, case: Case) -> Figures:
    """One filter both ways; the rows agree."""
    field = SCHEMA.field(case.field)
    assert field is not None
    filter_ = parse_filter(case.text, SCHEMA)
    for field_id in filter_.field_ids:
        segment.column(field_id)
    segment.shreds = ShredCache()  # nothing of an earlier filter is kept
    segment.scalar_indexes = ()
    first = milliseconds(lambda: filter_mask(segment, filter_))
    scan = best(lambda: filter_mask(segment, filter_))
    expected = filter_mask(segment, filter_)
    segment.shreds = ShredCache()
    definition = IndexDefinition(1, "", field.field_id, field.name, {"index_type": case.index_type, **case.params})
    started = time.process_time()
    data = b"".join(build_scalar(definition, field, segment.column(field.field_id)))
    build_s = time.process_time() - started
    kind = resolve(definition.params, field).index_type
    file = IndexFile(1, field.field_id, kind, "", FileRef("index", len(data), 0))
    segment.scalar_indexes = (BuiltScalar(file, load_scalar(kind, memoryview(data))),)
    trace: list[str] = []
    evaluate(filter_, segment, trace=trace)
    assert kind in trace, f"{case.text}: answered by {trace}"
    segment.scalar_indexes = (BuiltScalar(file, load_scalar(kind, memoryview(data))),)
    index_first = milliseconds(lambda: filter_mask(segment, filter_))
    index = best(lambda: filter_mask(segment, filter_))
    found = filter_mask(segment, filter_)
    assert np.array_equal(found.keep, expected.keep), case.text
    return Figures(first, scan, index_first, index, build_s, len(data), found.count)


def report(found: dict[str, tuple[Case, Figures]]) -> str:
    """One line a filter."""
    lines = [
        "filter              index      scan first    scan   index first   index   ratio  build s   file MB     rows"
    ]
    for name, (case, one) in found.items():
        lines.append(
            f"{name:20}{case.index_type:9}{one.first:12.2f}{one.scan:8.2f}{one.index_first:14.3f}{one.index:8.3f}"
            f"{one.scan / one.index:8.1f}{one.build_s:9.2f}{one.file_bytes / 1e6:10.1f}{one.hits:9d}"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print; exit 1 where an index is much slower than the scan that it was preferred to."""
    parser = argparse.ArgumentParser(prog="python -m bench.scalar_indexes", description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    options = parser.parse_args()
    pa.set_cpu_count(1)
    columns = made(options.rows)
    segment = opened(sealed_file(columns, SCHEMA), options.rows, SCHEMA)
    found = {case.name: (case, measured(segment, case)) for case in made_cases(columns)}
    print(report(found))
    slower = [name for name, (_, one) in found.items() if one.index > one.scan + LOSS_MS_MAX]
    if slower:
        sys.exit(f"slower with an index: {', '.join(slower)}")


if __name__ == "__main__":
    main()
