"""The one table of Milvus's calls: how each is decoded, who answers it, what it needs, how the answer is encoded.

gRPC dispatch, access control, rate limits, metrics and the coverage report are read from it. A call with no handler is
refused in its own response type with code 10; one in `ABSENT` is unknown to a 2.6 server (clients rely on the gRPC
status UNIMPLEMENTED there) or has no response that could carry a refusal.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, Final, TypeAlias

from elanus.base.errors import ElanusError
from elanus.model.errors import UnsupportedError
from elanus.model.schema import DEFAULT_DATABASE
from elanus.nodes.contracts import Frontend
from elanus.wire import decode, decode_data, encode, encode_data, handlers, pack
from elanus.wire.status import describe_status_of, in_response, status_of

Decode: TypeAlias = Callable[[bytes, str], Any]
Handle: TypeAlias = Callable[[Frontend, Any], Awaitable[Any]]
Encode: TypeAlias = Callable[[Any, Any], bytes]
Refuse: TypeAlias = Callable[[Any, ElanusError], bytes]

_LISTED_ROWS_MAX: Final = 1 << 20
"""Rows of a refused insert that are listed one by one; the number is the client's word and may be anything."""


class Quota(StrEnum):
    """Classes of calls that rate limits are set for."""

    NONE = "none"
    COLLECTION = "ddl"
    PARTITION = "partition"
    DATABASE = "database"
    INDEX = "index"
    FLUSH = "flush"
    COMPACTION = "compaction"
    INSERT = "insert"
    UPSERT = "upsert"
    DELETE = "delete"
    IMPORT = "import"
    SEARCH = "search"
    QUERY = "query"


@dataclass(frozen=True, slots=True)
class Call:
    """One row. `privilege` is Milvus's name of it, empty for calls open to everybody. A `mutates` call that has begun
    is carried through when its client goes away. `refuse`, where set, writes the response of a refused call from the
    request (None when it could not be decoded) and the error."""

    name: str
    privilege: str
    quota: Quota
    decode: Decode
    handle: Handle
    encode: Encode
    mutates: bool = False
    refuse: Refuse | None = None
    is_served: bool = True


# --- small adapters -------------------------------------------------------------------------------------------------
def _done(request: Any, reply: Any) -> bytes:
    return encode.success()


def _of_reply(function: Callable[..., bytes], *first: Any) -> Encode:
    """An encoder that needs the reply alone."""
    return lambda request, reply: function(*first, reply)


def _constant(function: Callable[[], bytes]) -> Encode:
    return lambda request, reply: function()


def _collection(request_name: str) -> Decode:
    return partial(decode.collection, request_name)


def _own_database(request_name: str) -> Decode:
    """The database must be named in the request itself: the connection's own is never created, altered or dropped."""
    return lambda data, database: decode.database(request_name, data, "")


def _refuse_description(request: Any, error: ElanusError) -> bytes:
    return in_response(1, describe_status_of(request, error))


def _refuse_rows(request: Any, error: ElanusError) -> bytes:
    """A refused insert lists all its rows as failed."""
    refusal = in_response(1, status_of(error))
    if request is None or request.row_count > _LISTED_ROWS_MAX:
        return refusal
    return refusal + pack.chunk(4, encode_data.row_numbers(request.row_count))


