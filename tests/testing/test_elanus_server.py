"""The pytest fixture that users get, used as they use it."""

from __future__ import annotations

import time
from typing import Any

import pytest
from pymilvus import MilvusClient, MilvusException
from pymilvus.client.types import Status

from elanus.testing.plugin import ElanusServer, ServerProcess

READY_S_MAX = 0.3
RECONNECTED_S_MAX = 30.0


def rows(count: int) -> list[dict[str, Any]]:
    return [{"id": number, "vector": [float(number), 0.0]} for number in range(count)]


def queried_once_reconnected(client: MilvusClient) -> list[dict[str, Any]]:
    """All rows. gRPC refuses calls on its own account for seconds after connections that broke in the handshake."""
    given_up_s = time.monotonic() + RECONNECTED_S_MAX
    while True:
        try:
            return list(client.query("c", filter="id >= 0", output_fields=["id"]))
        except MilvusException as error:
            if error.code != Status.CONNECT_FAILED or time.monotonic() > given_up_s:
                raise
            time.sleep(0.2)


@pytest.mark.slow
def test_each_test_gets_an_empty_store_soon(elanus_server_process: ServerProcess, tmp_path: Any) -> None:
    taken = []
    for number in range(4):
        begun_s = time.monotonic()
        server = ElanusServer(elanus_server_process, str(tmp_path / str(number)))
        taken.append(time.monotonic() - begun_s)
        client = MilvusClient(server.uri)
        assert client.list_collections() == []
        client.create_collection("c", dimension=2)
        client.close()
        server.close()
    assert min(taken[1:]) < READY_S_MAX, taken


@pytest.mark.slow
def test_what_was_acknowledged_outlives_restarts(elanus_server: ElanusServer) -> None:
    client = MilvusClient(elanus_server.uri)
    client.create_collection("c", dimension=2, consistency_level="Strong")
    client.insert("c", rows(10))
    client.close()
    elanus_server.restart()
    client = MilvusClient(elanus_server.uri)
    assert len(client.query("c", filter="id >= 0")) == 10
    client.close()


@pytest.mark.slow
def test_a_client_meets_faults_and_nothing_acknowledged_is_lost(elanus_server: ElanusServer) -> None:
    client = MilvusClient(elanus_server.uri)
    client.create_collection("c", dimension=2, consistency_level="Strong")
    elanus_server.meet(delayed=0.2, delay_s=0.05, refused=0.05, reply_lost=0.1, seed=3)
    acknowledged, failed = set(), 0
    for row in rows(40):
        try:
            client.upsert("c", [row], timeout=5)
            acknowledged.add(row["id"])
        except MilvusException:
            failed += 1
    elanus_server.calm()
    found = {row["id"] for row in queried_once_reconnected(client)}
    client.close()
    assert acknowledged <= found
    assert acknowledged
