"""The read path: search and query, from request to reply.

Both are: look the collection up, make (or find) a plan, ask every shard at once, reduce. With one shard nothing is
gathered and nothing is merged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa

from elanus.base.doors import Doors
from elanus.base.limits import OUTPUT_BYTES_MAX, QUERY_COUNT_MAX, RESULT_WINDOW_MAX
from elanus.model.columns import NUMPY_DTYPES, Column, arrow_type
from elanus.model.errors import BadParameterError, RequestError, UnsupportedError
from elanus.model.reads import Found, Hits, ShardRead, VectorQuery
from elanus.model.requests import OutgoingField, QueryReply, QueryRequest, SearchReply, SearchRequest
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType
from elanus.nodes.contracts import Shard
from elanus.nodes.proxy.consistency import freshness
from elanus.nodes.proxy.entry import CollectionEntry
from elanus.nodes.proxy.filters import checked_filter, is_always_true, listed_keys, pinned_partitions
from elanus.nodes.proxy.iterate import bounded, last_bound
from elanus.nodes.proxy.outputs import expanded
from elanus.nodes.proxy.plan import SearchPlan, boolean, checked_queries, integer, search_plan
from elanus.nodes.proxy.reduce import reduce_found, reduce_hits, rounded
from elanus.nodes.proxy.routes import Routes
from elanus.nodes.proxy.routing import shards_of

COUNT_FIELD: Final = FieldSchema(field_id=0, name="count(*)", data_type=DataType.INT64)
_REFUSED_QUERY_KEYS: Final = ("order_by_fields", "group_by_fields", "time_fields")


class Reader:
    """Searches and queries through the shards' delegators."""

    def __init__(self, doors: Doors, routes: Routes) -> None:
        self._doors = doors
        self._routes = routes

    async def search(self, request: SearchRequest) -> SearchReply:
        """The best hits of each query vector."""
        return await self._routes.with_entry(request, lambda entry: self._search(entry, request))

    async def query(self, request: QueryRequest) -> QueryReply:
        """The rows that pass the filter, in key order, or their number."""
        return await self._routes.with_entry(request, lambda entry: self._query(entry, request))

    async def _search(self, entry: CollectionEntry, request: SearchRequest) -> SearchReply:
        plan = search_plan(entry, request)
        query_count = _query_count(request)
        if plan.iterator is not None and query_count != 1:
            raise RequestError("search_iterator_v2 does not support processing multiple vectors simultaneously")
        queries = checked_queries(plan.field, request)
        partition_ids = plan.partition_ids
        if request.filter:
            bound = checked_filter(entry, request.filter, request.templates)
            partition_ids = pinned_partitions(entry, bound, partition_ids)
        is_iterator = plan.iterator is not None or "iterator" in request.params
        fresh = freshness(request.consistency, entry, is_iterator=is_iterator)
        radius, range_filter = bounded(plan)
        vector = VectorQuery(
            field_id=plan.field.field_id,
            metric=plan.metric,
            k=plan.k,
            queries=queries,
            params=plan.params,
            radius=radius,
            range_filter=range_filter,
        )
        read = ShardRead(
            vchannel=entry.shards[0].vchannel,
            level=fresh.level,
            guarantee_timestamp=fresh.guarantee_timestamp,
            at_timestamp=fresh.at_timestamp,
            partition_ids=partition_ids,
            filter=request.filter,
            templates=request.templates,
            vector=vector,
            limit=plan.k,
            output_field_ids=plan.outputs.ids,
            ignore_growing=plan.ignore_growing,
            expire_before=self._expire_before(entry),
        )
        hits = reduce_hits(
            await self._search_shards(entry, read), query_count, plan.limit, plan.offset, plan.larger_is_better
        )
        return self._search_reply(entry, plan, hits)

    async def _search_shards(self, entry: CollectionEntry, read: ShardRead) -> Sequence[Hits]:
        if len(entry.shards) == 1:
            return [await self._routes.node(entry.shards[0]).search(read)]
        return await asyncio.gather(
            *[self._routes.node(shard).search(_for_shard(read, shard)) for shard in entry.shards]
        )

    def _search_reply(self, entry: CollectionEntry, plan: SearchPlan, hits: Hits) -> SearchReply:
        token, bound = "", 0.0
        if plan.iterator is not None:
            token = plan.iterator.token or self._doors.random.token()
            bound = last_bound(plan, hits.scores)
        return SearchReply(
            collection=entry.name,
            primary_field=entry.primary.name,
            counts=hits.counts,
            keys=hits.keys,
            scores=rounded(hits.scores, plan.round_decimal),
            fields=_outgoing(plan.outputs.fields, hits.fields, len(hits.keys)),
            output_fields=plan.outputs.names,
            session_timestamp=hits.read_timestamp,
            searched_row_count=hits.searched_row_count,
            iterator_token=token,
            iterator_last_bound=bound,
        )

    def _expire_before(self, entry: CollectionEntry) -> int:
        return entry.expire_before(self._doors.clock.now_ms()) if entry.ttl_ms else 0

    async def _query(self, entry: CollectionEntry, request: QueryRequest) -> QueryReply:
        params = request.params
        _check_query_params(entry, request)
        entry.require_loaded("query")
        bound = checked_filter(entry, request.filter, request.templates)
        limit, offset = _window(request)
        is_count = _is_count(request)
        if is_count and "limit" in params:
            raise BadParameterError("count entities with pagination is not allowed")
        if not is_count and limit < 0 and is_always_true(bound):
            raise BadParameterError("empty expression should be used with limit")
        partition_ids = pinned_partitions(entry, bound, entry.partitions_to_read(request.partitions, "query"))
        is_iterator = boolean(params, {}, "iterator", "value for iterator field is invalid")
        fresh = freshness(request.consistency, entry, is_iterator=is_iterator)
        outputs = expanded(entry, () if is_count else request.output_fields, with_primary=True)
        read = ShardRead(
            vchannel=entry.shards[0].vchannel,
            level=fresh.level,
            guarantee_timestamp=fresh.guarantee_timestamp,
            at_timestamp=fresh.at_timestamp,
            partition_ids=partition_ids,
            filter=request.filter,
            templates=request.templates,
            limit=limit + offset if limit >= 0 else -1,
            count_only=is_count,
            output_field_ids=() if is_count else outputs.ids,
            ignore_growing=boolean(params, {}, "ignore_growing", "parse ignore growing field failed"),
            expire_before=self._expire_before(entry),
        )
        parts = await self.query_shards(_owners(entry, listed_keys(entry, bound, exact=False)), read)
        if is_count:
            return _count_reply(entry, parts)
        found = reduce_found(parts, limit, offset)
        _check_output_size(found)
        return QueryReply(
            collection=entry.name,
            primary_field=entry.primary.name,
            fields=_outgoing(outputs.fields, found.fields, found.row_count),
            output_fields=outputs.names,
            session_timestamp=max(part.read_timestamp for part in parts),
        )

    async def query_shards(self, shards: Sequence[Shard], read: ShardRead) -> Sequence[Found]:
        """The answers of these shards, in their order."""
        if len(shards) == 1:
            return [await self._routes.node(shards[0]).query(_for_shard(read, shards[0]))]
        return await asyncio.gather(*[self._routes.node(shard).query(_for_shard(read, shard)) for shard in shards])


