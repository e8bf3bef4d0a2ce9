"""Aggregates over the rows of a query, grouped by the values of fields: partial at each segment, merged on the way up.

A partial result is a table with one row per group: the group's values, then the states of the aggregates. `count` and
`sum` add up, `min` and `max` compare, and `avg` is carried as a sum and a count until it is finished. NULL is a group
of its own and is left out of every aggregate but `count(*)`; the sum of no value is NULL. Sums of integers are 64 bits
and wrap, as arithmetic in filters does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from elanus.base.errors import check
from elanus.base.limits import QUERY_GROUP_COUNT_MAX
from elanus.model.columns import Column, Rows, arrow_type, from_arrow, to_arrow
from elanus.model.errors import RequestError
from elanus.model.reads import Aggregate, Aggregation, Found
from elanus.model.schema import CollectionSchema
from elanus.segment.reader import Reader

_MERGED = {"count": "sum", "sum": "sum", "min": "min", "max": "max"}


def partial_groups(reader: Reader, rows: Rows, aggregation: Aggregation, read_timestamp: int) -> Found:
    """The groups of these rows of one segment."""
    columns = {field_id: to_arrow(reader.column(field_id).take(rows)) for field_id in _field_ids(aggregation)}
    return _partial(columns, len(rows), aggregation, read_timestamp)


def no_groups(schema: CollectionSchema, aggregation: Aggregation, read_timestamp: int) -> Found:
    """The groups of no rows."""
    columns = {}
    for field_id in _field_ids(aggregation):
        field = schema.field_by_id(field_id)
        check(field is not None, f"no field {field_id}")
        assert field is not None
        columns[field_id] = pa.array([], arrow_type(field.data_type, field.element_type))
    return _partial(columns, 0, aggregation, read_timestamp)


def _field_ids(aggregation: Aggregation) -> set[int]:
    return {*aggregation.group_field_ids, *(one.field_id for one in aggregation.aggregates if one.field_id)}


def _partial(columns: Mapping[int, pa.Array], row_count: int, aggregation: Aggregation, read_timestamp: int) -> Found:
    names = _group_names(aggregation)
    arrays = [columns[field_id] for field_id in aggregation.group_field_ids]
    folds: list[tuple[str, str]] = []
    for one, kind in _states(aggregation):
        values = columns[one.field_id] if one.field_id else pa.array(np.zeros(row_count, np.int8))
        arrays.append(pc.cast(values, pa.float64(), safe=False) if one.function == "avg" and kind == "sum" else values)
        folds.append((f"s{len(folds)}", kind))
    table = pa.Table.from_arrays(arrays, [*names, *(name for name, _ in folds)])
    return _folded(table, names, folds, read_timestamp)


def merged_groups(parts: Sequence[Found], aggregation: Aggregation) -> Found:
    """The groups of several partial results as one."""
    names = _group_names(aggregation)
    folds = [(f"s{place}", _MERGED[kind]) for place, (_, kind) in enumerate(_states(aggregation))]
    tables = [
        pa.Table.from_arrays([to_arrow(column) for column in part.groups], [*names, *(name for name, _ in folds)])
        for part in parts
    ]
    return _folded(pa.concat_tables(tables), names, folds, max(part.read_timestamp for part in parts))


def finished(found: Found, aggregation: Aggregation) -> tuple[list[Column], list[Column]]:
    """The groups' values and the aggregates, in the order of the aggregation; a count of no rows is 0."""
    group_count = len(aggregation.group_field_ids)
    states = list(found.groups[group_count:])
    results = []
    for one in aggregation.aggregates:
        state = states.pop(0)
        if one.function == "avg":
            state = _divided(state, states.pop(0))
        elif one.function == "count":
            state = Column(state.values)
        results.append(state)
    return list(found.groups[:group_count]), results


def _group_names(aggregation: Aggregation) -> list[str]:
    return [f"g{place}" for place in range(len(aggregation.group_field_ids))]


def _states(aggregation: Aggregation) -> list[tuple[Aggregate, str]]:
    """Each state with the aggregate it serves and the function that makes it."""
    states = []
    for one in aggregation.aggregates:
        kinds = ("sum", "count") if one.function == "avg" else (one.function,)
        states += [(one, kind) for kind in kinds]
    return states


def _folded(table: pa.Table, names: list[str], folds: Sequence[tuple[str, str]], read_timestamp: int) -> Found:
    grouped = table.group_by(names, use_threads=False).aggregate(list(folds))
    if grouped.num_rows > QUERY_GROUP_COUNT_MAX:
        raise RequestError(f"the query has more than {QUERY_GROUP_COUNT_MAX} groups; filter or group by less")
    columns = [*names, *(f"{name}_{kind}" for name, kind in folds)]
    groups = tuple(from_arrow(grouped.column(name)) for name in columns)
    return Found(row_count=grouped.num_rows, groups=groups, read_timestamp=read_timestamp)


def _divided(sums: Column, counts: Column) -> Column:
    valid = np.asarray(counts.values) > 0
    values = np.divide(sums.values, counts.values, out=np.zeros(len(valid), np.float64), where=valid)
    return Column(values, None if valid.all() else valid)
