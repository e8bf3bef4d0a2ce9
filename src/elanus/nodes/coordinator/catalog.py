"""The coordinator's picture of the catalog: what the meta store holds, by name and by id.

It is read once when the coordinator is elected and followed by reading back every record that a transaction of this
coordinator touched; nobody else writes these keys.
"""

from __future__ import annotations

from elanus.meta.catalog import Stored, fetch, fetch_all
from elanus.meta.records import (
    ALIASES,
    COLLECTIONS,
    DATABASES,
    LOADS,
    Alias,
    Collection,
    CollectionState,
    Database,
    LoadRecord,
    collection_key,
    load_key,
)
from elanus.meta.store import MetaStore
from elanus.model.errors import AliasNotFoundError, CollectionNotFoundError, DatabaseNotFoundError
from elanus.model.requests import CollectionRequest
from elanus.model.schema import DEFAULT_DATABASE


class Catalog:
    """Records by the names users know."""

    def __init__(self, meta: MetaStore) -> None:
        self._meta = meta
        self.databases: dict[str, Stored[Database]] = {}
        self.collections: dict[int, Stored[Collection]] = {}
        self.aliases: dict[tuple[int, str], Stored[Alias]] = {}
        self.loads: dict[int, Stored[LoadRecord]] = {}
        self._names: dict[tuple[int, str], int] = {}

    async def refresh(self) -> None:
        """Read everything anew. Questions asked meanwhile, or after a read that failed, are answered as before."""
        databases = await fetch_all(self._meta, Database, DATABASES)
        collections = await fetch_all(self._meta, Collection, COLLECTIONS)
        aliases = await fetch_all(self._meta, Alias, ALIASES)
        loads = await fetch_all(self._meta, LoadRecord, LOADS)
        self.databases = {one.record.name: one for one in databases}
        self.collections = {one.record.collection_id: one for one in collections}
        self.aliases = {(one.record.database_id, one.record.name): one for one in aliases}
        self.loads = {one.record.collection_id: one for one in loads}
        self._names = {
            (one.record.database_id, one.record.name): one.record.collection_id
            for one in collections
            if one.record.state is CollectionState.CREATED
        }

    async def refresh_collection(self, collection_id: int) -> None:
        """Read one collection's records anew. Questions asked meanwhile, or after a read that failed, are answered as
        before: a collection must not seem to be gone because the meta store does not answer."""
        load = await fetch(self._meta, LoadRecord, load_key(collection_id))
        stored = await fetch(self._meta, Collection, collection_key(collection_id))
        for name in [name for name, known in self._names.items() if known == collection_id]:
            del self._names[name]
        if stored is None:
            self.collections.pop(collection_id, None)
        else:
            self.collections[collection_id] = stored
            if stored.record.state is CollectionState.CREATED:
                self._names[(stored.record.database_id, stored.record.name)] = collection_id
        if load is None:
            self.loads.pop(collection_id, None)
        else:
            self.loads[collection_id] = load

    def database(self, name: str) -> Stored[Database]:
        """The database of that name; empty means the default one."""
        stored = self.databases.get(name or DEFAULT_DATABASE)
        if stored is None:
            raise DatabaseNotFoundError(name)
        return stored

    def collection(self, request: CollectionRequest) -> Stored[Collection]:
        """The collection a request names, by name, alias or id."""
        if not request.collection and request.collection_id:
            known = self.collections.get(request.collection_id)
            if known is not None and known.record.state is CollectionState.CREATED:
                return known
            raise CollectionNotFoundError(request.database or DEFAULT_DATABASE, request.collection_id)
        database = self.database(request.database).record
        found = self.find(database.database_id, request.collection)
        if found is None:
            raise CollectionNotFoundError(database.name, request.collection)
        return found

    def find(self, database_id: int, name: str) -> Stored[Collection] | None:
        """The collection of that name or alias."""
        collection_id = self._names.get((database_id, name))
        if collection_id is None:
            alias = self.aliases.get((database_id, name))
            if alias is None:
                return None
            collection_id = alias.record.collection_id
        return self.collections.get(collection_id)

    def is_name(self, database_id: int, name: str) -> bool:
        """Whether a collection (not an alias) has that name."""
        return (database_id, name) in self._names

    def alias(self, database: str, name: str) -> Stored[Alias]:
        """The alias of that name."""
        record = self.database(database).record
        stored = self.aliases.get((record.database_id, name))
        if stored is None:
            raise AliasNotFoundError(record.name, name)
        return stored

    def aliases_of(self, collection_id: int) -> tuple[str, ...]:
        """Names of the aliases of a collection, sorted."""
        return tuple(
            sorted(one.record.name for one in self.aliases.values() if one.record.collection_id == collection_id)
        )

    def in_database(self, database_id: int) -> list[Collection]:
        """Collections of a database, by name."""
        names = sorted((name, cid) for (home, name), cid in self._names.items() if home == database_id)
        return [self.collections[collection_id].record for _, collection_id in names]

    def database_name(self, database_id: int) -> str:
        """Name of a database by id."""
        return next(one.record.name for one in self.databases.values() if one.record.database_id == database_id)
