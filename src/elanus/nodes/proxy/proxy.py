"""The proxy as `wire/` sees it: one short method per meaning. The work is done by the modules beside this one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from elanus.base.doors import Doors
from elanus.base.errors import ElanusError
from elanus.model.errors import (
    BadParameterError,
    CollectionNotFoundError,
    DatabaseNotFoundError,
    PartitionNotFoundError,
    RequestError,
    UnsupportedError,
)
from elanus.model.requests import (
    AddFieldRequest,
    AliasReply,
    AliasRequest,
    AlterPropertiesRequest,
    CollectionReply,
    CollectionRequest,
    CompactionState,
    CompactReply,
    CompactRequest,
    CreateCollectionRequest,
    CreateIndexRequest,
    DatabaseReply,
    DatabaseRequest,
    DeleteRequest,
    FlushedCollection,
    FlushRequest,
    FlushStateRequest,
    HybridSearchRequest,
    IndexReply,
    IndexRequest,
    InsertRequest,
    ListCollectionsRequest,
    LoadRequest,
    LoadState,
    MutationReply,
    PartitionReply,
    PartitionRequest,
    PartitionsRequest,
    QueryReply,
    QueryRequest,
    RenameCollectionRequest,
    Request,
    SearchReply,
    SearchRequest,
    SegmentInfo,
)
from elanus.model.schema import DEFAULT_DATABASE, DEFAULT_PARTITION
from elanus.model.types import LoadStatus
from elanus.nodes.contracts import DENIABLE, DENIAL_PROPERTY, Coordinator, Streaming
from elanus.nodes.proxy.cache import CollectionCache
from elanus.nodes.proxy.flush import Flusher
from elanus.nodes.proxy.forms import DEFAULT_TIMEZONE, TIMEZONE_PROPERTY, check_timezone, with_shown_defaults
from elanus.nodes.proxy.guard import Guard, OpenGuard
from elanus.nodes.proxy.hybrid import HybridReader
from elanus.nodes.proxy.ids import IdAllocator
from elanus.nodes.proxy.indexes import checked_index
from elanus.nodes.proxy.isolation import check_isolation_change
from elanus.nodes.proxy.loads import check_load_fields
from elanus.nodes.proxy.names import check_alias, check_collection_name, check_database_name, check_partition_name
from elanus.nodes.proxy.properties import check_alteration, check_field_alteration, check_while_loaded
from elanus.nodes.proxy.reads import Reader
from elanus.nodes.proxy.routes import PATIENCE_S, Routes
from elanus.nodes.proxy.schema import checked_added_field, checked_creation
from elanus.nodes.proxy.upsert import Upserter
from elanus.nodes.proxy.writes import Writer

R = TypeVar("R", bound=Request)


class Proxy:
    """Implements `contracts.Frontend` and `contracts.ProxyCache`.

    `streaming_nodes` maps node ids to streaming nodes and may change while the proxy runs.
    """

    def __init__(
        self,
        doors: Doors,
        coordinator: Coordinator,
        streaming_nodes: Mapping[int, Streaming],
        guard: Guard | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._coordinator = coordinator
        self._guard = guard or OpenGuard()
        self._cache = CollectionCache(coordinator)
        routes = Routes(doors.clock, self._cache, streaming_nodes, patience_s)
        ids = IdAllocator(coordinator)
        self._reader = Reader(doors, routes)
        self._hybrid = HybridReader(self._reader, routes)
        self._writer = Writer(doors, routes, ids, self._reader)
        self._upserter = Upserter(doors.clock, routes, ids, self._reader)
        self._flusher = Flusher(doors.clock, coordinator, routes)

    async def invalidate(self, collection_id: int) -> None:
        """Forget what is cached about the collection (0: everything)."""
        await self._cache.invalidate(collection_id)

    def _allow(self, privilege: str, request: CollectionRequest) -> None:
        self._guard.check(privilege, request.database or DEFAULT_DATABASE, request.collection)

    def _allow_database(self, privilege: str, database: str) -> None:
        self._guard.check(privilege, database or DEFAULT_DATABASE, "")

    # --- collections ------------------------------------------------------------------------------------------------
    async def create_collection(self, request: CreateCollectionRequest) -> None:
        self._guard.check("CreateCollection", request.database or DEFAULT_DATABASE, request.schema.name)
        zone = await self._timezone_of(request.database or DEFAULT_DATABASE)
        await self._coordinator.create_collection(_located(checked_creation(request, zone)))

    async def _timezone_of(self, database: str) -> str:
        """The time zone that new collections of a database get."""
        for known in await self._coordinator.list_databases():
            if known.name == database:
                return known.properties.get(TIMEZONE_PROPERTY, DEFAULT_TIMEZONE)
        return DEFAULT_TIMEZONE

    async def drop_collection(self, request: CollectionRequest) -> None:
        self._allow("DropCollection", request)
        check_collection_name(request.collection)
        try:
            await self._coordinator.drop_collection(_located(request))
        except CollectionNotFoundError:
            return  # Milvus: dropping what is not there succeeds.

    async def describe_collection(self, request: CollectionRequest) -> CollectionReply:
        self._allow("DescribeCollection", request)
        if not request.collection_id:
            check_collection_name(request.collection)
        entry = await self._cache.fetch(request)
        schema = with_shown_defaults(entry.schema, entry.timezone)
        return msgspec.structs.replace(entry.view.description, schema=schema)

    async def list_collections(self, request: ListCollectionsRequest) -> tuple[CollectionReply, ...]:
        return await self._coordinator.list_collections(_located(request))

    async def rename_collection(self, request: RenameCollectionRequest) -> None:
        self._allow("RenameCollection", request)
        check_collection_name(request.new_name)
        database = request.database or DEFAULT_DATABASE
        if request.new_name == request.collection and (request.new_database or database) == database:
            raise BadParameterError("collection name or database name should be different")
        await self._coordinator.rename_collection(_located(request))

    async def alter_collection(self, request: AlterPropertiesRequest) -> None:
        self._allow("CreateIndex" if request.index_name else "CreateCollection", request)
        check_alteration(request)
        entry = await self._cache.get(request)
        if request.field:
            check_field_alteration(request, entry)
        check_while_loaded(request, entry)
        if not request.field and not request.index_name:
            check_isolation_change(entry, request.properties, request.delete_keys)
        await self._coordinator.alter_collection(_located(request))

    async def add_field(self, request: AddFieldRequest) -> None:
        self._allow("AddCollectionField", request)
        entry = await self._cache.get(request)
        field = checked_added_field(entry.schema, request.field, entry.timezone)
        await self._coordinator.add_field(_located(msgspec.structs.replace(request, field=field)))

    async def truncate_collection(self, request: CollectionRequest) -> None:
        self._allow("DropCollection", request)
        check_collection_name(request.collection)
        await self._coordinator.truncate_collection(_located(request))

    async def collection_row_count(self, request: CollectionRequest) -> int:
        self._allow("GetStatistics", request)
        return await self._flusher.row_count(request)

    async def load(self, request: LoadRequest) -> None:
        self._allow("Load", request)
        check_collection_name(request.collection)
        if request.load_fields or request.partitions:
            check_load_fields(await self._cache.get(request), request)
        await self._coordinator.load(_located(request))

    async def release(self, request: PartitionsRequest) -> None:
        self._allow("Release", request)
        check_collection_name(request.collection)
        if request.partitions:
            await self._refuse_partition_key(request, "disable release partitions if partition key mode is used")
        await self._coordinator.release(_located(request))

    async def load_state(self, request: PartitionsRequest) -> LoadState:
        self._allow("GetLoadState", request)
        try:
            return await self._coordinator.load_state(_located(request))
        except CollectionNotFoundError:
            return LoadState(LoadStatus.NOT_EXIST, 0)

    # --- partitions -------------------------------------------------------------------------------------------------
    async def create_partition(self, request: PartitionRequest) -> None:
        self._allow("CreatePartition", request)
        check_collection_name(request.collection)
        check_partition_name(request.partition)
        await self._refuse_partition_key(request, "disable create partition if partition key mode is used")
        await self._coordinator.create_partition(_located(request))

    async def drop_partition(self, request: PartitionRequest) -> None:
        self._allow("DropPartition", request)
        check_collection_name(request.collection)
        check_partition_name(request.partition)
        if request.partition == DEFAULT_PARTITION:
            raise BadParameterError("default partition cannot be deleted")
        await self._refuse_partition_key(request, "disable drop partition if partition key mode is used")
        try:
            await self._coordinator.drop_partition(_located(request))
        except PartitionNotFoundError:
            return  # Milvus: dropping what is not there succeeds.

    async def list_partitions(self, request: PartitionsRequest) -> tuple[PartitionReply, ...]:
        self._allow("ShowPartitions", request)
        if not request.collection_id:
            check_collection_name(request.collection)
        for name in request.partitions:
            check_partition_name(name)
        entry = await self._cache.fetch(request)
        unknown = next((name for name in request.partitions if name not in entry.partitions), None)
        if unknown is not None:
            raise PartitionNotFoundError(unknown)
        loaded = entry.view.loaded_partition_ids or ()
        percentage = entry.view.description.loaded_percentage
        return tuple(
            PartitionReply(info=info, loaded_percentage=percentage if info.partition_id in loaded else -1)
            for info in entry.view.description.partitions
            if not request.partitions or info.name in request.partitions
        )

    async def partition_row_count(self, request: PartitionRequest) -> int:
        self._allow("GetStatistics", request)
        return await self._flusher.partition_row_count(request)

    async def _refuse_partition_key(self, request: CollectionRequest, text: str) -> None:
        entry = await self._cache.get(request)
        if entry.partition_key is not None:
            raise RequestError(text)

    # --- aliases ----------------------------------------------------------------------------------------------------
    async def create_alias(self, request: AliasRequest) -> None:
        self._allow("CreateAlias", request)
        check_alias(request.alias)
        check_collection_name(request.collection)
        await self._coordinator.create_alias(_located(request))

    async def alter_alias(self, request: AliasRequest) -> None:
        self._allow("CreateAlias", request)
        check_alias(request.alias)
        check_collection_name(request.collection)
        await self._coordinator.alter_alias(_located(request))

    async def drop_alias(self, request: AliasRequest) -> None:
        self._allow("DropAlias", request)
        check_alias(request.alias)
        await self._coordinator.drop_alias(_located(request))

    async def describe_alias(self, request: AliasRequest) -> AliasReply:
        self._allow("DescribeAlias", request)
        check_alias(request.alias)
        return await self._coordinator.describe_alias(_located(request))

    async def list_aliases(self, request: CollectionRequest) -> tuple[AliasReply, ...]:
        self._allow("ListAliases", request)
        return await self._coordinator.list_aliases(_located(request))

    # --- databases --------------------------------------------------------------------------------------------------
    async def create_database(self, request: DatabaseRequest) -> None:
        self._allow_database("CreateDatabase", request.database)
        check_database_name(request.database)
        _check_database_properties(request)
        await self._coordinator.create_database(request)

    async def drop_database(self, request: DatabaseRequest) -> None:
        self._allow_database("DropDatabase", request.database)
        check_database_name(request.database)
        if request.database == DEFAULT_DATABASE:
            raise RequestError("can not drop default database")
        await self._coordinator.drop_database(request)

    async def list_databases(self) -> tuple[DatabaseReply, ...]:
        return await self._coordinator.list_databases()

    async def describe_database(self, request: DatabaseRequest) -> DatabaseReply:
        name = request.database or DEFAULT_DATABASE
        self._allow_database("DescribeDatabase", name)
        for database in await self._coordinator.list_databases():
            if database.name == name:
                return database
        raise DatabaseNotFoundError(name)

    async def alter_database(self, request: DatabaseRequest) -> None:
        self._allow_database("AlterDatabase", request.database)
        if not request.properties and not request.delete_keys:
            raise RequestError(
                "alter database with empty properties and delete keys, "
                "expected to set either properties or delete keys "
            )
        if request.properties and request.delete_keys:
            raise BadParameterError(
                "alter database operation cannot modify properties and delete keys at the same time"
            )
        _check_database_properties(request)
        await self._coordinator.alter_database(_located(request))

    # --- indexes ----------------------------------------------------------------------------------------------------
    async def create_index(self, request: CreateIndexRequest) -> None:
        self._allow("CreateIndex", request)
        entry = await self._cache.get(request)
        await self._coordinator.create_index(_located(checked_index(entry, request)))

    async def describe_index(self, request: IndexRequest) -> tuple[IndexReply, ...]:
        self._allow("IndexDetail", request)
        return await self._coordinator.describe_index(_located(request))

    async def drop_index(self, request: IndexRequest) -> None:
        self._allow("DropIndex", request)
        await self._coordinator.drop_index(_located(request))

    # --- rows -------------------------------------------------------------------------------------------------------
    async def insert(self, request: InsertRequest) -> MutationReply:
        self._allow("Insert", request)
        if request.partial_update:
            raise UnsupportedError("a partial update by insert")
        return await self._writer.insert(request)

    async def upsert(self, request: InsertRequest) -> MutationReply:
        self._allow("Upsert", request)
        return await self._upserter.upsert(request)

    async def delete(self, request: DeleteRequest) -> MutationReply:
        self._allow("Delete", request)
        return await self._writer.delete(request)

    async def search(self, request: SearchRequest) -> SearchReply:
        self._allow("Search", request)
        return await self._reader.search(request)

    async def hybrid_search(self, request: HybridSearchRequest) -> SearchReply:
        self._allow("Search", request)
        return await self._hybrid.search(request)

    async def query(self, request: QueryRequest) -> QueryReply:
        self._allow("Query", request)
        return await self._reader.query(request)

    # --- upkeep -----------------------------------------------------------------------------------------------------
    async def flush(self, request: FlushRequest) -> tuple[FlushedCollection, ...]:
        for name in request.collections:
            self._guard.check("Flush", request.database or DEFAULT_DATABASE, name)
        return await self._flusher.flush(_located(request))

    async def flush_state(self, request: FlushStateRequest) -> bool:
        self._allow("GetFlushState", request)
        return await self._flusher.flush_state(request)

    async def compact(self, request: CompactRequest) -> CompactReply:
        self._allow("Compaction", request)
        return await self._coordinator.compact(_located(request))

    async def compaction_state(self, compaction_id: int) -> CompactionState:
        return await self._coordinator.compaction_state(compaction_id)

    async def list_segments(self, request: CollectionRequest) -> tuple[SegmentInfo, ...]:
        entry = await self._cache.get(request)
        return await self._coordinator.segments(entry.collection_id)

    async def allocate_timestamp(self) -> int:
        return (await self._coordinator.allocate_timestamps()).first

    async def unhealthy_reasons(self) -> tuple[str, ...]:
        try:
            await self._coordinator.list_databases()
        except ElanusError as error:
            return (f"coordinator: {error.message}",)
        return ()


def _check_database_properties(request: DatabaseRequest) -> None:
    if TIMEZONE_PROPERTY in request.properties:
        check_timezone(request.properties[TIMEZONE_PROPERTY])
    limit = request.properties.get("database.max.collections", "0")
    if not limit.isdecimal():
        raise BadParameterError(f"invalid database.max.collections value: {limit}")
    for key, value in request.properties.items():
        denied = key.removeprefix(DENIAL_PROPERTY)
        if key != denied and denied not in DENIABLE and value.lower() == "true":
            raise UnsupportedError(f"database property {key}")


def _located(request: R) -> R:
    """The request with the default database filled in."""
    return request if request.database else msgspec.structs.replace(request, database=DEFAULT_DATABASE)
