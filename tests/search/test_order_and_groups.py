"""ORDER BY and aggregates against plain Python, whole and merged from parts."""

from __future__ import annotations

import math
from functools import cmp_to_key
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elanus.base.limits import QUERY_GROUP_COUNT_MAX
from elanus.model.columns import Column
from elanus.model.errors import RequestError
from elanus.model.reads import Aggregate, Aggregation, Found, OrderKey, ShardRead
from elanus.model.schema import CollectionSchema, FieldSchema
from elanus.model.types import ConsistencyLevel, DataType
from elanus.search.aggregate import finished, merged_groups, no_groups, partial_groups
from elanus.search.found import merged
from elanus.search.order import ordered_rows

SCHEMA = CollectionSchema(
    "rows",
    (
        FieldSchema(100, "pk", DataType.INT64, is_primary=True),
        FieldSchema(101, "n", DataType.INT64, nullable=True),
        FieldSchema(102, "s", DataType.VARCHAR, nullable=True),
        FieldSchema(103, "f", DataType.FLOAT, nullable=True),
        FieldSchema(104, "b", DataType.BOOL, nullable=True),
    ),
)
NAMES = {field.field_id: field.name for field in SCHEMA.fields}
INTEGERS = st.one_of(st.integers(-2, 2), st.sampled_from([2**63 - 1, -(2**63)]))
CELLS: dict[int, st.SearchStrategy[Any]] = {
    101: st.none() | INTEGERS,
    102: st.none() | st.sampled_from(["", "a", "b", "é", "中"]),
    103: st.none() | st.sampled_from([0.0, -1.5, 2.5, 1.0]),
    104: st.none() | st.booleans(),
}
Row = dict[int, Any]
ROWS = st.lists(st.fixed_dictionaries(CELLS), max_size=30).map(
    lambda rows: [{100: key, **row} for key, row in enumerate(rows)]
)
_DTYPES = {100: "i8", 101: "i8", 103: "f4", 104: "?"}


def column(rows: list[Row], field_id: int) -> Column:
    """One field of the rows."""
    cells = [row[field_id] for row in rows]
    valid = np.array([cell is not None for cell in cells], np.bool_)
    mask = None if valid.all() else valid
    if field_id == 102:
        return Column(pa.array([cell or "" for cell in cells], pa.large_string()), mask)
    return Column(np.array([cell if cell is not None else 0 for cell in cells], _DTYPES[field_id]), mask)


def cells_of(found: Column) -> list[Any]:
    """The values with None for null."""
    values = found.values.tolist() if isinstance(found.values, np.ndarray) else found.values.to_pylist()
    if found.valid is None:
        return list(values)
    return [value if is_valid else None for value, is_valid in zip(values, found.valid.tolist(), strict=True)]


class Rows:
    """What the aggregation asks of a reader."""

    def __init__(self, rows: list[Row]) -> None:
        self._rows = rows

    def column(self, field_id: int) -> Column:
        """A whole field."""
        return column(self._rows, field_id)


# --- order ----------------------------------------------------------------------------------------------------------
ORDERS = st.lists(
    st.builds(OrderKey, st.sampled_from(sorted(CELLS)), st.booleans(), st.booleans()),
    min_size=1, max_size=3, unique_by=lambda key: key.field_id,
)  # fmt: skip


def plainly_ordered(rows: list[Row], order: list[OrderKey]) -> list[Row]:
    """By comparing two rows at a time."""

    def compare(left: Row, right: Row) -> int:
        for key in order:
            first, second = left[key.field_id], right[key.field_id]
            if first == second:
                continue
            if first is None or second is None:
                return -1 if (first is None) == key.nulls_first else 1
            if isinstance(first, str):
                first, second = first.encode(), second.encode()
            return -1 if (first < second) != key.descending else 1
        return int(left[100]) - int(right[100])

    return sorted(rows, key=cmp_to_key(compare))


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(ROWS, ORDERS, st.integers(-1, 12))
def test_rows_are_ordered(rows: list[Row], order: list[OrderKey], limit: int) -> None:
    limit = -1 if limit == 0 else limit
    places = ordered_rows([column(rows, key.field_id) for key in order], order, np.arange(len(rows)), limit)
    expected = [row[100] for row in plainly_ordered(rows, order)]
    assert places.tolist() == expected[: limit if limit >= 0 else None]


def test_nan_is_the_largest_number() -> None:
    values = [Column(np.array([1.0, math.nan, math.inf, -math.inf]))]
    assert ordered_rows(values, [OrderKey(1)], np.arange(4), -1).tolist() == [3, 0, 2, 1]
    assert ordered_rows(values, [OrderKey(1, True, True)], np.arange(4), -1).tolist() == [1, 2, 0, 3]


