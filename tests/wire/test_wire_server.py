"""The server over a socket: real clients, refusals, faults, cancellation, garbage, its end."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import wire_smoke_client
from pymilvus import MilvusClient
from wire_serving import Serving, serving

from elanus.base.errors import InUseError, InvariantError, OverloadedError
from elanus.model.errors import BadParameterError
from elanus.wire.messages import SERVICE, messages

OTHER_CLIENTS = [path for path in os.environ.get("ELANUS_OTHER_CLIENTS", "").split(os.pathsep) if path]
"""Interpreters of environments with other pymilvus versions."""


@pytest.fixture
def served() -> Iterator[Serving]:
    with serving() as server:
        yield server
    assert not server.reports


@pytest.fixture
def channel(served: Serving) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{served.port}") as made:
        yield made


def call(channel: grpc.Channel, name: str, data: bytes = b"", **options: Any) -> Any:
    """One raw call, its answer parsed."""
    answer = channel.unary_unary(f"/{SERVICE}/{name}")(data, timeout=10, **options)
    return messages().methods[name].response.FromString(answer)


# --- real clients ---------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_pymilvus(served: Serving) -> None:
    wire_smoke_client.main(served.uri)
    assert {name for name, _, _ in served.observed} >= {"Connect", "Insert", "Search", "Query", "Delete"}
    assert ("Search", 101) in {(name, code) for name, code, _ in served.observed}
    assert all(seconds >= 0 for _, _, seconds in served.observed)


@pytest.mark.slow
@pytest.mark.skipif(not OTHER_CLIENTS, reason="ELANUS_OTHER_CLIENTS names no interpreters")
@pytest.mark.parametrize("python", OTHER_CLIENTS)
def test_other_versions_of_pymilvus(served: Serving, python: str) -> None:
    script = str(Path(__file__).with_name("wire_smoke_client.py"))
    told = subprocess.run([python, script, served.uri], capture_output=True, text=True, timeout=100, check=False)
    assert told.returncode == 0, told.stderr[-3000:]
    assert "OK" in told.stdout


def test_the_database_comes_from_the_metadata_where_the_request_names_none(
    served: Serving, channel: grpc.Channel
) -> None:
    request = messages().DropCollectionRequest(collection_name="c")
    call(channel, "DropCollection", request.SerializeToString(), metadata=(("dbname", "meta"),))
    request.db_name = "own"
    call(channel, "DropCollection", request.SerializeToString(), metadata=(("dbname", "meta"),))
    call(channel, "CreateDatabase", metadata=(("dbname", "meta"),))
    assert [seen.database for seen in served.frontend.requests] == ["meta", "own", ""]


def test_connect_and_versions(channel: grpc.Channel) -> None:
    first, second = call(channel, "Connect"), call(channel, "Connect")
    assert first.server_info.build_tags == "2.6.18"
    assert first.identifier != second.identifier != 0
    assert call(channel, "CheckHealth").isHealthy
    assert call(channel, "GetComponentStates").state.state_code == 1
    assert call(channel, "AllocTimestamp").timestamp > second.identifier


def test_load_states_of_a_missing_collection(channel: grpc.Channel) -> None:
    request = messages().GetLoadStateRequest(collection_name="c").SerializeToString()
    answer = call(channel, "GetLoadState", request)
    assert (answer.status.code, answer.state) == (0, 0)
    assert call(channel, "GetLoadingProgress", request).status.code == 100
    assert call(channel, "HasCollection", b"\x1a\x01c").value is False


def test_batch_description_mixes_replies_and_refusals(served: Serving, channel: grpc.Channel) -> None:
    MilvusClient(uri=served.uri).create_collection("known", dimension=4)
    request = messages().BatchDescribeCollectionRequest(collection_name=["known", "missing"])
    answer = call(channel, "BatchDescribeCollection", request.SerializeToString())
    assert answer.status.code == 0
    assert [one.status.code for one in answer.responses] == [0, 100]
    assert answer.responses[0].collection_name == "known"


# --- refusals and faults --------------------------------------------------------------------------------------------
def test_calls_of_later_servers_and_services_are_unknown(channel: grpc.Channel) -> None:
    for path in (f"/{SERVICE}/AlterCollectionSchema", f"/{SERVICE}/CreateSnapshot", "/other.Service/Do"):
        with pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary(path)(b"", timeout=10)
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_unserved_calls_are_refused_in_their_own_type(channel: grpc.Channel) -> None:
    assert call(channel, "RunAnalyzer").status.code == 10
    assert call(channel, "CreateRole").code == 10


def test_bytes_that_are_no_request(served: Serving, channel: grpc.Channel) -> None:
    for name in ("DescribeCollection", "Insert", "Search"):
        with pytest.raises(grpc.RpcError) as raised:
            call(channel, name, b"\x0a\xff\xff\xff")
        assert raised.value.code() is grpc.StatusCode.INTERNAL
    assert call(channel, "GetVersion").version == "2.6.18"


def test_an_unexpected_fault_is_reported_and_hidden_from_the_client() -> None:
    with serving() as served:
        served.frontend.fault = KeyError("secret")
        with grpc.insecure_channel(f"127.0.0.1:{served.port}") as channel:
            for name in ("DropCollection", "Query"):
                answer = call(channel, name)
                status = answer if name == "DropCollection" else answer.status
                assert (status.code, status.reason) == (5, "service internal error")
            served.frontend.fault = InvariantError("broken")
            assert call(channel, "DropCollection").reason == "broken"
    assert [type(error) for error in served.reports] == [KeyError, KeyError, InvariantError]


def test_retriable_refusals_say_so(served: Serving, channel: grpc.Channel) -> None:
    served.frontend.fault = OverloadedError("too many")
    status = call(channel, "Delete").status
    assert (status.code, status.error_code, status.retriable) == (8, 49, True)


def test_a_message_that_is_too_large(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        call(channel, "Insert", bytes((64 << 20) + 1))
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "message larger than max" in raised.value.details()


def test_garbage_on_the_port_disturbs_nobody(served: Serving, channel: grpc.Channel) -> None:
    for garbage in (b"\x00" * 1000, b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096)):
        with socket.create_connection(("127.0.0.1", served.port), timeout=5) as raw:
            raw.sendall(garbage)
    assert call(channel, "GetVersion").status.code == 0


# --- cancellation and end -------------------------------------------------------------------------------------------
def test_a_write_in_progress_outlives_its_client(served: Serving) -> None:
    frontend = served.frontend
    client = MilvusClient(uri=served.uri)
    client.create_collection("c", dimension=2)

    async def close_gate() -> None:
        frontend.gate = asyncio.Event()

    async def open_gate() -> None:
        assert frontend.gate is not None
        frontend.gate.set()

    served.run(close_gate())
    insert = messages().InsertRequest(collection_name="c", num_rows=1)
    column = insert.fields_data.add(type=5, field_name="id")
    column.scalars.long_data.data.append(1)
    with grpc.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        with pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary(f"/{SERVICE}/Insert")(insert.SerializeToString(), timeout=0.3)
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert frontend.finished == []
    served.run(open_gate())
    served.run(served.server.stop(5.0))
    assert frontend.finished == ["insert"]


def test_stopping_lets_calls_end() -> None:
    with serving() as served:
        client = MilvusClient(uri=served.uri)
        client.create_collection("c", dimension=2)

        async def stop_during_a_write() -> bytes:
            served.frontend.gate = asyncio.Event()
            insert = messages().InsertRequest(collection_name="c", num_rows=1)
            column = insert.fields_data.add(type=5, field_name="id")
            column.scalars.long_data.data.append(1)
            async with grpc.aio.insecure_channel(f"127.0.0.1:{served.port}") as channel:
                pending = channel.unary_unary(f"/{SERVICE}/Insert")(insert.SerializeToString())
                await served.frontend.entered.wait()
                stopping = asyncio.ensure_future(served.server.stop(10.0))
                await asyncio.sleep(0)
                served.frontend.gate.set()
                answer: bytes = await pending
                await stopping
                return answer

        answer = served.run(stop_during_a_write())
        assert messages().MutationResult.FromString(answer).insert_cnt == 1


def test_health_service(served: Serving, channel: grpc.Channel) -> None:
    assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=5) == b"\x08\x01"
    watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=20)
    assert next(watch) == b"\x08\x01"
    served.run(served.server.stop(1.0))
    assert next(watch) == b"\x08\x02"


# --- addresses ------------------------------------------------------------------------------------------------------
def test_a_taken_port_is_refused(served: Serving) -> None:
    with pytest.raises(InUseError, match=str(served.port)), serving(f"127.0.0.1:{served.port}"):
        pass


def test_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with serving(f"unix:{path}"), grpc.insecure_channel(f"unix:{path}") as channel:
        assert call(channel, "GetVersion").version == "2.6.18"
    with pytest.raises(BadParameterError, match="107 bytes"), serving(f"unix:/{'x' * 107}"):
        pass
