"""What a client process does: pymilvus calls against one port, timed where they are made.

Every function here runs in a process of its own, never in the server's nor in the bench's. One client uses one
thread. Rows and vectors are passed to pymilvus as Python lists built before the clock starts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from pymilvus import DataType, MilvusClient
from pymilvus.client.types import LoadState
from pymilvus.exceptions import MilvusException
from pymilvus.grpc_gen import milvus_pb2

from bench.procs import die_with_parent
from bench.workload import Dataset, Floats, Ints, K

COLLECTION = "bench"
BATCH_ROWS = 1000
CALL_S_MAX = 900.0
POLL_S = 0.02
START_POLL_S = 0.005
M = 16
EF_CONSTRUCTION = 200
_SHOW_COLLECTIONS = "/milvus.proto.milvus.MilvusService/ShowCollections"


@dataclass(frozen=True)
class Ask:
    """How to search: the port, the width of the HNSW search, and a filter or none."""

    port: int
    ef: int
    expression: str = ""


@dataclass(frozen=True)
class Timed:
    """Seconds by call, and the keys answered (q, K), -1 where fewer came back."""

    seconds: Floats
    answers: Ints


def imported() -> bool:
    """Does nothing; running it makes a fresh process import this module."""
    return True


@contextmanager
def _connected(port: int) -> Iterator[MilvusClient]:
    client = MilvusClient(uri=f"http://127.0.0.1:{port}", timeout=CALL_S_MAX)
    try:
        yield client
    finally:
        client.close()


def first_answer(port: int, wait_s: float) -> float:
    """The `time.perf_counter` reading at which the port first answered a call with success.

    That clock is one for all processes of a Linux machine, so the reading compares with the server's spawn.
    """
    deadline_s = time.perf_counter() + wait_s
    while time.perf_counter() < deadline_s:
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            call = channel.unary_unary(
                _SHOW_COLLECTIONS,
                request_serializer=milvus_pb2.ShowCollectionsRequest.SerializeToString,
                response_deserializer=milvus_pb2.ShowCollectionsResponse.FromString,
            )
            try:
                status = call(milvus_pb2.ShowCollectionsRequest(), timeout=5).status
            except grpc.RpcError:
                pass
            else:
                if status.code == 0 and status.error_code == 0:
                    return time.perf_counter()
        time.sleep(START_POLL_S)
    raise TimeoutError(f"nothing answered on port {port} within {wait_s:.0f} s")


def create(port: int, dim: int) -> None:
    """Create the collection: int64 key, two varchars, one int64, one vector; Bounded consistency, one shard."""
    with _connected(port) as client:
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("section", DataType.VARCHAR, max_length=256)
        schema.add_field("priority", DataType.VARCHAR, max_length=64)
        schema.add_field("installed_size_kb", DataType.INT64)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
        client.create_collection(COLLECTION, schema=schema, num_shards=1, consistency_level="Bounded")


def _batches(data: Dataset) -> Iterator[list[dict[str, Any]]]:
    for at in range(0, len(data.vectors), BATCH_ROWS):
        part = slice(at, at + BATCH_ROWS)
        columns = (
            range(at, at + BATCH_ROWS),
            data.section[part],
            data.priority[part],
            data.size_kb[part].tolist(),
            data.vectors[part].tolist(),
        )
        names = ("id", "section", "priority", "installed_size_kb", "vector")
        yield [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=False)]


def insert(port: int, data: Dataset) -> float:
    """Insert every row in batches of `BATCH_ROWS`; the seconds spent inside the insert calls."""
    spent_s = 0.0
    with _connected(port) as client:
        for batch in _batches(data):
            began_s = time.perf_counter()
            client.insert(COLLECTION, batch)
            spent_s += time.perf_counter() - began_s
    return spent_s


def make_ready(port: int) -> float:
    """Flush, build the index, load; seconds until all rows are indexed and the collection is loaded."""
    with _connected(port) as client:
        began_s = time.perf_counter()
        client.flush(COLLECTION)
        params = client.prepare_index_params()
        build = {"M": M, "efConstruction": EF_CONSTRUCTION}
        params.add_index("vector", index_type="HNSW", metric_type="COSINE", index_name="vector", params=build)
        client.create_index(COLLECTION, params)
        _wait(lambda: _index_is_built(client), "the index")
        client.load_collection(COLLECTION)
        _wait(lambda: client.get_load_state(COLLECTION)["state"] == LoadState.Loaded, "the load")
        return time.perf_counter() - began_s


def _index_is_built(client: MilvusClient) -> bool:
    seen = client.describe_index(COLLECTION, "vector")
    finished = str(seen.get("state", "Finished")) in ("Finished", "3")
    return finished and int(seen.get("pending_index_rows", 0)) == 0


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.perf_counter() + CALL_S_MAX
    while not condition():
        if time.perf_counter() > deadline_s:
            raise TimeoutError(f"{what} was not done within {CALL_S_MAX:.0f} s")
        time.sleep(POLL_S)


def count(port: int) -> int:
    """Rows of the collection under Strong consistency."""
    with _connected(port) as client:
        rows = client.query(COLLECTION, filter="", output_fields=["count(*)"], consistency_level="Strong")
        return int(rows[0]["count(*)"])


def _call(client: MilvusClient, ask: Ask, vectors: list[list[float]]) -> Any:
    return client.search(
        COLLECTION,
        data=vectors,
        anns_field="vector",
        limit=K,
        filter=ask.expression,
        search_params={"metric_type": "COSINE", "params": {"ef": ask.ef}},
    )


def _keys(result: Any) -> Ints:
    """Keys of a search result, (queries, K), -1 where fewer came back."""
    keys = np.full((len(result), K), -1, dtype=np.int64)
    for row, hits in enumerate(result):
        found = [hit["id"] for hit in hits]
        keys[row, : len(found)] = found
    return keys


def search_singly(ask: Ask, queries: Floats) -> Timed:
    """Ask the queries (q, d) one by one, each once."""
    seconds = np.empty(len(queries), dtype=np.float32)
    answers = np.empty((len(queries), K), dtype=np.int64)
    with _connected(ask.port) as client:
        for row, vector in enumerate(queries.tolist()):
            began_s = time.perf_counter()
            result = _call(client, ask, [vector])
            seconds[row] = time.perf_counter() - began_s
            answers[row] = _keys(result)
    return Timed(seconds, answers)


def search_in_calls(ask: Ask, queries: Floats, per_call: int, calls: int) -> Timed:
    """Make `calls` calls of `per_call` queries each, going round the queries; answers of the last round only."""
    starts = range(0, len(queries) - per_call + 1, per_call)
    blocks = [queries[at : at + per_call].tolist() for at in starts]
    seconds = np.empty(calls, dtype=np.float32)
    answers = np.full((len(blocks) * per_call, K), -1, dtype=np.int64)
    with _connected(ask.port) as client:
        for call in range(calls):
            block = call % len(blocks)
            began_s = time.perf_counter()
            result = _call(client, ask, blocks[block])
            seconds[call] = time.perf_counter() - began_s
            answers[block * per_call : (block + 1) * per_call] = _keys(result)
    return Timed(seconds, answers)


def search_for(ask: Ask, queries_file: Path, first: int, span_s: float, sync: tuple[Barrier, Queue[float]]) -> None:
    """From the barrier on, ask single queries for `span_s` seconds, starting at query `first`; puts queries/s.

    A client that fails puts a negative number, so that the others are not waited for in vain.
    """
    die_with_parent()
    barrier, rates = sync
    vectors = np.load(queries_file).tolist()
    try:
        with _connected(ask.port) as client:
            for vector in vectors[:20]:
                _call(client, ask, [vector])
            barrier.wait(timeout=CALL_S_MAX)
            began_s = time.perf_counter()
            asked = 0
            while time.perf_counter() - began_s < span_s:
                _call(client, ask, [vectors[(first + asked) % len(vectors)]])
                asked += 1
            rates.put(asked / (time.perf_counter() - began_s))
    except (MilvusException, grpc.RpcError) as fault:
        barrier.abort()
        rates.put(-1.0)
        raise fault