@settings(max_examples=100, deadline=None)
@given(ROWS, ORDERS, st.integers(1, 12), st.integers(1, 3))
def test_ordered_parts_are_merged(rows: list[Row], order: list[OrderKey], limit: int, part_count: int) -> None:
    parts = []
    for part in range(part_count):
        own = plainly_ordered([row for row in rows if row[100] % part_count == part], order)[:limit]
        parts.append(
            Found(
                row_count=len(own),
                keys=column(own, 100),
                timestamps=np.ones(len(own), np.uint64),
                fields={field_id: column(own, field_id) for field_id in CELLS},
            )
        )
    read = ShardRead(vchannel="v", level=ConsistencyLevel.STRONG, limit=limit, order=tuple(order))
    found = merged(parts, read)
    expected = plainly_ordered(rows, order)[:limit]
    assert found.row_count == len(expected)
    assert found.keys is not None
    assert cells_of(found.keys) == [row[100] for row in expected]
    if expected:
        assert cells_of(found.fields[102]) == [row[102] for row in expected]


# --- aggregates -----------------------------------------------------------------------------------------------------
AGGREGATES = st.lists(
    st.one_of(
        st.just(Aggregate("count")),
        st.builds(Aggregate, st.just("count"), st.sampled_from(sorted(CELLS))),
        st.builds(Aggregate, st.sampled_from(["sum", "avg", "min", "max"]), st.sampled_from([101, 103])),
        st.builds(Aggregate, st.sampled_from(["min", "max"]), st.just(102)),
    ),
    max_size=4, unique=True,
)  # fmt: skip
GROUPS = st.lists(st.sampled_from([101, 102, 104]), max_size=2, unique=True)


def plain_aggregate(one: Aggregate, rows: list[Row]) -> Any:
    """One aggregate of one group."""
    if not one.field_id:
        return len(rows)
    values = [row[one.field_id] for row in rows if row[one.field_id] is not None]
    match one.function:
        case "count":
            return len(values)
        case "sum" | "avg" if not values:
            return None
        case "sum" if one.field_id == 101:
            return (sum(values) + 2**63) % 2**64 - 2**63
        case "sum":
            return sum(values)
        case "avg":
            return sum(map(float, values)) / len(values)
    if not values:
        return None
    choose = min if one.function == "min" else max
    return choose(values, key=lambda value: value if one.field_id != 102 else value.encode())


def plain_groups(rows: list[Row], aggregation: Aggregation) -> dict[tuple[Any, ...], list[Any]]:
    """Each group's aggregates."""
    groups: dict[tuple[Any, ...], list[Row]] = {} if aggregation.group_field_ids else {(): []}
    for row in rows:
        groups.setdefault(tuple(row[field_id] for field_id in aggregation.group_field_ids), []).append(row)
    return {key: [plain_aggregate(one, own) for one in aggregation.aggregates] for key, own in groups.items()}


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(ROWS, GROUPS, AGGREGATES, st.integers(1, 3), st.booleans())
def test_groups(
    rows: list[Row], groups: list[int], aggregates: list[Aggregate], part_count: int, with_empty: bool
) -> None:
    if not groups and not aggregates:
        return
    aggregation = Aggregation(tuple(groups), tuple(aggregates))
    parts = [no_groups(SCHEMA, aggregation, 0)] if with_empty else []
    for part in range(part_count):
        chosen = np.array([row[100] for row in rows if row[100] % part_count == part], np.int64)
        parts.append(partial_groups(Rows(rows), chosen, aggregation, 7))  # type: ignore[arg-type]
    found = parts[0] if len(parts) == 1 else merged_groups(parts, aggregation)
    keys, results = finished(found, aggregation)
    expected = plain_groups(rows, aggregation)
    got_keys = list(zip(*map(cells_of, keys), strict=True)) if groups else [()] * found.row_count
    got = (
        dict(zip(got_keys, zip(*map(cells_of, results), strict=True), strict=True))
        if results
        else dict.fromkeys(got_keys, ())
    )
    assert set(got) == set(expected)
    for key, values in expected.items():
        for one, result, value in zip(aggregates, got[key], values, strict=True):
            # The order in which large numbers are added up decides what is left of the small ones.
            added = [abs(row[one.field_id]) for row in rows if one.function == "avg" and row[one.field_id] is not None]
            assert result == pytest.approx(value, abs=1e-12 + 1e-15 * sum(added))
    assert found.read_timestamp == 7


def test_too_many_groups_are_refused() -> None:
    class Many:
        def column(self, field_id: int) -> Column:
            return Column(np.arange(QUERY_GROUP_COUNT_MAX + 1))

    with pytest.raises(RequestError, match="groups"):
        partial_groups(Many(), np.arange(QUERY_GROUP_COUNT_MAX + 1), Aggregation((101,), ()), 0)  # type: ignore[arg-type]