_COLLECTIONS: Final = (
    Call(
        "CreateCollection", "CreateCollection", Quota.COLLECTION, decode.create_collection,
        lambda frontend, request: frontend.create_collection(request), _done, mutates=True,
    ),
    Call(
        "DropCollection", "DropCollection", Quota.COLLECTION, _collection("DropCollectionRequest"),
        lambda frontend, request: frontend.drop_collection(request), _done, mutates=True,
    ),
    Call(
        "HasCollection", "", Quota.NONE, _collection("HasCollectionRequest"),
        handlers.has_collection, _of_reply(encode.truth),
    ),
    Call(
        "DescribeCollection", "DescribeCollection", Quota.NONE, _collection("DescribeCollectionRequest"),
        lambda frontend, request: frontend.describe_collection(request), _of_reply(encode.description),
        refuse=_refuse_description,
    ),
    Call(
        "BatchDescribeCollection", "DescribeCollection", Quota.NONE, decode.batch_describe,
        handlers.describe_each, _of_reply(encode.descriptions),
    ),
    Call(
        "ShowCollections", "", Quota.NONE, decode.show_collections,
        lambda frontend, request: frontend.list_collections(request),
        lambda request, reply: encode.collections(reply, request.only_loaded),
    ),
    Call(
        "RenameCollection", "RenameCollection", Quota.COLLECTION, decode.rename_collection,
        lambda frontend, request: frontend.rename_collection(request), _done, mutates=True,
    ),
    Call(
        "AlterCollection", "CreateCollection", Quota.COLLECTION, decode.alter_collection,
        lambda frontend, request: frontend.alter_collection(request), _done, mutates=True,
    ),
    Call(
        "AlterCollectionField", "CreateCollection", Quota.COLLECTION, decode.alter_field,
        lambda frontend, request: frontend.alter_collection(request), _done, mutates=True,
    ),
    Call(
        "AddCollectionField", "AddCollectionField", Quota.COLLECTION, decode.add_field,
        lambda frontend, request: frontend.add_field(request), _done, mutates=True,
    ),
    Call(
        "TruncateCollection", "DropCollection", Quota.COLLECTION, _collection("TruncateCollectionRequest"),
        lambda frontend, request: frontend.truncate_collection(request), _constant(encode.truncated), mutates=True,
    ),
    Call(
        "GetCollectionStatistics", "GetStatistics", Quota.NONE, _collection("GetCollectionStatisticsRequest"),
        lambda frontend, request: frontend.collection_row_count(request),
        _of_reply(encode.statistics, "GetCollectionStatisticsResponse"),
    ),
    Call(
        "LoadCollection", "Load", Quota.COLLECTION, decode.load_collection,
        lambda frontend, request: frontend.load(request), _done, mutates=True,
    ),
    Call(
        "ReleaseCollection", "Release", Quota.COLLECTION, decode.release_collection,
        lambda frontend, request: frontend.release(request), _done, mutates=True,
    ),
    Call(
        "GetLoadingProgress", "GetLoadState", Quota.NONE, partial(decode.load_state, "GetLoadingProgressRequest"),
        handlers.loading_progress, _of_reply(encode.loading_progress),
    ),
    Call(
        "GetLoadState", "GetLoadState", Quota.NONE, partial(decode.load_state, "GetLoadStateRequest"),
        handlers.load_state, lambda request, reply: encode.load_state(reply.state),
    ),
)  # fmt: skip

_PARTITIONS: Final = (
    Call(
        "CreatePartition", "CreatePartition", Quota.PARTITION, partial(decode.partition, "CreatePartitionRequest"),
        lambda frontend, request: frontend.create_partition(request), _done, mutates=True,
    ),
    Call(
        "DropPartition", "DropPartition", Quota.PARTITION, partial(decode.partition, "DropPartitionRequest"),
        lambda frontend, request: frontend.drop_partition(request), _done, mutates=True,
    ),
    Call(
        "HasPartition", "HasPartition", Quota.NONE, partial(decode.partition, "HasPartitionRequest"),
        handlers.has_partition, _of_reply(encode.truth),
    ),
    Call(
        "ShowPartitions", "ShowPartitions", Quota.NONE, decode.show_partitions,
        lambda frontend, request: frontend.list_partitions(request[0]),
        lambda request, reply: encode.partitions(reply, request[1]),
    ),
    Call(
        "LoadPartitions", "Load", Quota.PARTITION, decode.load_partitions,
        lambda frontend, request: frontend.load(request), _done, mutates=True,
    ),
    Call(
        "ReleasePartitions", "Release", Quota.PARTITION, decode.release_partitions,
        lambda frontend, request: frontend.release(request), _done, mutates=True,
    ),
    Call(
        "GetPartitionStatistics", "GetStatistics", Quota.NONE,
        partial(decode.partition, "GetPartitionStatisticsRequest"),
        lambda frontend, request: frontend.partition_row_count(request),
        _of_reply(encode.statistics, "GetPartitionStatisticsResponse"),
    ),
    Call(
        "CreateAlias", "CreateAlias", Quota.COLLECTION, partial(decode.alias, "CreateAliasRequest"),
        lambda frontend, request: frontend.create_alias(request), _done, mutates=True,
    ),
    Call(
        "AlterAlias", "", Quota.COLLECTION, partial(decode.alias, "AlterAliasRequest"),
        lambda frontend, request: frontend.alter_alias(request), _done, mutates=True,
    ),
    Call(
        "DropAlias", "DropAlias", Quota.COLLECTION, partial(decode.alias, "DropAliasRequest"),
        lambda frontend, request: frontend.drop_alias(request), _done, mutates=True,
    ),
    Call(
        "DescribeAlias", "", Quota.NONE, partial(decode.alias, "DescribeAliasRequest"),
        lambda frontend, request: frontend.describe_alias(request), _of_reply(encode.alias),
    ),
    Call(
        "ListAliases", "", Quota.NONE, _collection("ListAliasesRequest"),
        lambda frontend, request: frontend.list_aliases(request),
        lambda request, reply: encode.aliases(request.database or DEFAULT_DATABASE, request.collection, reply),
    ),
    Call(
        "CreateDatabase", "CreateDatabase", Quota.DATABASE, _own_database("CreateDatabaseRequest"),
        lambda frontend, request: frontend.create_database(request), _done, mutates=True,
    ),
    Call(
        "DropDatabase", "DropDatabase", Quota.DATABASE, _own_database("DropDatabaseRequest"),
        lambda frontend, request: frontend.drop_database(request), _done, mutates=True,
    ),
    Call(
        "AlterDatabase", "AlterDatabase", Quota.DATABASE, _own_database("AlterDatabaseRequest"),
        lambda frontend, request: frontend.alter_database(request), _done, mutates=True,
    ),
    Call(
        "DescribeDatabase", "DescribeDatabase", Quota.NONE, partial(decode.database, "DescribeDatabaseRequest"),
        lambda frontend, request: frontend.describe_database(request), _of_reply(encode.database),
    ),
    Call(
        "ListDatabases", "", Quota.NONE, decode.nothing,
        lambda frontend, request: frontend.list_databases(), _of_reply(encode.databases),
    ),
)  # fmt: skip

