"""A server of canned answers: what pymilvus itself costs, with nothing behind it.

Started as ``python -m bench.canned PORT``. Replies are bytes made before the first request; a request is never
parsed. An empty reply is a default message, which pymilvus reads as success.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable

import grpc
import uvloop
from pymilvus.grpc_gen import common_pb2, milvus_pb2, schema_pb2

from bench.workload import K

MANY = 1000
MANY_BYTES_MIN = 100_000
"""A search request of at least this many bytes is answered as one of `MANY` queries."""

DIM = 384
MESSAGE_BYTES_MAX = 256 * 1024 * 1024

Reply = Callable[[bytes, object], Awaitable[bytes]]


def _describe() -> bytes:
    fields = [
        schema_pb2.FieldSchema(fieldID=100, name="id", data_type=schema_pb2.Int64, is_primary_key=True),
        schema_pb2.FieldSchema(fieldID=101, name="section", data_type=schema_pb2.VarChar),
        schema_pb2.FieldSchema(fieldID=102, name="priority", data_type=schema_pb2.VarChar),
        schema_pb2.FieldSchema(fieldID=103, name="installed_size_kb", data_type=schema_pb2.Int64),
        schema_pb2.FieldSchema(fieldID=104, name="vector", data_type=schema_pb2.FloatVector),
    ]
    for field, key, value in ((1, "max_length", "256"), (2, "max_length", "64"), (4, "dim", str(DIM))):
        fields[field].type_params.append(common_pb2.KeyValuePair(key=key, value=value))
    schema = schema_pb2.CollectionSchema(name="bench", fields=fields)
    reply = milvus_pb2.DescribeCollectionResponse(schema=schema, collectionID=1, shards_num=1, collection_name="bench")
    return bytes(reply.SerializeToString())


def _insert() -> bytes:
    keys = schema_pb2.IDs(int_id=schema_pb2.LongArray(data=range(MANY)))
    return bytes(milvus_pb2.MutationResult(IDs=keys, insert_cnt=MANY, succ_index=range(MANY)).SerializeToString())


def _search(queries: int) -> bytes:
    found = queries * K
    results = schema_pb2.SearchResultData(
        num_queries=queries,
        top_k=K,
        topks=[K] * queries,
        ids=schema_pb2.IDs(int_id=schema_pb2.LongArray(data=range(found))),
        scores=[0.5] * found,
        primary_field_name="id",
    )
    return bytes(milvus_pb2.SearchResults(results=results, collection_name="bench").SerializeToString())


class Canned(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers every method with the bytes made for it, or with an empty message."""

    def __init__(self) -> None:
        self._by_method = {"DescribeCollection": _describe(), "Insert": _insert()}
        self._one, self._many = _search(1), _search(MANY)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """The handler of one method, by the last part of its path."""
        method = details.method.rpartition("/")[2]
        return grpc.unary_unary_rpc_method_handler(self._search if method == "Search" else self._fixed(method))

    async def _search(self, request: bytes, _context: object) -> bytes:
        return self._many if len(request) >= MANY_BYTES_MIN else self._one

    def _fixed(self, method: str) -> Reply:
        reply = self._by_method.get(method, b"")

        async def answer(_request: bytes, _context: object) -> bytes:
            return reply

        return answer


async def serve(port: int) -> None:
    """Serve until the process is stopped."""
    names = ("grpc.max_receive_message_length", "grpc.max_send_message_length")
    options = [("grpc.so_reuseport", 0), *((name, MESSAGE_BYTES_MAX) for name in names)]
    # A client that is at rest asks now and then whether its connection lives.
    options += [("grpc.keepalive_permit_without_calls", 1), ("grpc.http2.max_ping_strikes", 0)]
    server = grpc.aio.server(options=options)
    server.add_generic_rpc_handlers((Canned(),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
