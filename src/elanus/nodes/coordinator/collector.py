"""Deleting files that nothing can name any more.

While this process leads, it knows every file that some manifest of a shard it looked at named. A file that neither the
committed manifest nor the one before it names is deleted once no view that could read it is served or pinned; its
writer's commit is over, since a manifest named it. Files that no manifest ever named (of a flush or task that died) are
found once, at start, among the objects that exist before any channel has a new owner: whoever wrote those has lost its
term or its election, so its token can never commit.

Nothing is deleted by age, and nothing when the store holds no catalog at all.
"""

from __future__ import annotations

from elanus.meta.catalog import fetch, remove, remove_all, run, stored
from elanus.meta.records import (
    Collection,
    CollectionState,
    SchemaVersion,
    ShardPointer,
    decode,
    schemas_prefix,
    shard_key,
)
from elanus.meta.store import Compare
from elanus.model.segment import FileRef, Manifest
from elanus.nodes.coordinator.catalog import Catalog
from elanus.nodes.coordinator.ground import Surroundings
from elanus.nodes.coordinator.placement import Placement
from elanus.objects import paths
from elanus.objects.checksums import read_verified


def files_of(manifest: Manifest) -> set[str]:
    """Keys of all objects a manifest names."""
    refs: list[FileRef] = [file.file for file in manifest.deletes]
    for entry in manifest.segments:
        refs += [entry.scalars, *entry.vectors.values(), *(index.file for index in entry.indexes)]
    return {ref.key for ref in refs}


class Collector:
    """See the module's head."""

    def __init__(self, ground: Surroundings, guard: Compare) -> None:
        self._doors = ground.doors
        self._meta = ground.meta
        self._objects = ground.objects
        self._guard = guard
        self._manifests = ground.manifests
        self._known: dict[str, set[str]] = {}
        self._seen_version: dict[str, int] = {}

    async def start(self, catalog: Catalog) -> None:
        """Take stock before any writer starts; what belongs to no collection at all goes at once."""
        if not catalog.collections:
            return
        for key in await self._objects.list(paths.COLLECTIONS_PREFIX):
            parts = key.split("/")
            if len(parts) < 3:
                continue
            if int(parts[1]) in catalog.collections:
                self._known.setdefault(parts[2], set()).add(key)
            else:
                await self._objects.delete(key)

    async def collect(self, collection: Collection, placement: Placement) -> bool:
        """Delete what is garbage now in one collection; False when something must wait for readers."""
        if collection.state is CollectionState.DROPPING:
            await self._remove_collection(collection)
            return True
        settled = True
        for vchannel in collection.vchannels:
            settled &= await self._collect_shard(vchannel, placement)
        return settled

    async def _collect_shard(self, vchannel: str, placement: Placement) -> bool:
        item = await self._meta.get(shard_key(vchannel))
        if item is None:
            return True
        pointer = stored(ShardPointer, item).record
        if self._seen_version.get(vchannel) == pointer.version:
            return True
        live = await self._live(vchannel, pointer)
        known = self._known.setdefault(vchannel, set())
        garbage = known - live
        if garbage and await self._is_read(vchannel, pointer, placement):
            known |= live
            return False
        for key in sorted(garbage):
            await self._objects.delete(key)
        self._known[vchannel] = live
        self._seen_version[vchannel] = pointer.version
        return True

    async def _live(self, vchannel: str, pointer: ShardPointer) -> set[str]:
        head = await self._manifests.read(vchannel)
        live = {pointer.file.key} | (files_of(head.manifest) | {head.pointer.record.file.key} if head else set())
        if pointer.previous is not None:
            data = await read_verified(self._doors, self._objects, pointer.previous)
            live |= files_of(decode(Manifest, data, pointer.previous.key)) | {pointer.previous.key}
        return live

    async def _is_read(self, vchannel: str, pointer: ShardPointer, placement: Placement) -> bool:
        return placement.is_read(vchannel, pointer.version)

    async def _remove_collection(self, collection: Collection) -> None:
        """The end of a drop: files first, then the records that would find them again."""
        for key in await self._objects.list(paths.collection_prefix(collection.collection_id)):
            await self._objects.delete(key)
        for vchannel in collection.vchannels:
            self._known.pop(vchannel, None)
            self._seen_version.pop(vchannel, None)
            pointer = await fetch(self._meta, ShardPointer, shard_key(vchannel))
            if pointer is not None:
                await run(self._meta, remove(pointer), (self._guard,))
        versions = await self._meta.range(schemas_prefix(collection.collection_id))
        for part in remove_all([stored(SchemaVersion, item) for item in versions]):
            await run(self._meta, part, (self._guard,))
        record = await fetch(self._meta, Collection, collection.key)
        if record is not None:
            await run(self._meta, remove(record), (self._guard,))
