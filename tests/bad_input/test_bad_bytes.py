"""Bytes that are no requests, on the port and inside calls: they are refused, cost nobody else anything, and change
nothing."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from bad_world import (
    COLLECTION,
    World,
    columns,
    insert_request,
    query_request,
    scalars,
    search_request,
    status_of,
    upsert_request,
)
from pymilvus import DataType, MilvusClient, MilvusException
from pymilvus.grpc_gen import milvus_pb2

pytestmark = pytest.mark.slow

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
SEED = 20261123
MIB = 1024 * 1024


def frame(kind: int, flags: int, stream: int, payload: bytes, length: int | None = None) -> bytes:
    """An HTTP/2 frame, with a length that may lie."""
    size = len(payload) if length is None else length
    return struct.pack(">I", size)[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


TALK = {
    "noise": random.Random(SEED).randbytes(4096),
    "noughts": bytes(4096),
    "a web page, please": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a post": b"POST /v2/vectordb/collections/list HTTP/1.1\r\nContent-Length: 999999999\r\n\r\n{",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "SSH": b"SSH-2.0-OpenSSH_9.0\r\n",
    "half a preface": PREFACE[:10],
    "a preface alone": PREFACE,
    "a preface and noise": PREFACE + SETTINGS + random.Random(SEED + 1).randbytes(8192),
    "a frame that never ends": PREFACE + SETTINGS + frame(0, 0, 1, b"x", 0xFFFFFF),
    "headers of noise": PREFACE + SETTINGS + frame(1, 4, 1, random.Random(SEED + 2).randbytes(100)),
    "data on no stream": PREFACE + SETTINGS + frame(0, 0, 77, b"hello"),
    "ten thousand pings": PREFACE + SETTINGS + frame(6, 0, 0, bytes(8)) * 10_000,
    "resets of no streams": PREFACE + SETTINGS + b"".join(frame(3, 0, 2 * n + 1, bytes(4)) for n in range(1000)),
}


@contextlib.contextmanager
def connection(world: World) -> Iterator[socket.socket]:
    host, _, port = world.uri.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as sock:
        yield sock


@pytest.mark.parametrize("said", list(TALK.values()), ids=list(TALK))
def test_garbage_on_the_port(world: World, said: bytes) -> None:
    with connection(world) as sock, contextlib.suppress(OSError):  # the server may hang up in the middle
        sock.sendall(said)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65536):
            pass


def test_connections_that_say_nothing(world: World) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(200):
            sock = stack.enter_context(connection(world))
            sock.sendall(PREFACE[: number % len(PREFACE)])
        client = MilvusClient(world.uri, timeout=10, dedicated=True)
        assert client.query(COLLECTION, ids=[3], output_fields=["pk"])[0]["pk"] == 3
        client.close()


def test_connections_cut_in_the_middle_of_a_write(world: World) -> None:
    """Half an insert, then a reset: gRPC never sees a whole message, so nothing is inserted."""
    body = insert_request(count=2).SerializeToString()
    message = b"\x00" + struct.pack(">I", len(body)) + body[: len(body) // 2]
    for _ in range(20):
        with connection(world) as sock:
            sock.sendall(PREFACE + SETTINGS + frame(0, 0, 1, message))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


# --- inside calls ---------------------------------------------------------------------------------------------------

VALID = {
    "Search": search_request(),
    "Query": query_request("pk > 3"),
    "Insert": insert_request(collection_name="nobody"),
    "Upsert": upsert_request(collection_name="nobody"),
    "Delete": milvus_pb2.DeleteRequest(collection_name="nobody", expr="pk in [1, 2]"),
    "CreateCollection": milvus_pb2.CreateCollectionRequest(collection_name="fresh", schema=b"\x0a\x05fresh"),
    "CreateIndex": milvus_pb2.CreateIndexRequest(collection_name="nobody", field_name="vector"),
    "DescribeCollection": milvus_pb2.DescribeCollectionRequest(collection_name=COLLECTION),
    "LoadCollection": milvus_pb2.LoadCollectionRequest(collection_name="nobody"),
    "Flush": milvus_pb2.FlushRequest(collection_names=["nobody"]),
    "Connect": milvus_pb2.ConnectRequest(),
}
REQUEST_ERRORS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT}


def damaged(data: bytes, dice: random.Random) -> bytes:
    """Cut short, with bytes changed, or with something put in."""
    at = dice.randrange(len(data) + 1)
    match dice.randrange(4):
        case 0:
            return data[:at]
        case 1:
            return data[:at] + dice.randbytes(dice.randint(1, 8)) + data[at:]
        case 2:
            changed = bytearray(data)
            for _ in range(dice.randint(1, 4)):
                changed[dice.randrange(len(changed))] = dice.randrange(256)
            return bytes(changed)
        case _:
            return dice.randbytes(dice.randint(0, 64))


@pytest.mark.parametrize("verb", list(VALID))
def test_damaged_messages(world: World, verb: str) -> None:
    """A damaged request is refused as no request or with a status of its own; never with 'internal error'."""
    data, dice = VALID[verb].SerializeToString() or b"\x0a\x00", random.Random(f"{SEED} {verb}")
    for _ in range(150):
        sent = damaged(data, dice)
        try:
            answer = world.send_bytes(verb, sent)
        except grpc.RpcError as error:
            assert error.code() in REQUEST_ERRORS, (sent, error)
            continue
        assert b"service internal error" not in answer, (verb, sent)


def test_text_that_is_not_utf8(world: World) -> None:
    for make, verb in ((insert_request, "Insert"), (upsert_request, "Upsert")):
        text = scalars("text", DataType.VARCHAR, "string_data", ["QQQQ", "good"])
        data = make({"text": text}).SerializeToString()
        assert data.count(b"QQQQ") == 1
        with pytest.raises(grpc.RpcError) as caught:
            response = world.send_bytes(verb, data.replace(b"QQQQ", b"\xff\xfe\xc3\x28"))
            raise refusal(milvus_pb2.MutationResult.FromString(response))
        assert caught.value.code() in REQUEST_ERRORS


class RefusedError(grpc.RpcError):
    """A refusal by status counts as one by gRPC."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.INVALID_ARGUMENT


