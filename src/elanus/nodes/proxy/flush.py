"""Flush, its progress, and row counts: what needs both the shards' owners and the coordinator.

`FlushedCollection.timestamp` is the highest of the shards' flush timestamps T. A shard counts as flushed when all up to
T is sealed, or all it ever stamped. Story: shard A answers 100, idle shard B 90; then B takes a write at 95. B would
never report 100, and the client would wait for ever: so a shard of several that lags is asked to flush again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from elanus.base.doors import Clock
from elanus.model.errors import PartitionNotFoundError
from elanus.model.requests import (
    CollectionRequest,
    FlushedCollection,
    FlushRequest,
    FlushStateRequest,
    ListCollectionsRequest,
    PartitionRequest,
)
from elanus.model.types import SegmentStatus
from elanus.nodes.contracts import Coordinator, Shard, ShardStatus
from elanus.nodes.proxy.entry import CollectionEntry
from elanus.nodes.proxy.routes import Routes


class Flusher:
    """Flush and statistics."""

    def __init__(self, clock: Clock, coordinator: Coordinator, routes: Routes) -> None:
        self._clock = clock
        self._coordinator = coordinator
        self._routes = routes

    async def flush(self, request: FlushRequest) -> tuple[FlushedCollection, ...]:
        """Ask every shard of every named collection to seal what it holds."""
        names = request.collections
        if not names:
            listed = await self._coordinator.list_collections(ListCollectionsRequest(database=request.database))
            names = tuple(one.name for one in listed)
        flushed = []
        for name in names:
            target = CollectionRequest(database=request.database, collection=name)
            flushed.append(await self._routes.with_entry(target, self._flush))
        return tuple(flushed)

    async def _flush(self, entry: CollectionEntry) -> FlushedCollection:
        owners = [(self._routes.node(shard), shard.vchannel) for shard in entry.shards]
        replies = await asyncio.gather(*[node.flush(vchannel) for node, vchannel in owners])
        segments = await self._coordinator.segments(entry.collection_id)
        return FlushedCollection(
            entry.name,
            tuple(segment.segment_id for segment in segments if segment.state is not SegmentStatus.GROWING),
            max(reply.timestamp for reply in replies),
            self._clock.now_ms() // 1000,
        )

    async def flush_state(self, request: FlushStateRequest) -> bool:
        """Whether every shard has sealed everything up to the timestamp."""
        return await self._routes.with_entry(request, lambda entry: self._flush_state(entry, request.timestamp))

    async def _flush_state(self, entry: CollectionEntry, timestamp: int) -> bool:
        statuses = await self._statuses(entry.shards)
        behind = [
            shard
            for shard, status in zip(entry.shards, statuses, strict=True)
            if status.flushed_timestamp < min(timestamp, status.last_timestamp)
        ]
        if behind and len(entry.shards) > 1:
            await asyncio.gather(*[self._routes.node(shard).flush(shard.vchannel) for shard in behind])
        return not behind

    async def row_count(self, request: CollectionRequest) -> int:
        """Rows sealed and growing, deletes not subtracted."""
        return await self._routes.with_entry(request, lambda entry: self._row_count(entry, None))

    async def partition_row_count(self, request: PartitionRequest) -> int:
        """The same of one partition."""
        return await self._routes.with_entry(request, lambda entry: self._partition_row_count(entry, request.partition))

    async def _partition_row_count(self, entry: CollectionEntry, name: str) -> int:
        if name not in entry.partitions:
            raise PartitionNotFoundError(name)
        return await self._row_count(entry, entry.partitions[name])

    async def _row_count(self, entry: CollectionEntry, partition_id: int | None) -> int:
        statuses = await self._statuses(entry.shards)
        segments = await self._coordinator.segments(entry.collection_id)
        sealed = sum(
            segment.row_count
            for segment in segments
            if segment.state is not SegmentStatus.GROWING and partition_id in (None, segment.partition_id)
        )
        growing = sum(
            count
            for status in statuses
            for partition, count in status.row_counts.items()
            if partition_id in (None, partition)
        )
        return sealed + growing

    async def _statuses(self, shards: Sequence[Shard]) -> Sequence[ShardStatus]:
        owners = [(self._routes.node(shard), shard.vchannel) for shard in shards]
        return await asyncio.gather(*[node.status(vchannel) for node, vchannel in owners])
