"""The coordinator's calls about aliases."""

from __future__ import annotations

import msgspec

from elanus.meta.catalog import create, remove, replace
from elanus.meta.records import Alias
from elanus.model.errors import (
    AliasedCollectionNotFoundError,
    AliasExistsError,
    AliasNameConflictError,
)
from elanus.model.requests import (
    AliasReply,
    AliasRequest,
    CollectionRequest,
)
from elanus.model.schema import DEFAULT_DATABASE
from elanus.nodes.coordinator.calls import confirmed, uninterrupted
from elanus.nodes.coordinator.defining import Defining


class Aliases(Defining):
    """See the module's head."""

    @uninterrupted
    async def create_alias(self, request: AliasRequest) -> None:
        async with self.defining():
            catalog = self.leader.catalog
            database = catalog.database(request.database).record
            record = catalog.collection(request).record
            if catalog.is_name(database.database_id, request.alias):
                raise AliasNameConflictError(database.name, request.alias)
            known = catalog.aliases.get((database.database_id, request.alias))
            if known is not None:
                if known.record.collection_id == record.collection_id:
                    await self.leader.confirm()
                    return
                other = catalog.collections[known.record.collection_id].record.name
                raise AliasExistsError(
                    database.name, request.alias, prefix=f"{request.alias} is alias to another collection: {other}"
                )
            alias = Alias(database_id=database.database_id, name=request.alias, collection_id=record.collection_id)
            await self.commit(create(alias))
            await self.changed(record.collection_id)

    @uninterrupted
    async def alter_alias(self, request: AliasRequest) -> None:
        async with self.defining():
            catalog = self.leader.catalog
            database = catalog.database(request.database).record
            if catalog.is_name(database.database_id, request.alias):
                raise AliasNameConflictError(database.name, request.alias)
            if catalog.find(database.database_id, request.collection) is None:
                raise AliasedCollectionNotFoundError(request.collection)
            record = catalog.collection(request).record
            old = catalog.alias(request.database, request.alias)
            await self.commit(replace(old, msgspec.structs.replace(old.record, collection_id=record.collection_id)))
            await self.changed(old.record.collection_id)
            await self.changed(record.collection_id)

    @uninterrupted
    async def drop_alias(self, request: AliasRequest) -> None:
        async with self.defining():
            catalog = self.leader.catalog
            database = catalog.database(request.database).record
            old = catalog.aliases.get((database.database_id, request.alias))
            if old is not None:
                await self.commit(remove(old))
                await self.changed(old.record.collection_id)

    @confirmed
    async def describe_alias(self, request: AliasRequest) -> AliasReply:
        catalog = self.leader.catalog
        alias = catalog.alias(request.database, request.alias).record
        name = catalog.collections[alias.collection_id].record.name
        return AliasReply(request.database or DEFAULT_DATABASE, alias.name, name)

    @confirmed
    async def list_aliases(self, request: CollectionRequest) -> tuple[AliasReply, ...]:
        catalog = self.leader.catalog
        database = catalog.database(request.database).record
        wanted = catalog.collection(request).record.collection_id if request.collection else 0
        return tuple(
            AliasReply(database.name, name, catalog.collections[stored.record.collection_id].record.name)
            for (home, name), stored in sorted(catalog.aliases.items())
            if home == database.database_id and wanted in (0, stored.record.collection_id)
        )
