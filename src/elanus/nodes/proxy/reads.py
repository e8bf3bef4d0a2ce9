"""The read path: search and query, from request to reply.

Both are: look the collection up, make (or find) a plan, ask every shard at once, reduce. With one shard nothing is
gathered and nothing is merged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec
import numpy as np

from elanus.base.doors import Doors
from elanus.base.limits import QUERY_COUNT_MAX
from elanus.functions.rankers import MAX, AnyRanker
from elanus.functions.score_parameters import boosting_of, check_search_count, ranker_of
from elanus.model.columns import Column, Rows
from elanus.model.errors import BadParameterError, RequestError, UnsupportedError
from elanus.model.reads import Boosting, Found, Grouping, Hits, ShardRead, VectorQuery
from elanus.model.requests import FunctionScore, OutgoingField, QueryReply, QueryRequest, SearchReply, SearchRequest
from elanus.model.types import Metric
from elanus.nodes.contracts import Shard
from elanus.nodes.proxy.consistency import Freshness, freshness
from elanus.nodes.proxy.entry import CollectionEntry
from elanus.nodes.proxy.fill import FurtherRead, filled, further_reads, needs_filling
from elanus.nodes.proxy.filters import (
    check_searched_elements,
    checked_filter,
    is_always_true,
    listed_keys,
    pinned_partitions,
)
from elanus.nodes.proxy.forms import Clock, shown
from elanus.nodes.proxy.grouping import grouped_field
from elanus.nodes.proxy.isolation import check_pinned
from elanus.nodes.proxy.iterate import bounded, last_bound
from elanus.nodes.proxy.outputs import outgoing
from elanus.nodes.proxy.plan import SearchPlan, checked_queries, search_plan
from elanus.nodes.proxy.query_plan import query_plan
from elanus.nodes.proxy.query_reply import check_elements, query_reply
from elanus.nodes.proxy.reduce import merge_parts, page_of, reduce_hits, rounded
from elanus.nodes.proxy.routes import Routes
from elanus.nodes.proxy.routing import shards_of
from elanus.nodes.proxy.stored_vectors import no_hits, read_of_ids, spread, with_vectors
from elanus.search.fuse import GroupOrder, fuse
from elanus.search.reduce import best_elements


class Reader:
    """Searches and queries through the shards' delegators."""

    def __init__(self, doors: Doors, routes: Routes) -> None:
        self._doors = doors
        self._routes = routes

    async def search(self, request: SearchRequest) -> SearchReply:
        """The best hits of each query vector."""
        return await self._routes.with_entry(request, lambda entry: self._search(entry, request), kind="reading")

    async def query(self, request: QueryRequest) -> QueryReply:
        """The rows that pass the filter, in key order, or their number."""
        return await self._routes.with_entry(request, lambda entry: self._query(entry, request), kind="reading")

    async def _search(self, entry: CollectionEntry, request: SearchRequest) -> SearchReply:
        plan = search_plan(entry, request)
        query_count, places = query_count_of(request), None
        if plan.iterator is not None and query_count != 1:
            raise RequestError("search_iterator_v2 does not support processing multiple vectors simultaneously")
        iterates = plan.iterator is not None or _iterates(request)
        fresh = freshness(request.consistency, entry, is_iterator=iterates)
        ranker = None
        if request.function_score is not None:
            ranker = ranker_of(request.function_score, entry.schema, query_count)
            check_search_count(ranker, 1)
        if request.ids is not None:
            request, places = await self.with_stored_vectors(entry, request, plan, fresh)
            if not len(places):
                return self._search_reply(entry, plan, no_hits(entry, query_count))
        read = with_input(entry, self.search_read(entry, request, plan, fresh), ranker)
        hits = (await self.searched(entry, [read], one_moment=iterates))[0]
        if ranker is not None:
            hits = best_elements(hits)
            order = None if plan.grouping is None else GroupOrder(plan.grouping.size, MAX)
            hits = fuse([hits], [Metric(plan.metric)], ranker, order)
        if plan.offset:
            hits = page_of(hits, plan.limit, plan.offset)
        if places is not None:
            hits = spread(hits, places, query_count)
        return self._search_reply(entry, plan, hits)

    def search_read(
        self, entry: CollectionEntry, request: SearchRequest, plan: SearchPlan, fresh: Freshness
    ) -> ShardRead:
        """What the shards are asked for."""
        partition_ids, bound = plan.partition_ids, None
        if request.filter:
            bound = checked_filter(entry, request.filter, request.templates, zone=plan.clock.zone)
            check_searched_elements(plan, bound)
            partition_ids = pinned_partitions(entry, bound, partition_ids)
        check_pinned(entry, bound)
        queries = checked_queries(plan, request)
        radius, range_filter = bounded(plan)
        vector = VectorQuery(
            field_id=plan.field.field_id,
            metric=plan.metric,
            k=plan.k,
            queries=queries,
            params=plan.params,
            radius=radius,
            range_filter=range_filter,
            grouping=plan.grouping,
            boosting=None if request.function_score is None else self._boosting(entry, plan, request.function_score),
        )
        return ShardRead(
            vchannel=entry.shards[0].vchannel,
            level=fresh.level,
            guarantee_timestamp=fresh.guarantee_timestamp,
            at_timestamp=fresh.at_timestamp,
            partition_ids=partition_ids,
            filter=request.filter,
            templates=request.templates,
            timezone=plan.clock.zone,
            casts=entry.casts,
            vector=vector,
            limit=plan.k,
            output_field_ids=plan.outputs.ids,
            ignore_growing=plan.ignore_growing,
            expire_before=self._expire_before(entry),
        )

    def _boosting(self, entry: CollectionEntry, plan: SearchPlan, score: FunctionScore) -> Boosting | None:
        boosting = boosting_of(score, entry.schema, self._doors.random.below(1 << 62))
        if boosting is None:
            return None
        if plan.grouping is not None or plan.iterator is not None:
            raise RequestError("don't support use segment scorer with group_by or search_iterator")
        if plan.finds_elements:
            raise UnsupportedError("boost ranker over the elements of a struct array")
        for boost in boosting.boosts:
            if checked_filter(entry, boost.filter, {}, zone=plan.clock.zone).elements is not None:
                raise UnsupportedError("element_filter in a boost")
        return boosting

    async def with_stored_vectors(
        self, entry: CollectionEntry, request: SearchRequest, plan: SearchPlan, fresh: Freshness
    ) -> tuple[SearchRequest, Rows]:
        """The request with the vectors of the rows it names; beside it the queries that have one."""
        assert request.ids is not None
        read = read_of_ids(entry, request.ids, plan, fresh)
        read = msgspec.structs.replace(read, expire_before=self._expire_before(entry))
        parts = await self.query_shards(_owners(entry, request.ids), read)
        return with_vectors(request, plan.field, merge_parts(parts, read))

    async def searched(
        self, entry: CollectionEntry, reads: Sequence[ShardRead], *, one_moment: bool = False
    ) -> list[Hits]:
        """The hits of each read. A shard answers all reads at one timestamp; with `one_moment` all shards do."""
        if len(entry.shards) == 1:
            by_shard = [await self._search_shard(entry.shards[0], reads)]
        else:
            by_shard = await asyncio.gather(*[self._search_shard(shard, reads) for shard in entry.shards])
            if one_moment:
                by_shard = await _at_one_moment(entry.shards, by_shard, reads, self._search_shard)
        return [
            await self._reduced(entry, read, [hits[number] for hits in by_shard]) for number, read in enumerate(reads)
        ]

    async def _reduced(self, entry: CollectionEntry, read: ShardRead, parts: Sequence[Hits]) -> Hits:
        """The shards' answers as one, strict groups filled up."""
        assert read.vector is not None
        hits = reduce_hits(parts, read.vector)
        if not needs_filling(read, hits):
            return hits
        answers: list[tuple[FurtherRead, Sequence[Hits]]] = []
        for one in further_reads(read, hits):
            asked = [
                msgspec.structs.replace(one.read, vchannel=shard.vchannel, at_timestamp=part.read_timestamp)
                for shard, part in zip(entry.shards, parts, strict=True)
            ]
            nodes = [self._routes.reader(shard) for shard in entry.shards]
            found = await asyncio.gather(*[node.search(each) for node, each in zip(nodes, asked, strict=True)])
            answers.append((one, found))
        return filled(read, hits, answers)

    async def _search_shard(self, shard: Shard, reads: Sequence[ShardRead]) -> list[Hits]:
        node = self._routes.reader(shard)
        first = await node.search(_for_shard(reads[0], shard))
        if len(reads) == 1:
            return [first]
        pinned = [msgspec.structs.replace(read, at_timestamp=first.read_timestamp) for read in reads[1:]]
        return [first, *await asyncio.gather(*[node.search(_for_shard(read, shard)) for read in pinned])]

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
            fields=outgoing(plan.outputs.fields, hits.fields, len(hits.keys), plan.clock),
            output_fields=plan.outputs.names,
            groups=outgoing_groups(entry, plan.grouping, hits, plan.clock),
            elements=hits.elements,
            session_timestamp=hits.read_timestamp,
            searched_row_count=hits.searched_row_count,
            iterator_token=token,
            iterator_last_bound=bound,
        )

    def _expire_before(self, entry: CollectionEntry) -> int:
        return entry.expire_before(self._doors.clock.now_ms()) if entry.ttl_ms else 0

    async def _query(self, entry: CollectionEntry, request: QueryRequest) -> QueryReply:
        plan = query_plan(entry, request)
        entry.check_partitions(request.partitions)
        entry.require_loaded("query")
        bound = checked_filter(entry, request.filter, request.templates, zone=plan.clock.zone)
        if plan.needs_limit and plan.limit < 0 and is_always_true(bound):
            raise BadParameterError("empty expression should be used with limit")
        check_elements(plan, bound)
        partition_ids = pinned_partitions(entry, bound, entry.partitions_to_read(request.partitions, "query"))
        fresh = freshness(request.consistency, entry, is_iterator=plan.is_iterator)
        read = ShardRead(
            vchannel=entry.shards[0].vchannel,
            level=fresh.level,
            guarantee_timestamp=fresh.guarantee_timestamp,
            at_timestamp=fresh.at_timestamp,
            partition_ids=partition_ids,
            filter=request.filter,
            templates=request.templates,
            timezone=plan.clock.zone,
            casts=entry.casts,
            limit=plan.row_limit,
            count_only=plan.is_count,
            order=plan.order if plan.aggregation is None else (),
            aggregation=plan.aggregation,
            output_field_ids=plan.read_ids,
            ignore_growing=plan.ignore_growing,
            expire_before=self._expire_before(entry),
        )
        owners = _owners(entry, listed_keys(entry, bound, exact=False))
        parts = await self.query_shards(owners, read, one_moment=plan.is_iterator)
        return query_reply(entry, plan, read, parts)

    async def query_shards(
        self, shards: Sequence[Shard], read: ShardRead, *, one_moment: bool = False
    ) -> Sequence[Found]:
        """The answers of these shards, in their order; with `one_moment` all at one timestamp."""
        if len(shards) == 1:
            return [await self._routes.reader(shards[0]).query(_for_shard(read, shards[0]))]
        by_shard = await asyncio.gather(*[self._query_shard(shard, [read]) for shard in shards])
        if one_moment:
            by_shard = await _at_one_moment(shards, by_shard, [read], self._query_shard)
        return [found for (found,) in by_shard]

    async def _query_shard(self, shard: Shard, reads: Sequence[ShardRead]) -> list[Found]:
        return [await self._routes.reader(shard).query(_for_shard(read, shard)) for read in reads]


