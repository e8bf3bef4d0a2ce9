"""Ways to the shards: which node to ask, when to ask again, and what a partly failed write is called.

Re-sending
1. A read is repeated when a shard moved, is not ready, or did not answer, on a fresh view, until patience ends.
2. A write is re-sent to a shard only on `ChannelNotAvailableError` or `UnavailableError`: both say that nothing was
   stamped there. Any other failure ends it; unless it says that nothing was done, the outcome is unknown.
3. A write over several shards is several records. When some were written and another was refused, or when one's
   outcome is unknown, the client gets `OutcomeUnknownError`: it must read before it writes again, and no SDK repeats
   the request. Story: shard A takes its half of an insert with automatic ids, shard B is full; were the refusal of B
   passed on as retriable, the SDK would send all again and double A's half.
4. A guarded write is never re-sent here: its reader must look again (`upsert`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar, cast

from elanus.base.doors import Clock
from elanus.base.errors import (
    Action,
    DiskFullError,
    ElanusError,
    FencedError,
    OutcomeUnknownError,
    OverloadedError,
    ReplyLostError,
    UnavailableError,
)
from elanus.model.errors import (
    ChannelNotAvailableError,
    CollectionNotFoundError,
    CollectionNotLoadedError,
    DeniedError,
    PartitionNotFoundError,
    PartitionNotLoadedError,
    SchemaMismatchError,
    SegmentNotFoundError,
    WriteConflictError,
)
from elanus.model.reads import Found, Hits, ShardRead
from elanus.model.requests import CollectionRequest
from elanus.nodes.contracts import Shard, ShardWrite, Streaming, WriteReply
from elanus.nodes.proxy.cache import CollectionCache
from elanus.nodes.proxy.entry import CollectionEntry, UnknownPartitionNameError

T = TypeVar("T")

PATIENCE_S: Final = 10.0
PAUSE_MIN_S: Final = 0.005
PAUSE_MAX_S: Final = 0.5
SUSPECT_S: Final = 2.0

NOT_STAMPED: Final = (ChannelNotAvailableError, UnavailableError)
MOVED: Final = (ChannelNotAvailableError, FencedError, ReplyLostError, SegmentNotFoundError, UnavailableError)
NOTHING_DONE: Final = (*NOT_STAMPED, DiskFullError, OverloadedError, WriteConflictError)
"""Refusals of a write that prove it was not stamped, beside those that blame the request."""
STALE: Final = (
    CollectionNotFoundError,
    CollectionNotLoadedError,
    DeniedError,
    PartitionNotFoundError,
    PartitionNotLoadedError,
    SchemaMismatchError,
    UnknownPartitionNameError,
)
"""What an outdated entry may cause: looked at once more on a fresh one."""


class Routes:
    """Finds shards' nodes and repeats what may be repeated."""

    def __init__(
        self, clock: Clock, cache: CollectionCache, nodes: Mapping[int, Streaming], patience_s: float = PATIENCE_S
    ) -> None:
        self._clock = clock
        self._patience_s = patience_s
        self._cache = cache
        self._nodes = nodes
        self._suspect: dict[int, float] = {}
        self._turn = 0

    def node(self, shard: Shard) -> Streaming:
        """The streaming node that owns the shard; `ChannelNotAvailableError` while nobody does."""
        node = self._nodes.get(shard.node_id)
        if node is None:
            raise ChannelNotAvailableError(shard.vchannel)
        return node

    def reader(self, shard: Shard) -> Streaming:
        """A node that serves the shard's reads: the owner and its followers in turn, but for a while none that failed.
        `ChannelNotAvailableError` while nobody does."""
        if not shard.followers:
            return self.node(shard)
        now_s = self._clock.monotonic_s()
        there = [one for one in (shard.node_id, *shard.followers) if one in self._nodes]
        if not there:
            raise ChannelNotAvailableError(shard.vchannel)
        well = [one for one in there if self._suspect.get(one, 0.0) <= now_s] or there
        self._turn += 1
        node_id = well[self._turn % len(well)]
        return cast("Streaming", _Watched(self._nodes[node_id], partial(self._failed, node_id)))

    def _failed(self, node_id: int) -> None:
        self._suspect[node_id] = self._clock.monotonic_s() + SUSPECT_S

    def patience(self) -> Patience:
        """For one call that is repeated while shards move."""
        return Patience(self._clock, self._patience_s)

    async def with_entry(
        self,
        request: CollectionRequest,
        action: Callable[[CollectionEntry], Awaitable[T]],
        *,
        kind: str = "",
        repeats: bool = True,
    ) -> T:
        """`action` on the request's collection, refused where its database denies this `kind` ("reading", "writing").
        On signs of an outdated entry it is run once more on a fresh one; while shards move it is repeated if
        `repeats`."""
        entry = self._cache.peek(request)
        fresh = entry is None
        if entry is None:
            entry = await self._cache.fetch(request)
        patience: Patience | None = None
        while True:
            try:
                if kind in entry.denied:
                    raise DeniedError
                return await action(entry)
            except STALE:
                if fresh:
                    raise
                entry = await self._cache.fetch(request)
            except MOVED:
                if not repeats:
                    raise
                patience = patience or self.patience()
                if not await patience.pause():
                    raise
                entry = await self._newest(request, entry)
            fresh = True

    async def _newest(self, request: CollectionRequest, entry: CollectionEntry) -> CollectionEntry:
        """A fresh entry, or the same one while the coordinator is away: the shard may come back where it was."""
        try:
            return await self._cache.fetch(request)
        except (UnavailableError, ReplyLostError):
            return entry

    async def write_all(
        self, request: CollectionRequest, entry: CollectionEntry, writes: Sequence[ShardWrite]
    ) -> list[WriteReply]:
        """Send every record; returns when all are durable, else raises (see the head of this module)."""
        replies: list[WriteReply | None] = [None] * len(writes)
        pending = list(range(len(writes)))
        patience = self.patience()
        while True:
            nodes = {shard.vchannel: shard for shard in entry.shards}
            outcomes = await self._send([(nodes.get(writes[index].vchannel), writes[index]) for index in pending])
            failures: list[tuple[int, ElanusError]] = []
            for index, outcome in zip(pending, outcomes, strict=True):
                if isinstance(outcome, WriteReply):
                    replies[index] = outcome
                else:
                    failures.append((index, outcome))
            if not failures:
                return [reply for reply in replies if reply is not None]
            if any(not _may_resend(writes[index], error) for index, error in failures) or not await patience.pause():
                raise verdict([error for _, error in failures], len(writes))
            pending = [index for index, _ in failures]
            try:
                entry = await self.renewed(request, entry)
            except ElanusError as error:
                raise verdict([error] * len(pending), len(writes)) from None

    async def renewed(self, request: CollectionRequest, entry: CollectionEntry) -> CollectionEntry:
        """A fresh entry of the same collection; another one of that name does not count."""
        fresh = await self._newest(request, entry)
        if fresh.collection_id != entry.collection_id:
            raise CollectionNotFoundError(entry.view.description.database, entry.name)
        return fresh

    async def _send(self, writes: Sequence[tuple[Shard | None, ShardWrite]]) -> Sequence[WriteReply | ElanusError]:
        if len(writes) == 1:
            return [await self._send_one(*writes[0])]
        return await asyncio.gather(*[self._send_one(shard, write) for shard, write in writes])

    async def _send_one(self, shard: Shard | None, write: ShardWrite) -> WriteReply | ElanusError:
        try:
            if shard is None:
                raise ChannelNotAvailableError(write.vchannel)
            return await self.node(shard).write(write)
        except ElanusError as error:
            return error


