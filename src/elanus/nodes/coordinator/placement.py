"""Placement of sealed segments: one level-triggered step per collection.

`reconcile` compares what the catalog wants with what is, does the missing steps, and is repeated until nothing is
missing: load every segment of the shard's newest manifest on a query node of each replica, let the delegator swap its
view to that manifest with these places, then release what no view can reach any more. It is woken by every move of a
shard's pointer, every load or release, every node that comes or goes and every channel that moves; killed anywhere, it
leaves only work that the next run does.

`held` is what the query nodes hold as far as this coordinator knows: what it told them to load, and, from a lead
before, what they say they have. A segment that moved is released when no older view is read, or at once where the old
view had the same manifest: a read that comes too late is repeated by its delegator on the newest view.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

import msgspec

from elanus.base.errors import ElanusError, UnavailableError
from elanus.index.registry import resolve
from elanus.meta.manifests import Head
from elanus.meta.records import Collection, CollectionState, LoadRecord, ShardPointer
from elanus.model.channel import ORIGIN, Position, pchannel_of
from elanus.model.errors import ChannelNotAvailableError, MemoryLimitError
from elanus.model.index import MMAP, is_mapped
from elanus.model.segment import Manifest, SegmentEntry
from elanus.nodes.contracts import Query, SegmentLoad, ShardStatus, ShardTarget, Streaming
from elanus.nodes.coordinator.catalog import Catalog
from elanus.nodes.coordinator.ground import Surroundings
from elanus.nodes.coordinator.spread import SEGMENT_WEIGHT, Groups, Places, plan_groups, plan_places
from elanus.nodes.membership import Peers
from elanus.segment.footprint import footprint

T = TypeVar("T")

LOAD_BATCH_MAX: Final = 32
"""Segments in one call to a query node: few calls for thousands, and progress is seen."""


class Owners(Protocol):
    """The streaming nodes that serve channels."""

    def delegators(self, pchannel: str) -> tuple[int, ...]:
        """The nodes that serve the channel's shards, the owner first; none while nobody owns it."""
        ...

    def lost_follower(self, pchannel: str, node_id: int) -> None:
        """The node says that it serves the channel no longer."""
        ...

    async def ask_node(self, node_id: int, call: Callable[[Streaming], Coroutine[Any, Any, T]]) -> T:
        """As `ask`, of any streaming node."""
        ...

    async def ask(self, pchannel: str, call: Callable[[Streaming], Coroutine[Any, Any, T]]) -> T:
        """The owner's answer. UnavailableError while nobody owns the channel; ReplyLostError when the owner left."""
        ...


@dataclass(slots=True)
class ShardState:
    """A shard as last seen: its newest manifest, where its segments are served from, which manifest is served."""

    manifest: Manifest
    pointer: ShardPointer
    locations: Places = field(default_factory=dict)
    targets: dict[int, ShardTarget] = field(default_factory=dict)
    """What each delegator was last told to serve."""
    served_version: int = -1
    surplus: set[tuple[int, int]] = field(default_factory=set)
    """Segments and nodes to release in the next round."""


@dataclass(frozen=True, slots=True)
class Held:
    """A segment on a query node, as it was last loaded there: its entry, and through which position it has the deletes.
    Without an entry: the node says it has it."""

    entry: SegmentEntry | None = None
    deletes_through: Position = ORIGIN

    @property
    def weight(self) -> int:
        """What it counts for on its node."""
        return SEGMENT_WEIGHT + (0 if self.entry is None else self.entry.size_bytes)


