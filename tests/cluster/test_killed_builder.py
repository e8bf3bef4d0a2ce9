"""A data node is killed while it builds an index: another builds it, and searches and writes go on meanwhile.

Six processes on loopback addresses, on etcd and an S3-compatible store. Which node builds is seen by the CPU time it
takes.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from clusters import FAULT_MARKS, LEASE_S, RoleProcess, start_store, wait_serving
from pymilvus import MilvusClient

from filled import create, fill, normal_vectors
from services import BUCKET, s3_environment, start_etcd

pytestmark = [pytest.mark.drill, pytest.mark.alone]

ROWS, DIMENSION = 8_000, 64
SLOW_TO_BUILD = {"index_type": "HNSW", "metric_type": "L2", "params": {"M": 48, "efConstruction": 400}}
NAMES = ("coordinator", "streaming", "query", "data-1", "data-2", "proxy")
BUILDING_CPU_S = 0.5
"""Of one node since it was idle: nothing but a build takes so much."""
WAIT_S_MAX = 120.0
CALL_S_MAX = 20.0
LEAST_CALLS = 5


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[dict[str, RoleProcess]]:
    """Running; all are ended afterwards."""
    etcd = start_etcd(tmp_path, "--unsafe-no-fsync")
    made: dict[str, RoleProcess] = {}
    try:
        (tmp_path / "store").mkdir()
        store = start_store(tmp_path / "store")
        try:
            for name in NAMES:
                made[name] = _process(name, tmp_path, etcd.port, store.port)
                made[name].start()
            for process in made.values():
                process.wait_ready()
            yield made
        finally:
            for process in made.values():
                process.kill()
            store.kill()
    finally:
        etcd.kill()


def _process(name: str, folder: Path, etcd_port: int, store_port: int) -> RoleProcess:
    cache = folder / "cache" / name
    cache.mkdir(parents=True)
    command = [sys.executable, "-m", "elanus", "run", name.partition("-")[0]]
    command += ["--meta", f"etcd://127.0.0.1:{etcd_port}/cluster", "--store", f"s3://{BUCKET}/cluster"]
    command += ["--cache", str(cache), "--port", "0", "--metrics-port", "-1", "--lease", str(LEASE_S)]
    command += ["--log-level", "info", "--set", "index.build_threads=1"]
    return RoleProcess(name, command, s3_environment(store_port), folder / f"{name}.log")


class Caller:
    """Calls the cluster without a pause, on a thread of its own; no call may fail."""

    def __init__(self, uri: str, call: Callable[[MilvusClient], object]) -> None:
        self.succeeded = 0
        self.failure: Exception | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(uri, call), daemon=True)
        self._thread.start()

    def _run(self, uri: str, call: Callable[[MilvusClient], object]) -> None:
        client = MilvusClient(uri, timeout=CALL_S_MAX, dedicated=True)
        try:
            while not self._stop.wait(0.02):
                call(client)
                self.succeeded += 1
        except Exception as failure:
            self.failure = failure
        finally:
            client.close()

    def stop(self) -> None:
        """And wait for the last call."""
        self._stop.set()
        self._thread.join(2 * CALL_S_MAX)
        assert not self._thread.is_alive()


def cpu_s(process: RoleProcess) -> float:
    """What it has used."""
    assert process.process is not None
    times = psutil.Process(process.process.pid).cpu_times()
    return float(times.user + times.system)


def wait_for(what: str, holds: Callable[[], bool]) -> None:
    """Until it holds."""
    end_s = time.monotonic() + WAIT_S_MAX
    while not holds():
        assert time.monotonic() < end_s, f"waited {WAIT_S_MAX} s for {what}"
        time.sleep(0.05)


def test_another_node_builds_what_a_killed_one_began(processes: dict[str, RoleProcess]) -> None:
    uri = f"http://{processes['proxy'].address}"
    wait_serving(uri)
    client = MilvusClient(uri, timeout=60, dedicated=True)
    values = normal_vectors(ROWS, DIMENSION)
    create(client, "built", DIMENSION, SLOW_TO_BUILD)
    create(client, "written", 4, {"index_type": "FLAT", "metric_type": "L2"})

    def search(client: MilvusClient) -> None:
        found = client.search("built", [values[7].tolist()], limit=1, consistency_level="Strong")
        assert [hit["id"] for hit in found[0]] == [7]

    builders = {name: processes[name] for name in ("data-1", "data-2")}
    idle = {name: cpu_s(process) for name, process in builders.items()}
    fill(client, "built", values)
    callers = [
        Caller(uri, search),
        Caller(uri, lambda client: client.upsert("written", [{"id": 1, "v": [0.5] * 4}])),
    ]

    def used_s(name: str) -> float:
        return cpu_s(builders[name]) - idle[name]

    def state() -> str:
        return str(client.describe_index("built", "v")["state"])

    def each_succeeds() -> None:
        before = [caller.succeeded for caller in callers]
        wait_for(
            "searches and writes",
            lambda: all(
                caller.failure is not None or caller.succeeded >= then + LEAST_CALLS
                for caller, then in zip(callers, before, strict=True)
            ),
        )

    wait_for("a build", lambda: max(map(used_s, builders)) > BUILDING_CPU_S)
    killed = max(builders, key=used_s)
    builders[killed].kill()
    assert state() == "InProgress", "the kill came too late"
    each_succeeds()
    other = "data-2" if killed == "data-1" else "data-1"
    wait_for("the index", lambda: state() == "Finished")
    each_succeeds()
    for caller in callers:
        caller.stop()
    assert [caller.failure for caller in callers] == [None, None]
    assert client.describe_index("built", "v")["indexed_rows"] == ROWS
    assert used_s(other) > BUILDING_CPU_S
    found = client.search("built", values[:100].tolist(), limit=1, consistency_level="Strong")
    assert [hits[0]["id"] for hits in found] == list(range(100))
    client.close()
    said = {name: process.said() for name, process in processes.items() if name != killed}
    faults = [line for text in said.values() for line in text.splitlines() if any(mark in line for mark in FAULT_MARKS)]
    assert not faults, "\n".join(faults[:20])
