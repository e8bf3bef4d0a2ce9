"""The proxy's memory of collections: by database and name (or alias), and by id.

Entries come from the coordinator on a miss and go when it pushes an invalidation, which it awaits before it answers a
DDL call. Race: a description asked for before an invalidation may arrive after it. It is given to the one who asked,
who had asked before the DDL was answered, but not kept: `_generation` tells.
"""

from __future__ import annotations

from typing import Final

from elanus.model.requests import CollectionRequest
from elanus.model.schema import DEFAULT_DATABASE
from elanus.nodes.contracts import Coordinator
from elanus.nodes.proxy.entry import CollectionEntry

COLLECTION_COUNT_MAX: Final = 4096

Key = tuple[str, str] | int


class CollectionCache:
    """Implements `contracts.ProxyCache`."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._entries: dict[Key, CollectionEntry] = {}
        self._generation = 0

    def peek(self, request: CollectionRequest) -> CollectionEntry | None:
        """The entry if it is remembered."""
        return self._entries.get(key_of(request))

    async def get(self, request: CollectionRequest) -> CollectionEntry:
        """The remembered entry, or the coordinator's word."""
        return self._entries.get(key_of(request)) or await self.fetch(request)

    async def fetch(self, request: CollectionRequest) -> CollectionEntry:
        """The coordinator's word, remembered from now on."""
        generation = self._generation
        view = await self._coordinator.describe(
            CollectionRequest(
                database=request.database or DEFAULT_DATABASE,
                collection=request.collection,
                collection_id=request.collection_id,
            )
        )
        entry = CollectionEntry(view)
        if generation == self._generation:
            self._keep(key_of(request), entry)
        return entry

    async def invalidate(self, collection_id: int) -> None:
        """Forget the collection (0: everything)."""
        self._generation += 1
        if collection_id == 0:
            self._entries.clear()
            return
        stale = [key for key, entry in self._entries.items() if entry.collection_id == collection_id]
        for key in stale:
            del self._entries[key]

    def _keep(self, key: Key, entry: CollectionEntry) -> None:
        if key not in self._entries and len(self._entries) >= COLLECTION_COUNT_MAX:
            del self._entries[next(iter(self._entries))]
        self._entries[key] = entry


def key_of(request: CollectionRequest) -> Key:
    """What an entry is remembered under."""
    return (request.database or DEFAULT_DATABASE, request.collection) if request.collection else request.collection_id
