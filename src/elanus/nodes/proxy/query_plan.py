"""What a query asks for, beyond its filter: rows, their number or their aggregates; which page, and in which order.

Aggregates are output fields like `sum(price)`; with `group_by_fields` the other output fields are among those. A query
with `element_filter` counts elements of a struct array, not rows: its limit, offset and `count(*)` are about them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from elanus.model.errors import BadParameterError
from elanus.model.reads import Aggregate, Aggregation, OrderKey
from elanus.model.requests import QueryRequest
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType
from elanus.nodes.proxy.entry import CollectionEntry
from elanus.nodes.proxy.forms import Clock, clock_of
from elanus.nodes.proxy.outputs import Outputs, expanded
from elanus.nodes.proxy.plan import boolean, integer, result_window

COUNT_FIELD: Final = FieldSchema(field_id=0, name="count(*)", data_type=DataType.INT64)
_AGGREGATE: Final = re.compile(r"(count|sum|avg|min|max)\s*\(\s*(\*|\w+)\s*\)", re.IGNORECASE)
_GROUPED_TYPES: Final = frozenset(
    {DataType.BOOL, DataType.INT8, DataType.INT16, DataType.INT32, DataType.INT64, DataType.VARCHAR,
     DataType.TIMESTAMPTZ}
)  # fmt: skip
_ORDERED_TYPES: Final = _GROUPED_TYPES | {DataType.FLOAT, DataType.DOUBLE}
_DIRECTIONS: Final = {"asc": False, "desc": True}
_NULLS: Final = {"nulls_first": True, "nulls_last": False}


class Cursor(NamedTuple):
    """Where the last page of a query over elements ended: a key as text, and the place of its last element."""

    key: str
    place: int


class QueryPlan(NamedTuple):
    """`limit` -1: all. `order` and `grouping` hold fields; `results` the fields of the reply in its order, of which
    those of an aggregation have the ids of `aggregation`'s in turn."""

    limit: int
    offset: int
    clock: Clock
    is_count: bool
    is_iterator: bool
    ignore_growing: bool
    outputs: Outputs
    order: tuple[OrderKey, ...]
    aggregation: Aggregation | None
    results: tuple[FieldSchema, ...]
    cursor: Cursor | None

    @property
    def needs_limit(self) -> bool:
        """Whether the rows asked for are bounded by the limit alone where there is no filter."""
        return not self.is_count and self.aggregation is None

    @property
    def row_limit(self) -> int:
        """Rows that suffice of each shard, -1 for all: the first one after a cursor may have been shown in full."""
        return self.limit + self.offset + (self.cursor is not None) if self.limit >= 0 else -1

    @property
    def read_ids(self) -> tuple[int, ...]:
        """The fields to bring: those of the reply and those that order it."""
        if self.is_count or self.aggregation is not None:
            return ()
        return tuple(dict.fromkeys((*self.outputs.ids, *(key.field_id for key in self.order))))


def query_plan(entry: CollectionEntry, request: QueryRequest) -> QueryPlan:
    """Check the parameters. Raises what the client is told."""
    params = request.params
    _check_identity(entry, params)
    is_iterator = boolean(params, {}, "iterator", "value for iterator field is invalid")
    boolean(params, {}, "reduce_stop_for_best", "value for reduce_stop_for_best is invalid")
    limit, offset = _window(params)
    groups = _fields_of(entry, params.get("group_by_fields", ""))
    aggregates = [(name, found) for name in request.output_fields if (found := _AGGREGATE.fullmatch(name.strip()))]
    is_count = bool(aggregates) and not groups and [_is_row_count(found) for _, found in aggregates] == [True]
    if is_count and len(request.output_fields) > 1:
        raise BadParameterError(f"{COUNT_FIELD.name} must be the only output field")
    if is_count and "limit" in params:
        raise BadParameterError("count entities with pagination is not allowed")
    aggregation: Aggregation | None = None
    results: tuple[FieldSchema, ...] = ()
    if (groups or aggregates) and not is_count:
        aggregation, results = _aggregation(entry, request, groups)
    order = _order(entry, params.get("order_by_fields", ""), groups if aggregation is not None else None)
    if order and (limit < 0 and aggregation is None):
        raise BadParameterError("ORDER BY requires explicit limit")
    if order and is_iterator:
        raise BadParameterError("ORDER BY with iterator is not supported")
    plain = () if is_count or aggregation is not None else request.output_fields
    return QueryPlan(
        limit=limit,
        offset=offset,
        clock=clock_of(params, entry.timezone),
        is_count=is_count,
        is_iterator=is_iterator,
        ignore_growing=boolean(params, {}, "ignore_growing", "parse ignore growing field failed"),
        outputs=expanded(entry, plain, with_primary=True),
        order=order,
        aggregation=aggregation,
        results=results,
        cursor=_cursor(params, is_iterator),
    )


def _check_identity(entry: CollectionEntry, params: Mapping[str, str]) -> None:
    asked = params.get("collection_id", "")
    if asked and asked != str(entry.collection_id):
        raise BadParameterError(
            "Input collection id is not consistent to collectionID in the context,alias or database may have changed"
        )


