"""Vectors of every type outlive a killed server, in the log and in files; indexes over them find what is near."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymilvus import MilvusClient
from test_vector_types_served import Compared, as_sent, created, rows_of
from vector_twin import KINDS, nearest

from servers import DrillServer

GRAPH_ROWS = 1500
SHOWN_S_MAX = 30.0


@pytest.mark.slow
def test_every_type_outlives_a_killed_server(tmp_path: Path) -> None:
    server = DrillServer(tmp_path / "data").wait_ready()
    client = MilvusClient(server.uri)
    worlds = {}
    for name, kind in KINDS.items():
        created(client, name, kind, kind.metrics[0])
        worlds[name] = Compared(client, name, kind, kind.metrics[0])
        flushed, logged = rows_of(kind, range(80), 1), rows_of(kind, range(80, 120), 2)
        client.insert(name, as_sent(kind, flushed))
        client.flush(name)
        client.insert(name, as_sent(kind, logged))
        client.delete(name, ids=[1, 90])
        worlds[name].rows = {key: row for key, row in (flushed | logged).items() if key not in (1, 90)}
    client.close()
    server.kill()
    server = DrillServer(tmp_path / "data").wait_ready()
    client = MilvusClient(server.uri)
    try:
        for name, world in worlds.items():
            world.client = client
            shown_again(client, name)
            world.check_all()
            world.check_stored()
    finally:
        client.close()
        server.kill()


def shown_again(client: MilvusClient, name: str) -> None:
    """A collection that was loaded is loaded again after a start."""
    client.load_collection(name, timeout=SHOWN_S_MAX)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("FLOAT16", {"index_type": "HNSW", "params": {"M": 16, "efConstruction": 100}}),
        ("BFLOAT16", {"index_type": "IVF_FLAT", "params": {"nlist": 16}}),
        ("FLOAT16", {"index_type": "DISKANN", "params": {"max_degree": 24}}),
        ("INT8", {"index_type": "HNSW", "params": {"M": 16, "efConstruction": 100}}),
        ("INT8", {"index_type": "AUTOINDEX"}),
        ("BINARY", {"index_type": "BIN_IVF_FLAT", "params": {"nlist": 16}}),
        ("SPARSE", {"index_type": "SPARSE_WAND", "params": {"drop_ratio_build": 0.2}}),
        ("SPARSE", {"index_type": "SPARSE_INVERTED_INDEX", "params": {"inverted_index_algo": "TAAT_NAIVE"}}),
    ],
)
def test_indexes_over_every_type_find_what_is_near(tmp_path: Path, name: str, index: dict[str, Any]) -> None:
    kind, server = KINDS[name], DrillServer(tmp_path / "data").wait_ready()
    client = MilvusClient(server.uri)
    try:
        metric = kind.metrics[-1]
        created(client, "near", kind, metric, **index)
        world = Compared(client, "near", kind, metric)
        world.rows = rows_of(kind, range(GRAPH_ROWS), 5)
        client.insert("near", as_sent(kind, world.rows))
        client.flush("near")
        until = time.monotonic() + SHOWN_S_MAX
        while client.describe_index("near", "vec")["pending_index_rows"] and time.monotonic() < until:
            time.sleep(0.05)
        described = client.describe_index("near", "vec")
        assert described["index_type"] == index["index_type"]
        assert described["metric_type"] == metric
        assert index.get("params", {}).items() <= {**described, **as_integers(described)}.items()
        assert found_share(world) > 0.9
    finally:
        client.close()
        server.kill()


def as_integers(described: dict[str, Any]) -> dict[str, Any]:
    """Parameters come back as text."""
    return {key: float(value) for key, value in described.items() if str(value).replace(".", "").isdigit()}


def found_share(world: Compared) -> float:
    """Share of hits as good as the twin's tenth."""
    found = world.client.search("near", list(map(world.asked, world.queries)), limit=10)
    shares = []
    for query, hits in zip(world.queries, found, strict=True):
        bound = nearest(world.metric, world.rows, query, 10)[-1][1]
        sign = 1 if world.metric in ("IP", "COSINE") else -1
        shares.append(np.mean([sign * (hit["distance"] - bound) > -1e-5 for hit in hits]) * len(hits) / 10)
    return float(np.mean(shares))
