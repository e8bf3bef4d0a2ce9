"""Executing a shard read over segment readers: decide inline or on a compute thread, search or query each, reduce.

The same code serves growing segments at the delegator and sealed ones at query nodes. Masks are made on the event loop
(they touch data the loop changes in place), but for what a dear filter keeps of a sealed segment; that and the kernels
run where `INLINE_US_MAX` says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec
import numpy as np

from elanus.base.doors import Compute, Random
from elanus.base.errors import check
from elanus.expr import Filter, element_places, parse_filter, primary_key_values
from elanus.index.compared import as_compared
from elanus.index.contract import Found as Nearest
from elanus.index.contract import RowMask
from elanus.index.multi import MultiVectors
from elanus.index.plan import SearchRequest, estimate_us, search_planned
from elanus.index.scored import ScoredVectors
from elanus.index.vectors import Vectors
from elanus.model.columns import Column, Rows
from elanus.model.reads import ELEMENT_PLACES_ID, Found, Hits, ShardRead, VectorQuery
from elanus.model.schema import CollectionSchema
from elanus.model.types import Metric
from elanus.search.aggregate import no_groups, partial_groups
from elanus.search.boost import boosted
from elanus.search.found import merged
from elanus.search.group import is_among, merge_searched
from elanus.search.group_values import group_values
from elanus.search.grouped import GroupedSearch
from elanus.search.masks import (
    MaskCache,
    Masking,
    among_elements,
    counted_rows,
    filter_mask,
    keep_mask,
    matching_rows,
    row_mask,
    unknown_masks,
)
from elanus.search.order import ordered_rows
from elanus.search.reduce import empty_hits, key_ranks, merge_hits, newest_rows
from elanus.segment.reader import Reader, Visibility
from elanus.segment.searchable import query_array

INLINE_US_MAX: Final = 2000.0
"""Searches estimated below this stay on the event loop: the hop to a thread costs more in latency than it frees."""
PARALLEL_QUERIES_MIN: Final = 16


@dataclass(frozen=True)
class _SegmentSearch:
    """A search of one segment: of the rows in `mask` (None: all). `boosts` are the filters of the query's boosts.
    Where elements of `lists` are searched, the mask and what is found are of elements, not of rows."""

    reader: Reader
    vector: VectorQuery
    mask: RowMask | None
    boosts: Sequence[Filter]
    lists: MultiVectors | None

    @property
    def vectors(self) -> Vectors | ScoredVectors:
        if self.lists is not None:
            return self.lists.elements
        return as_compared(self.reader.vectors(self.vector.field_id), Metric(self.vector.metric))

    @property
    def passing(self) -> int:
        return len(self.vectors) if self.mask is None else self.mask.count

    def hits(self, nearest: Nearest, read: ShardRead) -> Hits:
        """What was found as hits: padding dropped, keys and fields taken."""
        found = nearest.rows >= 0
        rows: Rows = nearest.rows[found]
        elements: Rows | None = None
        if self.lists is not None:
            rows, elements = self.lists.rows_of(rows), rows
            elements -= self.lists.bounds[rows]
        reader = self.reader
        return Hits(
            counts=found.sum(axis=1, dtype=np.int64),
            keys=Column(reader.keys).take(rows),
            scores=nearest.scores[found],
            fields={field_id: reader.column(field_id).take(rows) for field_id in read.output_field_ids},
            elements=elements,
            read_timestamp=read.at_timestamp,
            searched_row_count=reader.row_count,
        )


class Execution:
    """Bound to the compute door and a number of serving threads; holds the mask cache."""

    def __init__(self, compute: Compute, chance: Random, threads: int) -> None:
        self._compute = compute
        self._threads = threads
        self.masks = MaskCache()
        self._masking = Masking(self.masks, chance)

    @staticmethod
    def larger_is_better(vector: VectorQuery) -> bool:
        """Direction of the query's scores."""
        return Metric(vector.metric).larger_is_better

    # --- search -----------------------------------------------------------------------------------------------------
    async def search(
        self, readers: Sequence[Reader], read: ShardRead, schema: CollectionSchema, visibility: Visibility
    ) -> Hits:
        """The best k hits of each query over all readers, each key once."""
        assert read.vector is not None
        vector = _as_searched(read.vector, schema)
        filter_ = parse_filter(read.filter, schema, read.templates, read.timezone, read.casts)
        boosts = _boost_filters(vector, schema, read)
        parts: list[Hits] = []
        await self._make_masks(readers, filter_)
        for reader in readers:
            mask = _among_groups(reader, vector, self._mask(reader, filter_, visibility, vector.field_id))
            lists = _lists(reader, vector)
            if lists is not None:
                mask = among_elements(reader, filter_, lists.elements_in(mask), self.masks)
            if mask is None or mask.count:
                one = _SegmentSearch(reader, vector, mask, boosts, lists)
                parts.append(await (self._search_groups(one, read) if vector.grouping else self._search_one(one, read)))
        query_count = len(vector.queries)
        if not parts:
            keys = readers[0].keys if readers else None
            hits = empty_hits(query_count, keys)
            fields = {fid: readers[0].column(fid).slice(0, 0) for fid in read.output_field_ids} if readers else {}
            return msgspec.structs.replace(hits, fields=fields, read_timestamp=visibility.timestamp)
        if len(parts) == 1:
            return parts[0]
        return merge_searched(parts, vector)

    async def _make_masks(self, readers: Sequence[Reader], filter_: Filter) -> None:
        """Masks of sealed segments that take long to make are made on a compute thread, and kept for what follows."""
        for segment in unknown_masks(readers, filter_, self.masks, INLINE_US_MAX):
            keep_mask(segment, filter_, await self._compute.run(filter_mask, segment, filter_), self.masks)

    def _mask(self, reader: Reader, filter_: Filter, visibility: Visibility, field_id: int) -> RowMask | None:
        mask = row_mask(reader, filter_, visibility, self._masking)
        valid = reader.column(field_id).valid
        if valid is None:
            return mask
        return RowMask.of(valid if mask is None else mask.keep & valid)

    async def _search_groups(self, one: _SegmentSearch, read: ShardRead) -> Hits:
        """Best k groups of one segment."""
        vector = one.vector
        assert vector.grouping is not None

        async def nearest(queries: Rows, k: int) -> Nearest:
            asked = msgspec.structs.replace(vector, queries=vector.queries[queries])
            return await self._nearest(replace(one, vector=asked), k)

        larger = self.larger_is_better(vector)
        return await GroupedSearch(one.reader, vector, vector.grouping, one.passing, larger, nearest).run(read)

    async def _search_one(self, one: _SegmentSearch, read: ShardRead) -> Hits:
        """Best k of one segment; asks for more as long as repeated keys leave fewer than k that exist."""
        reader, vector, passing = one.reader, one.vector, one.passing
        larger = self.larger_is_better(vector)
        k = min(vector.k, passing)
        while True:
            nearest = await self._nearest(one, k)
            if vector.boosting is not None:
                nearest = boosted(nearest, reader, vector.boosting, one.boosts, self._masking.chance, larger)
            hits = one.hits(nearest, read)
            if not reader.may_repeat_keys:
                return hits
            distinct = merge_hits([hits], len(vector.queries), vector.k, larger)
            short = (nearest.rows[:, -1] >= 0) & (distinct.counts < vector.k)
            if k >= passing or not short.any():
                return distinct
            k = min(2 * k, passing)

    async def _nearest(self, one: _SegmentSearch, k: int) -> Nearest:
        vector, vectors, mask = one.vector, one.vectors, one.mask
        params = dict(vector.params)
        if vector.radius is not None:
            params["radius"] = vector.radius
            if vector.range_filter is not None:
                params["range_filter"] = vector.range_filter
        index = one.reader.index(vector.field_id)
        request = SearchRequest(vector.queries, k, Metric(vector.metric), params)
        if index is not None and index.metric is not request.metric:
            index = None
        if estimate_us(index, vectors, request, mask) <= INLINE_US_MAX:
            return search_planned(index, vectors, request, mask)
        count = len(vector.queries)
        if self._threads < 2 or count < PARALLEL_QUERIES_MIN:
            return await self._compute.run(search_planned, index, vectors, request, mask)
        blocks = [
            SearchRequest(block, k, request.metric, params) for block in np.array_split(vector.queries, self._threads)
        ]
        found = await asyncio.gather(
            *(self._compute.run(search_planned, index, vectors, block, mask) for block in blocks)
        )
        return Nearest(np.concatenate([part.scores for part in found]), np.concatenate([part.rows for part in found]))

    # --- query ------------------------------------------------------------------------------------------------------
    async def query(
        self, readers: Sequence[Reader], read: ShardRead, schema: CollectionSchema, visibility: Visibility
    ) -> Found:
        """Matching rows in key order, at most `read.limit`, or their number."""
        filter_ = parse_filter(read.filter, schema, read.templates, read.timezone, read.casts)
        if primary_key_values(filter_, schema) is None:
            await self._make_masks(readers, filter_)
        parts = [self._query_one(reader, read, filter_, schema, visibility) for reader in readers]
        timestamp = visibility.timestamp
        if not parts and read.aggregation is not None:
            return no_groups(schema, read.aggregation, timestamp)
        if not parts:
            return Found(row_count=0, read_timestamp=timestamp)
        if read.count_only:
            return Found(row_count=sum(part.row_count for part in parts), read_timestamp=timestamp)
        return parts[0] if len(parts) == 1 else merged(parts, read)

    def _query_one(
        self, reader: Reader, read: ShardRead, filter_: Filter, schema: CollectionSchema, visibility: Visibility
    ) -> Found:
        timestamp = visibility.timestamp
        if read.count_only and filter_.elements is None:
            count = counted_rows(reader, filter_, visibility, schema, self._masking)
            return Found(row_count=count, read_timestamp=timestamp)
        rows = matching_rows(reader, filter_, visibility, schema, self._masking)
        if read.count_only:
            assert filter_.elements is not None
            count = len(element_places(filter_.elements, reader, rows).values)
            return Found(row_count=count, read_timestamp=timestamp)
        if read.aggregation is not None:
            return partial_groups(reader, rows, read.aggregation, timestamp)
        if reader.may_repeat_keys:
            rows = rows[newest_rows(key_ranks(Column(reader.keys).take(rows).values), reader.timestamps[rows], -1)]
        if read.order:
            columns = [reader.column(key.field_id).take(rows) for key in read.order]
            rows = rows[ordered_rows(columns, read.order, np.arange(len(rows)), read.limit)]
        elif read.limit >= 0:
            rows = rows[: read.limit]
        fields = {field_id: reader.column(field_id).take(rows) for field_id in read.output_field_ids}
        if filter_.elements is not None:
            fields[ELEMENT_PLACES_ID] = Column(element_places(filter_.elements, reader, rows))
        return Found(
            row_count=len(rows),
            keys=Column(reader.keys).take(rows),
            timestamps=reader.timestamps[rows],
            fields=fields,
            read_timestamp=timestamp,
        )


