"""How roles call one another: five protocols, and the values that cross them.

Every argument and result is a frozen struct (or tuples, strings, numbers of them) that `nodes.codec` can carry, so a
call can be direct in one process or travel between processes with the same meaning. Nothing else crosses a role's
border. Errors are `ElanusError`s and cross by class and message.

`Frontend` is what a proxy offers to `wire/`; the other four are offered by the worker roles and the coordinator.
"""

from __future__ import annotations

from typing import Final, Protocol

import msgspec
import numpy as np

from elanus.model.channel import Position
from elanus.model.columns import Batch, Column
from elanus.model.index import IndexDefinition
from elanus.model.reads import Found, Hits, ShardRead, VectorQuery
from elanus.model.records import ShardChange
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
    SearchReply,
    SearchRequest,
    SegmentInfo,
)
from elanus.model.schema import CollectionSchema
from elanus.model.segment import IndexFile, Manifest, SegmentEntry

__all__ = ["Found", "Hits", "ShardChange", "ShardRead", "VectorQuery"]


# --- what a client-facing call offers -------------------------------------------------------------------------------
class Definitions(Protocol):
    """Calls about what is defined, which a proxy checks and hands on to the coordinator as they are."""

    async def create_collection(self, request: CreateCollectionRequest) -> None: ...
    async def drop_collection(self, request: CollectionRequest) -> None: ...
    async def list_collections(self, request: ListCollectionsRequest) -> tuple[CollectionReply, ...]: ...
    async def rename_collection(self, request: RenameCollectionRequest) -> None: ...
    async def alter_collection(self, request: AlterPropertiesRequest) -> None: ...
    async def add_field(self, request: AddFieldRequest) -> None: ...
    async def truncate_collection(self, request: CollectionRequest) -> None: ...
    async def load(self, request: LoadRequest) -> None: ...
    async def release(self, request: PartitionsRequest) -> None: ...
    async def load_state(self, request: PartitionsRequest) -> LoadState: ...
    async def create_partition(self, request: PartitionRequest) -> None: ...
    async def drop_partition(self, request: PartitionRequest) -> None: ...
    async def create_alias(self, request: AliasRequest) -> None: ...
    async def alter_alias(self, request: AliasRequest) -> None: ...
    async def drop_alias(self, request: AliasRequest) -> None: ...
    async def describe_alias(self, request: AliasRequest) -> AliasReply: ...
    async def list_aliases(self, request: CollectionRequest) -> tuple[AliasReply, ...]: ...
    async def create_database(self, request: DatabaseRequest) -> None: ...
    async def drop_database(self, request: DatabaseRequest) -> None: ...
    async def list_databases(self) -> tuple[DatabaseReply, ...]: ...
    async def alter_database(self, request: DatabaseRequest) -> None: ...
    async def create_index(self, request: CreateIndexRequest) -> None: ...
    async def describe_index(self, request: IndexRequest) -> tuple[IndexReply, ...]: ...
    async def drop_index(self, request: IndexRequest) -> None: ...
    async def compact(self, request: CompactRequest) -> CompactReply: ...
    async def compaction_state(self, compaction_id: int) -> CompactionState: ...


class Frontend(Definitions, Protocol):
    """The proxy as `wire/` sees it: one method per meaning, values in, values out, `ElanusError` on refusal."""

    async def describe_collection(self, request: CollectionRequest) -> CollectionReply: ...
    async def collection_row_count(self, request: CollectionRequest) -> int: ...

    async def list_partitions(self, request: PartitionsRequest) -> tuple[PartitionReply, ...]: ...
    async def partition_row_count(self, request: PartitionRequest) -> int: ...

    async def describe_database(self, request: DatabaseRequest) -> DatabaseReply: ...

    async def insert(self, request: InsertRequest) -> MutationReply: ...
    async def upsert(self, request: InsertRequest) -> MutationReply: ...
    async def delete(self, request: DeleteRequest) -> MutationReply: ...
    async def search(self, request: SearchRequest) -> SearchReply: ...
    async def hybrid_search(self, request: HybridSearchRequest) -> SearchReply: ...
    async def query(self, request: QueryRequest) -> QueryReply: ...

    async def flush(self, request: FlushRequest) -> tuple[FlushedCollection, ...]: ...
    async def flush_state(self, request: FlushStateRequest) -> bool: ...
    async def list_segments(self, request: CollectionRequest) -> tuple[SegmentInfo, ...]: ...
    async def allocate_timestamp(self) -> int: ...
    async def unhealthy_reasons(self) -> tuple[str, ...]: ...


# --- coordinator ----------------------------------------------------------------------------------------------------
class Shard(msgspec.Struct, frozen=True):
    """Where a shard of a collection lives. `node_id` 0: no owner right now. `followers` serve reads too."""

    vchannel: str
    pchannel: str
    node_id: int
    followers: tuple[int, ...] = ()


