"""From the shards' answers of a query to the reply: counted, aggregated, or a page of rows or elements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from elanus.base.limits import OUTPUT_BYTES_MAX
from elanus.expr import Filter
from elanus.model.columns import Column
from elanus.model.errors import RequestError, UnsupportedError
from elanus.model.reads import ELEMENT_PLACES_ID, Found, OrderKey, ShardRead
from elanus.model.requests import OutgoingField, QueryReply
from elanus.nodes.proxy.entry import CollectionEntry
from elanus.nodes.proxy.forms import shown
from elanus.nodes.proxy.outputs import outgoing
from elanus.nodes.proxy.query_plan import COUNT_FIELD, Cursor, QueryPlan
from elanus.nodes.proxy.reduce import cut_found, merge_parts
from elanus.search.aggregate import finished
from elanus.search.order import ordered_rows
from elanus.search.reduce import taken_rows


def query_reply(entry: CollectionEntry, plan: QueryPlan, read: ShardRead, parts: Sequence[Found]) -> QueryReply:
    """The reply to the client."""
    if plan.is_count:
        count = np.array([sum(part.row_count for part in parts)], np.int64)
        return _reply(entry, parts, (OutgoingField(COUNT_FIELD, Column(count)),), (COUNT_FIELD.name,))
    found = merge_parts(parts, read)
    if plan.aggregation is not None:
        return _groups_reply(entry, plan, parts, found)
    places = found.fields.get(ELEMENT_PLACES_ID)
    if places is None:
        found = cut_found(found, plan.limit, plan.offset)
    elif found.row_count:
        found = _cut_elements(found, plan)
        places = found.fields[ELEMENT_PLACES_ID]
    _check_size(found.fields.values())
    fields = outgoing(plan.outputs.fields, found.fields, found.row_count, plan.clock)
    return _reply(entry, parts, fields, plan.outputs.names, places)


def check_elements(plan: QueryPlan, bound: Filter) -> None:
    """Refuse what does not go with a filter that means elements."""
    if bound.elements is None:
        return
    if plan.order:
        raise UnsupportedError("order_by_fields with element_filter")
    if plan.aggregation is not None:
        raise UnsupportedError("aggregates with element_filter")


def _reply(
    entry: CollectionEntry,
    parts: Sequence[Found],
    fields: tuple[OutgoingField, ...],
    names: tuple[str, ...],
    places: Column | None = None,
) -> QueryReply:
    return QueryReply(
        collection=entry.name,
        primary_field=entry.primary.name,
        fields=fields,
        output_fields=names,
        session_timestamp=max(part.read_timestamp for part in parts),
        element_places=places,
    )


def _check_size(columns: Iterable[Column]) -> None:
    if sum(column.nbytes for column in columns) > OUTPUT_BYTES_MAX:
        raise RequestError(f"query results exceed the maxOutputSize Limit {OUTPUT_BYTES_MAX}")


# --- groups ---------------------------------------------------------------------------------------------------------
def _groups_reply(entry: CollectionEntry, plan: QueryPlan, parts: Sequence[Found], found: Found) -> QueryReply:
    """Groups in the order asked for, else by their values, nulls last."""
    assert plan.aggregation is not None
    groups, aggregates = finished(found, plan.aggregation)
    by_id = dict(zip(plan.aggregation.group_field_ids, groups, strict=True))
    if groups:
        given = {key.field_id: key for key in plan.order}
        order = [*plan.order, *(OrderKey(field_id) for field_id in by_id if field_id not in given)]
        columns = [by_id[key.field_id] for key in order]
        limit = plan.limit + plan.offset if plan.limit >= 0 else -1
        rows = ordered_rows(columns, order, np.arange(found.row_count), limit)[plan.offset :]
        by_id = {field_id: column.take(rows) for field_id, column in by_id.items()}
        aggregates = [column.take(rows) for column in aggregates]
    _check_size([*by_id.values(), *aggregates])
    rest = iter(aggregates)
    fields = tuple(
        shown(field, by_id[field.field_id] if field.field_id else next(rest), plan.clock) for field in plan.results
    )
    return _reply(entry, parts, fields, tuple(field.name for field in plan.results))


# --- elements -------------------------------------------------------------------------------------------------------
def _cut_elements(found: Found, plan: QueryPlan) -> Found:
    """The page of elements: rows without one on it are left out."""
    lists: pa.Array = found.fields[ELEMENT_PLACES_ID].values
    offsets = np.asarray(lists.offsets)
    places = np.asarray(lists.values)[offsets[0] : offsets[-1]]
    owners = np.repeat(np.arange(found.row_count), np.diff(offsets))
    chosen = np.flatnonzero(_beyond(found, owners, places, plan.cursor))
    chosen = chosen[plan.offset : plan.offset + plan.limit if plan.limit >= 0 else None]
    rows, counts = np.unique(owners[chosen], return_counts=True)
    cut = taken_rows(found, rows)
    ends = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))
    column = Column(pa.LargeListArray.from_arrays(pa.array(ends), pa.array(places[chosen])))
    return msgspec.structs.replace(cut, fields={**cut.fields, ELEMENT_PLACES_ID: column})


def _beyond(
    found: Found, owners: npt.NDArray[np.int64], places: npt.NDArray[np.int64], cursor: Cursor | None
) -> npt.NDArray[np.bool_]:
    """The elements that earlier pages did not show."""
    if cursor is None or found.keys is None:
        return np.ones(len(places), np.bool_)
    # Keys ascend and the filter asks for keys from the cursor's on, so that only the first row can be that one.
    is_known = str(found.keys.values[0]) == cursor.key
    return np.asarray((owners > 0) | (places > cursor.place) | (not is_known))