def _for_shard(read: ShardRead, shard: Shard) -> ShardRead:
    return msgspec.structs.replace(read, vchannel=shard.vchannel)


def _owners(entry: CollectionEntry, keys: Column | None) -> Sequence[Shard]:
    """The shards that can hold these keys: all where keys are unknown, one where no key is named at all."""
    if keys is None or len(entry.shards) == 1:
        return entry.shards
    numbers = np.unique(shards_of(keys, len(entry.shards)))
    return [entry.shards[number] for number in numbers] or entry.shards[:1]


def _query_count(request: SearchRequest) -> int:
    count = len(request.queries)
    if not 1 <= count <= QUERY_COUNT_MAX:
        raise RequestError(
            f"nq [{count}] is invalid, nq (number of search vector per search request) should be in range "
            f"[1, {QUERY_COUNT_MAX}], but got {count}"
        )
    if request.query_count not in (0, count):
        raise RequestError(f"nq [{request.query_count}] is not the number of vectors sent, {count}")
    return count


def _check_query_params(entry: CollectionEntry, request: QueryRequest) -> None:
    for key in _REFUSED_QUERY_KEYS:
        if request.params.get(key):
            raise UnsupportedError(f"query option {key}")
    boolean(request.params, {}, "reduce_stop_for_best", "value for reduce_stop_for_best is invalid")
    asked = request.params.get("collection_id", "")
    if asked and asked != str(entry.collection_id):
        raise BadParameterError(
            "Input collection id is not consistent to collectionID in the context,alias or database may have changed"
        )


