"""The coordinator's calls about indexes."""

from __future__ import annotations

import msgspec

from elanus.index.registry import check_mmap
from elanus.meta.records import Collection
from elanus.model.errors import (
    BadParameterError,
    IndexNotFoundError,
    NoIndexError,
    RequestError,
)
from elanus.model.index import IndexDefinition
from elanus.model.requests import (
    AlterPropertiesRequest,
    CreateIndexRequest,
    IndexReply,
    IndexRequest,
)
from elanus.nodes.coordinator import describe
from elanus.nodes.coordinator.calls import confirmed, uninterrupted
from elanus.nodes.coordinator.defining import Defining


class Indexes(Defining):
    """See the module's head."""

    @uninterrupted
    async def create_index(self, request: CreateIndexRequest) -> None:
        async with self.defining():
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
            await self.replace(
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
        async with self.defining():
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
            await self.replace(record.collection_id, indexes=kept, updated_timestamp=record.updated_timestamp)

    async def alter_index(self, record: Collection, request: AlterPropertiesRequest) -> None:
        if all(index.name != request.index_name for index in record.indexes):
            raise IndexNotFoundError(request.index_name)
        for index in record.indexes:
            if index.name == request.index_name and "mmap.enabled" in request.properties:
                check_mmap(index.index_type, request.properties["mmap.enabled"])
        indexes = tuple(
            msgspec.structs.replace(
                index, params=describe.altered(index.params, request.properties, request.delete_keys)
            )
            if index.name == request.index_name
            else index
            for index in record.indexes
        )
        await self.replace(record.collection_id, indexes=indexes)
