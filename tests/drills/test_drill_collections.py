"""Collections come, fill, are flushed, merged, released, loaded and dropped by several clients at once, so that every
kind of background work meets collections that vanish under it. No call fails, the server lives, and after its next
start, when the collector takes stock, no file of them is left."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pymilvus import MilvusClient

from servers import BUSY, DrillServer

CLIENTS = 5
DIM, ROWS = 8, 700
EMPTY_S_MAX = 20.0
STAYS = "stays"


class Storm:
    """The clients."""

    def __init__(self, server: DrillServer, seconds: float) -> None:
        self.server = server
        self.until = time.monotonic() + seconds
        self.rounds: Counter[int] = Counter()
        self.faults: list[str] = []

    def client(self, number: int) -> None:
        client = MilvusClient(self.server.uri, timeout=60, dedicated=True)
        try:
            while time.monotonic() < self.until and self.server.is_alive:
                self.one_life(client, number)
                self.rounds[number] += 1
        except Exception as error:
            self.faults.append(f"client {number}: {str(error)[:300]}")
        finally:
            client.close()

    def one_life(self, client: MilvusClient, number: int) -> None:
        life = self.rounds[number]
        name = f"passing_{number}_{life}"
        client.create_collection(name, dimension=DIM)
        vectors = np.random.default_rng(life).standard_normal((3, ROWS, DIM)).astype(np.float32)
        for batch, part in enumerate(vectors):
            client.insert(name, [{"id": at + batch * ROWS, "vector": row} for at, row in enumerate(part)])
            client.flush(name)
        if life % 2:
            client.compact(name)
        client.delete(name, filter="id < 300")
        if life % 3 == 0:
            client.release_collection(name)
            client.load_collection(name)
        count = client.query(name, "", output_fields=["count(*)"], consistency_level="Strong")[0]["count(*)"]
        if count != 3 * ROWS - 300:
            self.faults.append(f"{name}: {count} rows")
        client.drop_collection(name)


def play(folder: Path, seconds: float) -> None:
    server = DrillServer(folder, *BUSY).wait_ready()
    try:
        client = MilvusClient(server.uri)
        client.create_collection(STAYS, dimension=DIM)
        client.close()
        storm = Storm(server, seconds)
        threads = [threading.Thread(target=storm.client, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        said = server.errors()
        print(f"\ncollection drill: {storm.rounds.total()} lives, {len(storm.faults)} faults")
        assert not storm.faults, storm.faults
        assert server.is_alive and " task.failed" not in said and "call.failed" not in said, said[-2000:]
        assert server.stop() == 0
        server = DrillServer(folder, *BUSY).wait_ready()
        wait_empty(server)
    finally:
        server.kill()


def wait_empty(server: DrillServer) -> None:
    """Nobody else is left in the catalog, and the collector takes their files."""
    client = MilvusClient(server.uri)
    assert client.list_collections() == [STAYS]
    stays = str(client.describe_collection(STAYS)["collection_id"])
    client.close()
    folder = server.folder / "objects" / "collection"
    until = time.monotonic() + EMPTY_S_MAX
    while left := [path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder).parts[0] != stays]:
        assert time.monotonic() < until, f"{len(left)} files are left: {left[:3]}"
        time.sleep(0.2)


@pytest.mark.slow
def test_come_and_go_for_a_moment(tmp_path: Path) -> None:
    play(tmp_path / "store", 5.0)


@pytest.mark.drill
@pytest.mark.alone
def test_come_and_go_for_long(tmp_path: Path) -> None:
    play(tmp_path / "store", 40.0)