_INDEXES: Final = (
    Call(
        "CreateIndex", "CreateIndex", Quota.INDEX, decode.create_index,
        lambda frontend, request: frontend.create_index(request), _done, mutates=True,
    ),
    Call(
        "AlterIndex", "CreateIndex", Quota.INDEX, decode.alter_index,
        lambda frontend, request: frontend.alter_collection(request), _done, mutates=True,
    ),
    Call(
        "DropIndex", "DropIndex", Quota.INDEX, partial(decode.index, "DropIndexRequest"),
        lambda frontend, request: frontend.drop_index(request), _done, mutates=True,
    ),
    Call(
        "DescribeIndex", "IndexDetail", Quota.NONE, partial(decode.index, "DescribeIndexRequest"),
        lambda frontend, request: frontend.describe_index(request),
        _of_reply(encode.indexes, "DescribeIndexResponse"),
    ),
    Call(
        "GetIndexStatistics", "IndexDetail", Quota.NONE, partial(decode.index, "GetIndexStatisticsRequest"),
        lambda frontend, request: frontend.describe_index(request),
        _of_reply(encode.indexes, "GetIndexStatisticsResponse"),
    ),
    Call(
        "GetIndexState", "IndexDetail", Quota.NONE, partial(decode.index, "GetIndexStateRequest"),
        handlers.some_indexes, _of_reply(encode.index_state),
    ),
    Call(
        "GetIndexBuildProgress", "IndexDetail", Quota.NONE, partial(decode.index, "GetIndexBuildProgressRequest"),
        handlers.some_indexes, _of_reply(encode.index_progress),
    ),
)  # fmt: skip

_DATA: Final = (
    Call(
        "Insert", "Insert", Quota.INSERT, decode_data.insert,
        lambda frontend, request: frontend.insert(request), _of_reply(encode_data.mutation),
        mutates=True, refuse=_refuse_rows,
    ),
    Call(
        "Upsert", "Upsert", Quota.UPSERT, decode_data.upsert,
        lambda frontend, request: frontend.upsert(request), _of_reply(encode_data.mutation),
        mutates=True, refuse=_refuse_rows,
    ),
    Call(
        "Delete", "Delete", Quota.DELETE, decode_data.delete,
        lambda frontend, request: frontend.delete(request), _of_reply(encode_data.mutation), mutates=True,
    ),
    Call(
        "Search", "Search", Quota.SEARCH, decode_data.search,
        lambda frontend, request: frontend.search(request), _of_reply(encode_data.search),
    ),
    Call(
        "HybridSearch", "Search", Quota.SEARCH, decode_data.hybrid_search,
        lambda frontend, request: frontend.hybrid_search(request), _of_reply(encode_data.search),
    ),
    Call(
        "Query", "Query", Quota.QUERY, decode_data.query,
        lambda frontend, request: frontend.query(request), _of_reply(encode_data.query),
    ),
)  # fmt: skip