class _Watched:
    """Reads of a node; tells when one fails in a way that another node may not."""

    def __init__(self, node: Streaming, failed: Callable[[], None]) -> None:
        self._node = node
        self._failed = failed

    async def search(self, read: ShardRead) -> Hits:
        return await self._watch(self._node.search(read))

    async def query(self, read: ShardRead) -> Found:
        return await self._watch(self._node.query(read))

    async def _watch(self, call: Awaitable[T]) -> T:
        try:
            return await call
        except MOVED:
            self._failed()
            raise


class Patience:
    """Growing pauses until patience has ended."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._end_s = clock.monotonic_s() + seconds
        self._next_s = PAUSE_MIN_S

    async def pause(self) -> bool:
        """Wait a little; False, at once, when patience has ended."""
        if self._clock.monotonic_s() + self._next_s > self._end_s:
            return False
        await self._clock.sleep(self._next_s)
        self._next_s = min(self._next_s * 2, PAUSE_MAX_S)
        return True


def _may_resend(write: ShardWrite, error: ElanusError) -> bool:
    return write.guard_timestamp is None and isinstance(error, NOT_STAMPED)


def verdict(errors: Sequence[ElanusError], total: int) -> ElanusError:
    """What the client is told when some of a write's `total` records failed: the refusal itself when nothing was
    written anywhere, else 'outcome unknown'."""
    unclear = next((error for error in errors if not _did_nothing(error)), None)
    first = unclear or errors[0]
    if total == 1 and isinstance(first, OutcomeUnknownError):
        return first
    if len(errors) == total and unclear is None:
        return first
    written = total - len(errors)
    return OutcomeUnknownError(
        f"outcome unknown: {written} of {total} parts of the write are done, another failed with: {first.message}"
    )


def _did_nothing(error: ElanusError) -> bool:
    return isinstance(error, NOTHING_DONE) or error.action in (Action.FIX_REQUEST, Action.UNSUPPORTED)
