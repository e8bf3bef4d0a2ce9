"""A real server, watched by strace: between each write request and its acknowledgement a sync has completed.

SIGKILL does not tell whether anything was synced, since the kernel keeps what was written. The system calls do. For
each call the request must be received, then its bytes written, then synced, and only then may the response leave.
"""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import subprocess
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import drill_trace
import grpc
import pytest
from drill_writers import KINDS, UNKNOWN, Writer, create, total
from pymilvus import DataType, MilvusClient
from pymilvus.grpc_gen import common_pb2, milvus_pb2, milvus_pb2_grpc, schema_pb2

from servers import BUSY, DrillServer

WRITERS = 8
CALLS_EACH = 12


def need_strace() -> None:
    """Skip, visibly, where there is no strace to be had; with CI set that is a failure."""
    if shutil.which("strace") is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "install", "-y", "strace"], capture_output=True, check=False)
    if shutil.which("strace") is None:
        reason = "needs strace (apt-get install strace)"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    probe = subprocess.run(["strace", "-D", "-e", "trace=close", "true"], capture_output=True, check=False)
    if probe.returncode != 0:
        reason = f"strace may not trace here: {probe.stderr.decode()[:200]}"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


def rows(kind: Any, first: int, count: int = 3) -> Any:
    keys = schema_pb2.FieldData(field_name="id", type=int(DataType.INT64))
    keys.scalars.long_data.data.extend(range(first, first + count))
    vectors = schema_pb2.FieldData(field_name="vector", type=int(DataType.FLOAT_VECTOR))
    vectors.vectors.dim = 4
    vectors.vectors.float_vector.data.extend([0.5] * (4 * count))
    return kind(collection_name="watched", num_rows=count, fields_data=[keys, vectors])


def schema(name: str) -> Any:
    key = schema_pb2.FieldSchema(name="id", data_type=5, is_primary_key=True)
    dim = common_pb2.KeyValuePair(key="dim", value="4")
    vector = schema_pb2.FieldSchema(name="vector", data_type=101, type_params=[dim])
    made = schema_pb2.CollectionSchema(name=name, fields=[key, vector]).SerializeToString()
    return milvus_pb2.CreateCollectionRequest(collection_name=name, schema=made, shards_num=2)


class Caller:
    """Calls on a connection of its own, so that the n-th call is stream 2n + 1."""

    def __init__(self, address: str) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(address, options=options)
        self.stub = milvus_pb2_grpc.MilvusServiceStub(self.channel)
        self.verbs: list[str] = []

    def call(self, verb: str, request: Any) -> None:
        self.verbs.append(verb)
        response = getattr(self.stub, verb)(request, timeout=60)
        status = response if response.DESCRIPTOR.name == "Status" else response.status
        assert status.code == 0, status


def ddl(address: str) -> list[str]:
    caller = Caller(address)
    caller.call("CreateCollection", schema("other"))
    caller.call("CreateIndex", index_request("other"))
    caller.call("CreatePartition", milvus_pb2.CreatePartitionRequest(collection_name="other", partition_name="part"))
    caller.call("CreateAlias", milvus_pb2.CreateAliasRequest(collection_name="other", alias="also"))
    caller.call("RenameCollection", milvus_pb2.RenameCollectionRequest(oldName="other", newName="another"))
    caller.call("LoadCollection", milvus_pb2.LoadCollectionRequest(collection_name="another"))
    caller.call("ReleaseCollection", milvus_pb2.ReleaseCollectionRequest(collection_name="another"))
    caller.call("DropPartition", milvus_pb2.DropPartitionRequest(collection_name="another", partition_name="part"))
    caller.call("DropAlias", milvus_pb2.DropAliasRequest(alias="also"))
    caller.call("DropCollection", milvus_pb2.DropCollectionRequest(collection_name="another"))
    caller.call("CreateDatabase", milvus_pb2.CreateDatabaseRequest(db_name="base"))
    caller.call("DropDatabase", milvus_pb2.DropDatabaseRequest(db_name="base"))
    caller.channel.close()
    return caller.verbs


def index_request(collection: str) -> Any:
    pairs = {"index_type": "HNSW", "metric_type": "L2", "params": '{"M": 8, "efConstruction": 64}'}
    parameters = [common_pb2.KeyValuePair(key=key, value=value) for key, value in pairs.items()]
    return milvus_pb2.CreateIndexRequest(collection_name=collection, field_name="vector", extra_params=parameters)


def writes(address: str, number: int) -> list[str]:
    caller = Caller(address)
    for at in range(CALLS_EACH):
        first = number * 1000 + at * 10
        caller.call("Insert", rows(milvus_pb2.InsertRequest, first))
        caller.call("Upsert", rows(milvus_pb2.UpsertRequest, first))
        expression = f"id in [{first}, {first + 1}]"
        caller.call("Delete", milvus_pb2.DeleteRequest(collection_name="watched", expr=expression))
    caller.channel.close()
    return caller.verbs


def unsynced(trace: drill_trace.Trace, streams: list[tuple[str, int]], where: tuple[str, ...]) -> list[str]:
    """Calls whose response left before bytes written after their request had been synced."""
    wrong = []
    for key in streams:
        begun, answered = trace.requests[key], trace.responses[key]
        synced = any(
            sync.began_s >= write.ended_s
            for sync in trace.syncs
            if begun < sync.began_s and sync.ended_s < answered and any(part in sync.path for part in where)
            for write in trace.writes
            if write.path == sync.path and begun < write.began_s < answered
        )
        if not synced:
            wrong.append(f"{key[0]} call {key[1] // 2}: {begun:.6f} to {answered:.6f}")
    return wrong