def refusal(response: Any) -> RefusedError:
    status = status_of(response)
    assert status.code in (1100, 65535), status
    return RefusedError()


def test_name_that_is_not_utf8(world: World) -> None:
    data = (
        milvus_pb2.HasCollectionRequest(collection_name="QQQQ")
        .SerializeToString()
        .replace(b"QQQQ", b"\xff\xfe\xfd\xfc")
    )
    with pytest.raises(grpc.RpcError) as caught:
        raise refusal(milvus_pb2.BoolResponse.FromString(world.send_bytes("HasCollection", data)))
    assert caught.value.code() in REQUEST_ERRORS


def test_a_call_that_does_not_exist(world: World) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        world.send_bytes("MakeCoffee", b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_batch_that_is_too_large(world: World) -> None:
    """64 MiB is the most a request may have; it is refused before it is read into anything."""
    rows = columns(1)
    vector = rows["vector"].vectors
    vector.float_vector.data.extend([0.5] * (17 * MIB))
    with pytest.raises(grpc.RpcError) as caught:
        world.call(
            "Insert", milvus_pb2.InsertRequest(collection_name=COLLECTION, num_rows=1, fields_data=rows.values())
        )
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in caught.value.details()


def test_a_batch_that_is_too_large_for_pymilvus(world: World) -> None:
    text = "x" * (66 * MIB)
    with pytest.raises(MilvusException):
        world.client.insert(COLLECTION, [{"pk": 5000, "text": text, "vector": [0.0] * 4}], retry_times=1)


def test_metadata_that_is_garbage(world: World) -> None:
    request = query_request("pk == 3")
    for key, value in (("dbname", "no such base"), ("dbname", "../../etc"), ("authorization", "nobody")):
        response = world.stub.Query(request, timeout=10, metadata=((key, value),))
        assert response.status.code in (0, 800, 802), response.status


def test_clients_that_hang_up(world: World) -> None:
    """Calls cancelled at once and calls whose time is over: the server goes on."""
    dice = random.Random(SEED)
    for _ in range(100):
        call = world.stub.Search.future(search_request(), timeout=dice.choice((0.0005, 0.002, 5)))
        if dice.random() < 0.5:
            call.cancel()
