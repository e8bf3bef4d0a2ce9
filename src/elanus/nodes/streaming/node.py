"""The streaming node: owns pchannels, serves their shards, seals what has grown.

Opening a channel (`assign`), in the order that rules out two owners acknowledging side by side:

1. Read the channel's record; it must name the term this node was given. Its `replay_from` is read after the term was
   written, so that a predecessor's truncation is not mistaken for a hole.
2. Open the log: this fences every lower term. Between fence and first append the term is confirmed by a meta
   transaction, so that an opener that slept is not served over its successor.
3. Read the shards' manifests, replay the log above each one's `flushed_through`, set the stamp floor above everything
   seen, and only then take writes.

When the log handle dies, the coordinator writes a higher term and assigns again. The shards in memory are then kept:
they hold exactly what was applied, and replay adds what a batch of unknown outcome may have left durable. They are kept
only if every term between the one they were made under and the new one was given to this very node. Had another owner
acted meanwhile, it may have sealed and truncated what replay would have to begin with, and a read here could miss what
it acknowledged: then everything is forgotten and read anew. An owner that learns that it was fenced forgets at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import msgspec

from elanus.base.errors import Action, DiskFullError, ElanusError, FencedError, OverloadedError, UnavailableError
from elanus.base.events import Events
from elanus.base.limits import MIB
from elanus.base.memory import release_memory
from elanus.meta.catalog import Stored, advance_replay, fetch, fetch_all, fetch_channel, owns, run
from elanus.meta.manifests import Manifests
from elanus.meta.records import COLLECTIONS, LOADS, Collection, CollectionState, LoadRecord, Pchannel, owner_key
from elanus.meta.store import Compare, Transaction
from elanus.model.channel import Position, pchannel_of
from elanus.model.errors import ChannelNotAvailableError, UnsupportedError
from elanus.model.reads import Found, Hits, ShardRead
from elanus.model.records import ShardChange
from elanus.model.segment import Manifest
from elanus.nodes.contracts import Coordinator, FlushReply, Query, ShardStatus, ShardTarget, ShardWrite, WriteReply
from elanus.nodes.streaming.channel import Channel
from elanus.nodes.streaming.delegate import Delegator, Evidence
from elanus.nodes.streaming.flush import Flusher, Storage, replay_position
from elanus.nodes.streaming.follow import Following
from elanus.nodes.streaming.interim import InterimBuilds
from elanus.nodes.streaming.shard import Shard
from elanus.nodes.terms import HighestTerm
from elanus.search.execute import Execution
from elanus.wal.log import Log, SharedLog
from elanus.wal.records import decode_record

FLUSH_RETRY_S: Final = 1.0
RELEASE_BYTES_MIN: Final = 16 * MIB


class StreamingLimits(msgspec.Struct, frozen=True):
    """`growing_bytes_max`: a growing segment of that size is sealed. `growing_bytes_stop`: with so much growing data in
    one shard, writes are refused as retriable; so they are while the disk has less than `free_bytes_min` room.
    `growing_idle_s`: growing rows without company for so long are sealed. `retention_ms`: deleted rows stay readable
    so long for reads at an older timestamp. `interim_indexes`: whether large growing segments get some."""

    growing_bytes_max: int
    growing_bytes_stop: int
    growing_idle_s: float
    free_bytes_min: int
    retention_ms: int
    deletes_max: int = 1_000_000
    interim_indexes: bool = True


class _Owned:
    """A channel with all that serves it."""

    def __init__(self, channel: Channel, delegator: Delegator) -> None:
        self.channel = channel
        self.delegator = delegator
        self.owner: Stored[Pchannel] | None = None
        self.own_through = 0
        """All terms above the channel's up to this one were given to this node."""
        self.following: Following | None = None

    def continues(self, term: int) -> bool:
        """Whether nobody else can have owned the channel between what is held here and `term`."""
        return self.channel.term == 0 or term <= self.own_through + 1

    @property
    def guard(self) -> Compare:
        """The condition of every commit of this owner."""
        if self.owner is None:
            raise UnavailableError(f"{self.channel.pchannel} is not open")
        return owns(self.owner)