P = TypeVar("P", Hits, Found)


async def _at_one_moment(
    shards: Sequence[Shard],
    by_shard: Sequence[list[P]],
    reads: Sequence[ShardRead],
    ask: Callable[[Shard, Sequence[ShardRead]], Awaitable[list[P]]],
) -> list[list[P]]:
    """The shards' answers, asked for again where they are older than the newest of them. Shards stamp by clocks of
    their own: what one writes next may lie below the moment of another's answer, and is kept out of later reads at that
    moment by asking for it now."""
    moment = max(answers[0].read_timestamp for answers in by_shard)
    pinned = [msgspec.structs.replace(read, at_timestamp=moment) for read in reads]

    async def answered(shard: Shard, answers: list[P]) -> list[P]:
        return answers if answers[0].read_timestamp == moment else await ask(shard, pinned)

    return await asyncio.gather(*[answered(shard, one) for shard, one in zip(shards, by_shard, strict=True)])


def _iterates(request: SearchRequest) -> bool:
    return request.params.get("iterator", "").lower() == "true"


def with_input(entry: CollectionEntry, read: ShardRead, ranker: AnyRanker | None) -> ShardRead:
    """The read, which also brings the field that the ranker looks at."""
    if ranker is None or not ranker.input_field_id or ranker.input_field_id in read.output_field_ids:
        return read
    for field in entry.schema.fields:
        if field.field_id == ranker.input_field_id:
            entry.require_field(field)
    return msgspec.structs.replace(read, output_field_ids=(*read.output_field_ids, ranker.input_field_id))


