"""The coordinator's calls: implements `contracts.Coordinator` over a `Leader`. DDL runs one call at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import msgspec

from elanus.base.doors import Tasks
from elanus.base.errors import ElanusError, OutcomeUnknownError
from elanus.base.limits import COLLECTION_COUNT_MAX, DATABASE_COUNT_MAX, PARTITION_COUNT_MAX
from elanus.meta.catalog import create, create_or_replace, remove, replace, run
from elanus.meta.records import Alias, Collection, Database
from elanus.meta.store import Transaction
from elanus.model.channel import vchannel_name
from elanus.model.errors import (
    AliasedCollectionNotFoundError,
    AliasExistsError,
    AliasNameConflictError,
    AliasNotFoundError,
    BadParameterError,
    CollectionLimitError,
    DatabaseLimitError,
    DatabaseNotFoundError,
    IndexNotFoundError,
    NoIndexError,
    RequestError,
    UnsupportedError,
)
from elanus.model.index import IndexDefinition
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
    IndexReply,
    IndexRequest,
    ListCollectionsRequest,
    LoadRequest,
    LoadState,
    PartitionInfo,
    PartitionRequest,
    PartitionsRequest,
    RenameCollectionRequest,
    SegmentInfo,
)
from elanus.model.schema import DEFAULT_DATABASE, DEFAULT_PARTITION, CollectionSchema
from elanus.model.types import DataType
from elanus.nodes.contracts import CollectionView, Range
from elanus.nodes.coordinator import describe
from elanus.nodes.coordinator.calls import confirmed, refusals_confirmed, uninterrupted
from elanus.nodes.coordinator.election import Office
from elanus.nodes.coordinator.intents import (
    AlterSchema,
    CreateCollection,
    CreatePartition,
    DropCollection,
    DropPartition,
    TruncateCollection,
)
from elanus.nodes.coordinator.leader import Leader

LOAD_WAIT_S: Final = 0.5
DYNAMIC_FIELD_PROPERTY: Final = "dynamicfield.enabled"
DESCRIPTION_PROPERTY: Final = "collection.description"
PARTITION_KEY_PARTITIONS: Final = 16
UNORDERED_TYPES: Final = (DataType.ARRAY, DataType.JSON, DataType.GEOMETRY)
MAX_COLLECTIONS: Final = "database.max.collections"
"""Property of a database."""


class Coordinator:
    """See the module's head."""

    def __init__(self, make: Callable[[Office], Leader]) -> None:
        self._make = make
        self._leading: Leader | None = None
        self._ddl = asyncio.Lock()
        self.is_started = False

    async def take_over(self, office: Office) -> None:
        """Lead: questions are answered once the catalog is known; what changes something waits for the start's end."""
        async with self._ddl:
            leader = self._make(office)
            await leader.prepare()
            self._leading = leader
            await leader.start()
            self.is_started = True

    def step_down(self) -> None:
        """Answer nothing any more."""
        if self._leading is not None:
            self._leading.stop()
        self._leading = None
        self.is_started = False

    @property
    def leader(self) -> Leader:
        """What leads now. UnavailableError at a standby."""
        if self._leading is None:
            raise describe.not_leading()
        return self._leading

    @property
    def tasks(self) -> Tasks:
        """Where calls that change something run."""
        return self.leader.ground.doors.tasks

    @asynccontextmanager
    async def _defining(self) -> AsyncIterator[None]:
        """One definition at a time; the catalog has changed afterwards."""
        async with self._ddl, refusals_confirmed(self.leader):
            yield
            if self._leading is not None:
                self._leading.snapshots.mark()

    # --- identity and time ------------------------------------------------------------------------------------------
    async def allocate_ids(self, count: int) -> Range:
        return await self.leader.ids.allocate(count)

    async def allocate_timestamps(self) -> Range:
        return await self.leader.oracle.window()

    async def report_failed(self, pchannel: str, term: int) -> None:
        self.leader.channels.report_failed(pchannel, term)

    # --- collections ------------------------------------------------------------------------------------------------
    @confirmed
    async def describe(self, request: CollectionRequest) -> CollectionView:
        return describe.view(self.leader, self.leader.catalog.collection(request).record)

    @confirmed
    async def list_collections(self, request: ListCollectionsRequest) -> tuple[CollectionReply, ...]:
        database = self.leader.catalog.database(request.database).record
        replies = [
            describe.reply(self.leader, record) for record in self.leader.catalog.in_database(database.database_id)
        ]
        return tuple(
            reply
            for reply in replies
            if (not request.names or reply.name in request.names)
            and (not request.only_loaded or reply.loaded_percentage >= 0)
        )

    @uninterrupted
    async def create_collection(self, request: CreateCollectionRequest) -> None:
        async with self._defining():
            leader, name = self.leader, request.schema.name
            database = leader.catalog.database(request.database).record
            if (database.database_id, name) in leader.catalog.aliases:
                raise AliasNameConflictError(
                    database.name,
                    name,
                    prefix=f"collection name [{name}] conflicts with an existing alias, please choose a unique name",
                )
            existing = leader.catalog.find(database.database_id, name)
            if existing is not None:
                describe.check_same(existing.record, request)
                await self.leader.confirm()
                return
            limit = min(COLLECTION_COUNT_MAX, int(database.properties.get(MAX_COLLECTIONS, COLLECTION_COUNT_MAX)))
            if len(leader.catalog.in_database(database.database_id)) >= limit:
                raise CollectionLimitError(limit)
            collection = await self._new_collection(request, database.database_id)
            intent_id = (await leader.ids.allocate(1)).first
            await leader.ddl.begin(intent_id, CreateCollection(collection))
            await self._changed(collection.collection_id)

    async def _new_collection(self, request: CreateCollectionRequest, database_id: int) -> Collection:
        leader = self.leader
        names = [DEFAULT_PARTITION]
        if request.schema.partition_key is not None:
            count = request.partition_count or PARTITION_KEY_PARTITIONS
            names = [f"{DEFAULT_PARTITION}_{number}" for number in range(count)]
        ids = await leader.ids.allocate(1 + len(names))
        created = await leader.oracle.next()
        channels = leader.pchannels
        return Collection(
            collection_id=ids.first,
            database_id=database_id,
            name=request.schema.name,
            schema=request.schema,
            vchannels=tuple(
                vchannel_name(channels[(ids.first + shard) % len(channels)], ids.first, shard)
                for shard in range(request.shard_count)
            ),
            partitions=tuple(PartitionInfo(ids.first + 1 + number, name, created) for number, name in enumerate(names)),
            consistency_level=request.consistency_level,
            created_timestamp=created,
            updated_timestamp=created,
            properties=request.properties,
        )

    @uninterrupted
    async def drop_collection(self, request: CollectionRequest) -> None:
        async with self._defining():
            leader = self.leader
            collection = leader.catalog.collection(request).record
            aliases = leader.catalog.aliases_of(collection.collection_id)
            if request.collection in aliases:
                raise AliasNotFoundError(
                    request.database or DEFAULT_DATABASE,
                    request.collection,
                    prefix=f"cannot drop the collection via alias = {request.collection}",
                )
            if aliases:
                raise RequestError(
                    f"unable to drop the collection [{collection.name}] because it has associated aliases "
                    f"[{' '.join(aliases)}], please remove all aliases before dropping the collection"
                )
            intent_id = (await leader.ids.allocate(1)).first
            await leader.ddl.begin(intent_id, DropCollection(collection.collection_id))
            await self._changed(collection.collection_id)

    @uninterrupted
    async def rename_collection(self, request: RenameCollectionRequest) -> None:
        async with self._defining():
            catalog = self.leader.catalog
            database = catalog.database(request.database).record
            target = catalog.database(request.new_database).record if request.new_database else database
            if (database.database_id, request.collection) in catalog.aliases:
                raise RequestError(f"unsupported use an alias to rename collection, alias:{request.collection}")
            stored = catalog.collection(request)
            if target.database_id == database.database_id and request.new_name == stored.record.name:
                raise BadParameterError("collection name or database name should be different")
            if (target.database_id, request.new_name) in catalog.aliases:
                raise RequestError(f"cannot rename collection to an existing alias: {request.new_name}")
            if catalog.is_name(target.database_id, request.new_name):
                duplicate = f"{target.name}:{request.new_name}"
                raise RequestError(f"duplicated new collection name {duplicate} with other collection name or alias")
            schema = msgspec.structs.replace(stored.record.schema, name=request.new_name)
            await self._replace(
                stored.record.collection_id, name=request.new_name, database_id=target.database_id, schema=schema
            )

    @uninterrupted
    async def alter_collection(self, request: AlterPropertiesRequest) -> None:
        async with self._defining():
            record = self.leader.catalog.collection(request).record
            if request.index_name:
                await self._alter_index(record, request)
                return
            if request.field:
                await self._alter_field(record, request)
                return
            if DYNAMIC_FIELD_PROPERTY in request.properties:
                wanted = request.properties[DYNAMIC_FIELD_PROPERTY].lower() == "true"
                if wanted and not record.schema.enable_dynamic_field:
                    await self._alter_schema(record, describe.with_dynamic_field(record.schema))
                return
            properties = describe.altered(record.properties, request.properties, request.delete_keys)
            if DESCRIPTION_PROPERTY in properties:
                schema = msgspec.structs.replace(record.schema, description=properties.pop(DESCRIPTION_PROPERTY))
                await self._replace(record.collection_id, properties=properties, schema=schema)
                return
            await self._replace(record.collection_id, properties=properties)

    @uninterrupted
    async def add_field(self, request: AddFieldRequest) -> None:
        async with self._defining():
            record = self.leader.catalog.collection(request).record
            await self._alter_schema(record, describe.with_field(record.schema, request.field))

    async def _alter_schema(self, record: Collection, schema: CollectionSchema) -> None:
        """A schema with other fields: every shard must know it before rows of it are written."""
        leader = self.leader
        newer = msgspec.structs.replace(schema, version=record.schema.version + 1)
        intent_id = (await leader.ids.allocate(1)).first
        await leader.ddl.begin(intent_id, AlterSchema(record.collection_id, newer, await leader.oracle.next()))
        await self._changed(record.collection_id)

    @uninterrupted
    async def truncate_collection(self, request: CollectionRequest) -> None:
        async with self._defining():
            leader = self.leader
            record = leader.catalog.collection(request).record
            ids = await leader.ids.allocate(1 + len(record.partitions))
            partitions = tuple(
                msgspec.structs.replace(partition, partition_id=ids.first + 1 + number)
                for number, partition in enumerate(record.partitions)
            )
            await leader.ddl.begin(ids.first, TruncateCollection(record.collection_id, partitions))
            await self._changed(record.collection_id)
        await leader.reconcile(record.collection_id)

    async def _alter_field(self, record: Collection, request: AlterPropertiesRequest) -> None:
        await self._replace(record.collection_id, schema=describe.with_altered_field(record.schema, request))

    async def _alter_index(self, record: Collection, request: AlterPropertiesRequest) -> None:
        if all(index.name != request.index_name for index in record.indexes):
            raise IndexNotFoundError(request.index_name)
        indexes = tuple(
            msgspec.structs.replace(
                index, params=describe.altered(index.params, request.properties, request.delete_keys)
            )
            if index.name == request.index_name
            else index
            for index in record.indexes
        )
        await self._replace(record.collection_id, indexes=indexes)

    async def _replace(self, collection_id: int, **changes: object) -> None:
        """Store a changed collection record."""
        leader = self.leader
        stored = leader.catalog.collections[collection_id]
        changes.setdefault("updated_timestamp", await leader.oracle.next())
        changed = msgspec.structs.replace(stored.record, **changes)
        await self._run(replace(stored, changed), collection_id)
        await self._changed(collection_id)

    async def _run(self, transaction: Transaction, collection_id: int | None = None) -> None:
        """Commit, and read back what it changed: the collection, or all. OutcomeUnknownError: what the catalog is now
        is not known here, so that another term has to go on."""
        leader = self.leader
        try:
            await run(leader.ground.meta, transaction, (leader.guard,))
        except OutcomeUnknownError:
            leader.ddl.doubt()
            raise
        try:
            if collection_id is None:
                await leader.catalog.refresh()
            else:
                await leader.catalog.refresh_collection(collection_id)
        except ElanusError as error:
            leader.ddl.doubt()
            raise OutcomeUnknownError(f"done, and not read back: {error.message}") from error

    async def _changed(self, collection_id: int) -> None:
        """Tell whoever follows the collection, before the call is answered."""
        self.leader.mark(collection_id)
        await self.leader.invalidate(collection_id)

    # --- partitions -------------------------------------------------------------------------------------------------
    @uninterrupted
    async def create_partition(self, request: PartitionRequest) -> None:
        async with self._defining():
            leader = self.leader
            record = leader.catalog.collection(request).record
            if any(partition.name == request.partition for partition in record.partitions):
                await self.leader.confirm()
                return
            if len(record.partitions) >= PARTITION_COUNT_MAX:
                raise BadParameterError(
                    f"partition number ({len(record.partitions)}) exceeds max configuration ({PARTITION_COUNT_MAX})"
                )
            ids = await leader.ids.allocate(2)
            partition = PartitionInfo(ids.first, request.partition, await leader.oracle.next())
            await leader.ddl.begin(ids.first + 1, CreatePartition(record.collection_id, partition))
            await self._changed(record.collection_id)

    @uninterrupted
    async def drop_partition(self, request: PartitionRequest) -> None:
        async with self._defining():
            leader = self.leader
            record = leader.catalog.collection(request).record
            found = [partition for partition in record.partitions if partition.name == request.partition]
            if not found:
                await self.leader.confirm()
                return
            partition_id = found[0].partition_id
            loaded = describe.loaded_partition_ids(leader, record)
            if loaded is not None and partition_id in loaded:
                raise RequestError("partition cannot be dropped, partition is loaded, please release it first")
            intent_id = (await leader.ids.allocate(1)).first
            await leader.ddl.begin(intent_id, DropPartition(record.collection_id, partition_id))
            await self._changed(record.collection_id)

    # --- aliases ----------------------------------------------------------------------------------------------------
    @uninterrupted
    async def create_alias(self, request: AliasRequest) -> None:
        async with self._defining():
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
            await self._run(create(alias))
            await self._changed(record.collection_id)

    @uninterrupted
    async def alter_alias(self, request: AliasRequest) -> None:
        async with self._defining():
            catalog = self.leader.catalog
            database = catalog.database(request.database).record
            if catalog.is_name(database.database_id, request.alias):
                raise AliasNameConflictError(database.name, request.alias)
            if catalog.find(database.database_id, request.collection) is None:
                raise AliasedCollectionNotFoundError(request.collection)
            record = catalog.collection(request).record
            old = catalog.alias(request.database, request.alias)
            await self._run(replace(old, msgspec.structs.replace(old.record, collection_id=record.collection_id)))
            await self._changed(old.record.collection_id)
            await self._changed(record.collection_id)

    @uninterrupted
    async def drop_alias(self, request: AliasRequest) -> None:
        async with self._defining():
            catalog = self.leader.catalog
            database = catalog.database(request.database).record
            old = catalog.aliases.get((database.database_id, request.alias))
            if old is not None:
                await self._run(remove(old))
                await self._changed(old.record.collection_id)

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

    # --- databases --------------------------------------------------------------------------------------------------
    @uninterrupted
    async def create_database(self, request: DatabaseRequest) -> None:
        async with self._defining():
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
            await self._run(create(database))

    @uninterrupted
    async def drop_database(self, request: DatabaseRequest) -> None:
        async with self._defining():
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
            await self._run(remove(stored))

    @confirmed
    async def list_databases(self) -> tuple[DatabaseReply, ...]:
        return tuple(
            DatabaseReply(one.record.name, one.record.database_id, one.record.created_timestamp, one.record.properties)
            for one in sorted(self.leader.catalog.databases.values(), key=lambda one: one.record.database_id)
        )

    @uninterrupted
    async def alter_database(self, request: DatabaseRequest) -> None:
        async with self._defining():
            stored = self.leader.catalog.database(request.database)
            properties = describe.altered(stored.record.properties, request.properties, request.delete_keys)
            await self._run(replace(stored, msgspec.structs.replace(stored.record, properties=properties)))
            for collection in tuple(self.leader.catalog.collections.values()):
                if collection.record.database_id == stored.record.database_id:
                    await self._changed(collection.record.collection_id)

    # --- indexes ----------------------------------------------------------------------------------------------------
    @uninterrupted
    async def create_index(self, request: CreateIndexRequest) -> None:
        async with self._defining():
            leader = self.leader
            record = leader.catalog.collection(request).record
            field = record.schema.field(request.field) or record.schema.dynamic
            if field is None:
                raise RequestError(f"cannot create index on non-exist field: {request.field}")
            name = request.index_name or describe.index_name(record, field)
            definition = IndexDefinition(0, name, field.field_id, request.field, request.params)
            if describe.is_same_index(record, definition):
                await self.leader.confirm()
                return
            definition = msgspec.structs.replace(definition, index_id=(await leader.ids.allocate(1)).first)
            await self._replace(
                record.collection_id,
                indexes=(*record.indexes, definition),
                updated_timestamp=record.updated_timestamp,
            )

    @confirmed
    async def describe_index(self, request: IndexRequest) -> tuple[IndexReply, ...]:
        leader = self.leader
        record = leader.catalog.collection(request).record
        found = describe.matching_indexes(record, request)
        if not found:
            raise IndexNotFoundError(request.index_name) if request.index_name else NoIndexError(record.name)
        return tuple([await describe.index_reply(leader, record, index) for index in found])

    @uninterrupted
    async def drop_index(self, request: IndexRequest) -> None:
        async with self._defining():
            record = self.leader.catalog.collection(request).record
            gone = {index.index_id for index in describe.matching_indexes(record, request)}
            if not gone:
                await self.leader.confirm()
                return
            loaded = self.leader.catalog.loads.get(record.collection_id) is not None
            vectors = {field.field_id for field in record.schema.vector_fields}
            if loaded and any(index.index_id in gone and index.field_id in vectors for index in record.indexes):
                raise BadParameterError(f"vector index cannot be dropped on loaded collection: {record.collection_id}")
            kept = tuple(index for index in record.indexes if index.index_id not in gone)
            await self._replace(record.collection_id, indexes=kept, updated_timestamp=record.updated_timestamp)

    # --- load -------------------------------------------------------------------------------------------------------
    @uninterrupted
    async def load(self, request: LoadRequest) -> None:
        leader = self.leader
        async with self._defining():
            record = leader.catalog.collection(request).record
            old = leader.catalog.loads.get(record.collection_id)
            known = None if old is None else old.record
            if request.refresh and known is not None:
                request = describe.loaded_again(record, request, known)
            describe.check_loadable(record, request, known, leader.peers)
            new = describe.load_record(record, request, known)
            if old is None or old.record != new:
                await leader.placement.check_memory(record, new)
                leader.placement.expect(record.collection_id)
                await self._run(create_or_replace(old, new), record.collection_id)
            await self._changed(record.collection_id)
        await self._soon(record.collection_id)

    @uninterrupted
    async def release(self, request: PartitionsRequest) -> None:
        leader = self.leader
        async with self._defining():
            record = leader.catalog.collection(request).record
            old = leader.catalog.loads.get(record.collection_id)
            if old is None:
                await self.leader.confirm()
                return
            left = describe.partitions_left(leader, record, request)
            if left:
                changed = msgspec.structs.replace(old.record, partition_ids=left)
                await self._run(replace(old, changed), record.collection_id)
            else:
                await self._run(remove(old), record.collection_id)
            await self._changed(record.collection_id)
        await leader.reconcile(record.collection_id)

    async def _soon(self, collection_id: int) -> None:
        """Give a small load the time to finish before the client asks for its progress."""
        leader = self.leader
        job = leader.ground.doors.tasks.spawn(leader.reconcile(collection_id), name="load")
        for _ in range(50):
            if job.done():
                return
            await leader.ground.doors.clock.sleep(LOAD_WAIT_S / 50)

    @confirmed
    async def load_state(self, request: PartitionsRequest) -> LoadState:
        return describe.load_state(self.leader, request)

    # --- segments and compaction ------------------------------------------------------------------------------------
    async def compact(self, request: CompactRequest) -> CompactReply:
        leader = self.leader
        record = leader.catalog.collection(request).record
        compaction_id = (await leader.ids.allocate(1)).first
        clustered_by = 0
        if request.major:
            key = next((field for field in record.schema.fields if field.is_clustering_key), None)
            if key is None:
                return CompactReply(-1, 0)
            if key.data_type in UNORDERED_TYPES:
                raise UnsupportedError(f"clustering by a field of type {key.data_type.label}")
            clustered_by = key.field_id
        planned = await leader.background.compact(record, compaction_id, clustered_by)
        return CompactReply(compaction_id, planned) if planned else CompactReply(-1, 0)

    async def compaction_state(self, compaction_id: int) -> CompactionState:
        return self.leader.background.compaction_state(compaction_id)

    async def segments(self, collection_id: int) -> tuple[SegmentInfo, ...]:
        record = self.leader.catalog.collection(CollectionRequest(collection_id=collection_id)).record
        return await describe.segments(self.leader, record)