def _window(params: Mapping[str, str]) -> tuple[int, int]:
    """Limit (-1: none) and offset. An offset without a limit has no meaning and is left out."""
    if not params.get("limit"):
        return -1, 0
    return result_window(params)


def _cursor(params: Mapping[str, str], is_iterator: bool) -> Cursor | None:
    key, place = params.get("query_iter_last_pk"), params.get("query_iter_last_element_offset")
    if key is None and place is None:
        return None
    if not is_iterator or key is None or place is None:
        raise BadParameterError("query iterator cursor needs iterator, the last key and the last element offset")
    return Cursor(key, integer(params, "query_iter_last_element_offset", None))


# --- aggregates -----------------------------------------------------------------------------------------------------
def _aggregation(
    entry: CollectionEntry, request: QueryRequest, groups: tuple[FieldSchema, ...]
) -> tuple[Aggregation, tuple[FieldSchema, ...]]:
    if not request.output_fields:
        raise BadParameterError("group_by_fields needs output fields: grouped fields or aggregates")
    for field in groups:
        if field.data_type not in _GROUPED_TYPES:
            raise BadParameterError(f"group by field '{field.name}' has unsupported data type {field.data_type.label}")
    results: list[FieldSchema] = []
    aggregates: list[Aggregate] = []
    for name in dict.fromkeys(request.output_fields):
        found = _AGGREGATE.fullmatch(name.strip())
        if found is not None:
            aggregate, kind = _aggregate(entry, found)
            aggregates.append(aggregate)
            results.append(FieldSchema(field_id=0, name=name, data_type=kind, nullable=aggregate.function != "count"))
            continue
        grouped = next((one for one in groups if one.name == name), None)
        if grouped is None:
            raise BadParameterError(f"output field '{name}' must be a group by field or an aggregate")
        results.append(grouped)
    return Aggregation(tuple(field.field_id for field in groups), tuple(aggregates)), tuple(results)


def _is_row_count(found: re.Match[str]) -> bool:
    return found.group(1).lower() == "count" and found.group(2) == "*"


def _aggregate(entry: CollectionEntry, found: re.Match[str]) -> tuple[Aggregate, DataType]:
    """The aggregate, and the type of its outcome."""
    function, name = found.group(1).lower(), found.group(2)
    if name == "*":
        if function != "count":
            raise BadParameterError(f"aggregate {function}(*) is not supported, name a field")
        return Aggregate("count"), DataType.INT64
    field = _field(entry, name, f"aggregate field '{name}' does not exist in collection schema")
    kind = field.data_type
    comparable = kind.is_number or kind is DataType.VARCHAR or kind is DataType.TIMESTAMPTZ
    if not (kind.is_number or function == "count" or (function in ("min", "max") and comparable)):
        raise BadParameterError(f"aggregate {function} is not supported on field '{name}' of type {kind.label}")
    outcomes = {
        "count": DataType.INT64,
        "avg": DataType.DOUBLE,
        "sum": DataType.DOUBLE if kind.is_floating else DataType.INT64,
    }
    return Aggregate(function, field.field_id), outcomes.get(function, kind)


def _fields_of(entry: CollectionEntry, text: str) -> tuple[FieldSchema, ...]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    return tuple(
        _field(entry, name, f"group by field '{name}' does not exist in collection schema")
        for name in dict.fromkeys(names)
    )


def _field(entry: CollectionEntry, name: str, fault: str) -> FieldSchema:
    field = entry.fields.get(name)
    if field is None or field.is_dynamic:
        raise BadParameterError(fault)
    entry.require_field(field)
    return field


# --- order ----------------------------------------------------------------------------------------------------------
def _order(entry: CollectionEntry, text: str, groups: tuple[FieldSchema, ...] | None) -> tuple[OrderKey, ...]:
    """`f:asc|desc[:nulls_first|nulls_last],…`; with an aggregation only its grouping fields."""
    return tuple(_order_key(entry, part.strip(), groups) for part in text.split(",") if part.strip())


def _order_key(entry: CollectionEntry, part: str, groups: tuple[FieldSchema, ...] | None) -> OrderKey:
    name, *words = (word.strip() for word in part.split(":"))
    if _AGGREGATE.fullmatch(name):
        raise BadParameterError(f"ORDER BY on aggregate expression '{name}' is not yet supported")
    field = _field(entry, name, f"order_by field '{name}' does not exist in collection schema")
    if field.data_type not in _ORDERED_TYPES:
        raise BadParameterError(f"order_by field '{name}' has type {field.data_type.label} which is not sortable")
    if groups is not None and field not in groups:
        raise BadParameterError(f"order_by field '{name}' must be one of the group by fields")
    descending = _DIRECTIONS.get(words[0].lower() if words else "asc")
    nulls_first = _NULLS.get(words[1].lower()) if len(words) > 1 else descending
    if descending is None or nulls_first is None or len(words) > 2:
        raise BadParameterError(f"invalid order_by field '{part}', expect field:asc|desc[:nulls_first|nulls_last]")
    return OrderKey(field.field_id, descending, nulls_first)
