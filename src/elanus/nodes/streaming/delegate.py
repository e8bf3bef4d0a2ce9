"""Reads of one shard: evidence, one timestamp, one pinned view, growing data here, sealed data at query nodes.

A read runs at the shard's last applied timestamp, chosen and pinned together without an await between. No lease guards
it. What guards it is evidence that no newer owner can have acknowledged a write when the read arrived: one linearizable
read of the channel's term record that began after the arrival, shared by all reads then waiting. Bounded accepts
evidence up to `BOUNDED_STALENESS_S` old, Session needs it only above the last applied timestamp, Eventually never. One
who follows the channel has other evidence: that its log had ended where it has read to, seen after the read arrived.
So a follower may show a record before its owner has heard that it is in the log; the owner of a log that others can
read lets a Strong read wait for what it is appending, and refuses it while the outcome of an append is unknown.

A query node must have applied all deletes through the position that the read names; one that has not says so, is sent
what it lacks, and is asked again. A segment that a node does not hold (any more), or a node that does not answer, means
that the view is old or another replica must be asked: the whole shard is read again on the newest view, and for a while
another node is preferred. Where the view is the newest and has no other replica, the node is first let fetch what it
lacks: reads do not wait for a coordinator to notice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

import msgspec

from elanus.base.doors import Clock, Doors
from elanus.base.errors import ElanusError, ReplyLostError, StorageError, UnavailableError
from elanus.model.channel import ORIGIN, Position
from elanus.model.errors import (
    ChannelNotAvailableError,
    CollectionNotLoadedError,
    DeletesBehindError,
    ReadTimeoutError,
    SegmentNotFoundError,
)
from elanus.model.reads import Found, Hits, ShardRead
from elanus.model.types import ConsistencyLevel
from elanus.nodes.contracts import DeleteRange, Query, SegmentLoad, SegmentRead
from elanus.nodes.streaming.channel import Channel
from elanus.nodes.streaming.interim import InterimBuilds
from elanus.nodes.streaming.shard import Shard, View
from elanus.objects.store import ObjectNotFoundError
from elanus.search.execute import Execution
from elanus.search.found import merged
from elanus.search.group import merge_searched
from elanus.segment.growing import GrowingReader
from elanus.segment.reader import Visibility

BOUNDED_STALENESS_S: Final = 5.0
READ_ATTEMPTS_MAX: Final = 5
READ_WAIT_S: Final = 10.0
SUSPECT_S: Final = 1.0
_POLL_S: Final = 0.02

R = TypeVar("R", Hits, Found)


class Evidence:
    """Shared linearizable reads of one channel's term record: one is under way at a time, and all who come meanwhile
    share the next one."""

    def __init__(self, clock: Clock, read_term: Callable[[], Awaitable[int]]) -> None:
        self._clock = clock
        self._read_term = read_term
        self._begun_s = float("-inf")
        self._reading = asyncio.Lock()
        self._count = 0
        self._shown: int | ElanusError = -1

    async def begun_after_now(self, term: int) -> None:
        """Return once a read of the record, begun after this call, has shown `term` to be current."""
        seen = self._count
        async with self._reading:
            # Whoever waited here may find that a read began, and ended, while it waited.
            if self._count == seen:
                await self._read(term)
        if isinstance(self._shown, ElanusError):
            raise type(self._shown)(self._shown.message)
        if self._shown != term:
            raise UnavailableError(f"term {term} is no longer current; the channel is being opened under another")

    async def _read(self, term: int) -> None:
        self._count += 1
        begun_s = self._clock.monotonic_s()
        self._shown = UnavailableError("the term could not be read")
        try:
            self._shown = await self._read_term()
        except (UnavailableError, StorageError) as error:
            self._shown = error
        if self._shown == term:
            self._begun_s = max(self._begun_s, begun_s)

    async def at_most_old(self, term: int, seconds: float) -> None:
        """As above, but evidence that began up to `seconds` ago will do."""
        if self._clock.monotonic_s() - self._begun_s > seconds:
            await self.begun_after_now(term)


class Delegator:
    """Serves the shards of one channel."""

    def __init__(
        self,
        doors: Doors,
        channel: Channel,
        evidence: Evidence,
        nodes: Mapping[int, Query],
        execution: Execution,
        interims: InterimBuilds,
    ) -> None:
        self._clock = doors.clock
        self._tasks = doors.tasks
        self._channel = channel
        self._evidence = evidence
        self._nodes = nodes
        self._execution = execution
        self._interims = interims
        self._sent: dict[tuple[int, str, int], Position] = {}
        self._suspect: dict[int, float] = {}
        self._turn = 0

    async def search(self, read: ShardRead) -> Hits:
        """The best hits of the shard."""
        vector = read.vector
        assert vector is not None
        _, parts = await self._read(read, self._search_growing, lambda node, request: node.search(request))
        if len(parts) == 1:
            return parts[0]
        return merge_searched(parts, vector)

    async def query(self, read: ShardRead) -> Found:
        """The matching rows of the shard in key order, or their number."""
        shard, parts = await self._read(read, self._query_growing, lambda node, request: node.query(request))
        position = shard.last_position
        if read.count_only:
            total = sum(part.row_count for part in parts)
            return Found(row_count=total, read_timestamp=parts[0].read_timestamp, read_position=position)
        found = parts[0] if len(parts) == 1 else merged(parts, read)
        return msgspec.structs.replace(found, read_position=position)

    # --- one read, repeated on newer views --------------------------------------------------------------------------
    async def _read(
        self,
        read: ShardRead,
        growing: Callable[[Shard, list[GrowingReader], ShardRead, Visibility], Awaitable[R]],
        sealed: Callable[[Query, SegmentRead], Awaitable[R]],
    ) -> tuple[Shard, list[R]]:
        for _ in range(READ_ATTEMPTS_MAX):
            shard = await self._prepare(read)
            try:
                return shard, await self._read_once(shard, read, growing, sealed)
            except (SegmentNotFoundError, DeletesBehindError):
                await self._clock.sleep(_POLL_S)
        raise UnavailableError(f"{read.vchannel}: its segments keep moving")

    async def _prepare(self, read: ShardRead) -> Shard:
        """Evidence and visibility as the read's level asks; returns the shard with a view to serve."""
        shard = self._channel.shard(read.vchannel)
        term = self._channel.term
        if read.level is ConsistencyLevel.STRONG:
            await self._evidence.begun_after_now(term)
            if self._channel.log_is_shared and not self._channel.follows:
                # Whoever follows may have shown what this owner has put into the log and not heard of yet.
                await self._channel.settle()
        elif read.level is ConsistencyLevel.BOUNDED:
            await self._evidence.at_most_old(term, BOUNDED_STALENESS_S)
        wanted = max(read.guarantee_timestamp, read.at_timestamp)
        if wanted > shard.last_timestamp:
            await self._evidence.begun_after_now(term)
            if not self._channel.follows:
                await self._reach(shard, wanted)
            elif read.at_timestamp > shard.last_timestamp:
                # Only the owner can see to it that nothing more is stamped up to there.
                raise ChannelNotAvailableError(read.vchannel)
        if shard.view is None:
            try:
                await self._tasks.timeout(READ_WAIT_S, shard.wait_view())
            except TimeoutError:
                raise ReadTimeoutError(f"{read.vchannel} is not serviceable yet") from None
        if shard.view is None:
            raise CollectionNotLoadedError(shard.manifest.collection_id)
        return shard

    async def _reach(self, shard: Shard, timestamp: int) -> None:
        """Wait until the shard is complete through `timestamp`: nothing later is stamped at or below it, and everything
        stamped before is applied. A timestamp the oracle has not reached is waited for, within bounds."""
        deadline_s = self._clock.monotonic_s() + READ_WAIT_S
        while not self._channel.stamps.is_granted(timestamp):
            await self._channel.stamps.reserve(1)
            if self._channel.stamps.is_granted(timestamp):
                break
            if self._clock.monotonic_s() > deadline_s:
                raise ReadTimeoutError(f"timestamp {timestamp} lies ahead of the cluster's time")
            await self._clock.sleep(_POLL_S)
        self._channel.stamps.raise_floor(timestamp)
        await self._channel.settle()
        shard.last_timestamp = max(shard.last_timestamp, timestamp)

    async def _read_once(
        self,
        shard: Shard,
        read: ShardRead,
        growing: Callable[[Shard, list[GrowingReader], ShardRead, Visibility], Awaitable[R]],
        sealed: Callable[[Query, SegmentRead], Awaitable[R]],
    ) -> list[R]:
        with shard.pin() as view:
            if view is None:
                raise SegmentNotFoundError(shard.vchannel)
            _check_readable(view, read)
            timestamp = read.at_timestamp or shard.last_timestamp
            visibility = _visibility(shard, view, read, timestamp)
            readers: list[GrowingReader] = (
                [] if read.ignore_growing else [s.reader() for s in view.growing if s.row_count]
            )
            through = max(view.manifest.flushed_through, shard.deletes.last or ORIGIN)
            by_node = self._segments_by_node(view, visibility)
            narrowed = msgspec.structs.replace(
                read,
                at_timestamp=timestamp,
                partition_ids=visibility.partition_ids,
                dropped_partition_ids=visibility.dropped_partitions,
            )
            # Taken before the first await: once a newer view is served, the shard forgets what its manifest holds.
            unsent = {node_id: self._unsent_deletes(shard, view, node_id, through) for node_id in by_node}
            calls: list[Awaitable[R]] = []
            if readers or not by_node:
                calls.append(growing(shard, readers, narrowed, visibility))
            for node_id, segment_ids in by_node.items():
                request = SegmentRead(
                    segment_ids=segment_ids,
                    deletes_through=through,
                    read=narrowed,
                    schema_version=shard.schema.version,
                )
                calls.append(self._ask(shard, view, node_id, unsent[node_id], request, sealed))
            if len(by_node) > 1:
                return list(await asyncio.gather(*calls))
            return [await call for call in calls]

    async def _ask(
        self,
        shard: Shard,
        view: View,
        node_id: int,
        unsent: DeleteRange | None,
        request: SegmentRead,
        sealed: Callable[[Query, SegmentRead], Awaitable[R]],
    ) -> R:
        """A query node's answer. SegmentNotFoundError where another one should be asked, DeletesBehindError where this
        one should be asked again."""
        try:
            node = self._node(node_id)
            await self._send_deletes(view, node_id, unsent)
            try:
                return await sealed(node, request)
            except DeletesBehindError:
                await self._catch_up(shard, view, node_id, request.segment_ids)
                raise
            except SegmentNotFoundError:
                await self._fetch(shard, view, node_id, request.segment_ids)
                raise
        except (UnavailableError, ReplyLostError, SegmentNotFoundError) as error:
            self._suspect[node_id] = self._clock.monotonic_s() + SUSPECT_S
            raise SegmentNotFoundError(f"at node {node_id}", prefix=error.message) from error

    def _segments_by_node(self, view: View, visibility: Visibility) -> dict[int, tuple[int, ...]]:
        """Which node is asked for which segments: of the nodes that have one, the replica whose turn it is, but rather
        one that answered when it was last asked."""
        by_node: dict[int, list[int]] = {}
        self._turn += 1
        now_s = self._clock.monotonic_s() if self._suspect else 0.0
        for entry in view.manifest.segments:
            if visibility.partition_ids is not None and entry.partition_id not in visibility.partition_ids:
                continue
            if entry.partition_id in visibility.dropped_partitions:
                continue
            nodes: Sequence[int] = view.locations[entry.segment_id]
            if len(nodes) > 1:
                nodes = [one for one in nodes if one in self._nodes and self._suspect.get(one, 0.0) <= now_s] or nodes
            by_node.setdefault(nodes[self._turn % len(nodes)], []).append(entry.segment_id)
        return {node_id: tuple(ids) for node_id, ids in by_node.items()}

    def _node(self, node_id: int) -> Query:
        node = self._nodes.get(node_id)
        if node is None:
            raise SegmentNotFoundError(f"node {node_id}")
        return node

    # --- deletes to query nodes -------------------------------------------------------------------------------------
    def _unsent_deletes(self, shard: Shard, view: View, node_id: int, through: Position) -> DeleteRange | None:
        """What the node was not yet sent of the deletes up to `through` that the view's manifest does not hold."""
        after = self._sent.get((node_id, shard.vchannel, view.manifest.version), view.manifest.flushed_through)
        deletes = shard.deletes.between(after, through) if through > after else None
        if deletes is None:
            return None
        return DeleteRange(
            vchannel=shard.vchannel,
            after=after,
            through=through,
            keys=deletes.keys,
            timestamps=deletes.timestamps,
            partition_ids=deletes.partition_ids,
        )

    async def _send_deletes(self, view: View, node_id: int, deletes: DeleteRange | None) -> None:
        if deletes is None:
            return
        await self._node(node_id).apply_deletes(deletes, tuple(view.locations))
        shard_key = (node_id, deletes.vchannel)
        self._sent = {key: at for key, at in self._sent.items() if key[:2] != shard_key}
        self._sent[(*shard_key, view.manifest.version)] = deletes.through

    async def _catch_up(self, shard: Shard, view: View, node_id: int, segment_ids: tuple[int, ...]) -> None:
        """Let a node that lacks deletes, or segments, read them from the manifest's files; the next attempt sends the
        rest."""
        self._sent.pop((node_id, shard.vchannel, view.manifest.version), None)
        entries = tuple(entry for entry in view.manifest.segments if entry.segment_id in segment_ids)
        manifest = msgspec.structs.replace(view.manifest, segments=entries)
        await self._node(node_id).load(SegmentLoad(schema=shard.schema, manifest=manifest))

    async def _fetch(self, shard: Shard, view: View, node_id: int, segment_ids: tuple[int, ...]) -> None:
        """Let a node load those segments that nobody else has and that it does not hold. SegmentNotFoundError."""
        alone = tuple(one for one in segment_ids if set(view.locations[one]) == {node_id})
        if not alone or shard.view is not view:
            return
        try:
            await self._catch_up(shard, view, node_id, alone)
        except (StorageError, ObjectNotFoundError) as error:
            raise SegmentNotFoundError(f"at node {node_id}", prefix=error.message) from error

    # --- the growing part -------------------------------------------------------------------------------------------
    async def _search_growing(
        self, shard: Shard, readers: list[GrowingReader], read: ShardRead, visibility: Visibility
    ) -> Hits:
        assert read.vector is not None
        await self._interims.consider(readers, read.vector)
        return await self._execution.search(readers, read, shard.schema, visibility)

    async def _query_growing(
        self, shard: Shard, readers: list[GrowingReader], read: ShardRead, visibility: Visibility
    ) -> Found:
        return await self._execution.query(readers, read, shard.schema, visibility)


def _check_readable(view: View, read: ShardRead) -> None:
    if read.at_timestamp and read.at_timestamp < view.manifest.readable_from:
        raise ReadTimeoutError(f"timestamp {read.at_timestamp} is older than what is kept")


def _visibility(shard: Shard, view: View, read: ShardRead, timestamp: int) -> Visibility:
    partition_ids = read.partition_ids
    if view.partition_ids is not None:
        loaded = set(view.partition_ids)
        partition_ids = tuple(loaded if partition_ids is None else loaded.intersection(partition_ids))
    return Visibility(timestamp, partition_ids, tuple(sorted(shard.dropped_partitions)), read.expire_before)