DENIAL_PROPERTY: Final = "database.force.deny."
DENIABLE: Final = ("reading", "writing")
"""What a database's property of this prefix can deny."""


class CollectionView(msgspec.Struct, frozen=True, kw_only=True):
    """All a proxy needs to know about a collection; cached there until invalidated."""

    description: CollectionReply
    shards: tuple[Shard, ...]
    indexes: tuple[IndexDefinition, ...]
    loaded_partition_ids: tuple[int, ...] | None = None
    """None: not loaded. Partitions created after a whole load belong to it."""
    loaded_field_ids: tuple[int, ...] = ()
    """Where only some fields are loaded."""
    denied: tuple[str, ...] = ()
    """What the database denies: `reading`, `writing`."""
    replica_count: int = 0


class Range(msgspec.Struct, frozen=True):
    """Integers first <= n < end."""

    first: int
    end: int


class Coordinator(Definitions, Protocol):
    """DDL, identity, time and placement. Exactly one is active; each call is idempotent or refused."""

    async def describe(self, request: CollectionRequest) -> CollectionView: ...
    async def segments(self, collection_id: int) -> tuple[SegmentInfo, ...]: ...
    async def allocate_ids(self, count: int) -> Range: ...
    async def allocate_timestamps(self) -> Range:
        """Timestamps an owner may stamp with, from now to a little ahead; the persisted bound is above them."""
        ...

    async def report_failed(self, pchannel: str, term: int) -> None:
        """The owner's log handle of this term is dead: give the channel a new term."""
        ...


# --- streaming node -------------------------------------------------------------------------------------------------
class ShardWrite(msgspec.Struct, frozen=True, kw_only=True):
    """One request's part for one shard, one log record.

    Insert: `batch` with `partition_ids` (rows,) int64. Delete: `delete_keys`, in `delete_partition_id` only or in all
    (0). Upsert: both, the deletes taking effect just before the inserts. `guard_timestamp` is the timestamp a partial
    upsert read at: refused (`WriteConflictError`) when one of its keys was written since.
    """

    vchannel: str
    schema_version: int
    batch: Batch | None = None
    partition_ids: np.ndarray | None = None
    delete_keys: Column | None = None
    delete_partition_id: int = 0
    guard_timestamp: int | None = None


class WriteReply(msgspec.Struct, frozen=True):
    """The record's timestamp and position."""

    timestamp: int
    position: Position


class FlushReply(msgspec.Struct, frozen=True):
    """Everything at or below `position` (stamped at or below `timestamp`) was told to be sealed."""

    timestamp: int
    position: Position


class ShardTarget(msgspec.Struct, frozen=True, kw_only=True):
    """The manifest a shard's delegator should serve, with the nodes that hold each of its segments.
    `loaded` False: serve nothing, release what is held. `ready` False: it will be served, so let reads wait.
    `locations`: by segment, the node of each replica. `coordinator_term`: of the one who commands."""

    manifest: Manifest
    loaded: bool
    ready: bool = True
    locations: dict[int, tuple[int, ...]] = {}
    partition_ids: tuple[int, ...] | None = None
    coordinator_term: int = 0


class ShardStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a shard's owner reports. `row_counts`: growing rows by partition, deletes not subtracted.
    `served_version`: manifest version of the view now served (-1 none); `pinned_version`: oldest still read."""

    vchannel: str
    manifest_version: int
    flushed_through: Position
    flushed_timestamp: int
    row_counts: dict[int, int]
    growing_bytes: int
    served_version: int
    pinned_version: int
    last_timestamp: int


class Streaming(Protocol):
    """A streaming node: owner of pchannels, delegator of their shards."""

    async def assign(self, pchannel: str, term: int) -> None:
        """Open the log under `term`, replay, and own the channel. Idempotent; lower terms are refused."""
        ...

    async def resign(self, pchannel: str, term: int) -> None:
        """Stop owning the channel if held at or below `term`."""
        ...

    async def follow(self, pchannel: str, coordinator_term: int) -> None:
        """Read the channel's log and serve its shards without owning it; returns when it has caught up. Idempotent; an
        owner goes on owning. UnsupportedError where the log cannot be shared."""
        ...

    async def unfollow(self, pchannel: str, coordinator_term: int) -> None:
        """Follow it no longer. An owner goes on owning."""
        ...

    async def apply_change(self, change: ShardChange, coordinator_term: int) -> Position:
        """Log a DDL record and apply it. FencedError when a coordinator of a higher term was heard."""
        ...

    async def write(self, write: ShardWrite) -> WriteReply:
        """Durable and visible here when it returns. UnknownOutcome errors are never retried by callers."""
        ...

    async def search(self, read: ShardRead) -> Hits: ...
    async def query(self, read: ShardRead) -> Found: ...

    async def flush(self, vchannel: str) -> FlushReply:
        """Start sealing everything applied so far."""
        ...

    async def set_target(self, target: ShardTarget) -> None:
        """Swap the shard's view to this manifest, all of whose segments are loaded where `locations` says."""
        ...

    async def status(self, vchannel: str) -> ShardStatus: ...

    async def ping(self) -> tuple[str, ...]:
        """The channels that the node holds as an owner: they take writes, or their log is about to be opened again."""
        ...


