"""DISKANN through a server: inserted, flushed, indexed, searched, killed, started again, and the same answers."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from pymilvus import MilvusClient

from filled import create, fill
from servers import DrillServer

pytestmark = pytest.mark.slow

ROWS, DIMENSION, K = 3000, 32, 10
WAIT_S_MAX = 60.0
BACKGROUND = ("--set", "segment.flush_idle_s=0.5")


def vectors(count: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.asarray(random.normal(size=(count, 8)) @ np.random.default_rng(3).normal(size=(8, DIMENSION)), np.float32)


def wait_indexed(client: MilvusClient) -> None:
    deadline_s = time.monotonic() + WAIT_S_MAX
    while client.describe_index("disk", "v")["indexed_rows"] < ROWS:
        assert time.monotonic() < deadline_s, client.describe_index("disk", "v")
        time.sleep(0.1)


def asked(client: MilvusClient, queries: np.ndarray, filter: str = "") -> list[list[tuple[int, float]]]:
    params = {"params": {"search_list": 60}}
    found = client.search("disk", queries.tolist(), filter=filter, limit=K, search_params=params, anns_field="v")
    return [[(hit["id"], hit["distance"]) for hit in hits] for hits in found]


def test_a_killed_server_answers_as_before(tmp_path: Path) -> None:
    stored, queries = vectors(ROWS, 1), vectors(20, 2)
    server = DrillServer(tmp_path / "data", *BACKGROUND).wait_ready()
    try:
        client = MilvusClient(server.uri)
        create(client, "disk", DIMENSION, {"index_type": "DISKANN", "metric_type": "L2"})
        fill(client, "disk", stored)
        wait_indexed(client)
        client.release_collection("disk")
        client.load_collection("disk")
        before = asked(client, queries), asked(client, queries, "id % 3 == 0")
        client.close()
    finally:
        server.kill()
    assert list((tmp_path / "data").rglob("index-*.diskann")), "no index was written"
    distances = ((queries[:, None] - stored[None]) ** 2).sum(axis=2)
    for found, step in zip(before, (1, 3), strict=True):
        truth = np.argsort(distances[:, ::step], axis=1)[:, :K] * step
        hits = [len({row for row, _ in one} & set(best)) for one, best in zip(found, truth.tolist(), strict=True)]
        assert np.mean(hits) / K >= 0.95
    again = DrillServer(tmp_path / "data", *BACKGROUND).wait_ready()
    try:
        client = MilvusClient(again.uri)
        assert (asked(client, queries), asked(client, queries, "id % 3 == 0")) == before
        client.close()
    finally:
        again.kill()