_MAINTENANCE: Final = (
    Call(
        "Flush", "Flush", Quota.FLUSH, decode.flush,
        lambda frontend, request: frontend.flush(request),
        lambda request, reply: encode.flushed(request.database or DEFAULT_DATABASE, reply), mutates=True,
    ),
    Call(
        "GetFlushState", "GetFlushState", Quota.NONE, decode.flush_state,
        lambda frontend, request: frontend.flush_state(request), _of_reply(encode.flush_state),
    ),
    Call(
        "FlushAll", "FlushAll", Quota.FLUSH, decode.flush_all,
        handlers.flush_all, _of_reply(encode.flushed_all), mutates=True,
    ),
    Call(
        "GetFlushAllState", "", Quota.NONE, decode.flush_all_state,
        handlers.flush_all_state, _of_reply(encode.flush_all_state),
    ),
    Call(
        "ManualCompaction", "Compaction", Quota.COMPACTION, decode.compact,
        lambda frontend, request: frontend.compact(request), _of_reply(encode.compaction), mutates=True,
    ),
    Call(
        "GetCompactionState", "", Quota.NONE, partial(decode.compaction_id, "GetCompactionStateRequest"),
        lambda frontend, request: frontend.compaction_state(request), _of_reply(encode.compaction_state),
    ),
    Call(
        "GetCompactionStateWithPlans", "", Quota.NONE, partial(decode.compaction_id, "GetCompactionPlansRequest"),
        lambda frontend, request: frontend.compaction_state(request), _of_reply(encode.compaction_plans),
    ),
    Call(
        "GetPersistentSegmentInfo", "", Quota.NONE, partial(decode.segments, "GetPersistentSegmentInfoRequest"),
        lambda frontend, request: frontend.list_segments(request), _of_reply(encode.persistent_segments),
    ),
    Call(
        "GetQuerySegmentInfo", "", Quota.NONE, partial(decode.segments, "GetQuerySegmentInfoRequest"),
        handlers.loaded_segments, _of_reply(encode.loaded_segments),
    ),
    Call(
        "GetReplicas", "", Quota.NONE, decode.replicas,
        handlers.replicas, lambda request, reply: encode.replicas(*reply),
    ),
    Call(
        "Connect", "", Quota.NONE, decode.nothing,
        lambda frontend, request: frontend.allocate_timestamp(), _of_reply(encode.connected),
    ),
    Call(
        "AllocTimestamp", "", Quota.NONE, decode.nothing,
        lambda frontend, request: frontend.allocate_timestamp(), _of_reply(encode.timestamp),
    ),
    Call("GetVersion", "", Quota.NONE, decode.nothing, handlers.nothing, _constant(encode.version)),
    Call(
        "CheckHealth", "", Quota.NONE, decode.nothing,
        lambda frontend, request: frontend.unhealthy_reasons(), _of_reply(encode.health),
    ),
    Call("GetComponentStates", "", Quota.NONE, decode.nothing, handlers.nothing, _constant(encode.component_states)),
)  # fmt: skip

