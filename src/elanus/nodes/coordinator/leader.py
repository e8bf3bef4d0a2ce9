"""Being the active coordinator: election, the channels' owners, and the loops that follow the catalog.

Start, in this order: win the election; read the catalog; give every channel to an owner under a new term; carry open
intents to their ends; let every collection be looked at. From then on each move of a shard's pointer, seen by a watch,
wakes placement and background work for its collection.
"""

from __future__ import annotations

import asyncio
from typing import Final

from elanus.base.errors import Action, ElanusError, UnavailableError
from elanus.meta.catalog import assign, create, elected, fetch_channel, run, stored
from elanus.meta.records import SHARDS, CollectionState, Database, Election, ShardPointer
from elanus.model.channel import pchannel_name
from elanus.model.schema import DEFAULT_DATABASE
from elanus.nodes.contracts import Streaming
from elanus.nodes.coordinator.background import Background, BackgroundLimits
from elanus.nodes.coordinator.catalog import Catalog
from elanus.nodes.coordinator.collector import Collector
from elanus.nodes.coordinator.ddl import ShardDdl
from elanus.nodes.coordinator.ground import Peers, Surroundings
from elanus.nodes.coordinator.oracle import IdAllocator, TimestampOracle
from elanus.nodes.coordinator.placement import Placement

LEASE_S: Final = 15.0
RETRY_S: Final = 0.5
SETTLE_S: Final = 0.1
DEFAULT_DATABASE_ID: Final = 1


