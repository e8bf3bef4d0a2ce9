"""`elanus up`: a local cluster that a Milvus client drives, that survives its processes, and that leaves cleanly."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from pymilvus import MilvusClient, MilvusException

from services import find_etcd

READY_S_MAX = 60.0


class Up:
    """A running `elanus up`."""

    def __init__(self, folder: Path, *flags: str) -> None:
        find_etcd()
        self.log = folder / "up.log"
        command = [sys.executable, "-m", "elanus", "up", "--folder", str(folder / "cluster"), "--port", "0"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([*command, *flags], stdout=log, stderr=log)
        self.wait_for("proxy 1", "data 1", "query 2", "streaming 2", "coordinator 2")

    def wait_for(self, *names: str) -> None:
        end_s = time.monotonic() + READY_S_MAX
        while not all(f"{name}: Elanus" in self.said() for name in names):
            assert self.process.poll() is None and time.monotonic() < end_s, self.said()
            time.sleep(0.1)

    def said(self) -> str:
        return self.log.read_text()

    @property
    def uri(self) -> str:
        found = re.search(r"proxy 1: .* on ([\d.:]+)", self.said())
        assert found is not None
        return f"http://{found[1]}"

    def status(self) -> Any:
        found = re.search(r"metadata on (\S+),", self.said())
        assert found is not None
        words = [sys.executable, "-m", "elanus", "status", "--meta", found[1]]
        shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        assert "coordinator  active" in shown, shown
        return json.loads(subprocess.run([*words, "--json"], capture_output=True, text=True, check=True).stdout)

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    started = Up(tmp_path, "--set", "cluster.lease_s=2", "--set", "log.pchannel_count=2")
    yield started
    started.process.kill()


@pytest.mark.drill
@pytest.mark.alone
def test_a_cluster_serves_survives_and_leaves(up: Up) -> None:
    client = MilvusClient(up.uri, timeout=30)
    client.create_collection("a", 8, num_shards=2, consistency_level="Strong")
    rows = [{"id": number, "vector": np.random.default_rng(number).random(8)} for number in range(500)]
    assert client.insert("a", rows)["insert_count"] == 500
    client.flush("a")
    assert count(client) == 500
    status = up.status()
    assert sorted(node["record"]["role"] for node in status["nodes"]) == [
        *("coordinator", "coordinator", "data", "proxy", "query", "query", "streaming", "streaming")
    ]
    assert all(node["process"]["resident_bytes"] > 1 << 20 for node in status["nodes"])
    assert len(status["shards"]) == 2
    assert all(shard["owner"] and shard["status"] for shard in status["shards"])
    client.release_collection("a")
    client.load_collection("a", replica_number=2)
    assert {owner_and_follower(shard) for shard in wait_for_followers(up)} == {(2, 1)}
    client.release_collection("a")
    client.load_collection("a")
    family = psutil.Process(up.process.pid).children(recursive=True)
    owner = status["shards"][0]["owner"]
    (victim,) = (node["process"]["process_id"] for node in status["nodes"] if node["record"]["node_id"] == owner)
    os.kill(victim, signal.SIGKILL)
    upsert(client, [{"id": 1000 + number, "vector": [0.5] * 8} for number in range(50)])
    assert count(client) == 550
    up.wait_for("streaming 1", "streaming 2")
    client.close()
    assert up.end() == 0, up.said()
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive, alive
    assert "Traceback" not in up.said(), up.said()


@pytest.mark.drill
@pytest.mark.alone
def test_the_processes_end_with_their_supervisor(up: Up) -> None:
    family = [one for one in psutil.Process(up.process.pid).children() if "elanus" in one.cmdline()]
    assert len(family) >= 8
    etcd = [one for one in psutil.Process(up.process.pid).children() if "elanus" not in one.cmdline()]
    up.process.kill()
    _, alive = psutil.wait_procs(family, timeout=30)
    for one in etcd:
        one.kill()
    assert not alive, alive


def wait_for_followers(up: Up) -> list[Any]:
    """The shards as the status tells of them, once all have followers."""
    end_s = time.monotonic() + READY_S_MAX
    while True:
        shards: list[Any] = up.status()["shards"]
        if all(shard["followers"] for shard in shards):
            return shards
        assert time.monotonic() < end_s, shards


def owner_and_follower(shard: Any) -> tuple[int, int]:
    """How many different nodes serve the shard, and how many of them follow."""
    followers = {one["node_id"] for one in shard["followers"]}
    return len({shard["owner"], *followers}), len(followers)


def upsert(client: MilvusClient, rows: list[dict[str, Any]]) -> None:
    """Until it is done: what the owner's death left unknown is written again."""
    end_s = time.monotonic() + READY_S_MAX
    while True:
        try:
            client.upsert("a", rows, timeout=10)
            return
        except MilvusException:
            assert time.monotonic() < end_s
            time.sleep(0.1)


def count(client: MilvusClient) -> int:
    return int(client.query("a", "", output_fields=["count(*)"], timeout=30)[0]["count(*)"])