class Placement:
    """See the module's head."""

    def __init__(self, ground: Surroundings, catalog: Catalog, owners: Owners, peers: Peers, term: int) -> None:
        self._tasks = ground.doors.tasks
        self._events = ground.events
        self._catalog = catalog
        self._owners = owners
        self._peers = peers
        self.term = term
        self._manifests = ground.manifests
        self.shards: dict[str, ShardState] = {}
        self.held: dict[int, dict[int, Held]] = {}
        self._groups: dict[int, Groups] = {}
        self._progress: dict[int, tuple[int, int]] = {}
        self._expected: set[int] = set()
        self._strangers: set[tuple[int, int]] = set()
        self._coming: dict[int, int] = {}
        """Weight of what is being loaded on each node."""

    async def start(self) -> None:
        """Learn what the query nodes hold from a lead before."""
        await asyncio.gather(*(self._learn(node_id) for node_id in list(self._peers.query)))

    async def _learn(self, node_id: int) -> None:
        try:
            status = await self._peers.while_there(self._tasks, node_id, self._peers.query[node_id].status())
        except ElanusError as error:
            self._events.info("placement.node_silent", node=node_id, error=error.message)
            return
        self.held[node_id] = {segment_id: Held() for segment_id in status.segments}

    async def release_strangers(self) -> None:
        """Release what query nodes hold and nobody wants: loaded by a lead before, or let go while its node was away.
        Called now and then; only what was a stranger the last time too is released, since what a node has just loaded
        is a stranger until its answer is here. Waits until every loaded collection is served."""
        strangers: set[tuple[int, int]] = set()
        for node_id, node in list(self._peers.query.items()):
            status = await self._peers.while_there(self._tasks, node_id, node.status())
            strangers |= {(node_id, segment_id) for segment_id in status.segments}
        strangers -= self._wanted()
        if all(self._is_served(collection_id) for collection_id in self._catalog.loads):
            for node_id in sorted({node_id for node_id, _ in strangers & self._strangers}):
                here = strangers & self._strangers
                await self._release_at(node_id, tuple(sorted(one for at, one in here if at == node_id)))
        self._strangers = strangers

    def _wanted(self) -> set[tuple[int, int]]:
        """Nodes and segments that were asked for, or are yet to be released."""
        wanted = {
            (node_id, segment_id)
            for node_id, segments in self.held.items()
            for segment_id, held in segments.items()
            if held.entry is not None
        }
        for state in self.shards.values():
            wanted |= {(node_id, segment_id) for segment_id, nodes in state.locations.items() for node_id in nodes}
            wanted |= {(node_id, segment_id) for segment_id, node_id in state.surplus}
        return wanted

    def _is_served(self, collection_id: int) -> bool:
        known = self._catalog.collections.get(collection_id)
        states = [self.shards.get(vchannel) for vchannel in (() if known is None else known.record.vchannels)]
        return all(state is not None and state.served_version >= 0 for state in states)

    async def shard(self, vchannel: str) -> ShardState | None:
        """The shard with its newest committed manifest; None when it is gone or dropped."""
        return self._seen(vchannel, await self._manifests.read(vchannel))

    async def shard_as_seen(self, vchannel: str) -> ShardState | None:
        """The same without asking where the newest that was seen is known: for who is woken when there is a newer."""
        return self._seen(vchannel, self._manifests.recent.newest(vchannel) or await self._manifests.read(vchannel))

    def _seen(self, vchannel: str, head: Head | None) -> ShardState | None:
        if head is None or head.pointer.record.dropped:
            return None
        state = self.shards.get(vchannel)
        if state is None:
            state = self.shards[vchannel] = ShardState(head.manifest, head.pointer.record)
        state.manifest, state.pointer = head.manifest, head.pointer.record
        return state

    # --- what others ask --------------------------------------------------------------------------------------------
    def forget_delegator(self, vchannel: str, node_id: int) -> None:
        """A node serves the shard from now on, and does not know what, or no longer."""
        state = self.shards.get(vchannel)
        if state is not None:
            state.targets.pop(node_id, None)
            if (node_id,) == self._owners.delegators(pchannel_of(vchannel))[:1]:
                state.served_version = -1

    def serving_followers(self, vchannel: str, followers: Sequence[int]) -> tuple[int, ...]:
        """Those that were told to serve the shard."""
        state = self.shards.get(vchannel)
        return () if state is None else tuple(one for one in followers if one in state.targets)

    def is_read(self, vchannel: str, version: int) -> bool:
        """Whether a view older than that of manifest `version` may still be read."""
        state = self.shards.get(vchannel)
        return (
            state is not None and state.served_version >= 0 and (state.served_version < version or bool(state.surplus))
        )

    def expect(self, collection_id: int) -> None:
        """What is to be served of a collection has changed: its progress starts anew."""
        self._expected.add(collection_id)
        self._progress[collection_id] = (0, 1)

    def percentage(self, collection: Collection) -> int:
        """How much of a loaded collection is being served, 0..100."""
        done, wanted = self._progress.get(collection.collection_id, (0, 1))
        states = [self.shards.get(vchannel) for vchannel in collection.vchannels]
        served = all(state is not None and state.served_version >= 0 for state in states)
        if served and collection.collection_id not in self._expected:
            return 100
        return min(99, 100 * done // max(1, wanted))

    def groups(self, collection_id: int) -> Groups:
        """The query nodes of each replica."""
        return self._groups.get(collection_id, ())

    async def check_memory(self, collection: Collection, load: LoadRecord) -> None:
        """MemoryLimitError when what is to be loaded, and is not yet, takes more memory than the query nodes have
        left. Where there is none now, nobody knows: what is asked for is loaded by those that come. A collection that
        is loaded may outgrow them later, and is served on: what is mapped is given back."""
        wanted = 0
        for vchannel in collection.vchannels:
            state = await self.shard(vchannel)
            for entry in () if state is None else state.manifest.segments:
                if load.partition_ids is None or entry.partition_id in load.partition_ids:
                    there = sum(entry.segment_id in segments for segments in self.held.values())
                    wanted += footprint(entry) * max(0, load.replica_count - there)
        statuses = [
            await self._peers.while_there(self._tasks, node_id, node.status())
            for node_id, node in list(self._peers.query.items())
        ]
        if not wanted or not statuses or any(not status.memory_bytes_max for status in statuses):
            return
        limit = sum(status.memory_bytes_max for status in statuses)
        predicted = wanted + sum(status.memory_bytes for status in statuses)
        if predicted > limit:
            raise MemoryLimitError(predicted, limit)

    # --- the step ---------------------------------------------------------------------------------------------------
    async def reconcile(self, collection: Collection, load: LoadRecord | None) -> bool:
        """Bring one collection's shards to what the catalog wants; whether nothing is left to do."""
        self._forget_gone()
        if load is None or collection.state is not CollectionState.CREATED:
            await self._unload(collection)
            return True
        nodes = self._peers.lasting(self._peers.query) or sorted(self._peers.query)
        groups = plan_groups(self.groups(collection.collection_id), nodes, load.replica_count) if nodes else ()
        self._groups[collection.collection_id] = groups
        settled = True
        for vchannel in collection.vchannels:
            state = await self.shard_as_seen(vchannel)
            if state is not None:
                settled &= await self._serve(collection, load, state, groups)
        if self._catalog.loads.get(collection.collection_id) is not None:
            self._expected.discard(collection.collection_id)
        return settled

    def _forget_gone(self) -> None:
        for node_id in [node_id for node_id in self.held if node_id not in self._peers.query]:
            del self.held[node_id]

    async def _serve(self, collection: Collection, load: LoadRecord, state: ShardState, groups: Groups) -> bool:
        manifest = state.manifest
        delegators = self._owners.delegators(pchannel_of(manifest.vchannel))
        if not delegators:
            raise UnavailableError(f"{manifest.vchannel} has no owner now")
        if delegators[0] not in state.targets:
            await self._set_target(state, delegators[0], ShardTarget(manifest=manifest, loaded=True, ready=False))
        wanted = [
            entry
            for entry in manifest.segments
            if load.partition_ids is None or entry.partition_id in load.partition_ids
        ]
        if wanted and not groups:
            raise UnavailableError("there is no query node now")
        places = self._plan(wanted, groups)
        await self._load_all(collection, manifest, wanted, places)
        target = ShardTarget(
            manifest=manifest,
            loaded=True,
            locations=places,
            partition_ids=load.partition_ids,
            coordinator_term=self.term,
        )
        for node_id in delegators:
            if state.targets.get(node_id) != target:
                await self._set_target(state, node_id, target)
        before, state.locations = state.locations, places
        state.served_version = manifest.version
        for segment_id, nodes in before.items():
            state.surplus |= {(segment_id, node) for node in nodes if node not in places.get(segment_id, ())}
        return await self._release(state)

    def _plan(self, wanted: Sequence[SegmentEntry], groups: Groups) -> Places:
        sizes = {entry.segment_id: entry.size_bytes for entry in wanted}
        current = {
            segment_id: [node_id for node_id, segments in self.held.items() if segment_id in segments]
            for segment_id in sizes
        }
        loads = dict(self._coming)
        for node_id, segments in self.held.items():
            loads[node_id] = loads.get(node_id, 0) + sum(one.weight for one in segments.values())
        return plan_places(sizes, current, groups, loads)

    async def _load_all(
        self, collection: Collection, manifest: Manifest, wanted: Sequence[SegmentEntry], places: Places
    ) -> None:
        """Every segment on its nodes, brought up to this manifest's indexes and deletes; nodes work side by side."""
        by_node: dict[int, list[SegmentEntry]] = {}
        for entry in wanted:
            for node_id in places[entry.segment_id]:
                if self.held.get(node_id, {}).get(entry.segment_id) != Held(entry, manifest.flushed_through):
                    by_node.setdefault(node_id, []).append(entry)
        total = max(1, sum(len(nodes) for nodes in places.values()))
        missing = sum(len(entries) for entries in by_node.values())
        self._progress[collection.collection_id] = (total - missing, total)

        async def load(node_id: int, entries: Sequence[SegmentEntry]) -> None:
            for start in range(0, len(entries), LOAD_BATCH_MAX):
                batch = tuple(entries[start : start + LOAD_BATCH_MAX])
                order = SegmentLoad(
                    schema=collection.schema,
                    manifest=msgspec.structs.replace(manifest, segments=batch),
                    in_memory=tuple(index.index_id for index in collection.indexes if not index.is_mapped),
                    in_memory_fields=fields_in_memory(collection),
                    coordinator_term=self.term,
                )
                await self._peers.while_there(self._tasks, node_id, self._node(node_id).load(order))
                held = self.held.setdefault(node_id, {})
                held.update({entry.segment_id: Held(entry, manifest.flushed_through) for entry in batch})
                done, all_ = self._progress.get(collection.collection_id, (0, total))
                self._progress[collection.collection_id] = (done + len(batch), all_)

        with self._counted(by_node):
            await gather_all([load(node_id, entries) for node_id, entries in by_node.items()])

    @contextmanager
    def _counted(self, by_node: Mapping[int, Sequence[SegmentEntry]]) -> Iterator[None]:
        """Others that plan meanwhile see what is on its way to a node."""
        new = {
            node_id: sum(Held(entry).weight for entry in entries if entry.segment_id not in self.held.get(node_id, {}))
            for node_id, entries in by_node.items()
        }
        for node_id, weight in new.items():
            self._coming[node_id] = self._coming.get(node_id, 0) + weight
        try:
            yield
        finally:
            for node_id, weight in new.items():
                self._coming[node_id] -= weight

    def _node(self, node_id: int) -> Query:
        node = self._peers.query.get(node_id)
        if node is None:
            raise UnavailableError(f"node {node_id} has left")
        return node

    async def _set_target(self, state: ShardState, node_id: int, target: ShardTarget) -> None:
        vchannel = target.manifest.vchannel
        ordered = msgspec.structs.replace(target, coordinator_term=self.term)
        try:
            await self._owners.ask_node(node_id, lambda node: node.set_target(ordered))
        except ChannelNotAvailableError:
            self._owners.lost_follower(pchannel_of(vchannel), node_id)
            raise
        state.targets[node_id] = ordered

    # --- letting go -------------------------------------------------------------------------------------------------
    async def _release(self, state: ShardState) -> bool:
        """Release what was surplus before this round, unless an old view is still read; False when some is left."""
        if not state.surplus:
            return True
        vchannel = state.manifest.vchannel
        for node_id in self._owners.delegators(pchannel_of(vchannel)):
            status: ShardStatus = await self._owners.ask_node(node_id, lambda node: node.status(vchannel))
            if 0 <= status.pinned_version < state.served_version:
                return False
        for segment_id, node_id in sorted(state.surplus):
            if node_id not in state.locations.get(segment_id, ()):
                await self._release_at(node_id, (segment_id,))
            state.surplus.discard((segment_id, node_id))
        return True

    async def _release_at(self, node_id: int, segment_ids: tuple[int, ...]) -> None:
        node = self._peers.query.get(node_id)
        if node is not None:
            await self._peers.while_there(self._tasks, node_id, node.release(segment_ids, self.term))
        for segment_id in segment_ids:
            self.held.get(node_id, {}).pop(segment_id, None)

    async def _unload(self, collection: Collection) -> None:
        self._progress.pop(collection.collection_id, None)
        self._groups.pop(collection.collection_id, None)
        for vchannel in collection.vchannels:
            state = self.shards.get(vchannel)
            if state is None:
                continue
            if collection.state is CollectionState.CREATED:
                for node_id in list(state.targets):
                    if node_id in self._owners.delegators(pchannel_of(vchannel)):
                        await self._set_target(state, node_id, ShardTarget(manifest=state.manifest, loaded=False))
            state.targets.clear()
            state.served_version = -1
            segments = {segment_id for segment_id, _ in state.surplus} | set(state.locations)
            for node_id in list(self.held):
                here = tuple(sorted(segments & set(self.held[node_id])))
                if here:
                    await self._release_at(node_id, here)
            state.locations = {}
            state.surplus.clear()
            if collection.state is not CollectionState.CREATED:
                del self.shards[vchannel]


def fields_in_memory(collection: Collection) -> tuple[int, ...]:
    """Vector fields whose columns are not to be mapped. `mmap.enabled` of the index that scans them, of the field or of
    the collection says so, the first that there is."""
    scanning = {
        index.field_id: index.params
        for index in collection.indexes
        for field in collection.schema.vector_fields
        if index.field_id == field.field_id and MMAP in index.params and not resolve(index.params, field).needs_file
    }
    return tuple(
        field.field_id
        for field in collection.schema.vector_fields
        if not is_mapped({**collection.properties, **field.type_params, **scanning.get(field.field_id, {})})
    )


async def gather_all(calls: Sequence[Awaitable[None]]) -> None:
    """Wait for all of them, then raise the first failure."""
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
