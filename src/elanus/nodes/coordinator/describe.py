"""Answers made of what a leader knows, and the small rules of its calls; nothing here changes anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from elanus.base.errors import UnavailableError
from elanus.meta.records import Collection, LoadRecord
from elanus.model.channel import pchannel_of
from elanus.model.errors import (
    BadParameterError,
    CollectionNotLoadedError,
    NoIndexError,
    PartitionNotFoundError,
    RequestError,
)
from elanus.model.index import IndexDefinition
from elanus.model.requests import (
    AlterPropertiesRequest,
    CollectionReply,
    CollectionRequest,
    CreateCollectionRequest,
    IndexReply,
    IndexRequest,
    LoadRequest,
    LoadState,
    PartitionsRequest,
    SegmentInfo,
)
from elanus.model.schema import DYNAMIC_FIELD_NAME, CollectionSchema, FieldSchema, StructSchema
from elanus.model.types import DataType, IndexStatus, LoadStatus, SegmentStatus
from elanus.nodes.contracts import DENIABLE, DENIAL_PROPERTY, CollectionView, Shard
from elanus.nodes.coordinator.leader import Leader
from elanus.nodes.coordinator.maintenance import needs_index
from elanus.nodes.membership import Peers

FIELD_DESCRIPTION_PROPERTY = "field.description"
CAPACITY_PROPERTY = "max_capacity"
F = TypeVar("F", FieldSchema, StructSchema)


def not_leading() -> UnavailableError:
    """Asked of a standby, or before the election."""
    return UnavailableError("this coordinator is not the active one")


def altered(old: Mapping[str, str], properties: Mapping[str, str], delete_keys: tuple[str, ...]) -> dict[str, str]:
    """Properties after an alter call."""
    return {key: value for key, value in {**old, **properties}.items() if key not in delete_keys}


def with_altered_field(schema: CollectionSchema, request: AlterPropertiesRequest) -> CollectionSchema:
    """The schema after an alter call of a field or of an array of structs."""
    fields = tuple(_altered_field(field, request) for field in schema.fields)
    structs = tuple(_altered(struct, request) if struct.name == request.field else struct for struct in schema.structs)
    return msgspec.structs.replace(schema, fields=fields, structs=structs)


def _altered_field(field: FieldSchema, request: AlterPropertiesRequest) -> FieldSchema:
    """Parts of an array of structs share its capacity."""
    if field.name == request.field:
        return _altered(field, request)
    if field.struct_name == request.field and CAPACITY_PROPERTY in request.properties:
        capacity = {CAPACITY_PROPERTY: request.properties[CAPACITY_PROPERTY]}
        return msgspec.structs.replace(field, type_params={**field.type_params, **capacity})
    return field


def _altered(one: F, request: AlterPropertiesRequest) -> F:
    """The description is one of the properties there."""
    params = altered(one.type_params, request.properties, request.delete_keys)
    description = params.pop(FIELD_DESCRIPTION_PROPERTY, one.description)
    return msgspec.structs.replace(one, type_params=params, description=description)


def with_field(schema: CollectionSchema, field: FieldSchema) -> CollectionSchema:
    """The schema with one more field, numbered above all others and listed before the dynamic one."""
    if schema.field(field.name) is not None:
        raise BadParameterError(f"duplicate field name: {field.name}")
    numbered = msgspec.structs.replace(field, field_id=_next_field_id(schema))
    others = tuple(one for one in schema.fields if not one.is_dynamic)
    dynamic = tuple(one for one in schema.fields if one.is_dynamic)
    return msgspec.structs.replace(schema, fields=(*others, numbered, *dynamic))


def with_dynamic_field(schema: CollectionSchema) -> CollectionSchema:
    """The schema with the dynamic field switched on."""
    dynamic = FieldSchema(
        field_id=_next_field_id(schema), name=DYNAMIC_FIELD_NAME, data_type=DataType.JSON, is_dynamic=True
    )
    return msgspec.structs.replace(schema, fields=(*schema.fields, dynamic), enable_dynamic_field=True)


def _next_field_id(schema: CollectionSchema) -> int:
    return max(field.field_id for field in schema.fields) + 1


# --- collections ----------------------------------------------------------------------------------------------------
def reply(leader: Leader, record: Collection) -> CollectionReply:
    """What DescribeCollection tells."""
    loaded = leader.catalog.loads.get(record.collection_id) is not None
    return CollectionReply(
        database=leader.catalog.database_name(record.database_id),
        database_id=record.database_id,
        collection_id=record.collection_id,
        name=record.name,
        schema=record.schema,
        shard_count=len(record.vchannels),
        virtual_channels=record.vchannels,
        physical_channels=tuple(pchannel_of(vchannel) for vchannel in record.vchannels),
        aliases=leader.catalog.aliases_of(record.collection_id),
        consistency_level=record.consistency_level,
        properties=record.properties,
        partitions=record.partitions,
        created_timestamp=record.created_timestamp,
        updated_timestamp=record.updated_timestamp,
        loaded_percentage=leader.placement.percentage(record) if loaded else -1,
    )


def view(leader: Leader, record: Collection) -> CollectionView:
    """What a proxy keeps of a collection."""
    load = leader.catalog.loads.get(record.collection_id)
    return CollectionView(
        description=reply(leader, record),
        shards=tuple(_shard(leader, vchannel) for vchannel in record.vchannels),
        indexes=record.indexes,
        loaded_partition_ids=loaded_partition_ids(leader, record),
        loaded_field_ids=() if load is None else load.record.field_ids,
        denied=_denied(leader, record),
        replica_count=0 if load is None else load.record.replica_count,
    )


def _denied(leader: Leader, record: Collection) -> tuple[str, ...]:
    """What the properties of the collection's database deny."""
    databases = (one.record for one in leader.catalog.databases.values())
    properties = next((one.properties for one in databases if one.database_id == record.database_id), {})
    return tuple(what for what in DENIABLE if properties.get(DENIAL_PROPERTY + what, "").lower() == "true")


