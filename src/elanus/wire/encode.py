"""Reply values into response bytes, for all calls but writes and reads.

Each response carries an explicit empty `Status`, which is success.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from elanus.model.requests import (
    AliasReply,
    CollectionReply,
    CompactionState,
    CompactReply,
    DatabaseReply,
    FlushedCollection,
    IndexReply,
    PartitionReply,
    SegmentInfo,
)
from elanus.model.timestamp import physical_ms
from elanus.model.types import SegmentStatus
from elanus.wire import pack
from elanus.wire.messages import messages
from elanus.wire.schemas import fill_schema, set_pairs

SERVER_VERSION: Final = "2.6.18"
"""The Milvus release whose behaviour this server has; SDKs read it from Connect."""
_DEFAULT_RESOURCE_GROUP: Final = "__default_resource_group"
_SEGMENT_LEVEL: Final = 2
_HEALTHY: Final = 1


def _serialized(message: Any) -> bytes:
    """The message with its status present."""
    message.status.SetInParent()
    data: bytes = message.SerializeToString()
    return data


def success() -> bytes:
    """A `Status` of success: all defaults."""
    return b""


def truncated() -> bytes:
    """`TruncateCollectionResponse`, whose first field is the status."""
    return pack.chunk(1, success())


def truth(value: bool) -> bytes:
    return _serialized(messages().BoolResponse(value=value))


def statistics(response_name: str, row_count: int) -> bytes:
    """GetCollectionStatistics and GetPartitionStatistics."""
    message = getattr(messages(), response_name)()
    set_pairs(message.stats, {"row_count": str(row_count)})
    return _serialized(message)


# --- collections ----------------------------------------------------------------------------------------------------
def _fill_description(message: Any, reply: CollectionReply) -> Any:
    fill_schema(message.schema, reply.schema, reply.database)
    message.collectionID = reply.collection_id
    message.collection_name = reply.name
    message.db_name = reply.database
    message.db_id = reply.database_id
    message.virtual_channel_names.extend(reply.virtual_channels)
    message.physical_channel_names.extend(reply.physical_channels)
    message.created_timestamp = reply.created_timestamp
    message.created_utc_timestamp = physical_ms(reply.created_timestamp)
    message.update_timestamp = reply.updated_timestamp
    message.update_timestamp_str = str(reply.updated_timestamp)
    message.shards_num = reply.shard_count
    message.num_partitions = len(reply.partitions)
    message.aliases.extend(reply.aliases)
    message.consistency_level = int(reply.consistency_level)
    set_pairs(message.properties, reply.properties)
    message.status.SetInParent()
    return message


def description(reply: CollectionReply) -> bytes:
    return _serialized(_fill_description(messages().DescribeCollectionResponse(), reply))


def descriptions(replies: Sequence[CollectionReply | Any]) -> bytes:
    """Each item a description, or the `Status` of its failure."""
    message = messages().BatchDescribeCollectionResponse()
    for reply in replies:
        target = message.responses.add()
        if isinstance(reply, CollectionReply):
            _fill_description(target, reply)
        else:
            target.status.CopyFrom(reply)
    return _serialized(message)


def collections(replies: Sequence[CollectionReply], only_loaded: bool) -> bytes:
    """ShowCollections; load progress is told only where loaded collections were asked for."""
    message = messages().ShowCollectionsResponse(
        collection_names=[reply.name for reply in replies],
        collection_ids=[reply.collection_id for reply in replies],
        created_timestamps=[reply.created_timestamp for reply in replies],
        created_utc_timestamps=[physical_ms(reply.created_timestamp) for reply in replies],
        shards_num=[reply.shard_count for reply in replies],
    )
    if only_loaded:
        message.inMemory_percentages.extend(max(reply.loaded_percentage, 0) for reply in replies)
        message.query_service_available.extend(reply.loaded_percentage == 100 for reply in replies)
    return _serialized(message)


def loading_progress(percentage: int) -> bytes:
    return _serialized(messages().GetLoadingProgressResponse(progress=percentage, refresh_progress=percentage))


def load_state(state: int) -> bytes:
    return _serialized(messages().GetLoadStateResponse(state=state))


# --- partitions, aliases, databases ---------------------------------------------------------------------------------
def partitions(replies: Sequence[PartitionReply], only_loaded: bool) -> bytes:
    shown = [reply for reply in replies if reply.loaded_percentage >= 0 or not only_loaded]
    message = messages().ShowPartitionsResponse(
        partition_names=[reply.info.name for reply in shown],
        partitionIDs=[reply.info.partition_id for reply in shown],
        created_timestamps=[reply.info.created_timestamp for reply in shown],
        created_utc_timestamps=[physical_ms(reply.info.created_timestamp) for reply in shown],
    )
    if only_loaded:
        message.inMemory_percentages.extend(reply.loaded_percentage for reply in shown)
    return _serialized(message)


def alias(reply: AliasReply) -> bytes:
    return _serialized(
        messages().DescribeAliasResponse(db_name=reply.database, alias=reply.alias, collection=reply.collection)
    )


def aliases(database: str, collection: str, replies: Sequence[AliasReply]) -> bytes:
    return _serialized(
        messages().ListAliasesResponse(
            db_name=database, collection_name=collection, aliases=[reply.alias for reply in replies]
        )
    )


def databases(replies: Sequence[DatabaseReply]) -> bytes:
    return _serialized(
        messages().ListDatabasesResponse(
            db_names=[reply.name for reply in replies],
            created_timestamp=[reply.created_timestamp for reply in replies],
            db_ids=[reply.database_id for reply in replies],
        )
    )


def database(reply: DatabaseReply) -> bytes:
    message = messages().DescribeDatabaseResponse(
        db_name=reply.name, dbID=reply.database_id, created_timestamp=reply.created_timestamp
    )
    set_pairs(message.properties, reply.properties)
    return _serialized(message)


# --- indexes --------------------------------------------------------------------------------------------------------
def indexes(response_name: str, replies: Sequence[IndexReply]) -> bytes:
    """DescribeIndex and GetIndexStatistics."""
    message = getattr(messages(), response_name)()
    for reply in replies:
        target = message.index_descriptions.add(
            index_name=reply.name,
            indexID=reply.index_id,
            field_name=reply.field_name,
            indexed_rows=reply.indexed_rows,
            total_rows=reply.total_rows,
            pending_index_rows=reply.pending_rows,
            state=reply.state,
            index_state_fail_reason=reply.fail_reason,
        )
        set_pairs(target.params, reply.params)
    return _serialized(message)


def index_state(replies: Sequence[IndexReply]) -> bytes:
    first = replies[0]
    return _serialized(messages().GetIndexStateResponse(state=first.state, fail_reason=first.fail_reason))


def index_progress(replies: Sequence[IndexReply]) -> bytes:
    first = replies[0]
    return _serialized(
        messages().GetIndexBuildProgressResponse(indexed_rows=first.indexed_rows, total_rows=first.total_rows)
    )


# --- flush, compaction, segments ------------------------------------------------------------------------------------
def flushed(database: str, replies: Iterable[FlushedCollection]) -> bytes:
    message = messages().FlushResponse(db_name=database)
    for reply in replies:
        message.coll_segIDs[reply.collection].data.extend(reply.segment_ids)
        message.flush_coll_segIDs[reply.collection].SetInParent()
        message.coll_seal_times[reply.collection] = reply.sealed_at_s
        message.coll_flush_ts[reply.collection] = reply.timestamp
    return _serialized(message)


def flush_state(is_flushed: bool) -> bytes:
    return _serialized(messages().GetFlushStateResponse(flushed=is_flushed))


def flushed_all(replies: Sequence[tuple[str, Sequence[FlushedCollection]]]) -> bytes:
    """FlushAll: by database, what each of its collections answered."""
    message = messages().FlushAllResponse()
    for database_name, flushes in replies:
        result = message.flush_results.add(db_name=database_name)
        for flush in flushes:
            target = result.collection_results.add(
                collection_name=flush.collection, seal_time=flush.sealed_at_s, flush_ts=flush.timestamp
            )
            target.segment_ids.data.extend(flush.segment_ids)
            message.flush_all_ts = max(message.flush_all_ts, flush.timestamp)
    return _serialized(message)


def flush_all_state(states: Sequence[tuple[str, dict[str, bool]]]) -> bytes:
    message = messages().GetFlushAllStateResponse(flushed=all(all(state.values()) for _, state in states))
    for database_name, state in states:
        message.flush_states.add(db_name=database_name).collection_flush_states.update(state)
    return _serialized(message)


def compaction(reply: CompactReply) -> bytes:
    return _serialized(
        messages().ManualCompactionResponse(compactionID=reply.compaction_id, compactionPlanCount=reply.plan_count)
    )


def compaction_state(reply: CompactionState) -> bytes:
    return _serialized(
        messages().GetCompactionStateResponse(
            state=reply.state,
            executingPlanNo=reply.executing,
            completedPlanNo=reply.completed,
            failedPlanNo=reply.failed,
        )
    )


def compaction_plans(reply: CompactionState) -> bytes:
    message = messages().GetCompactionPlansResponse(state=reply.state)
    for sources, target in reply.merges:
        message.mergeInfos.add(sources=sources, target=target)
    return _serialized(message)


def persistent_segments(replies: Iterable[SegmentInfo]) -> bytes:
    """Sealed and flushed segments."""
    message = messages().GetPersistentSegmentInfoResponse()
    for reply in replies:
        if reply.state is not SegmentStatus.GROWING:
            message.infos.add(
                segmentID=reply.segment_id,
                collectionID=reply.collection_id,
                partitionID=reply.partition_id,
                num_rows=reply.row_count,
                state=reply.state,
                level=_SEGMENT_LEVEL,
                is_sorted=True,
            )
    return _serialized(message)


def loaded_segments(replies: Iterable[SegmentInfo]) -> bytes:
    message = messages().GetQuerySegmentInfoResponse()
    for reply in replies:
        message.infos.add(
            segmentID=reply.segment_id,
            collectionID=reply.collection_id,
            partitionID=reply.partition_id,
            num_rows=reply.row_count,
            state=reply.state,
            mem_size=reply.memory_bytes,
            index_name=reply.index_name,
            indexID=reply.index_id,
            nodeID=reply.node_id,
            nodeIds=[reply.node_id],
            level=_SEGMENT_LEVEL,
            is_sorted=reply.state is not SegmentStatus.GROWING,
        )
    return _serialized(message)


def replicas(reply: CollectionReply, node_ids: Sequence[int]) -> bytes:
    """The one replica of a loaded collection, over the nodes that hold its segments."""
    message = messages().GetReplicasResponse()
    replica = message.replicas.add(
        replicaID=reply.collection_id,
        collectionID=reply.collection_id,
        partition_ids=[partition.partition_id for partition in reply.partitions],
        node_ids=node_ids,
        resource_group_name=_DEFAULT_RESOURCE_GROUP,
    )
    for channel in reply.virtual_channels:
        replica.shard_replicas.add(leaderID=node_ids[0], dm_channel_name=channel, node_ids=node_ids)
    return _serialized(message)


# --- system ---------------------------------------------------------------------------------------------------------
def connected(identifier: int) -> bytes:
    message = messages().ConnectResponse(identifier=identifier)
    message.server_info.build_tags = SERVER_VERSION
    message.server_info.deploy_mode = "STANDALONE"
    return _serialized(message)


def version() -> bytes:
    return _serialized(messages().GetVersionResponse(version=SERVER_VERSION))


def health(reasons: Sequence[str]) -> bytes:
    return _serialized(messages().CheckHealthResponse(isHealthy=not reasons, reasons=reasons))


def component_states() -> bytes:
    message = messages().ComponentStates()
    message.state.nodeID = 1
    message.state.role = "proxy"
    message.state.state_code = _HEALTHY
    return _serialized(message)


def timestamp(value: int) -> bytes:
    return _serialized(messages().AllocTimestampResponse(timestamp=value))