_UNSERVED: Final = (
    ("AddCollectionFunction", "CreateCollection", Quota.COLLECTION),
    ("AlterCollectionFunction", "CreateCollection", Quota.COLLECTION),
    ("DropCollectionFunction", "CreateCollection", Quota.COLLECTION),
    ("ListIndexedSegment", "", Quota.NONE),
    ("DescribeSegmentIndexData", "", Quota.NONE),
    ("CalcDistance", "", Quota.NONE),
    ("Import", "Import", Quota.IMPORT),
    ("GetImportState", "GetImportProgress", Quota.NONE),
    ("ListImportTasks", "ListImport", Quota.NONE),
    ("LoadBalance", "LoadBalance", Quota.NONE),
    ("CreateCredential", "CreateOwnership", Quota.NONE),
    ("UpdateCredential", "UpdateUser", Quota.NONE),
    ("DeleteCredential", "DropOwnership", Quota.NONE),
    ("ListCredUsers", "SelectOwnership", Quota.NONE),
    ("SelectUser", "SelectUser", Quota.NONE),
    ("CreateRole", "CreateOwnership", Quota.NONE),
    ("DropRole", "DropOwnership", Quota.NONE),
    ("SelectRole", "SelectOwnership", Quota.NONE),
    ("OperateUserRole", "ManageOwnership", Quota.NONE),
    ("OperatePrivilege", "ManageOwnership", Quota.NONE),
    ("OperatePrivilegeV2", "ManageOwnership", Quota.NONE),
    ("SelectGrant", "SelectOwnership", Quota.NONE),
    ("CreatePrivilegeGroup", "CreatePrivilegeGroup", Quota.NONE),
    ("DropPrivilegeGroup", "DropPrivilegeGroup", Quota.NONE),
    ("ListPrivilegeGroups", "ListPrivilegeGroups", Quota.NONE),
    ("OperatePrivilegeGroup", "OperatePrivilegeGroup", Quota.NONE),
    ("BackupRBAC", "BackupRBAC", Quota.NONE),
    ("RestoreRBAC", "RestoreRBAC", Quota.NONE),
    ("CreateResourceGroup", "CreateResourceGroup", Quota.NONE),
    ("UpdateResourceGroups", "UpdateResourceGroups", Quota.NONE),
    ("DropResourceGroup", "DropResourceGroup", Quota.NONE),
    ("DescribeResourceGroup", "DescribeResourceGroup", Quota.NONE),
    ("ListResourceGroups", "ListResourceGroups", Quota.NONE),
    ("TransferNode", "TransferNode", Quota.NONE),
    ("TransferReplica", "TransferReplica", Quota.NONE),
    ("GetMetrics", "", Quota.NONE),
    ("RunAnalyzer", "", Quota.NONE),
    ("RegisterLink", "", Quota.NONE),
    ("ReplicateMessage", "", Quota.NONE),
    ("UpdateReplicateConfiguration", "UpdateReplicateConfiguration", Quota.NONE),
    ("GetReplicateConfiguration", "GetReplicateConfiguration", Quota.NONE),
    ("AddFileResource", "AddFileResource", Quota.NONE),
    ("RemoveFileResource", "RemoveFileResource", Quota.NONE),
    ("ListFileResources", "ListFileResources", Quota.NONE),
)
"""Calls of 2.6 that are refused for now: name, privilege, quota."""

ABSENT: Final = frozenset(
    {
        # no response type that carries a Status, or streams
        "Dummy", "GetReplicateInfo", "CreateReplicateStream", "DumpMessages",
        # in the 2.6 protocol, but a 2.6 server has no handler for them
        "AlterRole", "AddUserTags", "DeleteUserTags", "GetUserTags", "ListUsersWithTag", "CreateRowPolicy",
        "DropRowPolicy", "ListRowPolicies",
        # from 3.0 on
        "AddCollectionStructField", "AlterCollectionSchema", "BatchUpdateManifest", "ComputePhraseMatchSlop",
        "CreateNamespace", "CreateSnapshot", "DescribeNamespace", "DescribePrewarmTask", "DescribeSnapshot",
        "DropNamespace", "DropSnapshot", "ExportSnapshot", "GetExportSnapshotState", "GetNamespaceStats",
        "GetRefreshExternalCollectionProgress", "GetRestoreSnapshotState", "HasNamespace", "ListNamespaces",
        "ListRefreshExternalCollectionJobs", "ListRestoreSnapshotJobs", "ListSnapshots", "PinSnapshotData", "Prewarm",
        "RefreshExternalCollection", "RestoreExternalSnapshot", "RestoreSnapshot", "UnpinSnapshotData",
    }
)  # fmt: skip


def _unserved(name: str, privilege: str, quota: Quota) -> Call:
    async def refuse(frontend: Frontend, request: Any) -> None:
        raise UnsupportedError(name)

    return Call(name, privilege, quota, decode.nothing, refuse, _done, is_served=False)


CALLS: Final[Mapping[str, Call]] = {
    call.name: call
    for call in (
        *_COLLECTIONS,
        *_PARTITIONS,
        *_INDEXES,
        *_DATA,
        *_MAINTENANCE,
        *(_unserved(*row) for row in _UNSERVED),
    )
}
"""Every call this server answers, by name."""
