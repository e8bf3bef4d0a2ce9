"""What clients ask and what they are told, as values: the vocabulary between `wire/` and the proxy.

`wire/` decodes protobuf or JSON into a `*Request`, calls the proxy's method of the same meaning, and encodes the
`*Reply`. Names and limits are not yet checked here; the proxy does that.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import msgspec
import numpy as np

from elanus.model.columns import Column
from elanus.model.schema import CollectionSchema, FieldSchema, FunctionSchema
from elanus.model.types import CompactionStatus, ConsistencyLevel, DataType, IndexStatus, LoadStatus, SegmentStatus


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """Every request names a database; empty means `default`."""

    database: str = ""


# --- collections ----------------------------------------------------------------------------------------------------
class CreateCollectionRequest(Request, frozen=True, kw_only=True):
    """`schema` as the user sent it: field ids 0, no dynamic field entry (only the switch)."""

    schema: CollectionSchema
    shard_count: int = 1
    consistency_level: ConsistencyLevel = ConsistencyLevel.BOUNDED
    properties: dict[str, str] = {}
    partition_count: int = 0


class CollectionRequest(Request, frozen=True, kw_only=True):
    """Any call about one collection by name or alias, or by id where the name is empty."""

    collection: str = ""
    collection_id: int = 0


class ListCollectionsRequest(Request, frozen=True, kw_only=True):
    """`only_loaded` keeps loaded collections; `names` restricts."""

    only_loaded: bool = False
    names: tuple[str, ...] = ()


class RenameCollectionRequest(CollectionRequest, frozen=True, kw_only=True):
    """New name, and new database unless empty."""

    new_name: str
    new_database: str = ""


class AlterPropertiesRequest(CollectionRequest, frozen=True, kw_only=True):
    """Set or delete properties of a collection, of one of its fields, of an index, or of a database."""

    properties: dict[str, str] = {}
    delete_keys: tuple[str, ...] = ()
    field: str = ""
    index_name: str = ""


class AddFieldRequest(CollectionRequest, frozen=True, kw_only=True):
    """A further field; its id is 0 until the coordinator numbers it."""

    field: FieldSchema


class LoadRequest(CollectionRequest, frozen=True, kw_only=True):
    """Load all (no partitions named) or some partitions, with all (none named) or some fields. The dynamic field is not
    named: it is loaded unless `skip_dynamic_field`."""

    partitions: tuple[str, ...] = ()
    replica_count: int = 1
    load_fields: tuple[str, ...] = ()
    skip_dynamic_field: bool = False
    refresh: bool = False


class PartitionsRequest(CollectionRequest, frozen=True, kw_only=True):
    """Calls about named partitions: release, progress, list."""

    partitions: tuple[str, ...] = ()


class PartitionRequest(CollectionRequest, frozen=True, kw_only=True):
    """Calls about one partition."""

    partition: str = ""


class PartitionInfo(msgspec.Struct, frozen=True):
    """One partition."""

    partition_id: int
    name: str
    created_timestamp: int


class CollectionReply(msgspec.Struct, frozen=True, kw_only=True):
    """What DescribeCollection tells; `schema` includes the dynamic field entry."""

    database: str
    database_id: int
    collection_id: int
    name: str
    schema: CollectionSchema
    shard_count: int
    virtual_channels: tuple[str, ...]
    physical_channels: tuple[str, ...]
    aliases: tuple[str, ...]
    consistency_level: ConsistencyLevel
    properties: dict[str, str]
    partitions: tuple[PartitionInfo, ...]
    created_timestamp: int
    updated_timestamp: int
    loaded_percentage: int = -1
    """-1 not loaded, else 0..100."""


class PartitionReply(msgspec.Struct, frozen=True, kw_only=True):
    """One partition and its load state (-1 not loaded, else 0..100)."""

    info: PartitionInfo
    loaded_percentage: int = -1


class LoadState(msgspec.Struct, frozen=True):
    """`percentage`: 0..100."""

    state: LoadStatus
    percentage: int


# --- aliases and databases ------------------------------------------------------------------------------------------
class AliasRequest(CollectionRequest, frozen=True, kw_only=True):
    """`collection` is empty for drop and describe."""

    alias: str = ""


class AliasReply(msgspec.Struct, frozen=True):
    """An alias and what it names."""

    database: str
    alias: str
    collection: str


class DatabaseRequest(Request, frozen=True, kw_only=True):
    """Create, drop, describe, alter a database."""

    properties: dict[str, str] = {}
    delete_keys: tuple[str, ...] = ()


class DatabaseReply(msgspec.Struct, frozen=True):
    """One database."""

    name: str
    database_id: int
    created_timestamp: int
    properties: dict[str, str]


# --- indexes --------------------------------------------------------------------------------------------------------
class CreateIndexRequest(CollectionRequest, frozen=True, kw_only=True):
    """`params`: extra_params with the JSON `params` value merged flat."""

    field: str
    index_name: str = ""
    params: dict[str, str] = {}


class IndexRequest(CollectionRequest, frozen=True, kw_only=True):
    """Describe or drop by index name, by field, or all."""

    field: str = ""
    index_name: str = ""


class IndexReply(msgspec.Struct, frozen=True, kw_only=True):
    """Definition and progress."""

    index_id: int
    name: str
    field_name: str
    params: dict[str, str]
    indexed_rows: int
    total_rows: int
    pending_rows: int
    state: IndexStatus
    fail_reason: str = ""


# --- writes ---------------------------------------------------------------------------------------------------------
class IncomingField(msgspec.Struct, frozen=True, kw_only=True):
    """One column as sent. `column` has one entry per row (compressed nullable payloads are already expanded);
    `column.valid` is None when no validity was sent. Dense vectors: (rows, width) in the type's storage dtype."""

    name: str
    data_type: DataType
    column: Column
    element_type: DataType = DataType.NONE
    dimension: int = 0
    is_dynamic: bool = False


