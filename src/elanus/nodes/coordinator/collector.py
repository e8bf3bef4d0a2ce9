"""Deleting files that nothing can name any more.

While this process leads, it knows every file that some manifest of a shard it looked at named. A file that neither the
committed manifest nor the one before it names is deleted once no view that could read it is served or pinned; its
writer's commit is over, since a manifest named it.

Files that no manifest ever named are left by writers that died, or lost a race, between writing and committing. Their
names tell by which right they were to be committed (`paths.Right`), and a file is garbage only when that right is gone:

- an owner's, when the channel has been opened under a higher term: every commit compares the term;
- an earlier coordinator's or its tasks', since this one was elected: every commit compares the election;
- a task's of this very lead, when its attempt was given up: nobody but this process would commit it, and it will not.

In this order: the folder is listed, then it is settled which rights are gone, then the references are read. A right
that is gone never comes back, so that what these do not name, nothing ever will; this holds also for a coordinator that
was deposed meanwhile. A shard is looked at when this lead begins, when its channel has a new term, when a task was
given up, and now and then for what a writer that slept has written afterwards.

A drop ends every right of its collection: no pointer is left that a commit could move, and ids are never given out
twice. The transaction that removes the collection's last record leaves a mark that names it, so that what a writer of
an earlier lead writes into its folder afterwards is known as garbage; a folder without a mark is left alone, whatever
the catalog does not know. The newest marks are kept.

Nothing is deleted by age, and nothing where the meta store looks older than the files: when it holds no catalog at all,
or when a name tells of a higher term, lead or version than it knows. A term counts only once the channel was opened
under it, which the opener refuses to do on a log that is newer than the meta store.

A store that one process owns takes stock once, before any channel has a new owner: all that is there then was written
by lives that are over.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from elanus.meta.catalog import combine, create, fetch, fetch_all, remove, remove_all, run, stored
from elanus.meta.records import (
    DROPPED,
    Collection,
    CollectionState,
    Dropped,
    SchemaVersion,
    ShardPointer,
    collection_key,
    decode,
    schemas_prefix,
    shard_key,
)
from elanus.meta.store import Compare
from elanus.model.channel import pchannel_of
from elanus.model.segment import Manifest
from elanus.nodes.coordinator.catalog import Catalog
from elanus.nodes.coordinator.ground import Surroundings
from elanus.nodes.coordinator.placement import Placement
from elanus.objects import paths
from elanus.objects.checksums import read_verified

GIVEN_UP_MAX: Final = 4096
"""Attempts; what one wrote that is forgotten is collected by the next lead."""
DROPPED_MAX: Final = 1024
"""Marks of dropped collections; what is still written for one that is forgotten stays."""
ANY_VERSION: Final = 1 << 62


def files_of(manifest: Manifest) -> set[str]:
    """Keys of all objects a manifest names."""
    return {file.key for file in manifest.files}


@dataclass(frozen=True, slots=True)
class Stock:
    """What is known of a shard's writers: the term under which its channel is open, this lead, the manifest's version,
    and the tokens of this lead's tasks that were given up."""

    term: int
    lead: int
    version: int
    given_up: Container[str]

    def over(self, keys: Iterable[str]) -> set[str]:
        """Those whose writers can commit no more."""
        return {key for key in keys if self._is_over(paths.token_of(key) or "")}

    def _is_over(self, token: str) -> bool:
        right = paths.right_of(token)
        if right is None:
            return False
        bound = self.term if right.kind == paths.OWNER else self.lead
        return right.number < bound or token in self.given_up

    def newer(self, keys: Iterable[str]) -> str | None:
        """One that the meta store, if it is whole, must know of and does not."""
        return next((key for key in keys if self._is_newer(key)), None)

    def _is_newer(self, key: str) -> bool:
        name, right = paths.parse_manifest(key), paths.right_of(paths.token_of(key) or "")
        if name is not None and name.version > self.version + 1:
            return True
        return right is not None and right.number > (self.term if right.kind == paths.OWNER else self.lead)


