"""The coordinator's calls about databases."""

from __future__ import annotations

import msgspec

from elanus.base.limits import DATABASE_COUNT_MAX
from elanus.meta.catalog import create, remove, replace
from elanus.meta.records import Database
from elanus.model.errors import (
    DatabaseLimitError,
    DatabaseNotFoundError,
    RequestError,
)
from elanus.model.requests import (
    DatabaseReply,
    DatabaseRequest,
)
from elanus.model.schema import DEFAULT_DATABASE
from elanus.nodes.coordinator import describe
from elanus.nodes.coordinator.calls import confirmed, uninterrupted
from elanus.nodes.coordinator.defining import Defining


class Databases(Defining):
    """See the module's head."""

    @uninterrupted
    async def create_database(self, request: DatabaseRequest) -> None:
        async with self.defining():
            leader = self.leader
            if request.database in leader.catalog.databases:
                raise RequestError(f"database already exist: {request.database}")
            if len(leader.catalog.databases) >= DATABASE_COUNT_MAX:
                raise DatabaseLimitError(DATABASE_COUNT_MAX)
            database = Database(
                database_id=(await leader.ids.allocate(1)).first,
                name=request.database,
                created_timestamp=await leader.oracle.next(),
                properties=request.properties,
            )
            await self.commit(create(database))

    @uninterrupted
    async def drop_database(self, request: DatabaseRequest) -> None:
        async with self.defining():
            catalog = self.leader.catalog
            if request.database == DEFAULT_DATABASE:
                raise RequestError("can not drop default database")
            if request.database not in catalog.databases:
                raise DatabaseNotFoundError(request.database)
            stored = catalog.databases[request.database]
            if catalog.in_database(stored.record.database_id):
                raise RequestError(
                    f"database:{request.database} not empty, must drop all collections before drop database"
                )
            await self.commit(remove(stored))

    @confirmed
    async def list_databases(self) -> tuple[DatabaseReply, ...]:
        return tuple(
            DatabaseReply(one.record.name, one.record.database_id, one.record.created_timestamp, one.record.properties)
            for one in sorted(self.leader.catalog.databases.values(), key=lambda one: one.record.database_id)
        )

    @uninterrupted
    async def alter_database(self, request: DatabaseRequest) -> None:
        async with self.defining():
            stored = self.leader.catalog.database(request.database)
            properties = describe.altered(stored.record.properties, request.properties, request.delete_keys)
            await self.commit(replace(stored, msgspec.structs.replace(stored.record, properties=properties)))
            for collection in tuple(self.leader.catalog.collections.values()):
                if collection.record.database_id == stored.record.database_id:
                    await self.changed(collection.record.collection_id)
