"""DISKANN on more vectors than the searching process may hold in memory: ``python -m bench.disk``.

Makes clustered vectors (600 MB unless told otherwise), builds the index in one process, as a data node does, and
searches it in another whose resident growth over its idle state is measured. That process runs in a memory cgroup of
its idle size plus a quarter of the data where the machine lets us make one, so that the page cache counts as well; the
file's pages are dropped before the search. Reads are counted by the door that does them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.environment import CACHE, ROOT

K = 10
QUERIES = 500
CENTRES = 2000
LATENT = 48
BLOCK = 20_000
CGROUPS = (
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
    (Path("/sys/fs/cgroup"), "memory.max"),
)


def make(folder: Path, rows: int, dimension: int) -> None:
    """Vectors, queries and the true neighbours, unless they are there."""
    if (folder / "truth.npy").exists():
        return
    random = np.random.default_rng(7)
    centres = random.normal(size=(CENTRES, LATENT)).astype(np.float32)
    lift = (random.normal(size=(LATENT, dimension)) / np.sqrt(LATENT)).astype(np.float32)

    def some(count: int) -> np.ndarray:
        latent = centres[random.integers(0, CENTRES, count)] + 0.7 * random.normal(size=(count, LATENT))
        values = latent.astype(np.float32) @ lift
        return np.asarray(values + 0.05 * random.normal(size=values.shape), np.float32)

    folder.mkdir(parents=True, exist_ok=True)
    vectors = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.float32, (rows, dimension))
    for start in range(0, rows, BLOCK):
        vectors[start : start + BLOCK] = some(min(BLOCK, rows - start))
    queries = some(QUERIES)
    scores = np.empty((QUERIES, rows), np.float32)
    for start in range(0, rows, BLOCK):
        block = np.asarray(vectors[start : start + BLOCK])
        scores[:, start : start + BLOCK] = 2 * queries @ block.T - (block * block).sum(axis=1)
    best = np.argpartition(-scores, K, axis=1)[:, :K]
    np.save(folder / "queries.npy", queries)
    np.save(folder / "truth.npy", best)


def build(folder: Path, threads: int) -> dict[str, Any]:
    """Build the index file of the vectors; in a process of its own."""
    from elanus.index import registry
    from elanus.model.schema import FieldSchema
    from elanus.model.types import DataType

    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    field = FieldSchema(100, "v", DataType.FLOAT_VECTOR, type_params={"dim": str(vectors.shape[1])})
    resolved = registry.resolve({"index_type": "DISKANN", "metric_type": "L2"}, field)
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    parts = registry.build(resolved, np.asarray(vectors), threads)
    took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    with open(folder / "index", "wb") as file:
        for part in parts:
            file.write(part)
    return {"build_s": took_s, "build_cpu_s": cpu_s, "file_bytes": (folder / "index").stat().st_size}


def resident() -> dict[str, int]:
    """VmRSS and its parts, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith(("VmRSS", "Rss"))}


def limited(extra_bytes: int) -> str:
    """Put this process into a memory cgroup of its size now and `extra_bytes`; says what came of it."""
    limit = resident()["VmRSS"] + extra_bytes
    for base, knob in CGROUPS:
        own = base / f"elanus-bench-{os.getpid()}"
        try:
            own.mkdir()
            (own / knob).write_text(str(limit))
            (own / "cgroup.procs").write_text(str(os.getpid()))
        except OSError:
            continue
        return f"cgroup {own.name}: {knob} = {limit / 2**20:.0f} MiB"
    return "no memory cgroup can be made here: not limited"


def search(folder: Path, list_size: int) -> dict[str, Any]:
    """Search the file one query at a time; in a process of its own."""
    from elanus.base.files import PosixFiles
    from elanus.index import registry

    queries, truth = np.load(folder / "queries.npy"), np.load(folder / "truth.npy")
    data_bytes = (folder / "vectors.npy").stat().st_size
    files = PosixFiles()
    path = str(folder / "index")
    registry.INDEX_TYPES["DISKANN"]
    idle = resident()
    limit = limited(data_bytes // 4)
    mapped, file = files.map(path), files.open(path)
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    index = registry.load(mapped, file)
    params = {"search_list": list_size} if list_size else {}
    began_s = time.perf_counter()
    index.search(queries[:1], K, None, params)
    first_ms = (time.perf_counter() - began_s) * 1000
    before = file.piece_count
    times = np.empty(len(queries))
    rows = np.empty((len(queries), K), np.int64)
    cpu_s = time.process_time()
    for at in range(len(queries)):
        began_s = time.perf_counter()
        rows[at] = index.search(queries[at : at + 1], K, None, params).rows[0]
        times[at] = (time.perf_counter() - began_s) * 1000
    cpu_s = time.process_time() - cpu_s
    now = resident()
    hits = [len(set(one) & set(true)) for one, true in zip(rows.tolist(), truth.tolist(), strict=True)]
    return {
        "limit": limit,
        "data_mib": data_bytes / 2**20,
        "idle_mib": idle["VmRSS"] / 2**20,
        "growth_mib": (now["VmRSS"] - idle["VmRSS"]) / 2**20,
        "growth_share": (now["VmRSS"] - idle["VmRSS"]) / data_bytes,
        "growth_anonymous_mib": (now["RssAnon"] - idle["RssAnon"]) / 2**20,
        "growth_mapped_mib": (now["RssFile"] - idle["RssFile"]) / 2**20,
        "recall_at_10": float(np.mean(hits)) / K,
        "reads_by_query": (file.piece_count - before) / len(queries),
        "first_query_ms": first_ms,
        "mean_ms": float(times.mean()),
        "p99_ms": float(np.quantile(times, 0.99)),
        "cpu_ms_by_query": cpu_s * 1000 / len(queries),
    }


def _child(step: str, options: argparse.Namespace) -> dict[str, Any]:
    words = [sys.executable, "-m", "bench.disk", "--step", step, "--rows", str(options.rows)]
    words += ["--dim", str(options.dim), "--search-list", str(options.search_list)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    told = subprocess.run(words, stdout=subprocess.PIPE, check=True, cwd=ROOT, env=environment, text=True)
    found: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures; 0 if recall and growth are as they should be."""
    parser = argparse.ArgumentParser(prog="python -m bench.disk", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--search-list", type=int, default=0, help="0: what the index chooses")
    parser.add_argument("--rebuild", action="store_true", help="build again although the index is there")
    parser.add_argument("--step", choices=("build", "search"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    folder = CACHE / f"disk-{options.rows}x{options.dim}"
    if options.step == "build":
        sys.stdout.write(json.dumps(build(folder, len(os.sched_getaffinity(0)))) + "\n")
        return 0
    if options.step == "search":
        sys.stdout.write(json.dumps(search(folder, options.search_list)) + "\n")
        return 0
    make(folder, options.rows, options.dim)
    if options.rebuild or not (folder / "index").exists():
        sys.stdout.write(json.dumps(_child("build", options), indent=1) + "\n")
    found = _child("search", options)
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    return 0 if found["recall_at_10"] >= 0.95 and found["growth_share"] <= 0.25 else 1


if __name__ == "__main__":
    raise SystemExit(main())