def _among_groups(reader: Reader, vector: VectorQuery, mask: RowMask | None) -> RowMask | None:
    """The mask without rows of other groups than those asked for."""
    if vector.grouping is None or vector.grouping.among is None:
        return mask
    rows = np.arange(reader.row_count) if mask is None else mask.rows
    keep = np.zeros(reader.row_count, np.bool_)
    keep[rows[is_among(group_values(reader, vector.grouping, rows), vector.grouping.among)]] = True
    return RowMask.of(keep)


def _boost_filters(vector: VectorQuery, schema: CollectionSchema, read: ShardRead) -> Sequence[Filter]:
    if vector.boosting is None:
        return ()
    return [
        parse_filter(boost.filter, schema, timezone=read.timezone, casts=read.casts) for boost in vector.boosting.boosts
    ]


def _lists(reader: Reader, vector: VectorQuery) -> MultiVectors | None:
    """The lists whose elements are searched; None where rows are."""
    if Metric(vector.metric).compares_lists:
        return None
    vectors = reader.vectors(vector.field_id)
    return vectors if isinstance(vectors, MultiVectors) else None


def _as_searched(vector: VectorQuery, schema: CollectionSchema) -> VectorQuery:
    """The query with its vectors as the search of their field takes them."""
    field = schema.field_by_id(vector.field_id)
    check(field is not None, f"no field {vector.field_id}")
    assert field is not None
    return msgspec.structs.replace(vector, queries=query_array(vector.queries, field.data_type))