class Leader:
    """An elected coordinator's state and loops; made by `elect`."""

    def __init__(
        self, ground: Surroundings, peers: Peers, term: int, limits: BackgroundLimits, pchannel_count: int
    ) -> None:
        self.ground = ground
        self.peers = peers
        self.term = term
        self.guard = elected(term)
        self.pchannels = tuple(pchannel_name(number) for number in range(pchannel_count))
        self.owners: dict[str, int] = {}
        self.catalog = Catalog(ground.meta)
        self.oracle = TimestampOracle(ground.meta, ground.doors.clock, self.guard)
        self.ids = IdAllocator(ground.meta, ground.doors.clock, self.guard)
        self.placement = Placement(ground, self.catalog, self.owner_of, peers.query)
        self.background = Background(ground, self.catalog, self.placement, self.ids, self.guard, limits)
        self.ddl = ShardDdl(ground, self.catalog, self.guard, self.owner_of)
        self.collector = Collector(ground, self.guard)
        self._wanted: set[int] = set()
        self._wake = asyncio.Event()
        self._locks: dict[int, asyncio.Lock] = {}
        self._channel_locks: dict[str, asyncio.Lock] = {}

    def owner_of(self, pchannel: str) -> Streaming:
        """The streaming node that owns a channel."""
        node = self.peers.streaming.get(self.owners.get(pchannel, 0))
        if node is None:
            raise UnavailableError(f"{pchannel} has no owner now")
        return node

    async def start(self) -> None:
        """Everything up to serving; see the module's head."""
        await self.catalog.refresh()
        await self._ensure_default_database()
        await self.oracle.start()
        await self.collector.start(self.catalog)
        await asyncio.gather(*(self.assign(pchannel) for pchannel in self.pchannels))
        await self.ddl.finish_all()
        await self.catalog.refresh()
        spawn = self.ground.doors.tasks.spawn
        snapshot = await self.ground.meta.snapshot(SHARDS)
        self.background.start(self.peers.data)
        spawn(self._follow_pointers(snapshot.revision), name="follow shard pointers")
        spawn(self._reconcile_for_ever(), name="placement")
        for collection_id in self.catalog.collections:
            self.mark(collection_id)

    async def _ensure_default_database(self) -> None:
        if DEFAULT_DATABASE not in self.catalog.databases:
            default = Database(database_id=DEFAULT_DATABASE_ID, name=DEFAULT_DATABASE, created_timestamp=0)
            await run(self.ground.meta, create(default), (self.guard,))
            await self.catalog.refresh()

    # --- channels ---------------------------------------------------------------------------------------------------
    async def assign(self, pchannel: str) -> None:
        """Give a channel to a node under the next term."""
        async with self._channel_locks.setdefault(pchannel, asyncio.Lock()):
            nodes = sorted(self.peers.streaming)
            node_id = nodes[self.pchannels.index(pchannel) % len(nodes)]
            channel = await fetch_channel(self.ground.meta, pchannel)
            transaction, term = assign(channel, pchannel, node_id)
            await run(self.ground.meta, transaction, (self.guard,))
            await self.peers.streaming[node_id].assign(pchannel, term)
            self.owners[pchannel] = node_id

    async def reassign(self, pchannel: str) -> None:
        """Give a channel whose log handle died a new term, as long as that takes (a full disk may last)."""
        while True:
            try:
                await self.assign(pchannel)
                return
            except ElanusError as error:
                self.ground.events.warning("channel.reopen_failed", pchannel=pchannel, error=error.message)
                if error.action not in (Action.RETRY, Action.UNKNOWN, Action.FENCED):
                    raise
                await self.ground.doors.clock.sleep(RETRY_S)

    # --- following --------------------------------------------------------------------------------------------------
    def mark(self, collection_id: int) -> None:
        """Something about the collection changed: look at placement and background work."""
        self._wanted.add(collection_id)
        self._wake.set()
        self.background.mark(collection_id)

    async def _follow_pointers(self, revision: int) -> None:
        async for batch in self.ground.meta.watch(SHARDS, revision):
            for event in batch.events:
                if event.item is not None:
                    self.mark(stored(ShardPointer, event.item).record.collection_id)

    async def _reconcile_for_ever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._wanted:
                await self.reconcile(self._wanted.pop())

    async def reconcile(self, collection_id: int) -> None:
        """One placement step for a collection; repeats itself later when something is left."""
        settled = True
        async with self._locks.setdefault(collection_id, asyncio.Lock()):
            stored_collection = self.catalog.collections.get(collection_id)
            if stored_collection is None:
                return
            load = self.catalog.loads.get(collection_id)
            try:
                settled = await self.placement.reconcile(
                    stored_collection.record, None if load is None else load.record
                )
                settled &= await self.collector.collect(stored_collection.record, self.placement)
                if stored_collection.record.state is CollectionState.DROPPING:
                    await self.catalog.refresh_collection(collection_id)
            except ElanusError as error:
                self.ground.events.warning("placement.failed", collection=collection_id, error=error.message)
                if error.action not in (Action.RETRY, Action.ELSEWHERE):
                    raise
                settled = False
        if collection_id not in self.catalog.collections:
            self._locks.pop(collection_id, None)
        if not settled:
            self.ground.doors.tasks.spawn(self._again(collection_id), name="placement retry")

    async def _again(self, collection_id: int) -> None:
        await self.ground.doors.clock.sleep(SETTLE_S)
        self._wanted.add(collection_id)
        self._wake.set()

    async def invalidate(self, collection_id: int) -> None:
        """Push to every proxy that what it knows of the collection is old."""
        for proxy in self.peers.proxies:
            await proxy.invalidate(collection_id)


async def elect(ground: Surroundings, peers: Peers, limits: BackgroundLimits, pchannel_count: int) -> Leader:
    """Win the election, waiting while somebody else leads. The leader is still to be started."""
    lease = await ground.meta.grant(LEASE_S)
    candidacy = create(Election(node_id=ground.node_id), lease)
    while True:
        won = await ground.meta.transact(candidacy.compares, candidacy.operations)
        if won.succeeded:
            break
        await ground.doors.clock.sleep(RETRY_S)
        await ground.meta.keep_alive(lease)
    ground.doors.tasks.spawn(_keep_lease(ground, lease), name="election lease")
    return Leader(ground, peers, won.revision, limits, pchannel_count)


async def _keep_lease(ground: Surroundings, lease: int) -> None:
    while True:
        await ground.doors.clock.sleep(LEASE_S / 3)
        await ground.meta.keep_alive(lease)