def _window(request: QueryRequest) -> tuple[int, int]:
    """Limit (-1: none) and offset. An offset without a limit has no meaning and is left out."""
    if not request.params.get("limit"):
        return -1, 0
    fault = "invalid max query result window, "
    limit, offset = integer(request.params, "limit", None), integer(request.params, "offset", 0)
    if limit <= 0:
        raise RequestError(f"{fault}limit [{limit}] is invalid, should be greater than 0")
    if offset < 0:
        raise RequestError(f"{fault}offset [{offset}] is invalid, should be gte than 0")
    if limit + offset > RESULT_WINDOW_MAX:
        raise RequestError(
            f"{fault}(offset+limit) should be in range [1, {RESULT_WINDOW_MAX}], but got {limit + offset}"
        )
    return limit, offset


def _is_count(request: QueryRequest) -> bool:
    counts = [name for name in request.output_fields if name.lower() == COUNT_FIELD.name]
    if counts and len(request.output_fields) > 1:
        raise BadParameterError(f"{COUNT_FIELD.name} must be the only output field")
    return bool(counts)


def _check_output_size(found: Found) -> None:
    if sum(column.nbytes for column in found.fields.values()) > OUTPUT_BYTES_MAX:
        raise RequestError(f"query results exceed the maxOutputSize Limit {OUTPUT_BYTES_MAX}")


def _count_reply(entry: CollectionEntry, parts: Sequence[Found]) -> QueryReply:
    count = sum(part.row_count for part in parts)
    return QueryReply(
        collection=entry.name,
        primary_field=entry.primary.name,
        fields=(OutgoingField(COUNT_FIELD, Column(np.array([count], np.int64))),),
        output_fields=(COUNT_FIELD.name,),
        session_timestamp=max(part.read_timestamp for part in parts),
    )


def _outgoing(fields: Sequence[FieldSchema], columns: dict[int, Column], row_count: int) -> tuple[OutgoingField, ...]:
    """The reply's columns; a result without rows may come without columns."""
    if not fields:
        return ()
    if row_count == 0:
        return tuple(OutgoingField(field, columns.get(field.field_id) or empty_column(field)) for field in fields)
    return tuple(OutgoingField(field, columns[field.field_id]) for field in fields)


def empty_column(field: FieldSchema) -> Column:
    """No rows of the field."""
    dtype = NUMPY_DTYPES.get(field.data_type)
    if dtype is None:
        return Column(pa.array([], arrow_type(field.data_type, field.element_type)))
    if not field.data_type.is_vector:
        return Column(np.empty(0, dtype))
    width = field.dimension // 8 if field.data_type is DataType.BINARY_VECTOR else field.dimension
    return Column(np.empty((0, width), dtype))