def _shard(leader: Leader, vchannel: str) -> Shard:
    pchannel = pchannel_of(vchannel)
    delegators = leader.channels.delegators(pchannel)
    if not delegators:
        return Shard(vchannel, pchannel, 0)
    return Shard(vchannel, pchannel, delegators[0], leader.placement.serving_followers(vchannel, delegators[1:]))


def loaded_partition_ids(leader: Leader, record: Collection) -> tuple[int, ...] | None:
    """The partitions that are to be served; None when the collection is not loaded."""
    load = leader.catalog.loads.get(record.collection_id)
    if load is None:
        return None
    if load.record.partition_ids is None:
        return tuple(partition.partition_id for partition in record.partitions)
    return load.record.partition_ids


# --- load -----------------------------------------------------------------------------------------------------------
def _partition_ids(record: Collection, names: tuple[str, ...]) -> tuple[int, ...]:
    by_name = {partition.name: partition.partition_id for partition in record.partitions}
    for name in names:
        if name not in by_name:
            raise PartitionNotFoundError(name)
    return tuple(by_name[name] for name in names)


def check_loadable(record: Collection, request: LoadRequest, old: LoadRecord | None, peers: Peers) -> None:
    """Every vector field to be loaded needs an index; what is refreshed must be loaded; each replica needs nodes."""
    if request.refresh and old is None:
        raise CollectionNotLoadedError(record.name)
    if request.partitions and old is not None and request.replica_count != old.replica_count:
        raise BadParameterError(
            "can't change the replica number for loaded partitions",
            expected=old.replica_count,
            actual=request.replica_count,
        )
    for kind, nodes in (("Streaming", peers.lasting(peers.streaming)), ("Query", peers.lasting(peers.query))):
        if request.replica_count > max(1, len(nodes)):
            raise RequestError(
                f"when load {request.replica_count} replica count: service resource insufficient"
                f"[current{kind}Node={len(nodes)}][expected{kind}Node={request.replica_count}]"
            )
    indexed = {index.field_id for index in record.indexes}
    missing = [
        field.name
        for field in record.schema.vector_fields
        if field.field_id not in indexed and (not request.load_fields or field.name in request.load_fields)
    ]
    if len(missing) == len(record.schema.vector_fields) and not record.indexes:
        raise NoIndexError(record.name)
    if missing:
        raise RequestError(f"there is no vector index on field: [{' '.join(missing)}], please create index firstly")


def load_record(record: Collection, request: LoadRequest, old: LoadRecord | None) -> LoadRecord:
    """What is to be served after a load call: partitions add up, a whole load stays whole."""
    partition_ids: tuple[int, ...] | None = None
    if request.partitions and (old is None or old.partition_ids is not None):
        before = old.partition_ids if old is not None and old.partition_ids is not None else ()
        partition_ids = tuple(sorted({*before, *_partition_ids(record, request.partitions)}))
    return LoadRecord(
        collection_id=record.collection_id,
        replica_count=max(1, request.replica_count),
        partition_ids=partition_ids,
        field_ids=_loaded_field_ids(record.schema, request),
    )


def _loaded_field_ids(schema: CollectionSchema, request: LoadRequest) -> tuple[int, ...]:
    """The fields that are asked for; none named means all, and those added later."""
    names = set(request.load_fields)

    def is_asked_for(field: FieldSchema) -> bool:
        if field.is_dynamic:
            return not request.skip_dynamic_field
        return not names or field.name in names or field.struct_name in names

    ids = tuple(field.field_id for field in schema.fields if is_asked_for(field))
    return () if len(ids) == len(schema.fields) else ids


