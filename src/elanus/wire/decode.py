"""Request bytes into the values of `model.requests`, for all calls but writes and reads.

Each function takes the raw request and the database from the call's metadata, which counts where the request names
none. Names and limits are the proxy's to check; refused here is only what has no value to be decoded to.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from elanus.model.errors import BadParameterError, UnsupportedError
from elanus.model.requests import (
    AddFieldRequest,
    AliasRequest,
    AlterPropertiesRequest,
    CollectionRequest,
    CompactRequest,
    CreateCollectionRequest,
    CreateIndexRequest,
    DatabaseRequest,
    FlushRequest,
    FlushStateRequest,
    IndexRequest,
    ListCollectionsRequest,
    LoadRequest,
    PartitionRequest,
    PartitionsRequest,
    RenameCollectionRequest,
)
from elanus.model.types import ConsistencyLevel
from elanus.wire.messages import messages
from elanus.wire.schemas import decode_added_field, decode_schema, flat_params, pairs

_DEFAULT_RESOURCE_GROUP: Final = "__default_resource_group"
_SHOW_IN_MEMORY: Final = 1


def consistency_level(number: int) -> ConsistencyLevel:
    """The level of that number on the wire."""
    try:
        return ConsistencyLevel(number)
    except ValueError:
        raise BadParameterError(f"consistency level {number} is not known") from None


# --- collections ----------------------------------------------------------------------------------------------------
def create_collection(data: bytes, database: str) -> CreateCollectionRequest:
    message = messages().CreateCollectionRequest.FromString(data)
    schema = decode_schema(message.schema)
    return CreateCollectionRequest(
        database=message.db_name or database,
        schema=schema if schema.name else _named(schema, message.collection_name),
        shard_count=message.shards_num if message.shards_num > 0 else 1,
        consistency_level=consistency_level(message.consistency_level),
        properties=pairs(message.properties),
        partition_count=message.num_partitions,
    )


def _named(schema: Any, name: str) -> Any:
    return type(schema)(
        name=name,
        fields=schema.fields,
        description=schema.description,
        enable_dynamic_field=schema.enable_dynamic_field,
        functions=schema.functions,
    )


def collection(request_name: str, data: bytes, database: str) -> CollectionRequest:
    """Any request with `db_name`, `collection_name` and perhaps `collectionID`."""
    message = getattr(messages(), request_name).FromString(data)
    return CollectionRequest(
        database=message.db_name or database,
        collection=message.collection_name,
        collection_id=getattr(message, "collectionID", 0),
    )


def batch_describe(data: bytes, database: str) -> tuple[CollectionRequest, ...]:
    message = messages().BatchDescribeCollectionRequest.FromString(data)
    chosen = message.db_name or database
    by_name = tuple(CollectionRequest(database=chosen, collection=name) for name in message.collection_name)
    return by_name or tuple(CollectionRequest(database=chosen, collection_id=number) for number in message.collectionID)


def show_collections(data: bytes, database: str) -> ListCollectionsRequest:
    message = messages().ShowCollectionsRequest.FromString(data)
    return ListCollectionsRequest(
        database=message.db_name or database,
        only_loaded=message.type == _SHOW_IN_MEMORY,
        names=tuple(message.collection_names),
    )


def rename_collection(data: bytes, database: str) -> RenameCollectionRequest:
    message = messages().RenameCollectionRequest.FromString(data)
    return RenameCollectionRequest(
        database=message.db_name or database,
        collection=message.oldName,
        new_name=message.newName,
        new_database=message.newDBName,
    )


def alter_collection(data: bytes, database: str) -> AlterPropertiesRequest:
    message = messages().AlterCollectionRequest.FromString(data)
    return AlterPropertiesRequest(
        database=message.db_name or database,
        collection=message.collection_name,
        collection_id=message.collectionID,
        properties=pairs(message.properties),
        delete_keys=tuple(message.delete_keys),
    )


def add_field(data: bytes, database: str) -> AddFieldRequest:
    message = messages().AddCollectionFieldRequest.FromString(data)
    return AddFieldRequest(
        database=message.db_name or database,
        collection=message.collection_name,
        collection_id=message.collectionID,
        field=decode_added_field(message.schema),
    )


_FIELD_SPELLINGS: Final = {"mmap_enabled": "mmap.enabled"}
"""Clients translate this key when they create a field and not when they alter one."""


def alter_field(data: bytes, database: str) -> AlterPropertiesRequest:
    message = messages().AlterCollectionFieldRequest.FromString(data)
    if not message.field_name:
        raise BadParameterError(f"field  does not exist in collection {message.collection_name}")
    return AlterPropertiesRequest(
        database=message.db_name or database,
        collection=message.collection_name,
        properties={_FIELD_SPELLINGS.get(key, key): value for key, value in pairs(message.properties).items()},
        delete_keys=tuple(_FIELD_SPELLINGS.get(key, key) for key in message.delete_keys),
        field=message.field_name,
    )


def alter_index(data: bytes, database: str) -> AlterPropertiesRequest:
    message = messages().AlterIndexRequest.FromString(data)
    return AlterPropertiesRequest(
        database=message.db_name or database,
        collection=message.collection_name,
        properties=pairs(message.extra_params),
        delete_keys=tuple(message.delete_keys),
        index_name=message.index_name,
    )


def load_collection(data: bytes, database: str) -> LoadRequest:
    return _load(messages().LoadCollectionRequest.FromString(data), database, ())


def load_partitions(data: bytes, database: str) -> LoadRequest:
    message = messages().LoadPartitionsRequest.FromString(data)
    return _load(message, database, _some_partitions(message.partition_names))


def _load(message: Any, database: str, partitions: tuple[str, ...]) -> LoadRequest:
    if set(message.resource_groups) - {_DEFAULT_RESOURCE_GROUP}:
        raise UnsupportedError("resource groups")
    return LoadRequest(
        database=message.db_name or database,
        collection=message.collection_name,
        partitions=partitions,
        replica_count=message.replica_number if message.replica_number > 0 else 1,
        load_fields=tuple(message.load_fields),
        skip_dynamic_field=message.skip_load_dynamic_field,
        refresh=message.refresh,
    )


def _some_partitions(names: Iterable[str]) -> tuple[str, ...]:
    """At least one name: none would mean all of the collection."""
    partitions = tuple(names)
    if not partitions:
        text = "due to no partition specified"
        raise BadParameterError(text, expected="any partition", actual="empty partition list")
    return partitions


def release_collection(data: bytes, database: str) -> PartitionsRequest:
    message = messages().ReleaseCollectionRequest.FromString(data)
    return PartitionsRequest(database=message.db_name or database, collection=message.collection_name)


def release_partitions(data: bytes, database: str) -> PartitionsRequest:
    message = messages().ReleasePartitionsRequest.FromString(data)
    return PartitionsRequest(
        database=message.db_name or database,
        collection=message.collection_name,
        partitions=_some_partitions(message.partition_names),
    )


def load_state(request_name: str, data: bytes, database: str) -> PartitionsRequest:
    """GetLoadState and GetLoadingProgress."""
    message = getattr(messages(), request_name).FromString(data)
    return PartitionsRequest(
        database=message.db_name or database,
        collection=message.collection_name,
        partitions=tuple(message.partition_names),
    )


# --- partitions, aliases, databases ---------------------------------------------------------------------------------
def partition(request_name: str, data: bytes, database: str) -> PartitionRequest:
    """Any request about one named partition."""
    message = getattr(messages(), request_name).FromString(data)
    return PartitionRequest(
        database=message.db_name or database,
        collection=message.collection_name,
        partition=message.partition_name,
    )


def show_partitions(data: bytes, database: str) -> tuple[PartitionsRequest, bool]:
    """The request, and whether only loaded partitions are wanted."""
    message = messages().ShowPartitionsRequest.FromString(data)
    request = PartitionsRequest(
        database=message.db_name or database,
        collection=message.collection_name,
        collection_id=message.collectionID,
        partitions=tuple(message.partition_names),
    )
    return request, message.type == _SHOW_IN_MEMORY


def alias(request_name: str, data: bytes, database: str) -> AliasRequest:
    """Any request about one alias; drop and describe name no collection."""
    message = getattr(messages(), request_name).FromString(data)
    return AliasRequest(
        database=message.db_name or database,
        collection=getattr(message, "collection_name", ""),
        alias=message.alias,
    )


def database(request_name: str, data: bytes, metadata_database: str) -> DatabaseRequest:
    """Requests whose object is the database itself."""
    message = getattr(messages(), request_name).FromString(data)
    return DatabaseRequest(
        database=message.db_name or metadata_database,
        properties=pairs(getattr(message, "properties", ())),
        delete_keys=tuple(getattr(message, "delete_keys", ())),
    )


# --- indexes --------------------------------------------------------------------------------------------------------
def create_index(data: bytes, database: str) -> CreateIndexRequest:
    message = messages().CreateIndexRequest.FromString(data)
    return CreateIndexRequest(
        database=message.db_name or database,
        collection=message.collection_name,
        field=message.field_name,
        index_name=message.index_name,
        params=flat_params(message.extra_params),
    )


def index(request_name: str, data: bytes, database: str) -> IndexRequest:
    """Describe, drop, statistics, state and progress."""
    message = getattr(messages(), request_name).FromString(data)
    return IndexRequest(
        database=message.db_name or database,
        collection=message.collection_name,
        field=getattr(message, "field_name", ""),
        index_name=message.index_name,
    )


# --- flush, compaction, segments ------------------------------------------------------------------------------------
def flush(data: bytes, database: str) -> FlushRequest:
    message = messages().FlushRequest.FromString(data)
    if not message.collection_names:
        raise BadParameterError("collection names of a flush are empty")
    return FlushRequest(database=message.db_name or database, collections=tuple(message.collection_names))


def flush_state(data: bytes, database: str) -> FlushStateRequest:
    message = messages().GetFlushStateRequest.FromString(data)
    return FlushStateRequest(
        database=message.db_name or database,
        collection=message.collection_name,
        timestamp=message.flush_ts,
        segment_ids=tuple(message.segmentIDs),
    )


def flush_all(data: bytes, database: str) -> tuple[FlushRequest, ...]:
    """What to flush; an empty tuple means every database."""
    message = messages().FlushAllRequest.FromString(data)
    return _flush_targets(message)


def flush_all_state(data: bytes, database: str) -> tuple[tuple[FlushRequest, ...], int]:
    """What was flushed (empty: every database), and the timestamp up to which."""
    message = messages().GetFlushAllStateRequest.FromString(data)
    return _flush_targets(message), max([message.flush_all_ts, *message.flush_all_tss.values()])


def _flush_targets(message: Any) -> tuple[FlushRequest, ...]:
    if message.flush_targets:
        return tuple(
            FlushRequest(database=target.db_name, collections=tuple(target.collection_names))
            for target in message.flush_targets
        )
    return (FlushRequest(database=message.db_name),) if message.db_name else ()


def compact(data: bytes, database: str) -> CompactRequest:
    message = messages().ManualCompactionRequest.FromString(data)
    return CompactRequest(
        database=message.db_name or database,
        collection=message.collection_name,
        collection_id=message.collectionID,
        major=message.majorCompaction,
    )


def compaction_id(request_name: str, data: bytes, database: str) -> int:
    return int(getattr(messages(), request_name).FromString(data).compactionID)


def segments(request_name: str, data: bytes, database: str) -> CollectionRequest:
    message = getattr(messages(), request_name).FromString(data)
    return CollectionRequest(database=message.dbName or database, collection=message.collectionName)


def replicas(data: bytes, database: str) -> CollectionRequest:
    message = messages().GetReplicasRequest.FromString(data)
    return CollectionRequest(
        database=message.db_name or database,
        collection=message.collection_name,
        collection_id=message.collectionID,
    )


def nothing(data: bytes, database: str) -> str:
    """Calls whose request says nothing that matters; gives the database."""
    return database
