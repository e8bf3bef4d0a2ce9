"""How fast a store of 60,000 rows of 384 dimensions answers again after kill -9, printed as a table.

    python tests/drills/restart_speed.py [FOLDER] [ROWS]

Two stores are made once in FOLDER (a temporary one unless given) and started again and again: `sealed`, everything
flushed and indexed, and `log`, everything still in the log. Measured from the start of the process: until the server
has told its address, until the first search is answered; then the p50, p99 and longest of the first 400 searches,
one after the other, each with a vector of its own. Goals: 1.5 s, and a p99 of 5 ms.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pymilvus import DataType, MilvusClient

from servers import DrillServer

ROWS, DIM, BATCH, SEARCHES, STARTS = 60_000, 384, 1000, 400, 3
GIB = 1 << 30
DATA = Path(__file__).resolve().parents[3] / "shared/data/debian_packages.parquet"
FLAGS = {
    "sealed": (),
    "log": ("--set", f"segment.flush_bytes_max={GIB}", "--set", "segment.flush_idle_s=86400"),
}


def vectors(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and queries: the Debian descriptions where they are at hand, else random ones."""
    wanted = count + SEARCHES
    if DATA.exists():
        import pyarrow.parquet as pq

        column = pq.read_table(DATA, columns=["embedding"])["embedding"].combine_chunks()
        stored = np.asarray(column.flatten()).reshape(-1, DIM).astype(np.float32)
        if len(stored) >= wanted:
            return stored[:count], stored[count:wanted]
    made = np.random.default_rng(1).standard_normal((wanted, DIM)).astype(np.float32)
    return made[:count], made[count:]


def fill(folder: Path, kind: str, rows: np.ndarray) -> None:
    """Make the store and kill its server."""
    server = DrillServer(folder, *FLAGS[kind]).wait_ready()
    client = MilvusClient(server.uri)
    schema = client.create_schema(auto_id=False)
    schema.add_field("pk", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIM)
    params = client.prepare_index_params()
    index = {"M": 16, "efConstruction": 200}
    params.add_index("vector", index_type="HNSW", metric_type="COSINE", params=index)
    client.create_collection("rows", schema=schema, index_params=params)
    began = time.monotonic()
    for first in range(0, len(rows), BATCH):
        part = rows[first : first + BATCH]
        client.insert("rows", [{"pk": first + at, "vector": row} for at, row in enumerate(part)])
    inserted = time.monotonic()
    if kind == "sealed":
        client.flush("rows")
        while (state := client.describe_index("rows", "vector"))["pending_index_rows"] or not state["indexed_rows"]:
            time.sleep(0.5)
        time.sleep(5)  # a merge may still follow
        while client.describe_index("rows", "vector")["pending_index_rows"]:
            time.sleep(0.5)
    print(f"{kind}: inserted in {inserted - began:.1f} s, ready after {time.monotonic() - began:.1f} s", flush=True)
    client.close()
    server.kill()


def measure(folder: Path, kind: str, queries: np.ndarray) -> dict[str, float]:
    """Start, search, kill."""
    server = DrillServer(folder, *FLAGS[kind]).wait_ready()
    told = time.monotonic()
    client: Any = MilvusClient(server.uri)
    took = []
    first = 0.0
    for query in queries:
        began = time.perf_counter()
        found = client.search("rows", [query], limit=10, search_params={"params": {"ef": 64}})
        took.append(time.perf_counter() - began)
        first = first or time.monotonic()
        assert len(found[0]) == 10
    client.close()
    server.kill()
    milliseconds = np.array(took[1:]) * 1000
    return {
        "told s": told - server.started_s,
        "first answer s": first - server.started_s,
        "first search ms": took[0] * 1000,
        "p50 ms": float(np.percentile(milliseconds, 50)),
        "p99 ms": float(np.percentile(milliseconds, 99)),
        "max ms": float(milliseconds.max()),
    }


def main() -> None:
    """See the module's head."""
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL + 1)
    count = int(sys.argv[2]) if len(sys.argv) > 2 else ROWS
    rows, queries = vectors(count)
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        for kind in FLAGS:
            if not (home / kind).exists():
                fill(home / kind, kind, rows)
            for number in range(STARTS):
                figures = measure(home / kind, kind, queries)
                print(f"{kind} {number}: " + ", ".join(f"{k} {v:.2f}" for k, v in figures.items()), flush=True)


if __name__ == "__main__":
    main()