class Collector:
    """See the module's head."""

    def __init__(self, ground: Surroundings, guard: Compare, open_term: Callable[[str], int]) -> None:
        """`open_term`: the term under which a channel is open now, 0 while it is not."""
        self._doors = ground.doors
        self._meta = ground.meta
        self._objects = ground.objects
        self._guard = guard
        self._manifests = ground.manifests
        self._known: dict[str, set[str]] = {}
        self._seen_version: dict[str, int] = {}
        self._newest: dict[str, tuple[str, set[str]]] = {}
        """The newest manifest seen of each shard, and what it names."""
        self._events = ground.events
        self._lead = ground.right.number
        self._open_term = open_term
        self._due: set[str] = set()
        self._given_up: dict[str, None] = {}

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

    def look(self, vchannels: Iterable[str]) -> None:
        """Files that no manifest names may lie in these shards' folders."""
        self._due.update(vchannels)

    def give_up(self, vchannel: str, token: str) -> None:
        """What this lead's task of that token wrote will never be committed."""
        self._given_up[token] = None
        while len(self._given_up) > GIVEN_UP_MAX:
            del self._given_up[next(iter(self._given_up))]
        self.look((vchannel,))

    async def collect(self, collection: Collection, placement: Placement) -> bool:
        """Delete what is garbage now in one collection; False when something must wait for readers."""
        if collection.state is CollectionState.DROPPING:
            await self._remove_collection(collection)
            return True
        settled = True
        for vchannel in collection.vchannels:
            if vchannel in self._due:
                await self._take_stock(collection.collection_id, vchannel)
            settled &= await self._collect_shard(vchannel, placement)
        return settled

    async def _take_stock(self, collection_id: int, vchannel: str) -> None:
        """Learn of files whose writers can commit no more; those that are named are told apart afterwards."""
        pchannel = pchannel_of(vchannel)
        term = self._open_term(pchannel)
        if not term:
            return  # Looked at when it is open.
        keys = await self._objects.list(paths.shard_prefix(collection_id, vchannel))
        pointer = await fetch(self._meta, ShardPointer, shard_key(vchannel))
        if pointer is None or self._open_term(pchannel) != term:
            return
        self._due.discard(vchannel)
        stock = Stock(term, self._lead, pointer.record.version, self._given_up)
        newer = stock.newer(keys)
        if newer:
            self._events.error("collector.refused", shard=vchannel, newer_than_the_meta_store=newer)
            return
        self._known.setdefault(vchannel, set()).update(stock.over(keys))
        self._seen_version.pop(vchannel, None)

    async def _collect_shard(self, vchannel: str, placement: Placement) -> bool:
        newest = self._manifests.recent.newest(vchannel)
        if newest is not None and self._seen_version.get(vchannel) == newest.pointer.record.version:
            return True
        # What is deleted rests on a fresh read.
        head = await self._manifests.read(vchannel)
        if head is None or self._seen_version.get(vchannel) == head.pointer.record.version:
            return True
        pointer = head.pointer.record
        live = await self._live(head.manifest, pointer)
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

    async def _live(self, manifest: Manifest, pointer: ShardPointer) -> set[str]:
        """What the committed manifest and the one before it name, and themselves."""
        newest = files_of(manifest) | {pointer.file.key}
        before = await self._named_before(pointer)
        self._newest[pointer.vchannel] = (pointer.file.key, newest)
        return newest | before

    async def _named_before(self, pointer: ShardPointer) -> set[str]:
        """What the manifest before the committed one names, and itself. It was often the committed one last time."""
        if pointer.previous is None:
            return set()
        key, named = self._newest.get(pointer.vchannel, ("", set[str]()))
        if key == pointer.previous.key:
            return named
        data = await read_verified(self._doors, self._objects, pointer.previous)
        return files_of(decode(Manifest, data, pointer.previous.key)) | {pointer.previous.key}

    async def _is_read(self, vchannel: str, pointer: ShardPointer, placement: Placement) -> bool:
        return placement.is_read(vchannel, pointer.version)

    async def _remove_collection(self, collection: Collection) -> None:
        """The end of a drop: files first, then the records that would find them again."""
        for key in await self._objects.list(paths.collection_prefix(collection.collection_id)):
            await self._objects.delete(key)
        for vchannel in collection.vchannels:
            self._known.pop(vchannel, None)
            self._seen_version.pop(vchannel, None)
            self._newest.pop(vchannel, None)
            pointer = await fetch(self._meta, ShardPointer, shard_key(vchannel))
            if pointer is not None:
                await run(self._meta, remove(pointer), (self._guard,))
        versions = await self._meta.range(schemas_prefix(collection.collection_id))
        for part in remove_all([stored(SchemaVersion, item) for item in versions]):
            await run(self._meta, part, (self._guard,))
        record = await fetch(self._meta, Collection, collection.key)
        if record is not None:
            mark = create(Dropped(collection_id=collection.collection_id))
            await run(self._meta, combine((remove(record), mark)), (self._guard,))

    async def collect_dropped(self) -> bool:
        """Delete what was written for dropped collections since; False when a channel has to be open first."""
        marks = await fetch_all(self._meta, Dropped, DROPPED)
        settled = True
        for mark in marks[-DROPPED_MAX:]:
            settled &= await self._collect_folder(mark.record.collection_id)
        for part in remove_all(marks[:-DROPPED_MAX]):
            await run(self._meta, part, (self._guard,))
        return settled

    async def _collect_folder(self, collection_id: int) -> bool:
        """What a dropped collection's folder holds, unless something there says that the meta store is not whole."""
        keys = await self._objects.list(paths.collection_prefix(collection_id))
        vchannels = {vchannel for key in keys if (vchannel := paths.shard_of(key)) is not None}
        terms = {vchannel: self._open_term(pchannel_of(vchannel)) for vchannel in vchannels}
        if not all(terms.values()):
            return False
        is_known = keys and await self._meta.get(collection_key(collection_id)) is not None
        newer = self._newer(keys, terms) or (keys[0] if is_known else None)
        if newer:
            self._events.error("collector.refused", collection=collection_id, newer_than_the_meta_store=newer)
            return True
        for key in keys:
            await self._objects.delete(key)
        return True

    def _newer(self, keys: Iterable[str], terms: Mapping[str, int]) -> str | None:
        for key in keys:
            term = terms.get(paths.shard_of(key) or "", 0)
            if Stock(term, self._lead, ANY_VERSION, ()).newer((key,)):
                return key
        return None