SYNC_FAILS_S_MAX = 60.0
"""A slow machine reaches the first failing sync late."""
STORE_IS_DEAD = 1001
"""What a write may be told when the sync that failed was that of `meta.db`, until the server has ended."""
INJECTIONS = ("fdatasync:error=EIO:when=60+45", "fdatasync:error=ENOSPC:when=60+45", "fsync:error=EIO:when=40+25")


@pytest.mark.drill
@pytest.mark.parametrize("injection", INJECTIONS)
def test_syncs_that_fail(tmp_path: Path, injection: str) -> None:
    """The kernel answers every 45th sync with an error: such a write is refused or its fate is called unknown, the log
    is opened anew (or the server stops, saying why), and after a kill everything acknowledged is there."""
    need_strace()
    call = injection.partition(":")[0]
    prefix = ("strace", "-f", "-D", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={injection}")
    kind = KINDS[0]
    server = DrillServer(tmp_path / "store", *BUSY, prefix=prefix).wait_ready()
    writers = [Writer(number, kind, random.Random(number), unknown=UNKNOWN | {STORE_IS_DEAD}) for number in range(4)]
    try:
        client = MilvusClient(server.uri)
        create(client, kind)
        client.close()
        stop = threading.Event()
        threads = [threading.Thread(target=again_and_again, args=(writer, server, stop)) for writer in writers]
        for thread in threads:
            thread.start()
        stop.wait(8.0)
        patience_ends_s = time.monotonic() + SYNC_FAILS_S_MAX
        while not any(writer.codes for writer in writers) and time.monotonic() < patience_ends_s:
            stop.wait(0.5)
        stop.set()
        for thread in threads:
            thread.join()
        alive = server.is_alive
        assert alive or call in server.errors() or "error" in server.errors(), server.errors()
    finally:
        server.kill()
    server = DrillServer(tmp_path / "store", *BUSY).wait_ready()
    try:
        client = MilvusClient(server.uri)
        rows = sum(writer.check(client) for writer in writers)
        assert total(client, kind) == rows
        client.close()
    finally:
        server.kill()
    counts = [writer.ledger.counts for writer in writers]
    codes = sum((writer.codes for writer in writers), Counter())
    texts = {code: text[:120] for writer in writers for code, text in writer.texts.items()}
    print(
        f"\nfailing syncs ({injection}): {sum(one.acknowledged for one in counts)} writes acknowledged, "
        f"{sum(one.refused for one in counts)} refused, {sum(one.unknown for one in counts)} unknown, "
        f"codes {dict(codes)} {texts}, server alive at the end: {alive}"
    )
    assert sum(one.acknowledged for one in counts) > 20
    assert codes, "no sync failed"
    assert not [fault for writer in writers for fault in writer.faults]


def again_and_again(writer: Writer, server: DrillServer, stop: threading.Event) -> None:
    """The writer gives up at an unknown outcome; here it goes on while the server lives."""
    while not stop.is_set() and server.is_alive:
        writer.run(server.uri, stop)


@pytest.mark.drill
def test_each_acknowledgement_follows_a_sync(tmp_path: Path) -> None:
    need_strace()
    folder = tmp_path / "trace"
    folder.mkdir()
    prefix = ("strace", *drill_trace.FLAGS, "-o", str(folder / "thread"))
    server = DrillServer(tmp_path / "store", prefix=prefix).wait_ready()
    try:
        client = MilvusClient(server.uri, timeout=60)
        client.create_collection("watched", dimension=4)
        client.close()
        one = writes(server.address, 0)
        with ThreadPoolExecutor(WRITERS) as pool:
            many = list(pool.map(lambda number: writes(server.address, number), range(1, WRITERS + 1)))
        changes = ddl(server.address)
        code = server.stop()
        assert code == 0, (code, server.errors())
    finally:
        server.kill()
    trace = drill_trace.read(folder)
    judge(trace, [one, *many], changes)


def judge(trace: drill_trace.Trace, writers: list[list[str]], changes: list[str]) -> None:
    """Connections came in this order: the one that made the collection, the writers, the one that changed schemas."""
    streams: dict[str, list[int]] = {}
    for socket, stream in sorted(trace.requests, key=lambda call: trace.requests[call]):
        streams.setdefault(socket, []).append(stream)
    _, *writing, changing = streams
    assert [len(streams[socket]) for socket in writing] == [len(verbs) for verbs in writers]
    assert len(streams[changing]) == len(changes)
    wrong = []
    for socket in writing:
        wrong += unsynced(trace, [(socket, stream) for stream in streams[socket]], ("/wal/",))
    wrong += unsynced(trace, [(changing, stream) for stream in streams[changing]], ("/wal/", "meta.db"))
    assert not wrong, wrong[:10]
    check_the_judge(trace, [(writing[0], stream) for stream in streams[writing[0]]])
    print(
        f"\nstrace drill: {sum(map(len, writers))} writes and {len(changes)} schema changes, each acknowledged after "
        f"a completed sync of what it wrote; {len(trace.syncs)} syncs in all"
    )


def check_the_judge(trace: drill_trace.Trace, calls: list[tuple[str, int]]) -> None:
    """It would notice: with the syncs of the log left out, and with responses that leave half-way, all are wrong."""
    others = [sync for sync in trace.syncs if "/wal/" not in sync.path]
    assert len(unsynced(dataclasses.replace(trace, syncs=others), calls, ("/wal/",))) == len(calls)
    early = {
        call: (trace.requests[call] + min(sync.ended_s for sync in trace.syncs if sync.began_s > at)) / 2
        for call, at in trace.requests.items()
        if call in calls
    }
    assert len(unsynced(dataclasses.replace(trace, responses=early), calls, ("/wal/",))) == len(calls)
