"""Every shape of reply, field by field: what goes out is read back by the generated messages and compared whole, so
that a field more, a field less or another type is noticed. Each encoder must be in the table."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from google.protobuf.json_format import MessageToDict

from elanus.model import requests as r
from elanus.model.columns import Column
from elanus.model.schema import CollectionSchema, FieldSchema, FunctionSchema, StructSchema
from elanus.model.timestamp import compose
from elanus.model.types import CompactionStatus, ConsistencyLevel, DataType, IndexStatus, SegmentStatus
from elanus.wire import encode, encode_data
from elanus.wire.messages import messages

STAMP = compose(1000, 5)
KEY = FieldSchema(100, "id", DataType.INT64, is_primary=True)
TEXT = FieldSchema(101, "t", DataType.VARCHAR, nullable=True, type_params={"max_length": "9"})
PART = FieldSchema(103, "s[n]", DataType.ARRAY, element_type=DataType.INT8, type_params={"max_capacity": "4"})
SCHEMA = CollectionSchema(
    "c",
    (KEY, TEXT, PART, FieldSchema(104, "$meta", DataType.JSON, is_dynamic=True)),
    "words",
    True,
    (FunctionSchema(100, "f", 1, "", ("t",), ("id",), {"k": "1"}),),
    structs=(StructSchema(102, "s"),),
)
COLLECTION = r.CollectionReply(
    database="d",
    database_id=3,
    collection_id=4,
    name="c",
    schema=SCHEMA,
    shard_count=1,
    virtual_channels=("p0_4v0",),
    physical_channels=("p0",),
    aliases=("a",),
    consistency_level=ConsistencyLevel.BOUNDED,
    properties={"k": "v"},
    partitions=(r.PartitionInfo(5, "_default", STAMP),),
    created_timestamp=STAMP,
    updated_timestamp=STAMP + 1,
    loaded_percentage=100,
)
UNLOADED = r.CollectionReply(
    **{name: getattr(COLLECTION, name) for name in COLLECTION.__struct_fields__ if name != "loaded_percentage"}
)
SHOWN_SCHEMA = {
    "name": "c",
    "description": "words",
    "dbName": "d",
    "enable_dynamic_field": True,
    "fields": [
        {"fieldID": "100", "name": "id", "is_primary_key": True, "data_type": "Int64"},
        {
            "fieldID": "101",
            "name": "t",
            "data_type": "VarChar",
            "nullable": True,
            "type_params": [{"key": "max_length", "value": "9"}],
        },
    ],
    "struct_array_fields": [
        {
            "fieldID": "102",
            "name": "s",
            "fields": [
                {
                    "fieldID": "103",
                    "name": "n",
                    "data_type": "Array",
                    "element_type": "Int8",
                    "type_params": [{"key": "max_capacity", "value": "4"}],
                }
            ],
        }
    ],
    "functions": [
        {
            "name": "f",
            "id": "100",
            "type": "BM25",
            "input_field_names": ["t"],
            "input_field_ids": ["101"],
            "output_field_names": ["id"],
            "output_field_ids": ["100"],
            "params": [{"key": "k", "value": "1"}],
        }
    ],
}
SHOWN = {
    "status": {},
    "schema": SHOWN_SCHEMA,
    "collectionID": "4",
    "collection_name": "c",
    "db_name": "d",
    "db_id": "3",
    "virtual_channel_names": ["p0_4v0"],
    "physical_channel_names": ["p0"],
    "created_timestamp": str(STAMP),
    "created_utc_timestamp": "1000",
    "update_timestamp": str(STAMP + 1),
    "update_timestamp_str": str(STAMP + 1),
    "shards_num": 1,
    "num_partitions": "1",
    "aliases": ["a"],
    "consistency_level": "Bounded",
    "properties": [{"key": "k", "value": "v"}],
}
INDEX = r.IndexReply(
    index_id=7,
    name="i",
    field_name="v",
    params={"index_type": "FLAT"},
    indexed_rows=2,
    total_rows=3,
    pending_rows=1,
    state=IndexStatus.IN_PROGRESS,
    fail_reason="why",
)
SHOWN_INDEX = {
    "index_name": "i",
    "indexID": "7",
    "params": [{"key": "index_type", "value": "FLAT"}],
    "field_name": "v",
    "indexed_rows": "2",
    "total_rows": "3",
    "pending_index_rows": "1",
    "state": "InProgress",
    "index_state_fail_reason": "why",
}
FLUSHED = (r.FlushedCollection("c", (1, 2), 77, 5),)
SEGMENTS = (
    r.SegmentInfo(segment_id=1, collection_id=4, partition_id=5, row_count=6, state=SegmentStatus.GROWING),
    r.SegmentInfo(
        segment_id=2,
        collection_id=4,
        partition_id=5,
        row_count=7,
        state=SegmentStatus.FLUSHED,
        index_name="i",
        index_id=8,
        memory_bytes=9,
        node_id=3,
    ),
)
COMPACTION = r.CompactionState(CompactionStatus.EXECUTING, 2, 3, 4, (((5, 6), 7),))
SEARCHED = r.SearchReply(
    collection="c",
    primary_field="id",
    counts=np.array([2, 0]),
    keys=Column(np.array([7, 7])),
    scores=np.array([0.5, 0.25], np.float32),
    fields=(r.OutgoingField(TEXT, Column(pa.array(["a", ""], pa.large_string()), np.array([1, 0], "?"))),),
    output_fields=("t",),
    groups=r.OutgoingField(KEY, Column(np.array([1, 2]))),
    elements=np.array([0, 3]),
    session_timestamp=9,
    searched_row_count=50,
    iterator_token="x",
    iterator_last_bound=0.25,
)
SHOWN_TEXT = {
    "type": "VarChar",
    "field_name": "t",
    "field_id": "101",
    "scalars": {"string_data": {"data": ["a", ""]}},
    "valid_data": [True, False],
}


class Golden(NamedTuple):
    """What an encoder made, the message it is, and all that the message holds."""

    encoder: Callable[..., bytes]
    arguments: tuple[Any, ...]
    message: str
    shown: dict[str, Any]


GOLDEN = [
    Golden(encode.success, (), "Status", {}),
    Golden(encode.truncated, (), "TruncateCollectionResponse", {"status": {}}),
    Golden(encode.truth, (True,), "BoolResponse", {"status": {}, "value": True}),
    Golden(encode.truth, (False,), "BoolResponse", {"status": {}}),
    Golden(
        encode.statistics,
        ("GetCollectionStatisticsResponse", 8),
        "GetCollectionStatisticsResponse",
        {"status": {}, "stats": [{"key": "row_count", "value": "8"}]},
    ),
    Golden(encode.description, (COLLECTION,), "DescribeCollectionResponse", SHOWN),
    Golden(
        encode.descriptions,
        ((COLLECTION, messages().Status(code=100, reason="no")),),
        "BatchDescribeCollectionResponse",
        {"status": {}, "responses": [SHOWN, {"status": {"code": 100, "reason": "no"}}]},
    ),
    Golden(
        encode.collections,
        ((COLLECTION,), False),
        "ShowCollectionsResponse",
        {
            "status": {},
            "collection_names": ["c"],
            "collection_ids": ["4"],
            "created_timestamps": [str(STAMP)],
            "created_utc_timestamps": ["1000"],
            "shards_num": [1],
        },
    ),
    Golden(
        encode.collections,
        ((COLLECTION, UNLOADED), True),
        "ShowCollectionsResponse",
        {
            "status": {},
            "collection_names": ["c", "c"],
            "collection_ids": ["4", "4"],
            "created_timestamps": [str(STAMP)] * 2,
            "created_utc_timestamps": ["1000"] * 2,
            "shards_num": [1, 1],
            "inMemory_percentages": ["100", "0"],
            "query_service_available": [True, False],
        },
    ),
    Golden(
        encode.loading_progress,
        (40,),
        "GetLoadingProgressResponse",
        {"status": {}, "progress": "40", "refresh_progress": "40"},
    ),
    Golden(encode.load_state, (3,), "GetLoadStateResponse", {"status": {}, "state": "LoadStateLoaded"}),
    Golden(
        encode.partitions,
        ((r.PartitionReply(info=COLLECTION.partitions[0]),), False),
        "ShowPartitionsResponse",
        {
            "status": {},
            "partition_names": ["_default"],
            "partitionIDs": ["5"],
            "created_timestamps": [str(STAMP)],
            "created_utc_timestamps": ["1000"],
        },
    ),
    Golden(
        encode.partitions,
        (
            (
                r.PartitionReply(info=COLLECTION.partitions[0], loaded_percentage=30),
                r.PartitionReply(info=COLLECTION.partitions[0]),
            ),
            True,
        ),
        "ShowPartitionsResponse",
        {
            "status": {},
            "partition_names": ["_default"],
            "partitionIDs": ["5"],
            "created_timestamps": [str(STAMP)],
            "created_utc_timestamps": ["1000"],
            "inMemory_percentages": ["30"],
        },
    ),
    Golden(
        encode.alias,
        (r.AliasReply("d", "a", "c"),),
        "DescribeAliasResponse",
        {"status": {}, "db_name": "d", "alias": "a", "collection": "c"},
    ),
    Golden(
        encode.aliases,
        ("d", "c", (r.AliasReply("d", "a", "c"), r.AliasReply("d", "b", "c"))),
        "ListAliasesResponse",
        {"status": {}, "db_name": "d", "collection_name": "c", "aliases": ["a", "b"]},
    ),
    Golden(
        encode.databases,
        ((r.DatabaseReply("d", 3, STAMP, {}),),),
        "ListDatabasesResponse",
        {"status": {}, "db_names": ["d"], "created_timestamp": [str(STAMP)], "db_ids": ["3"]},
    ),
    Golden(
        encode.database,
        (r.DatabaseReply("d", 3, STAMP, {"k": "v"}),),
        "DescribeDatabaseResponse",
        {
            "status": {},
            "db_name": "d",
            "dbID": "3",
            "created_timestamp": str(STAMP),
            "properties": [{"key": "k", "value": "v"}],
        },
    ),
    Golden(
        encode.indexes,
        ("DescribeIndexResponse", (INDEX,)),
        "DescribeIndexResponse",
        {"status": {}, "index_descriptions": [SHOWN_INDEX]},
    ),
    Golden(
        encode.indexes,
        ("GetIndexStatisticsResponse", (INDEX,)),
        "GetIndexStatisticsResponse",
        {"status": {}, "index_descriptions": [SHOWN_INDEX]},
    ),
    Golden(
        encode.index_state,
        ((INDEX,),),
        "GetIndexStateResponse",
        {"status": {}, "state": "InProgress", "fail_reason": "why"},
    ),
    Golden(
        encode.index_progress,
        ((INDEX,),),
        "GetIndexBuildProgressResponse",
        {"status": {}, "indexed_rows": "2", "total_rows": "3"},
    ),
    Golden(
        encode.flushed,
        ("d", FLUSHED),
        "FlushResponse",
        {
            "status": {},
            "db_name": "d",
            "coll_segIDs": {"c": {"data": ["1", "2"]}},
            "flush_coll_segIDs": {"c": {}},
            "coll_seal_times": {"c": "5"},
            "coll_flush_ts": {"c": "77"},
        },
    ),
    Golden(encode.flush_state, (True,), "GetFlushStateResponse", {"status": {}, "flushed": True}),
    Golden(
        encode.flushed_all,
        ((("d", FLUSHED),),),
        "FlushAllResponse",
        {
            "status": {},
            "flush_all_ts": "77",
            "flush_results": [
                {
                    "db_name": "d",
                    "collection_results": [
                        {
                            "collection_name": "c",
                            "segment_ids": {"data": ["1", "2"]},
                            "seal_time": "5",
                            "flush_ts": "77",
                        }
                    ],
                }
            ],
        },
    ),
    Golden(
        encode.flush_all_state,
        ((("d", {"c": True, "e": False}),),),
        "GetFlushAllStateResponse",
        {"status": {}, "flush_states": [{"db_name": "d", "collection_flush_states": {"c": True, "e": False}}]},
    ),
    Golden(
        encode.compaction,
        (r.CompactReply(6, 2),),
        "ManualCompactionResponse",
        {"status": {}, "compactionID": "6", "compactionPlanCount": 2},
    ),
    Golden(
        encode.compaction_state,
        (COMPACTION,),
        "GetCompactionStateResponse",
        {"status": {}, "state": "Executing", "executingPlanNo": "2", "completedPlanNo": "3", "failedPlanNo": "4"},
    ),
    Golden(
        encode.compaction_plans,
        (COMPACTION,),
        "GetCompactionPlansResponse",
        {"status": {}, "state": "Executing", "mergeInfos": [{"sources": ["5", "6"], "target": "7"}]},
    ),
    Golden(
        encode.persistent_segments,
        (SEGMENTS,),
        "GetPersistentSegmentInfoResponse",
        {
            "status": {},
            "infos": [
                {
                    "segmentID": "2",
                    "collectionID": "4",
                    "partitionID": "5",
                    "num_rows": "7",
                    "state": "Flushed",
                    "level": "L1",
                    "is_sorted": True,
                }
            ],
        },
    ),
    Golden(
        encode.loaded_segments,
        (SEGMENTS[1:],),
        "GetQuerySegmentInfoResponse",
        {
            "status": {},
            "infos": [
                {
                    "segmentID": "2",
                    "collectionID": "4",
                    "partitionID": "5",
                    "mem_size": "9",
                    "num_rows": "7",
                    "index_name": "i",
                    "indexID": "8",
                    "nodeID": "3",
                    "state": "Flushed",
                    "nodeIds": ["3"],
                    "level": "L1",
                    "is_sorted": True,
                }
            ],
        },
    ),
    Golden(
        encode.replicas,
        (COLLECTION, (1, 2)),
        "GetReplicasResponse",
        {
            "status": {},
            "replicas": [
                {
                    "replicaID": "4",
                    "collectionID": "4",
                    "partition_ids": ["5"],
                    "shard_replicas": [
                        {"leaderID": "1", "dm_channel_name": "p0_4v0", "node_ids": ["1", "2"]},
                    ],
                    "node_ids": ["1", "2"],
                    "resource_group_name": "__default_resource_group",
                }
            ],
        },
    ),
    Golden(
        encode.connected,
        (12,),
        "ConnectResponse",
        {"status": {}, "identifier": "12", "server_info": {"build_tags": "2.6.18", "deploy_mode": "STANDALONE"}},
    ),
    Golden(encode.version, (), "GetVersionResponse", {"status": {}, "version": "2.6.18"}),
    Golden(encode.health, ((),), "CheckHealthResponse", {"status": {}, "isHealthy": True}),
    Golden(encode.health, (("ill",),), "CheckHealthResponse", {"status": {}, "reasons": ["ill"]}),
    Golden(
        encode.component_states,
        (),
        "ComponentStates",
        {"status": {}, "state": {"nodeID": "1", "role": "proxy", "state_code": "Healthy"}},
    ),
    Golden(encode.timestamp, (STAMP,), "AllocTimestampResponse", {"status": {}, "timestamp": str(STAMP)}),
    Golden(
        encode_data.mutation,
        (
            r.MutationReply(
                keys=Column(pa.array(["a", "b"], pa.large_string())),
                insert_count=2,
                delete_count=1,
                upsert_count=2,
                timestamp=9,
            ),
        ),
        "MutationResult",
        {
            "status": {},
            "IDs": {"str_id": {"data": ["a", "b"]}},
            "succ_index": [0, 1],
            "insert_cnt": "2",
            "delete_cnt": "1",
            "upsert_cnt": "2",
            "timestamp": "9",
        },
    ),
    Golden(
        encode_data.search,
        (SEARCHED,),
        "SearchResults",
        {
            "status": {},
            "collection_name": "c",
            "session_ts": "9",
            "results": {
                "num_queries": "2",
                "top_k": "2",
                "topks": ["2", "0"],
                "ids": {"int_id": {"data": ["7", "7"]}},
                "scores": [0.5, 0.25],
                "fields_data": [SHOWN_TEXT],
                "output_fields": ["t"],
                "group_by_field_value": {
                    "type": "Int64",
                    "field_name": "id",
                    "field_id": "100",
                    "scalars": {"long_data": {"data": ["1", "2"]}},
                },
                "all_search_count": "50",
                "search_iterator_v2_results": {"token": "x", "last_bound": 0.25},
                "primary_field_name": "id",
                "element_indices": {"data": ["0", "3"]},
            },
        },
    ),
    Golden(
        encode_data.query,
        (
            r.QueryReply(
                collection="c",
                primary_field="id",
                fields=SEARCHED.fields,
                output_fields=("t",),
                session_timestamp=9,
            ),
        ),
        "QueryResults",
        {
            "status": {},
            "fields_data": [SHOWN_TEXT],
            "collection_name": "c",
            "output_fields": ["t"],
            "session_ts": "9",
            "primary_field_name": "id",
        },
    ),
]


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda one: f"{one.encoder.__name__} {one.message}")
def test_replies_hold_this_and_nothing_else(golden: Golden) -> None:
    message = getattr(messages(), golden.message).FromString(golden.encoder(*golden.arguments))
    assert MessageToDict(message, preserving_proto_field_name=True) == golden.shown


def test_every_encoder_has_a_golden_reply() -> None:
    made = {
        function
        for module in (encode, encode_data)
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    }
    assert made - {golden.encoder for golden in GOLDEN} == {encode_data.row_numbers}