# --- query node -----------------------------------------------------------------------------------------------------
class SegmentLoad(msgspec.Struct, frozen=True, kw_only=True):
    """Load (or refresh the indexes of) the segments that `manifest` names, which is the shard's with no others, with
    its delete files above their `deletes_through`. `in_memory`: ids of indexes to be read into memory and not mapped;
    `in_memory_fields`: fields of whose vectors the same is wanted. `coordinator_term` 0: sent by a delegator."""

    schema: CollectionSchema
    manifest: Manifest
    in_memory: tuple[int, ...] = ()
    in_memory_fields: tuple[int, ...] = ()
    coordinator_term: int = 0


class DeleteRange(msgspec.Struct, frozen=True, kw_only=True):
    """All deletes of a shard with after < position <= through, sorted by position.
    `partition_ids` 0 means all partitions. Arrays of equal length."""

    vchannel: str
    after: Position
    through: Position
    keys: Column
    timestamps: np.ndarray
    partition_ids: np.ndarray


class SegmentRead(msgspec.Struct, frozen=True, kw_only=True):
    """A `ShardRead` at `read.at_timestamp` over some sealed segments that must have applied all deletes through
    `deletes_through` and know the schema of this version; a node that is behind answers `DeletesBehindError`."""

    segment_ids: tuple[int, ...]
    deletes_through: Position
    read: ShardRead
    schema_version: int = 0


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Segments a query node holds: id to the deletes position applied; index ids by segment; the memory that these take
    by `segment.footprint`, and how much there may be."""

    segments: dict[int, Position]
    indexes: dict[int, tuple[int, ...]]
    memory_bytes: int
    memory_bytes_max: int = 0


class Query(Protocol):
    """A query node: sealed segments, mapped from files."""

    async def load(self, load: SegmentLoad) -> None:
        """All of the segments; after an error, perhaps some of them. Idempotent."""
        ...

    async def release(self, segment_ids: tuple[int, ...], coordinator_term: int) -> None: ...
    async def apply_deletes(self, deletes: DeleteRange, segment_ids: tuple[int, ...]) -> None: ...
    async def search(self, read: SegmentRead) -> Hits: ...
    async def query(self, read: SegmentRead) -> Found: ...
    async def status(self) -> NodeStatus: ...


# --- data node ------------------------------------------------------------------------------------------------------
class BuildTask(msgspec.Struct, frozen=True, kw_only=True):
    """Build one index over one segment. `token` goes into the file's name."""

    vchannel: str
    collection_id: int
    entry: SegmentEntry
    definition: IndexDefinition
    schema: CollectionSchema
    token: str


class CompactTask(msgspec.Struct, frozen=True, kw_only=True):
    """Merge `inputs` (of one partition) as they stand in `manifest` into as many new segments as there are `output_ids`
    (or fewer, of fewer rows), folding in the manifest's deletes and purging rows deleted or expired before
    `purge_before` (a timestamp). Rows are dealt out by the values of field `clustered_by` (0: one segment for all)."""

    collection_id: int
    manifest: Manifest
    inputs: tuple[int, ...]
    output_ids: tuple[int, ...]
    schema: CollectionSchema
    purge_before: int
    expire_before: int
    token: str
    clustered_by: int = 0


class Data(Protocol):
    """A data node: stateless, runs one task at a time per slot, writes new files only."""

    async def build(self, task: BuildTask) -> IndexFile: ...

    async def compact(self, task: CompactTask) -> tuple[SegmentEntry, ...]:
        """The new segments; none when no row survives."""
        ...


# --- proxy, as the coordinator sees it ------------------------------------------------------------------------------
class ProxyCache(Protocol):
    """Push of invalidations; awaited before a DDL call is answered."""

    async def invalidate(self, collection_id: int) -> None:
        """Forget what is cached about the collection (0: everything)."""
        ...


# --- every process of a cluster -------------------------------------------------------------------------------------
class ProcessStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a process of a cluster is. `client_address`: where Milvus clients reach it, of a proxy. `fault`: why it
    cannot serve now; empty when it can."""

    role: str
    version: str
    process_id: int
    up_s: float
    resident_bytes: int
    cpu_s: float
    client_address: str = ""
    metrics_port: int = -1
    fault: str = ""


class Process(Protocol):
    """What every process of a cluster offers beside its role."""

    async def process_status(self) -> ProcessStatus: ...