def outgoing_groups(
    entry: CollectionEntry, grouping: Grouping | None, hits: Hits, clock: Clock
) -> OutgoingField | None:
    """The column of group values."""
    if grouping is None or hits.groups is None:
        return None
    return shown(grouped_field(entry, grouping), hits.groups, clock)


def _for_shard(read: ShardRead, shard: Shard) -> ShardRead:
    return read if read.vchannel == shard.vchannel else msgspec.structs.replace(read, vchannel=shard.vchannel)


def _owners(entry: CollectionEntry, keys: Column | None) -> Sequence[Shard]:
    """The shards that can hold these keys: all where keys are unknown, one where no key is named at all."""
    if keys is None or len(entry.shards) == 1:
        return entry.shards
    numbers = np.unique(shards_of(keys, len(entry.shards)))
    return [entry.shards[number] for number in numbers] or entry.shards[:1]


def query_count_of(request: SearchRequest) -> int:
    """How many queries the request has."""
    count = len(request.queries) if request.ids is None else len(request.ids)
    if not 1 <= count <= QUERY_COUNT_MAX:
        raise RequestError(
            f"nq [{count}] is invalid, nq (number of search vector per search request) should be in range "
            f"[1, {QUERY_COUNT_MAX}], but got {count}"
        )
    if request.query_count not in (0, count):
        raise RequestError(f"nq [{request.query_count}] is not the number of vectors sent, {count}")
    return count