def loaded_again(record: Collection, request: LoadRequest, load: LoadRecord) -> LoadRequest:
    """A refresh, as a request for the fields that are loaded."""
    if not load.field_ids:
        return request
    loaded = [field for field in record.schema.fields if field.field_id in load.field_ids]
    return msgspec.structs.replace(
        request,
        load_fields=tuple(field.name for field in loaded if not field.is_dynamic),
        skip_dynamic_field=not any(field.is_dynamic for field in loaded),
    )


def partitions_left(leader: Leader, record: Collection, request: PartitionsRequest) -> tuple[int, ...]:
    """Partitions still to be served after a release; () releases the collection."""
    if not request.partitions:
        return ()
    released = set(_partition_ids(record, request.partitions))
    return tuple(one for one in loaded_partition_ids(leader, record) or () if one not in released)


def load_state(leader: Leader, request: PartitionsRequest) -> LoadState:
    """State and progress of a collection, or of some of its partitions."""
    record = leader.catalog.collection(
        CollectionRequest(database=request.database, collection=request.collection, collection_id=request.collection_id)
    ).record
    loaded = loaded_partition_ids(leader, record)
    wanted = _partition_ids(record, request.partitions)
    if loaded is None or not set(wanted) <= set(loaded):
        return LoadState(LoadStatus.NOT_LOADED, 0)
    percentage = leader.placement.percentage(record)
    return LoadState(LoadStatus.LOADED if percentage == 100 else LoadStatus.LOADING, percentage)


# --- indexes --------------------------------------------------------------------------------------------------------
def index_name(record: Collection, field: FieldSchema) -> str:
    """The name of an index that was given none: the one the field's index already has, else the field's."""
    return next((index.name for index in record.indexes if index.field_id == field.field_id), field.name)


def is_same_index(record: Collection, wanted: IndexDefinition) -> bool:
    """Whether exactly this index exists; refuses one that clashes with another."""
    for index in record.indexes:
        same_place = index.field_id == wanted.field_id and index.path == wanted.path
        if index.name == wanted.name:
            if same_place and index.params == wanted.params:
                return True
            raise RequestError("CreateIndex failed: at most one distinct index is allowed per field")
        if same_place:
            raise RequestError("CreateIndex failed: creating multiple indexes on same field is not supported")
    return False


def matching_indexes(record: Collection, request: IndexRequest) -> list[IndexDefinition]:
    """Indexes by name, by field, or all."""
    return [
        index
        for index in record.indexes
        if (not request.index_name or index.name == request.index_name)
        and (not request.field or index.field_name == request.field)
    ]


async def index_reply(leader: Leader, record: Collection, index: IndexDefinition) -> IndexReply:
    """Definition and progress of one index over the sealed segments."""
    total = pending = 0
    reason = ""
    for vchannel in record.vchannels:
        state = await leader.placement.shard(vchannel)
        for entry in state.manifest.segments if state is not None else ():
            total += entry.row_count
            if needs_index(entry, index, record.schema):
                pending += entry.row_count
                reason = reason or leader.background.build_failure(entry.segment_id, index.index_id)
    return IndexReply(
        index_id=index.index_id,
        name=index.name,
        field_name=index.field_name,
        params=index.params,
        indexed_rows=total - pending,
        total_rows=total,
        pending_rows=pending,
        state=IndexStatus.FAILED if reason else IndexStatus.IN_PROGRESS if pending else IndexStatus.FINISHED,
        fail_reason=reason,
    )


async def segments(leader: Leader, record: Collection) -> tuple[SegmentInfo, ...]:
    """The sealed segments of a collection."""
    found: list[SegmentInfo] = []
    for vchannel in record.vchannels:
        state = await leader.placement.shard(vchannel)
        for entry in state.manifest.segments if state is not None else ():
            index = next(
                (one for one in record.indexes if any(f.index_id == one.index_id for f in entry.indexes)), None
            )
            found.append(
                SegmentInfo(
                    segment_id=entry.segment_id,
                    collection_id=record.collection_id,
                    partition_id=entry.partition_id,
                    row_count=entry.row_count,
                    state=SegmentStatus.FLUSHED,
                    index_name="" if index is None else index.name,
                    index_id=0 if index is None else index.index_id,
                    memory_bytes=entry.size_bytes,
                    node_id=state.locations.get(entry.segment_id, (0,))[0] if state is not None else 0,
                )
            )
    return tuple(found)


def check_same(existing: Collection, request: CreateCollectionRequest) -> None:
    """Refuse to create a collection whose name another one has."""
    same = (
        existing.schema == request.schema
        and len(existing.vchannels) == request.shard_count
        and existing.consistency_level == request.consistency_level
        and existing.properties == request.properties
    )
    if not same:
        raise RequestError(f"create duplicate collection with different parameters, collection: {existing.name}")