class FieldOperation(IntEnum):
    """What a partial upsert does with a field's values, numbered as on the wire."""

    REPLACE = 0
    APPEND = 1
    REMOVE = 2


class InsertRequest(CollectionRequest, frozen=True, kw_only=True):
    """Insert or upsert. `schema_timestamp` 0 means the client did not say. `operations`: field names with what is to
    be done to the field, for partial upserts."""

    partition: str = ""
    fields: tuple[IncomingField, ...] = ()
    row_count: int = 0
    schema_timestamp: int = 0
    partial_update: bool = False
    operations: tuple[tuple[str, FieldOperation], ...] = ()


class DeleteRequest(CollectionRequest, frozen=True, kw_only=True):
    """Delete by filter text; `pk in [...]` is what pymilvus makes of ids."""

    partition: str = ""
    filter: str = ""
    templates: dict[str, Any] = {}
    consistency_level: ConsistencyLevel = ConsistencyLevel.STRONG


class MutationReply(msgspec.Struct, frozen=True, kw_only=True):
    """`keys` in row order (None for deletes by filter); `timestamp` feeds Session reads."""

    keys: Column | None
    insert_count: int = 0
    delete_count: int = 0
    upsert_count: int = 0
    timestamp: int = 0


# --- reads ----------------------------------------------------------------------------------------------------------
class Consistency(msgspec.Struct, frozen=True):
    """As the client sent it; `use_default` takes the collection's level."""

    level: ConsistencyLevel = ConsistencyLevel.BOUNDED
    guarantee_timestamp: int = 0
    use_default: bool = False


class FunctionScore(msgspec.Struct, frozen=True):
    """Functions that change the scores of hits, and how they are combined, as sent."""

    functions: tuple[FunctionSchema, ...]
    params: dict[str, str] = {}


class SearchRequest(CollectionRequest, frozen=True, kw_only=True):
    """`queries`: (n, width) array in the placeholder's storage dtype; `query_type` its vector type. With `ids` the
    vectors of these rows are searched instead.
    `params`: search_params as sent (string to string), the JSON inside `params` untouched."""

    queries: np.ndarray
    query_type: DataType
    ids: Column | None = None
    partitions: tuple[str, ...] = ()
    filter: str = ""
    templates: dict[str, Any] = {}
    output_fields: tuple[str, ...] = ()
    params: dict[str, str] = {}
    query_count: int = 0
    consistency: Consistency = Consistency()
    function_score: FunctionScore | None = None


