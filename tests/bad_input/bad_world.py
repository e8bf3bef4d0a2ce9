"""A real server with one collection of known rows, raw requests to it, and the proof that nothing changed."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from pymilvus import DataType, MilvusClient
from pymilvus.grpc_gen import common_pb2, milvus_pb2, milvus_pb2_grpc, schema_pb2

COLLECTION = "victim"
ROWS = 120
DIM = 4
TEXT_MAX = 16
CAPACITY = 3
CALL_S_MAX = 30.0


def known_rows() -> list[dict[str, Any]]:
    """What the collection holds before, during and after."""
    return [
        {
            "pk": at,
            "text": f"row {at}",
            "small": at % 100,
            "document": {"at": at},
            "numbers": [at, at + 1],
            "vector": [float(at), 1.0, 2.0, 3.0],
        }
        for at in range(ROWS)
    ]


def make_schema(client: MilvusClient) -> Any:
    """Its schema."""
    schema = client.create_schema(auto_id=False, enable_dynamic_field=True)
    schema.add_field("pk", DataType.INT64, is_primary=True)
    schema.add_field("text", DataType.VARCHAR, max_length=TEXT_MAX)
    schema.add_field("small", DataType.INT8)
    schema.add_field("document", DataType.JSON)
    schema.add_field("numbers", DataType.ARRAY, element_type=DataType.INT64, max_capacity=CAPACITY)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIM)
    return schema


@dataclass
class World:
    """The server as a client sees it, by pymilvus and by raw requests."""

    uri: str
    client: MilvusClient = field(init=False)
    channel: grpc.Channel = field(init=False)
    stub: Any = field(init=False)

    def __post_init__(self) -> None:
        self.client = MilvusClient(self.uri, timeout=CALL_S_MAX)
        limits = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        self.channel = grpc.insecure_channel(self.uri.removeprefix("http://"), options=limits)
        self.stub = milvus_pb2_grpc.MilvusServiceStub(self.channel)

    def fill(self) -> None:
        """Make the collection, with rows in a sealed segment and in the growing one, and a collection not loaded."""
        params = self.client.prepare_index_params()
        params.add_index("vector", index_type="HNSW", metric_type="L2", params={"M": 8, "efConstruction": 64})
        self.client.create_collection(COLLECTION, schema=make_schema(self.client), index_params=params)
        rows = known_rows()
        self.client.insert(COLLECTION, rows[: ROWS // 2])
        self.client.flush(COLLECTION)
        self.client.insert(COLLECTION, rows[ROWS // 2 :])
        self.client.create_collection("asleep", schema=make_schema(self.client))

    def close(self) -> None:
        self.client.close()
        self.channel.close()

    def call(self, verb: str, request: Any) -> Any:
        """A raw call; its response."""
        return getattr(self.stub, verb)(request, timeout=CALL_S_MAX)

    def send_bytes(self, verb: str, data: bytes) -> bytes:
        """A raw call with these bytes."""
        method = self.channel.unary_unary(f"/milvus.proto.milvus.MilvusService/{verb}")
        return bytes(method(data, timeout=CALL_S_MAX))

    def fingerprint(self) -> str:
        """Everything a client can see of the store: rows, counts, a search, collections, indexes, partitions."""
        strong = {"consistency_level": "Strong"}
        rows = self.client.query(COLLECTION, "pk >= -9223372036854775808", output_fields=["*"], limit=16384, **strong)
        count = self.client.query(COLLECTION, "", output_fields=["count(*)"], **strong)[0]["count(*)"]
        hits = self.client.search(COLLECTION, [[7.0, 1.0, 2.0, 3.0]], limit=5, **strong)[0]
        seen = {
            "rows": sorted(map(_plain, rows)),
            "count": count,
            "hits": [(hit["pk"], round(hit["distance"], 4)) for hit in hits],
            "collections": sorted(self.client.list_collections()),
            "description": _plain(self.client.describe_collection(COLLECTION)),
            "partitions": sorted(self.client.list_partitions(COLLECTION)),
            "indexes": sorted(self.client.list_indexes(COLLECTION)),
            "load": str(self.client.get_load_state(COLLECTION)),
        }
        return json.dumps(seen, sort_keys=True)


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


# --- raw requests ---------------------------------------------------------------------------------------------------


def field_data(name: str, kind: DataType, **parts: Any) -> schema_pb2.FieldData:
    """One column of an insert."""
    data = schema_pb2.FieldData(field_name=name, type=int(kind))
    for part, value in parts.items():
        if part == "is_dynamic":
            data.is_dynamic = value
        else:
            getattr(data, part).CopyFrom(value)
    return data


def scalars(name: str, kind: DataType, part: str, values: Any) -> schema_pb2.FieldData:
    """A scalar column."""
    data = schema_pb2.FieldData(field_name=name, type=int(kind))
    getattr(data.scalars, part).data.extend(values)
    return data


def vector_column(values: Any, dim: int = DIM, name: str = "vector") -> schema_pb2.FieldData:
    """A float vector column from a flat list."""
    data = schema_pb2.FieldData(field_name=name, type=int(DataType.FLOAT_VECTOR))
    data.vectors.dim = dim
    data.vectors.float_vector.data.extend(values)
    return data


def columns(count: int = 2, first: int = 5000) -> dict[str, schema_pb2.FieldData]:
    """Right columns of `count` new rows, by field."""
    arrays = [schema_pb2.ScalarField(long_data=schema_pb2.LongArray(data=[1, 2])) for _ in range(count)]
    numbers = schema_pb2.FieldData(field_name="numbers", type=int(DataType.ARRAY))
    numbers.scalars.array_data.data.extend(arrays)
    numbers.scalars.array_data.element_type = int(DataType.INT64)
    return {
        "pk": scalars("pk", DataType.INT64, "long_data", range(first, first + count)),
        "text": scalars("text", DataType.VARCHAR, "string_data", ["good"] * count),
        "small": scalars("small", DataType.INT8, "int_data", [1] * count),
        "document": scalars("document", DataType.JSON, "json_data", [b"{}"] * count),
        "numbers": numbers,
        "vector": vector_column([0.5] * (DIM * count)),
    }


def insert_request(changed: dict[str, Any] | None = None, count: int = 2, **fields: Any) -> milvus_pb2.InsertRequest:
    """A right insert with some columns changed (None: left out) and fields of the request set."""
    made = columns(count) | (changed or {})
    named = {"collection_name": COLLECTION, "num_rows": count, "hash_keys": [0] * count} | fields
    return milvus_pb2.InsertRequest(fields_data=[one for one in made.values() if one is not None], **named)


def upsert_request(changed: dict[str, Any] | None = None, count: int = 2, **fields: Any) -> milvus_pb2.UpsertRequest:
    """The same as an upsert."""
    made = columns(count) | (changed or {})
    named = {"collection_name": COLLECTION, "num_rows": count, "hash_keys": [0] * count} | fields
    return milvus_pb2.UpsertRequest(fields_data=[one for one in made.values() if one is not None], **named)


def placeholder(queries: np.ndarray) -> bytes:
    """A placeholder group of float vectors."""
    value = common_pb2.PlaceholderValue(
        tag="$0", type=common_pb2.PlaceholderType.FloatVector, values=[row.astype("<f4").tobytes() for row in queries]
    )
    return bytes(common_pb2.PlaceholderGroup(placeholders=[value]).SerializeToString())


def search_request(
    queries: Any = ((1.0, 2.0, 3.0, 4.0),), parameters: dict[str, str] | None = None, **fields: Any
) -> milvus_pb2.SearchRequest:
    """A right search with parameters and fields changed; a parameter '' is left out."""
    pairs = {"anns_field": "vector", "topk": "5", "metric_type": "L2", "params": "{}", "round_decimal": "-1"}
    pairs |= parameters or {}
    matrix = np.atleast_2d(np.array(queries, np.float32))
    named = {
        "collection_name": COLLECTION,
        "nq": len(matrix),
        "dsl_type": common_pb2.DslType.BoolExprV1,
        "placeholder_group": placeholder(matrix),
        "use_default_consistency": True,
    } | fields
    return milvus_pb2.SearchRequest(
        search_params=[common_pb2.KeyValuePair(key=k, value=v) for k, v in pairs.items() if v != ""], **named
    )


def query_request(expression: str, parameters: dict[str, str] | None = None, **fields: Any) -> milvus_pb2.QueryRequest:
    """A query."""
    named = {"collection_name": COLLECTION, "expr": expression, "output_fields": ["pk"]} | fields
    pairs = [common_pb2.KeyValuePair(key=k, value=v) for k, v in (parameters or {}).items()]
    return milvus_pb2.QueryRequest(query_params=pairs, use_default_consistency=True, **named)


def status_of(response: Any) -> Any:
    """The status in any response."""
    return response if response.DESCRIPTOR.name == "Status" else response.status


def float_bytes(*values: float) -> bytes:
    """Little-endian float32."""
    return struct.pack(f"<{len(values)}f", *values)
