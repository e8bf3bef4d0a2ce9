"""What a cluster costs: queries/s and rows/s with 1 and 2 query and streaming processes, processor time by role.

    python -m bench.scaling [--rows N] [--dim D] [--seconds S]

Each shape is an `elanus up` of its own (its own etcd, objects in a local folder). Clients are processes. The processor
time by role, from `elanus status`, is what the model in docs/scaling.md is made from; on a machine with two cores the
rates themselves end where the clients and the roles share them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np

BATCH = 1000
CLIENTS = 2


class Shape:
    """A running cluster."""

    def __init__(self, folder: Path, query: int, streaming: int) -> None:
        self.log = folder / "up.log"
        words = ["--folder", str(folder / "cluster"), "--port", "0", "--query", str(query)]
        words += ["--streaming", str(streaming), "--coordinators", "1", "--set", "log.pchannel_count=4"]
        words += ["--set", "compute.serving_threads=1", "--set", "segment.flush_bytes_max=33554432"]
        words += ["--set", "compaction.enabled=false"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([sys.executable, "-m", "elanus", "up", *words], stdout=log, stderr=log)
        roles = ("proxy 1", "data 1", "coordinator 1", f"query {query}", f"streaming {streaming}")
        while not all(f"{name}: Elanus" in self.log.read_text() for name in roles):
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.2)
        text = self.log.read_text()
        self.uri = f"http://{_found(r'proxy 1: .* on ([0-9.:]+)', text)}"
        self.meta = _found(r"metadata on (\S+),", text)

    def cpu_s(self) -> dict[str, float]:
        """Processor time so far, by role."""
        words = [sys.executable, "-m", "elanus", "status", "--json", "--meta", self.meta]
        report = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
        used: dict[str, float] = defaultdict(float)
        for node in report["nodes"]:
            used[node["record"]["role"]] += node["process"]["cpu_s"]
        return used


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match is not None, text
    return match[1]


@contextmanager
def shape(query: int, streaming: int) -> Iterator[Shape]:
    """A cluster of that shape, ended afterwards."""
    with tempfile.TemporaryDirectory(prefix="elanus-scaling-", dir=Path.cwd()) as folder:
        made = Shape(Path(folder), query, streaming)
        try:
            yield made
        finally:
            made.process.send_signal(signal.SIGTERM)
            made.process.wait(60)


def _insert(uri: str, first: int, count: int, dim: int) -> None:
    from pymilvus import MilvusClient

    client = MilvusClient(uri, timeout=60)
    dice = np.random.default_rng(first)
    for start in range(first, first + count, BATCH):
        data = dice.random((BATCH, dim), np.float32)
        client.insert("a", [{"id": start + row, "vector": data[row]} for row in range(BATCH)])


def _search(uri: str, dim: int, seconds: float, together: Barrier, done: Synchronized[int]) -> None:
    from pymilvus import MilvusClient

    client = MilvusClient(uri, timeout=60)
    dice, count = np.random.default_rng(), 0
    client.search("a", [dice.random(dim, np.float32)], limit=10)
    together.wait()
    until = time.time() + seconds
    while time.time() < until:
        client.search("a", [dice.random(dim, np.float32)], limit=10)
        count += 1
    with done.get_lock():
        done.value += count


def _all(target: object, calls: list[tuple[object, ...]]) -> float:
    """Run the calls in processes of their own; the seconds it took."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=target, args=arguments) for arguments in calls]  # type: ignore[arg-type]
    started = time.perf_counter()
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return time.perf_counter() - started


def _row(name: str, rate: float, unit: str, count: int, before: dict[str, float], after: dict[str, float]) -> None:
    costs = "  ".join(f"{role} {1e6 * (after[role] - before[role]) / count:8.1f}" for role in sorted(after))
    sys.stdout.write(f"{name:24}{rate:9.0f} {unit:9} CPU us each: {costs}\n")
    sys.stdout.flush()


def measure(query: int, streaming: int, options: argparse.Namespace) -> None:
    """Insert, then search, on one shape."""
    from pymilvus import MilvusClient

    with shape(query, streaming) as cluster:
        client = MilvusClient(cluster.uri, timeout=120)
        schema = client.create_schema()
        schema.add_field("id", 5, is_primary=True)  # INT64
        schema.add_field("vector", 101, dim=options.dim)  # FLOAT_VECTOR
        params = client.prepare_index_params()
        params.add_index("vector", index_type="FLAT", metric_type="L2")
        client.create_collection("a", schema=schema, index_params=params, num_shards=2, consistency_level="Bounded")
        name = f"{query} query {streaming} streaming"
        before = cluster.cpu_s()
        share = options.rows // CLIENTS
        seconds = _all(
            _insert, [(cluster.uri, client_number * share, share, options.dim) for client_number in range(CLIENTS)]
        )
        _row(name, options.rows / seconds, "rows/s", options.rows, before, cluster.cpu_s())
        client.flush("a", timeout=120)
        time.sleep(5.0)
        before = cluster.cpu_s()
        context = multiprocessing.get_context("spawn")
        done, together = context.Value("i", 0), context.Barrier(2 * CLIENTS)
        _all(_search, [(cluster.uri, options.dim, options.seconds, together, done)] * (2 * CLIENTS))
        _row(name, done.value / options.seconds, "queries/s", done.value, before, cluster.cpu_s())


def main() -> None:
    """All shapes, one after the other."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.scaling", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=8.0)
    options = parser.parse_args()
    for query, streaming in ((1, 1), (2, 1), (1, 2), (2, 2)):
        measure(query, streaming, options)


if __name__ == "__main__":
    main()
