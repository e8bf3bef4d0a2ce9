"""A server killed in the middle of a build has the index a while after its next start."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from pymilvus import DataType, MilvusClient

from servers import DrillServer

ROWS, DIMENSION = 20_000, 64
SLOW_TO_BUILD: Mapping[str, Mapping[str, int]] = {
    "HNSW": {"M": 32, "efConstruction": 400},
    "DISKANN": {"max_degree": 56, "search_list_size": 200},
}
WAIT_S_MAX = 120.0


@pytest.mark.drill
@pytest.mark.parametrize("index_type", SLOW_TO_BUILD)
def test_a_build_survives_a_kill(tmp_path: Path, index_type: str) -> None:
    values = np.random.default_rng(3).normal(size=(ROWS, DIMENSION)).astype(np.float32)
    # With one thread a build takes seconds on any machine.
    server = DrillServer(tmp_path / "data", "--set", "index.build_threads=1").wait_ready()
    client = MilvusClient(server.uri, dedicated=True)
    try:
        _fill(client, values)
        _begin_index(client, index_type)
        time.sleep(0.2)
        state = client.describe_index("c", "v")
    finally:
        server.kill()
        client.close()
    assert state["state"] == "InProgress", "the kill came too late"
    assert not _index_files(tmp_path)
    server = DrillServer(tmp_path / "data").wait_ready()
    client = MilvusClient(server.uri, dedicated=True)
    try:
        until = time.monotonic() + WAIT_S_MAX
        while client.describe_index("c", "v")["state"] != "Finished":
            assert time.monotonic() < until
            time.sleep(0.2)
        assert client.describe_index("c", "v")["indexed_rows"] == ROWS
        assert len(_index_files(tmp_path)) == 1
        client.load_collection("c")
        found = client.search("c", values[:100].tolist(), limit=1, consistency_level="Strong")
        assert [hits[0]["id"] for hits in found] == list(range(100))
    finally:
        client.close()
        server.kill()


def _fill(client: MilvusClient, values: np.ndarray) -> None:
    schema = client.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("v", DataType.FLOAT_VECTOR, dim=DIMENSION)
    client.create_collection("c", schema=schema)
    for start in range(0, ROWS, 5000):
        rows = [{"id": start + place, "v": row} for place, row in enumerate(values[start : start + 5000])]
        client.insert("c", rows)
    client.flush("c")


def _begin_index(client: MilvusClient, index_type: str) -> None:
    indexes = client.prepare_index_params()
    indexes.add_index("v", index_type=index_type, metric_type="L2", params=dict(SLOW_TO_BUILD[index_type]))
    client.create_index("c", indexes, sync=False)


def _index_files(folder: Path) -> list[Path]:
    return [path for path in (folder / "data" / "objects").rglob("index-*") if path.is_file()]