class StreamingNode:
    """See the module's head; implements `contracts.Streaming`."""

    def __init__(
        self,
        node_id: int,
        storage: Storage,
        log: Log,
        execution: Execution,
        limits: StreamingLimits,
        events: Events,
    ) -> None:
        self.node_id = node_id
        self._storage = storage
        self._log = log
        self._execution = execution
        self._limits = limits
        self._events = events
        self._channels: dict[str, _Owned] = {}
        self._opening: dict[str, asyncio.Lock] = {}
        self._flush_through: dict[str, Position] = {}
        self._idling: set[str] = set()
        self._terms = HighestTerm()
        self._interims = InterimBuilds(storage.doors, events, enabled=limits.interim_indexes)

    def connect(self, coordinator: Coordinator, nodes: Mapping[int, Query]) -> None:
        """Give the node its peers; before any channel is assigned."""
        self._coordinator = coordinator
        self._nodes = nodes
        self._flusher = Flusher(self._storage, coordinator, self._limits.retention_ms)

    # --- ownership --------------------------------------------------------------------------------------------------
    async def assign(self, pchannel: str, term: int) -> None:
        async with self._opening.setdefault(pchannel, asyncio.Lock()):
            owned = self._channels.get(pchannel)
            if owned is not None and owned.channel.term < term and not owned.continues(term):
                await self._forget(pchannel)
                owned = None
            if owned is None:
                owned = self._new_channel(pchannel)
            if owned.channel.term >= term:
                if owned.channel.term == term and owned.channel.is_owned:
                    return
                raise FencedError(f"{pchannel}: term {term} is not above {owned.channel.term}")
            owned.own_through = max(owned.own_through, term)
            if owned.following is not None:
                await self._promote(owned, term)
            else:
                await self._open(owned, term)
            self._channels[pchannel] = owned

    async def _promote(self, owned: _Owned, term: int) -> None:
        """Own what was followed; where that fails, nothing of it is left."""
        following, owned.following = owned.following, None
        assert following is not None
        await following.stop()
        try:
            await self._open(owned, term, followed=True)
        except BaseException:
            self._channels.pop(owned.channel.pchannel, None)
            raise

    async def follow(self, pchannel: str, coordinator_term: int) -> None:
        self._terms.accept(coordinator_term)
        async with self._opening.setdefault(pchannel, asyncio.Lock()):
            owned = self._channels.get(pchannel)
            following = None if owned is None else owned.following
            await (following or await self._begin_to_follow(pchannel)).prove()

    async def _begin_to_follow(self, pchannel: str) -> Following:
        """Forgets what may be left of a time when this node owned the channel: nobody need have told it."""
        if not isinstance(self._log, SharedLog):
            raise UnsupportedError("following a channel whose log is not shared")
        record = await fetch_channel(self._storage.meta, pchannel)
        if record is None:
            raise UnavailableError(f"{pchannel} has no log yet")
        if record.owner.record.owner == self.node_id:
            raise UnavailableError(f"{pchannel} is this node's own")
        await self._forget(pchannel)
        owned = self._new_channel(pchannel)
        channel = owned.channel
        await self._load_shards(channel)
        channel.applied = record.replay_from.record.position
        follower = self._log.follow(pchannel, channel.applied)
        owned.following = Following(self._storage.doors, channel, follower, partial(self._lose, channel))
        owned.following.start()
        self._channels[pchannel] = owned
        return owned.following

    async def unfollow(self, pchannel: str, coordinator_term: int) -> None:
        self._terms.accept(coordinator_term)
        owned = self._channels.get(pchannel)
        if owned is not None and owned.following is not None:
            await self._forget(pchannel)

    def _lose(self, channel: Channel) -> None:
        """A follower has lost the thread."""
        self._let_go(channel, lambda owned: owned.following is not None)

    def fenced(self, channel: Channel) -> None:
        """Another owner has opened the log: what is held here is stale. A node that fenced itself is opening it."""
        self._let_go(channel, lambda owned: not owned.channel.is_owned and not self._opening[channel.pchannel].locked())

    def _let_go(self, channel: Channel, is_stale: Callable[[_Owned], bool]) -> None:
        """Forget a channel as soon as may be. The last append of one that was forgotten may be fenced when the same
        pchannel has long been opened here anew: that one stays."""

        async def forget() -> None:
            owned = self._channels.get(channel.pchannel)
            if owned is not None and owned.channel is channel and is_stale(owned):
                await self._forget(channel.pchannel)

        self._storage.doors.tasks.spawn(forget(), name=f"forget {channel.pchannel}")

    def _new_channel(self, pchannel: str) -> _Owned:
        doors = self._storage.doors
        channel = Channel(doors, pchannel, self._coordinator, self, log_is_shared=isinstance(self._log, SharedLog))
        evidence = Evidence(doors.clock, lambda: self._current_term(channel))
        delegator = Delegator(doors, channel, evidence, self._nodes, self._execution, self._interims)
        return _Owned(channel, delegator)

    async def _current_term(self, channel: Channel) -> int:
        """The term under which somebody may have acknowledged. A higher one that was given to this very node is still
        being opened here: nobody has acknowledged under it, and reads go on, on a full disk for instance."""
        pchannel = channel.pchannel
        if channel.follows:
            await self._prove(channel)
            return channel.term
        stored = await fetch(self._storage.meta, Pchannel, owner_key(pchannel))
        owned = self._channels.get(pchannel)
        if owned is not None and not owned.channel.term:
            owned = None
        mine = stored is not None and stored.record.owner == self.node_id
        if stored is not None and owned is not None and mine and owned.continues(stored.record.term):
            return owned.channel.term
        return 0 if stored is None else stored.record.term

    async def _prove(self, channel: Channel) -> None:
        """That a followed channel is complete, as long as it is followed: one that was forgotten while a read waited
        applies nothing more, and the evidence of one that was begun anew says nothing about it."""
        await self._following(channel).prove()
        self._following(channel)

    def _following(self, channel: Channel) -> Following:
        owned = self._channels.get(channel.pchannel)
        if owned is None or owned.channel is not channel or owned.following is None:
            raise UnavailableError(f"{channel.pchannel} is no longer followed here")
        return owned.following

    async def _open(self, owned: _Owned, term: int, *, followed: bool = False) -> None:
        channel, meta = owned.channel, self._storage.meta
        record = await fetch_channel(meta, channel.pchannel)
        if record is None or record.owner.record.term != term:
            raise FencedError(f"{channel.pchannel}: term {term} is not the current one")
        guard = owns(record.owner)
        await channel.suspend()

        async def confirm() -> None:
            await run(meta, Transaction(), (guard,))

        replay_from = record.replay_from.record.position
        writer = await self._log.open(channel.pchannel, term, replay_from, confirm)
        if followed and replay_from > channel.applied:
            raise UnavailableError(f"{channel.pchannel}: this follower was overtaken")
        if owned.owner is None and not followed:
            await self._load_shards(channel)
        await self._replay(channel, max(replay_from, channel.applied))
        if followed:
            await self._take_newest(channel)
        channel.stamps.raise_floor(record.replay_from.record.timestamp)
        for shard in channel.shards.values():
            channel.stamps.raise_floor(max(shard.last_timestamp, shard.manifest.timestamp_max))
        owned.owner = record.owner
        channel.own(term, writer)

    async def _load_shards(self, channel: Channel) -> None:
        """Every shard of the channel; a read of a loaded one waits for its view."""
        manifests = Manifests(self._storage.doors, self._storage.meta, self._storage.objects)
        loads = {stored.record.collection_id for stored in await fetch_all(self._storage.meta, LoadRecord, LOADS)}
        for stored in await fetch_all(self._storage.meta, Collection, COLLECTIONS):
            collection = stored.record
            if collection.state is not CollectionState.CREATED:
                continue
            for vchannel in collection.vchannels:
                if pchannel_of(vchannel) != channel.pchannel:
                    continue
                head = await manifests.read(vchannel)
                if head is None:
                    raise ChannelNotAvailableError(vchannel)
                replay_after = head.pointer.record.previous_flushed_through
                if head.pointer.record.previous is None:
                    replay_after = head.manifest.flushed_through
                shard = Shard(head.manifest, collection.schema, committed=True, replay_after=replay_after)
                shard.partition_ids.update(partition.partition_id for partition in collection.partitions)
                shard.expect(collection.collection_id in loads)
                channel.shards[vchannel] = shard

    async def _take_newest(self, channel: Channel) -> None:
        """The manifests as the last owner left them."""
        manifests = Manifests(self._storage.doors, self._storage.meta, self._storage.objects)
        for vchannel, shard in list(channel.shards.items()):
            head = await manifests.read(vchannel)
            if head is not None and (not shard.committed or head.manifest.version > shard.manifest.version):
                shard.install(head.manifest)

    async def _replay(self, channel: Channel, after: Position) -> None:
        channel.applied = after
        async for position, data in self._log.read(channel.pchannel, after):
            channel.apply(decode_record(data), position)

    def new_shard(self, change: ShardChange, before: Position) -> Shard:
        """The shard of a create record that stands right after `before`."""
        assert change.schema is not None
        manifest = Manifest(vchannel=change.vchannel, collection_id=change.collection_id, version=0, token="", term=0)
        return Shard(manifest, change.schema, committed=False, replay_after=before)

    async def resign(self, pchannel: str, term: int) -> None:
        owned = self._channels.get(pchannel)
        if owned is not None and owned.following is None and owned.channel.term <= term:
            await self._forget(pchannel)

    async def _forget(self, pchannel: str) -> None:
        owned = self._channels.pop(pchannel, None)
        if owned is not None:
            if owned.following is not None:
                await owned.following.stop()
            await owned.channel.close()

    async def close(self) -> None:
        """Finish what is being appended and release every log."""
        for pchannel in sorted(self._channels):
            await self._forget(pchannel)

    def is_open(self, pchannel: str) -> bool:
        """Whether this node takes writes for the channel now."""
        owned = self._channels.get(pchannel)
        return owned is not None and owned.channel.is_owned

    def is_following(self, pchannel: str) -> bool:
        """Whether this node serves the channel without owning it."""
        owned = self._channels.get(pchannel)
        return owned is not None and owned.following is not None

    @property
    def owned(self) -> list[str]:
        """Channels this node takes writes for, sorted."""
        return sorted(pchannel for pchannel in self._channels if self.is_open(pchannel))

    def _owned(self, vchannel: str) -> _Owned:
        owned = self._channels.get(pchannel_of(vchannel))
        if owned is None:
            raise ChannelNotAvailableError(vchannel)
        return owned

    # --- writes and reads -------------------------------------------------------------------------------------------
    async def apply_change(self, change: ShardChange, coordinator_term: int) -> Position:
        self._terms.accept(coordinator_term)
        reply = await self._owned(change.vchannel).channel.change(change)
        return reply.position

    async def write(self, write: ShardWrite) -> WriteReply:
        return await self._owned(write.vchannel).channel.write(write)

    async def search(self, read: ShardRead) -> Hits:
        return await self._owned(read.vchannel).delegator.search(read)

    async def query(self, read: ShardRead) -> Found:
        return await self._owned(read.vchannel).delegator.query(read)

    async def set_target(self, target: ShardTarget) -> None:
        self._terms.accept(target.coordinator_term)
        owned = self._owned(target.manifest.vchannel)
        if owned.following is not None:
            # Its view may begin only where everything that the manifest covers is applied.
            await owned.following.reach(target.manifest.flushed_through)
        shard = self._owned(target.manifest.vchannel).channel.shard(target.manifest.vchannel)
        if target.manifest.version >= shard.manifest.version and not shard.committed:
            shard.install(target.manifest)
        shard.expect(target.loaded)
        if not target.loaded or target.ready:
            before = shard.growing_bytes
            shard.serve(target)
            if before - shard.growing_bytes > RELEASE_BYTES_MIN:
                await self._storage.doors.compute.run_io(release_memory)

    async def status(self, vchannel: str) -> ShardStatus:
        return self._owned(vchannel).channel.shard(vchannel).status()

    async def ping(self) -> tuple[str, ...]:
        return tuple(sorted(pchannel for pchannel, owned in self._channels.items() if owned.following is None))

    # --- sealing ----------------------------------------------------------------------------------------------------
    async def flush(self, vchannel: str) -> FlushReply:
        if self._owned(vchannel).following is not None:
            raise ChannelNotAvailableError(vchannel)
        shard = self._owned(vchannel).channel.shard(vchannel)
        self._start_flush(shard)
        return FlushReply(shard.last_timestamp, shard.last_position)

    def check_room(self, shard: Shard) -> None:
        """Refuse a write for want of memory or disk, before it is stamped."""
        if shard.growing_bytes > self._limits.growing_bytes_stop:
            raise OverloadedError(f"{shard.vchannel} holds too much growing data; it is being sealed")
        if self._storage.free_bytes() < self._limits.free_bytes_min:
            raise DiskFullError("disk limit exceeded: too little room is left for writes")

    def batch_applied(self, shards: list[Shard]) -> None:
        """Seal what is full; make sure that what stays small is sealed some day."""
        for shard in shards:
            if self._is_full(shard) or shard.deletes.count >= self._limits.deletes_max:
                self._start_flush(shard)
            elif shard.vchannel not in self._idling and shard.has_unflushed:
                self._idling.add(shard.vchannel)
                self._storage.doors.tasks.spawn(self._flush_when_idle(shard), name=f"idle {shard.vchannel}")

    async def _flush_when_idle(self, shard: Shard) -> None:
        seen = None
        while shard.has_unflushed and not shard.dropped and seen != shard.last_position:
            seen = shard.last_position
            await self._storage.doors.clock.sleep(self._limits.growing_idle_s)
        self._idling.discard(shard.vchannel)
        if shard.has_unflushed and not shard.dropped:
            self._start_flush(shard)

    def _start_flush(self, shard: Shard) -> None:
        """See to it that everything applied so far is sealed; one task per shard does it."""
        running = shard.vchannel in self._flush_through
        self._flush_through[shard.vchannel] = shard.last_position
        if not running:
            self._storage.doors.tasks.spawn(self._flush_all(shard.vchannel), name=f"flush {shard.vchannel}")

    async def _flush_all(self, vchannel: str) -> None:
        """Flush until nothing that was asked for is left, then release the log below."""
        try:
            while not await self._flush_once(vchannel):
                await self._storage.doors.clock.sleep(FLUSH_RETRY_S)
        finally:
            del self._flush_through[vchannel]

    async def _flush_once(self, vchannel: str) -> bool:
        """One attempt at everything a flush entails; False when it should be repeated later."""
        try:
            owned = self._owned(vchannel)
            shard = owned.channel.shard(vchannel)
            if not shard.committed:
                return False
            term = owned.channel.term
            while shard.manifest.flushed_through < self._flush_through[vchannel] and not shard.dropped:
                await self._flusher.flush(shard, owned.guard, owned.channel.term)
            await self._flusher.settle(shard, owned.guard, owned.channel.term)
            await self._release_log(owned)
        except FencedError as error:
            self._events.warning("flush.failed", shard=vchannel, error=error.message)
            # Fenced by this node's own next term, which opens or has opened: that one flushes what is left.
            return owned.channel.is_owned and owned.channel.term == term
        except ElanusError as error:
            if error.action is Action.CORRUPTED:
                raise
            self._events.warning("flush.failed", shard=vchannel, error=error.message)
            return error.action not in (Action.RETRY, Action.UNKNOWN)
        return shard.dropped or shard.manifest.flushed_through >= self._flush_through[vchannel]

    def _is_full(self, shard: Shard) -> bool:
        return shard.active.size_bytes >= self._limits.growing_bytes_max

    async def _release_log(self, owned: _Owned) -> None:
        """Move the start of replay over what committed manifests cover, then truncate below it."""
        channel, meta = owned.channel, self._storage.meta
        position = replay_position(list(channel.shards.values()), channel.applied)
        record = await fetch_channel(meta, channel.pchannel)
        if record is None or owned.owner is None or position <= record.replay_from.record.position:
            return
        await run(meta, advance_replay(record, position, channel.stamps.last), (owned.guard,))
        await self._log.truncate(channel.pchannel, position)