class HybridSearchRequest(CollectionRequest, frozen=True, kw_only=True):
    """Several searches whose hits are fused. `rank_params` as sent; partitions, output fields and freshness of the
    single searches do not count."""

    requests: tuple[SearchRequest, ...]
    rank_params: dict[str, str] = {}
    function_score: FunctionScore | None = None
    partitions: tuple[str, ...] = ()
    output_fields: tuple[str, ...] = ()
    consistency: Consistency = Consistency()


class QueryRequest(CollectionRequest, frozen=True, kw_only=True):
    """Scalar retrieval. `params`: query_params as sent."""

    partitions: tuple[str, ...] = ()
    filter: str = ""
    templates: dict[str, Any] = {}
    output_fields: tuple[str, ...] = ()
    params: dict[str, str] = {}
    consistency: Consistency = Consistency()


class OutgoingField(msgspec.Struct, frozen=True):
    """A result column and the schema entry that describes it (for `count(*)` a made-up INT64 field)."""

    field: FieldSchema
    column: Column


class SearchReply(msgspec.Struct, frozen=True, kw_only=True):
    """Hits of all queries one after another: `counts` (n,) int64 says how many belong to each; `elements` int64 (hits,)
    is the place of each in its list where elements were searched."""

    collection: str
    primary_field: str
    counts: np.ndarray
    keys: Column
    scores: np.ndarray
    fields: tuple[OutgoingField, ...] = ()
    output_fields: tuple[str, ...] = ()
    groups: OutgoingField | None = None
    elements: np.ndarray | None = None
    session_timestamp: int = 0
    searched_row_count: int = 0
    iterator_token: str = ""
    iterator_last_bound: float = 0.0


class QueryReply(msgspec.Struct, frozen=True, kw_only=True):
    """Columns of the matching rows, primary key included. `element_places`: of a filter that means elements of a struct
    array, for each row the places of those (large_list of int64)."""

    collection: str
    primary_field: str
    fields: tuple[OutgoingField, ...]
    output_fields: tuple[str, ...]
    session_timestamp: int = 0
    element_places: Column | None = None


# --- flush and compaction -------------------------------------------------------------------------------------------
class FlushRequest(Request, frozen=True, kw_only=True):
    """Seal everything written so far in these collections (all of the database where none is named)."""

    collections: tuple[str, ...] = ()


class FlushedCollection(msgspec.Struct, frozen=True):
    """`timestamp`: everything up to it was asked to be sealed; `segment_ids`: segments sealed by or before the call."""

    collection: str
    segment_ids: tuple[int, ...]
    timestamp: int
    sealed_at_s: int


class FlushStateRequest(CollectionRequest, frozen=True, kw_only=True):
    """Whether everything up to `timestamp` is sealed."""

    timestamp: int = 0
    segment_ids: tuple[int, ...] = ()


class CompactRequest(CollectionRequest, frozen=True, kw_only=True):
    """Merge small segments and drop deleted rows now; `major`: deal out all rows by the clustering key, if any."""

    major: bool = False


class CompactReply(msgspec.Struct, frozen=True):
    """-1 and 0 when there is nothing to do."""

    compaction_id: int
    plan_count: int


class CompactionState(msgspec.Struct, frozen=True):
    """How many of its plans are under way and done; `merges`: segments and what each became."""

    state: CompactionStatus
    executing: int = 0
    completed: int = 0
    failed: int = 0
    merges: tuple[tuple[tuple[int, ...], int], ...] = ()


class SegmentInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One segment for GetPersistentSegmentInfo and GetQuerySegmentInfo."""

    segment_id: int
    collection_id: int
    partition_id: int
    row_count: int
    state: SegmentStatus
    index_name: str = ""
    index_id: int = 0
    memory_bytes: int = 0
    node_id: int = 1
