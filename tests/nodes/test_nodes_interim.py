"""A real server whose growing rows get an interim index: what clients see stays what an exact search sees."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from pymilvus import MilvusClient

from filled import create
from servers import DrillServer

pytestmark = pytest.mark.slow

ROWS, DIMENSION, K = 4800, 2048, 10
BUILT_S_MAX = 60.0


def vectors_of(count: int, seed: int) -> np.ndarray:
    """Around 40 centres."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(40, DIMENSION))
    return np.asarray(centres[random.integers(0, 40, count)] + random.normal(size=(count, DIMENSION)), np.float32)


def insert(client: MilvusClient, values: np.ndarray, first: int) -> None:
    for start in range(0, len(values), 800):
        rows = [{"id": first + start + at, "v": row} for at, row in enumerate(values[start : start + 800])]
        client.insert("growing", rows)


def recall(client: MilvusClient, values: np.ndarray, alive: np.ndarray, filter_: str = "") -> float:
    """Against a plain product over the rows that are alive; no other row may come back."""
    queries = vectors_of(10, 77)
    found = client.search("growing", list(queries), limit=K, filter=filter_)
    distances = ((queries[:, None, :] - values[None, :, :]) ** 2).sum(axis=2)
    distances[:, ~alive] = np.inf
    truth = np.argsort(distances, axis=1)[:, :K]
    ids = [[hit["id"] for hit in hits] for hits in found]
    assert all(len(set(one)) == K and alive[one].all() for one in ids)
    return float(np.mean([len(set(one) & set(true)) / K for one, true in zip(ids, truth.tolist(), strict=True)]))


@pytest.mark.parametrize("enabled", ["true", "false"])
def test_growing_rows_are_searched_through_an_index_and_nothing_else_changes(tmp_path: Path, enabled: str) -> None:
    flags = ("--set", f"index.interim_enabled={enabled}", "--set", "log.pchannel_count=1", "--log-level", "info")
    server = DrillServer(tmp_path / "data", *flags).wait_ready()
    client = MilvusClient(server.uri)
    try:
        create(client, "growing", DIMENSION, {"index_type": "HNSW", "metric_type": "L2"}, num_shards=1)
        values = vectors_of(ROWS + 200, 1)
        insert(client, values[:ROWS], 0)
        alive = np.arange(len(values)) < ROWS
        assert recall(client, values, alive) >= 0.95
        began_s = time.monotonic()
        while enabled == "true" and "index.interim_built" not in server.errors():
            assert time.monotonic() - began_s < BUILT_S_MAX, server.errors()
            time.sleep(0.1)
        assert recall(client, values, alive) >= 0.95
        # New rows, rows that are gone, and rows that are others now, each visible with the next search.
        insert(client, values[ROWS:], ROWS)
        client.delete("growing", ids=list(range(2000)))
        alive = np.arange(len(values)) >= 2000
        assert recall(client, values, alive) >= 0.95
        values[3000:3010] = vectors_of(10, 77)
        client.upsert("growing", [{"id": at, "v": values[at]} for at in range(3000, 3010)])
        assert recall(client, values, alive) >= 0.95
        found = client.search("growing", list(values[3000:3010]), limit=1)
        assert [hits[0]["id"] for hits in found] == list(range(3000, 3010))
        assert recall(client, values, alive & (np.arange(len(values)) % 50 == 0), "id % 50 == 0") >= 0.95
        assert ("index.interim_built" in server.errors()) == (enabled == "true")
    finally:
        client.close()
        server.kill()
