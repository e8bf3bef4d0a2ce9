"""A server killed in the middle of a build has the index a while after its next start."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from pymilvus import MilvusClient

from filled import create, create_index, fill, normal_vectors
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
    values = normal_vectors(ROWS, DIMENSION)
    # With one thread a build takes seconds on any machine.
    server = DrillServer(tmp_path / "data", "--set", "index.build_threads=1").wait_ready()
    client = MilvusClient(server.uri, dedicated=True)
    try:
        create(client, "c", DIMENSION)
        fill(client, "c", values)
        index = {"index_type": index_type, "metric_type": "L2", "params": dict(SLOW_TO_BUILD[index_type])}
        create_index(client, "c", index, sync=False)
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


def _index_files(folder: Path) -> list[Path]:
    return [path for path in (folder / "data" / "objects").rglob("index-*") if path.is_file()]
