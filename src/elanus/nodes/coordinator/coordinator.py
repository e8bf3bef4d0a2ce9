"""The coordinator's calls: implements `contracts.Coordinator` over a `Leader`. DDL runs one call at a time."""

from __future__ import annotations

from typing import Final

import msgspec

from elanus.base.limits import COLLECTION_COUNT_MAX, PARTITION_COUNT_MAX
from elanus.meta.catalog import create_or_replace, remove, replace
from elanus.meta.records import Collection
from elanus.model.channel import vchannel_name
from elanus.model.errors import (
    AliasNameConflictError,
    AliasNotFoundError,
    BadParameterError,
    CollectionLimitError,
    RequestError,
    UnsupportedError,
)
from elanus.model.requests import (
    AddFieldRequest,
    AlterPropertiesRequest,
    CollectionReply,
    CollectionRequest,
    CompactionState,
    CompactReply,
    CompactRequest,
    CreateCollectionRequest,
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
from elanus.nodes.coordinator.aliases import Aliases
from elanus.nodes.coordinator.calls import confirmed, uninterrupted
from elanus.nodes.coordinator.databases import Databases
from elanus.nodes.coordinator.indexes import Indexes
from elanus.nodes.coordinator.intents import (
    AlterSchema,
    CreateCollection,
    CreatePartition,
    DropCollection,
    DropPartition,
    TruncateCollection,
)

LOAD_WAIT_S: Final = 0.5
DYNAMIC_FIELD_PROPERTY: Final = "dynamicfield.enabled"
DESCRIPTION_PROPERTY: Final = "collection.description"
PARTITION_KEY_PARTITIONS: Final = 16
UNORDERED_TYPES: Final = (DataType.ARRAY, DataType.JSON, DataType.GEOMETRY)
MAX_COLLECTIONS: Final = "database.max.collections"
"""Property of a database."""


class Coordinator(Aliases, Databases, Indexes):
    """See the module's head."""

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
        async with self.defining():
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
            await self.changed(collection.collection_id)

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
        async with self.defining():
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
            await self.changed(collection.collection_id)

    @uninterrupted
    async def rename_collection(self, request: RenameCollectionRequest) -> None:
        async with self.defining():
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
            await self.replace(
                stored.record.collection_id, name=request.new_name, database_id=target.database_id, schema=schema
            )

    @uninterrupted
    async def alter_collection(self, request: AlterPropertiesRequest) -> None:
        async with self.defining():
            record = self.leader.catalog.collection(request).record
            if request.index_name:
                await self.alter_index(record, request)
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
                await self.replace(record.collection_id, properties=properties, schema=schema)
                return
            await self.replace(record.collection_id, properties=properties)

    @uninterrupted
    async def add_field(self, request: AddFieldRequest) -> None:
        async with self.defining():
            record = self.leader.catalog.collection(request).record
            await self._alter_schema(record, describe.with_field(record.schema, request.field))

    async def _alter_schema(self, record: Collection, schema: CollectionSchema) -> None:
        """A schema with other fields: every shard must know it before rows of it are written."""
        leader = self.leader
        newer = msgspec.structs.replace(schema, version=record.schema.version + 1)
        intent_id = (await leader.ids.allocate(1)).first
        await leader.ddl.begin(intent_id, AlterSchema(record.collection_id, newer, await leader.oracle.next()))
        await self.changed(record.collection_id)

    @uninterrupted
    async def truncate_collection(self, request: CollectionRequest) -> None:
        async with self.defining():
            leader = self.leader
            record = leader.catalog.collection(request).record
            ids = await leader.ids.allocate(1 + len(record.partitions))
            partitions = tuple(
                msgspec.structs.replace(partition, partition_id=ids.first + 1 + number)
                for number, partition in enumerate(record.partitions)
            )
            await leader.ddl.begin(ids.first, TruncateCollection(record.collection_id, partitions))
            await self.changed(record.collection_id)
        await leader.reconcile(record.collection_id)

    async def _alter_field(self, record: Collection, request: AlterPropertiesRequest) -> None:
        await self.replace(record.collection_id, schema=describe.with_altered_field(record.schema, request))

    # --- partitions -------------------------------------------------------------------------------------------------
    @uninterrupted
    async def create_partition(self, request: PartitionRequest) -> None:
        async with self.defining():
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
            await self.changed(record.collection_id)

    @uninterrupted
    async def drop_partition(self, request: PartitionRequest) -> None:
        async with self.defining():
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
            await self.changed(record.collection_id)

    # --- load -------------------------------------------------------------------------------------------------------
    @uninterrupted
    async def load(self, request: LoadRequest) -> None:
        leader = self.leader
        async with self.defining():
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
                await self.commit(create_or_replace(old, new), record.collection_id)
            await self.changed(record.collection_id)
        await self._soon(record.collection_id)

    @uninterrupted
    async def release(self, request: PartitionsRequest) -> None:
        leader = self.leader
        async with self.defining():
            record = leader.catalog.collection(request).record
            old = leader.catalog.loads.get(record.collection_id)
            if old is None:
                await self.leader.confirm()
                return
            left = describe.partitions_left(leader, record, request)
            if left:
                changed = msgspec.structs.replace(old.record, partition_ids=left)
                await self.commit(replace(old, changed), record.collection_id)
            else:
                await self.commit(remove(old), record.collection_id)
            await self.changed(record.collection_id)
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
