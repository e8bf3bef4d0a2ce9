"""Being the active coordinator: the catalog, the channels' owners, and the loops that follow the catalog.

Start, in this order: read the catalog; see that every channel has an owner; carry open intents to their ends; let every
collection be looked at. From then on each move of a shard's pointer, seen by a watch, wakes placement and background
work for its collection; so does a channel that moves, and a node that comes or goes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from elanus.base.backoff import Backoff
from elanus.base.errors import Action, ElanusError, FencedError, ReplyLostError, UnavailableError
from elanus.meta.catalog import check_guards, create, elected, run, stored
from elanus.meta.follow import follow
from elanus.meta.records import SHARDS, Collection, CollectionState, Database, ShardPointer
from elanus.meta.store import Item, Snapshot
from elanus.model.channel import pchannel_name, pchannel_of
from elanus.model.schema import DEFAULT_DATABASE
from elanus.nodes.coordinator.background import Background, BackgroundLimits
from elanus.nodes.coordinator.catalog import Catalog
from elanus.nodes.coordinator.channels import Channels
from elanus.nodes.coordinator.collector import Collector
from elanus.nodes.coordinator.ddl import ShardDdl
from elanus.nodes.coordinator.election import Office
from elanus.nodes.coordinator.oracle import IdAllocator, TimestampOracle
from elanus.nodes.coordinator.placement import Placement
from elanus.nodes.coordinator.snapshots import Snapshots
from elanus.nodes.coordinator.workers import Workers
from elanus.nodes.membership import Peers
from elanus.nodes.spill import collect_expired

SETTLE_S: Final = 0.1
SETTLE_S_MAX: Final = 2.0
PLACEMENTS_MAX: Final = 8
"""Collections that are placed at the same time."""
TIDY_S: Final = 60.0
LOOK_AGAIN_S: Final = 3600.0
"""A folder is listed again for what a writer that slept may have written."""
DEFAULT_DATABASE_ID: Final = 1


@dataclass(frozen=True, slots=True)
class LeaderLimits:
    """`pchannel_count` is fixed once a store is made. `adopts`: owners of channels may live on from an earlier lead."""

    background: BackgroundLimits
    pchannel_count: int
    adopts: bool = False


@dataclass(slots=True)
class _Unsettled:
    """A collection that is not yet as it should be. `trouble`: what was said of it. `waits`: it is tried again soon."""

    backoff: Backoff
    trouble: str = ""
    waits: bool = False


class Leader:
    """An elected coordinator's state and loops."""

    def __init__(self, office: Office, peers: Peers, limits: LeaderLimits) -> None:
        ground = office.ground
        self.ground = ground
        self.peers = peers
        self.term = office.term
        self.guard = elected(self.term)
        names = tuple(pchannel_name(number) for number in range(limits.pchannel_count))
        self.channels = Channels(ground, peers, self.term, names, limits.adopts)
        self.catalog = Catalog(ground.meta)
        self.oracle = TimestampOracle(ground.meta, ground.doors.clock, self.guard)
        self.ids = IdAllocator(ground.meta, ground.doors.clock, self.guard)
        self.snapshots = Snapshots(ground, self.ids)
        self.placement = Placement(ground, self.catalog, self.channels, peers, self.term)
        self.collector = Collector(ground, self.guard, self.channels.open_term)
        workers = Workers(ground, peers, self.collector.give_up)
        self.background = Background(ground, self.catalog, self.placement, self.ids, workers, limits.background)
        self.ddl = ShardDdl(ground, self.catalog, self.guard, self.channels, self.term)
        self._adopts = limits.adopts
        self._wanted: dict[int, None] = {}
        self._placing: set[int] = set()
        self._unsettled: dict[int, _Unsettled] = {}
        self._wake = asyncio.Event()
        self._locks: dict[int, asyncio.Lock] = {}
        self._shown: dict[int, tuple[tuple[int, ...], ...]] = {}
        self._leave: Callable[[], None] | None = None

    @property
    def pchannels(self) -> tuple[str, ...]:
        """Names of all channels."""
        return self.channels.names

    async def prepare(self) -> None:
        """Know what there is: after this, questions are answered."""
        await self.catalog.refresh()
        await self._ensure_default_database()
        await self.oracle.start()

    async def start(self) -> None:
        """Everything else; see the module's head."""
        if self._adopts:
            await self.placement.start()
        else:
            await self.collector.start(self.catalog)
        await self.channels.start(self._channel_moved, self._channel_opened)
        await self.ddl.finish_all()
        await self.catalog.refresh()
        spawn = self.ground.doors.tasks.spawn
        self.background.start()
        spawn(self.snapshots.write_for_ever(), name="catalog snapshots")
        spawn(self._follow_pointers(), name="follow shard pointers")
        spawn(self._reconcile_for_ever(), name="placement")
        if self._adopts:
            spawn(self._tidy_for_ever(), name="tidying")
        self._mark_all()
        self._leave = self.peers.changes.subscribe(self._mark_all)

    def stop(self) -> None:
        """Follow the nodes no longer; the tasks end with the office."""
        self.channels.stop()
        if self._leave is not None:
            self._leave()

    async def confirm(self) -> None:
        """Return if the catalog known here is the newest, on fresh evidence of the lead; for answers that nothing is to
        do. One who was deposed and has not noticed would say that a partition is gone which its successor has made."""
        try:
            await check_guards(self.ground.meta, (self.guard,))
        except FencedError as error:
            raise UnavailableError("another coordinator leads") from error

    async def _ensure_default_database(self) -> None:
        if DEFAULT_DATABASE not in self.catalog.databases:
            default = Database(database_id=DEFAULT_DATABASE_ID, name=DEFAULT_DATABASE, created_timestamp=0)
            await run(self.ground.meta, create(default), (self.guard,))
            await self.catalog.refresh()

    # --- following --------------------------------------------------------------------------------------------------
    def mark(self, collection_id: int) -> None:
        """Something about the collection changed: look at placement and background work."""
        self._wanted[collection_id] = None
        self._wake.set()
        self.background.mark(collection_id)

    def _mark_all(self) -> None:
        for collection_id in self.catalog.collections:
            self.mark(collection_id)

    def _channel_opened(self, pchannel: str) -> None:
        """A channel was opened under another term, or is known to be open: its owners before write no more."""
        for collection_id, known in self.catalog.collections.items():
            vchannels = [one for one in known.record.vchannels if pchannel_of(one) == pchannel]
            if vchannels and self._adopts:
                self.collector.look(vchannels)
                self.mark(collection_id)

    async def _channel_moved(self, pchannel: str, node_id: int) -> None:
        """Another node serves a channel: it is told what to serve, and the proxies where it is."""
        for collection_id, known in list(self.catalog.collections.items()):
            vchannels = [one for one in known.record.vchannels if pchannel_of(one) == pchannel]
            if vchannels:
                for vchannel in vchannels:
                    self.placement.forget_delegator(vchannel, node_id)
                self.mark(collection_id)
                await self.invalidate(collection_id)

    async def _follow_pointers(self) -> None:
        seen: dict[str, int] = {}
        async for step in follow(self.ground.doors.clock, self.ground.meta, SHARDS):
            if isinstance(step, Snapshot):
                there = {item.key: item for item in step.items}
                events: dict[str, Item | None] = {**dict.fromkeys(seen), **there}
            else:
                events = {one.key: one.item for one in step.events}
            for key, item in events.items():
                if item is None:
                    seen.pop(key, None)
                    self.ground.recent_heads.gone(key.removeprefix(SHARDS))
                elif seen.get(key) != item.mod_revision:
                    seen[key] = item.mod_revision
                    self.ground.recent_heads.moved(key.removeprefix(SHARDS), item.mod_revision)
                    self.mark(stored(ShardPointer, item).record.collection_id)

    async def _reconcile_for_ever(self) -> None:
        """Several collections at once: one that waits for a node holds up no other."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while idle := [one for one in self._wanted if one not in self._placing]:
                if len(self._placing) >= PLACEMENTS_MAX:
                    break
                collection_id = idle[0]
                del self._wanted[collection_id]
                self._placing.add(collection_id)
                self.ground.doors.tasks.spawn(self._place(collection_id), name="placement turn")

    async def _place(self, collection_id: int) -> None:
        try:
            await self.reconcile(collection_id)
        finally:
            self._placing.discard(collection_id)
            self._wake.set()

    async def _tidy_for_ever(self) -> None:
        """Let go of what those have left behind who died, slept or gave up."""
        ground, looked_s = self.ground, self.ground.doors.clock.monotonic_s()
        settled = False
        while True:
            try:
                await collect_expired(ground.doors, ground.objects)
                await self.placement.release_strangers()
                settled = settled or await self.collector.collect_dropped()
            except ElanusError as error:
                if error.action not in (Action.RETRY, Action.ELSEWHERE, Action.UNKNOWN):
                    raise
                ground.events.warning("tidying.failed", error=error.message)
            await ground.doors.clock.sleep(TIDY_S)
            if ground.doors.clock.monotonic_s() - looked_s >= LOOK_AGAIN_S:
                looked_s, settled = ground.doors.clock.monotonic_s(), False
                for pchannel in self.pchannels:
                    self._channel_opened(pchannel)

    async def reconcile(self, collection_id: int) -> None:
        """One placement step for a collection; repeats itself later when something is left."""
        settled, trouble = True, ""
        async with self._locks.setdefault(collection_id, asyncio.Lock()):
            stored_collection = self.catalog.collections.get(collection_id)
            if stored_collection is None:
                return
            load = self.catalog.loads.get(collection_id)
            self.channels.want_copies(self._copies())
            try:
                settled = await self.placement.reconcile(
                    stored_collection.record, None if load is None else load.record
                )
                await self._show_followers(stored_collection.record)
                settled &= await self._collect(stored_collection.record)
                if stored_collection.record.state is CollectionState.DROPPING:
                    await self.catalog.refresh_collection(collection_id)
            except ElanusError as error:
                trouble = error.message
                if error.action not in (Action.RETRY, Action.ELSEWHERE, Action.UNKNOWN):
                    raise
                settled = False
        if collection_id not in self.catalog.collections:
            self._locks.pop(collection_id, None)
            self._shown.pop(collection_id, None)
        self._note(collection_id, settled, trouble)

    def _note(self, collection_id: int, settled: bool, trouble: str) -> None:
        """Say what has changed, and see to it that what is left is done later."""
        if settled and collection_id not in self._unsettled:
            return
        known = self._unsettled.setdefault(
            collection_id, _Unsettled(Backoff(self.ground.doors.random, SETTLE_S, SETTLE_S_MAX))
        )
        if trouble and trouble != known.trouble:
            self.ground.events.warning("placement.failed", collection=collection_id, error=trouble)
        elif settled and known.trouble:
            self.ground.events.info("placement.mended", collection=collection_id)
        known.trouble = trouble
        if settled:
            del self._unsettled[collection_id]
        elif not known.waits:
            known.waits = True
            self.ground.doors.tasks.spawn(self._again(collection_id, known), name="placement retry")

    async def _collect(self, collection: Collection) -> bool:
        if collection.state is CollectionState.DROPPING and self.background.works_on(collection.collection_id):
            return False  # What its tasks still write goes with the rest.
        return await self.collector.collect(collection, self.placement)

    async def _show_followers(self, collection: Collection) -> None:
        """Tell the proxies when others serve the collection's shards beside their owners."""
        serving = tuple(
            self.placement.serving_followers(vchannel, self.channels.delegators(pchannel_of(vchannel))[1:])
            for vchannel in collection.vchannels
        )
        if self._shown.get(collection.collection_id, ((),) * len(serving)) != serving:
            self._shown[collection.collection_id] = serving
            await self.invalidate(collection.collection_id)

    def _copies(self) -> dict[str, int]:
        """How many delegators each channel needs for the replicas of what it carries."""
        copies: dict[str, int] = {}
        for collection_id, load in self.catalog.loads.items():
            known = self.catalog.collections.get(collection_id)
            if known is not None and load.record.replica_count > 1:
                for vchannel in known.record.vchannels:
                    pchannel = pchannel_of(vchannel)
                    copies[pchannel] = max(copies.get(pchannel, 1), load.record.replica_count)
        return copies

    async def _again(self, collection_id: int, unsettled: _Unsettled) -> None:
        await self.ground.doors.clock.sleep(unsettled.backoff.next_s())
        unsettled.waits = False
        self._wanted[collection_id] = None
        self._wake.set()

    async def invalidate(self, collection_id: int) -> None:
        """Push to every proxy that what it knows of the collection is old. One that cannot be told has left, or learns
        it from the errors of whom it asks."""
        for proxy in list(self.peers.proxies.values()):
            try:
                await proxy.invalidate(collection_id)
            except (UnavailableError, ReplyLostError) as error:
                self.ground.events.info("proxy.not_told", error=error.message)
