"""Placement of sealed segments: one level-triggered step per collection.

`reconcile` compares what the catalog wants with what is, does the missing steps, and is repeated until nothing is
missing: load every segment of the shard's newest manifest on a query node, let the delegator swap its view to that
manifest, then release what no view can reach any more. It is woken by every move of a shard's pointer and every load or
release; killed anywhere it leaves only work that the next run does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from elanus.meta.records import Collection, CollectionState, LoadRecord, ShardPointer
from elanus.model.channel import pchannel_of
from elanus.model.errors import MemoryLimitError
from elanus.model.segment import Manifest, SegmentEntry
from elanus.nodes.contracts import Query, SegmentLoad, ShardStatus, ShardTarget, Streaming
from elanus.nodes.coordinator.catalog import Catalog
from elanus.nodes.coordinator.ground import Surroundings
from elanus.segment.footprint import footprint


@dataclass(slots=True)
class ShardState:
    """A shard as last seen: its newest manifest, where its segments are loaded, which manifest is served."""

    manifest: Manifest
    pointer: ShardPointer
    locations: dict[int, int] = field(default_factory=dict)
    served_version: int = -1
    loaded_entries: dict[int, SegmentEntry] = field(default_factory=dict)
    deletes_version: int = -1


class Placement:
    """See the module's head."""

    def __init__(
        self,
        ground: Surroundings,
        catalog: Catalog,
        owner_of: Callable[[str], Streaming],
        query_nodes: Mapping[int, Query],
    ) -> None:
        self._catalog = catalog
        self._owner_of = owner_of
        self._query_nodes = query_nodes
        self._manifests = ground.manifests
        self.shards: dict[str, ShardState] = {}
        self._progress: dict[int, tuple[int, int]] = {}
        self._expected: set[int] = set()

    async def shard(self, vchannel: str) -> ShardState | None:
        """The shard with its newest committed manifest; None when it is gone or dropped."""
        head = await self._manifests.read(vchannel)
        if head is None or head.pointer.record.dropped:
            return None
        state = self.shards.get(vchannel)
        if state is None:
            state = self.shards[vchannel] = ShardState(head.manifest, head.pointer.record)
        state.manifest, state.pointer = head.manifest, head.pointer.record
        return state

    def forget_owner(self, vchannel: str) -> None:
        """The shard has a new owner, which serves nothing yet."""
        state = self.shards.get(vchannel)
        if state is not None:
            state.served_version = -1

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

    async def reconcile(self, collection: Collection, load: LoadRecord | None) -> bool:
        """Bring one collection's shards to what the catalog wants; whether nothing is left to do."""
        if load is None or collection.state is not CollectionState.CREATED:
            await self._unload(collection)
            return True
        settled = True
        for vchannel in collection.vchannels:
            state = await self.shard(vchannel)
            if state is not None:
                settled &= await self._serve(collection, load, state)
        if self._catalog.loads.get(collection.collection_id) is not None:
            self._expected.discard(collection.collection_id)
        return settled

    async def _serve(self, collection: Collection, load: LoadRecord, state: ShardState) -> bool:
        manifest = state.manifest
        owner = self._owner_of(pchannel_of(manifest.vchannel))
        if state.served_version < 0:
            await owner.set_target(ShardTarget(manifest=manifest, loaded=True, ready=False))
        wanted = [
            entry
            for entry in manifest.segments
            if load.partition_ids is None or entry.partition_id in load.partition_ids
        ]
        for done, entry in enumerate(wanted):
            self._progress[collection.collection_id] = (done, len(wanted))
            await self._load(collection, state, manifest, entry)
        locations = {entry.segment_id: state.locations[entry.segment_id] for entry in wanted}
        target = ShardTarget(manifest=manifest, loaded=True, locations=locations, partition_ids=load.partition_ids)
        await owner.set_target(target)
        state.served_version = manifest.version
        state.deletes_version = manifest.version
        status = await owner.status(manifest.vchannel)
        return await self._release(state, {entry.segment_id for entry in wanted}, status)

    async def _load(self, collection: Collection, state: ShardState, manifest: Manifest, entry: SegmentEntry) -> None:
        """Load the segment, or bring it up to this manifest's indexes and deletes.

        `state.manifest` may move on meanwhile, and a newer one no longer names the deletes that a segment it replaced
        has not folded in."""
        segment_id = entry.segment_id
        known = state.loaded_entries.get(segment_id)
        if known == entry and state.deletes_version == manifest.version:
            return
        node_id = state.locations.get(segment_id) or self._choose_node()
        load = SegmentLoad(
            vchannel=manifest.vchannel,
            entry=entry,
            schema=collection.schema,
            manifest=manifest,
            in_memory=tuple(index.index_id for index in collection.indexes if not index.is_mapped),
        )
        await self._query_nodes[node_id].load(load)
        state.locations[segment_id] = node_id
        state.loaded_entries[segment_id] = entry

    async def check_memory(self, collection: Collection, load: LoadRecord) -> None:
        """MemoryLimitError when what is to be loaded, and is not yet, takes more memory than the query nodes have
        left. A collection that is loaded may outgrow them later, and is served on: what is mapped is given back."""
        wanted = 0
        for vchannel in collection.vchannels:
            state = await self.shard(vchannel)
            if state is None:
                continue
            for entry in state.manifest.segments:
                chosen = load.partition_ids is None or entry.partition_id in load.partition_ids
                wanted += footprint(entry) if chosen and entry.segment_id not in state.locations else 0
        statuses = [await node.status() for node in self._query_nodes.values()]
        if not wanted or any(not status.memory_bytes_max for status in statuses):
            return
        limit = sum(status.memory_bytes_max for status in statuses)
        predicted = wanted + sum(status.memory_bytes for status in statuses)
        if predicted > limit:
            raise MemoryLimitError(predicted, limit)

    def _choose_node(self) -> int:
        """The query node with the fewest segments."""
        counts = dict.fromkeys(self._query_nodes, 0)
        for state in self.shards.values():
            for node_id in state.locations.values():
                counts[node_id] = counts.get(node_id, 0) + 1
        return min(sorted(counts), key=lambda node_id: counts[node_id])

    async def _release(self, state: ShardState, wanted: set[int], status: ShardStatus | None) -> bool:
        """Release segments that no served or pinned view names; False when some are still pinned."""
        surplus = [segment_id for segment_id in state.locations if segment_id not in wanted]
        if surplus and status is not None and status.pinned_version < state.served_version:
            return False
        for segment_id in surplus:
            await self._query_nodes[state.locations.pop(segment_id)].release((segment_id,))
            state.loaded_entries.pop(segment_id, None)
        return True

    async def _unload(self, collection: Collection) -> None:
        self._progress.pop(collection.collection_id, None)
        for vchannel in collection.vchannels:
            state = self.shards.get(vchannel)
            if state is None:
                continue
            if collection.state is CollectionState.CREATED and state.served_version >= 0:
                owner = self._owner_of(pchannel_of(vchannel))
                await owner.set_target(ShardTarget(manifest=state.manifest, loaded=False))
            state.served_version = -1
            await self._release(state, set(), None)
            if collection.state is not CollectionState.CREATED:
                del self.shards[vchannel]
