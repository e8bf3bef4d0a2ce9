"""Reads at Strong go on in several processes during flush, index build, merges, delete storms, and other collections'
coming, loading, leaving: no row is missed and none comes twice. What the readers hold against the answers stands in
`probe_client`."""

from __future__ import annotations

import itertools
import json
import logging
import random
import re
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from probe_client import (
    COLLECTION,
    DIM,
    FIRST_MOVING,
    FIRST_PASSING,
    MOVING,
    MOVING_COUNT,
    PASSING,
    STILL,
    STILL_COUNT,
    vectors,
)
from pymilvus import DataType, MilvusClient

from servers import BUSY, DrillServer

logging.getLogger("pymilvus").setLevel(logging.CRITICAL + 1)

PROBERS = 3
BATCH = 400
STORMS_APART = 4
SEED = 20261123


def create(client: MilvusClient) -> None:
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("pk", DataType.INT64, is_primary=True)
    schema.add_field("kind", DataType.INT64)
    schema.add_field("batch", DataType.INT64)
    schema.add_field("version", DataType.INT64)
    schema.add_field("flat", DataType.FLOAT_VECTOR, dim=DIM)
    schema.add_field("graph", DataType.FLOAT_VECTOR, dim=DIM)
    params = client.prepare_index_params()
    params.add_index("flat", index_type="FLAT", metric_type="L2")
    params.add_index("graph", index_type="HNSW", metric_type="L2", params={"M": 16, "efConstruction": 100})
    client.create_collection(COLLECTION, schema=schema, index_params=params, num_shards=2)


def rows(keys: np.ndarray, kind: int, batch: int, version: int) -> list[dict[str, Any]]:
    made = vectors(keys) if kind != PASSING else np.random.default_rng(batch).standard_normal((len(keys), DIM)) * 2 + 3
    made = made.astype(np.float32)
    return [
        {"pk": int(key), "kind": kind, "batch": batch, "version": version, "flat": made[at], "graph": made[at]}
        for at, key in enumerate(keys)
    ]


class Churn:
    """What goes on beside the readers, in three threads."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.stop = threading.Event()
        self.done: Counter[str] = Counter()
        self.faults: list[str] = []

    def guarded(self, work: Any) -> None:
        client = MilvusClient(self.uri, timeout=30)
        try:
            for number in itertools.count():
                if self.stop.is_set():
                    return
                work(client, number)
        except Exception as error:
            self.faults.append(f"{work.__name__}: {error}")
        finally:
            client.close()

    def pass_through(self, client: MilvusClient, number: int) -> None:
        """Rows come in batches; every few batches a storm deletes most of them, by filter or by keys."""
        first = FIRST_PASSING + number * BATCH
        client.insert(COLLECTION, rows(np.arange(first, first + BATCH), PASSING, number, 0))
        self.done["insert"] += 1
        if number % STORMS_APART == STORMS_APART - 1:
            client.delete(COLLECTION, filter=f"kind == {PASSING} and batch > {number - STORMS_APART}")
            client.delete(COLLECTION, ids=list(range(FIRST_PASSING, first, 7))[-2000:])
            self.done["delete storm"] += 1
        if number % 3 == 2:
            client.flush(COLLECTION)
            self.done["flush"] += 1
        if number % 10 == 9:
            client.compact(COLLECTION)
            self.done["compact"] += 1

    def move(self, client: MilvusClient, number: int) -> None:
        """The moving rows are upserted, a part at a time, with rising versions."""
        keys = np.arange(FIRST_MOVING, FIRST_MOVING + MOVING_COUNT)
        part = np.random.default_rng(number).choice(keys, 100, replace=False)
        client.upsert(COLLECTION, rows(part, MOVING, 0, number + 1))
        self.done["upsert"] += 1
        self.stop.wait(0.02)

    def neighbours(self, client: MilvusClient, number: int) -> None:
        """Other collections are made, filled, indexed, loaded, released and dropped."""
        name = f"neighbour_{number}"
        client.create_collection(name, dimension=DIM)
        data = np.random.default_rng(number).standard_normal((1500, DIM)).astype(np.float32)
        client.insert(name, [{"id": at, "vector": data[at]} for at in range(len(data))])
        client.flush(name)
        client.release_collection(name)
        client.load_collection(name)
        found = client.query(name, output_fields=["count(*)"], consistency_level="Strong")[0]["count(*)"]
        if found != len(data):
            self.faults.append(f"{name}: {found} rows")
        client.drop_collection(name)
        self.done["neighbours"] += 1


def play(folder: Path, seconds: float) -> None:
    server = DrillServer(folder, *BUSY).wait_ready()
    try:
        client = MilvusClient(server.uri)
        create(client)
        for first in range(0, STILL_COUNT, 500):
            client.insert(COLLECTION, rows(np.arange(first, first + 500), STILL, 0, 0))
        client.insert(COLLECTION, rows(np.arange(FIRST_MOVING, FIRST_MOVING + MOVING_COUNT), MOVING, 0, 0))
        churn = Churn(server.uri)
        works = (churn.pass_through, churn.move, churn.neighbours)
        threads = [threading.Thread(target=churn.guarded, args=(work,)) for work in works]
        script = str(Path(__file__).with_name("probe_client.py"))
        dice = random.Random(SEED)
        probers = [
            subprocess.Popen(
                [sys.executable, script, server.uri, str(seconds), str(dice.randrange(1 << 30))],
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(PROBERS)
        ]
        for thread in threads:
            thread.start()
        told = [json.loads(prober.communicate(timeout=seconds + 120)[0]) for prober in probers]
        churn.stop.set()
        for thread in threads:
            thread.join()
        report(churn, told, server)
        assert not [fault for one in told for fault in one["faults"]]
        assert not churn.faults
        assert server.stop() == 0
    finally:
        server.kill()


def report(churn: Churn, told: list[dict[str, Any]], server: DrillServer) -> None:
    probes = sum((Counter(one["probes"]) for one in told), Counter())
    faults = [fault for one in told for fault in one["faults"]] + churn.faults
    said = server.errors()
    events = Counter(re.findall(r"(?<![\w.])[a-z]+\.[a-z_]+(?= [a-z]+=)", said))
    print(
        f"\nprobing drill: {probes.total()} probes {dict(probes)}, longest {max(one['longest_s'] for one in told)} s; "
        f"beside them {dict(churn.done)}; server {dict(events)}; {len(faults)} faults"
    )
    faults += [line for line in said.splitlines() if "failed" in line or "Error" in line]
    for fault in sorted(faults, key=lambda text: ("task.failed" not in text, "failed" not in text))[:20]:
        print("-", fault)


@pytest.mark.slow
def test_probed_for_a_moment(tmp_path: Path) -> None:
    play(tmp_path / "store", 10.0)


@pytest.mark.drill
@pytest.mark.alone
def test_probed_for_long(tmp_path: Path) -> None:
    play(tmp_path / "store", 65.0)
