"""Right requests at the wrong moment: dropping, creating and releasing what others write and read. Everyone gets an
answer with a code of its own, never 'internal error', and what was acknowledged is what there is."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from bad_world import World
from pymilvus import MilvusClient, MilvusException

pytestmark = pytest.mark.slow

DIM = 4
# Not found, not loaded, no such index, channel gone, loading, schema changed, timed out on something dropped.
GONE = {100, 101, 103, 106, 200, 201, 503, 700}


def rows(first: int, count: int) -> list[dict[str, Any]]:
    return [{"id": first + at, "vector": [float(at), 1.0, 2.0, 3.0]} for at in range(count)]


class Crowd:
    """Threads with clients of their own, and the codes of what they were refused."""

    def __init__(self, world: World) -> None:
        self.uri = world.uri
        self.codes: Counter[int] = Counter()
        self.texts: dict[int, str] = {}
        self.done = 0

    def run(self, *works: Callable[[MilvusClient], None]) -> None:
        threads = [threading.Thread(target=self.guarded, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def guarded(self, work: Callable[[MilvusClient], None]) -> None:
        client = MilvusClient(self.uri, timeout=30, dedicated=True)
        try:
            work(client)
        finally:
            client.close()

    def attempt(self, call: Callable[[], Any]) -> bool:
        try:
            call()
        except MilvusException as error:
            self.codes[error.code] += 1
            self.texts[error.code] = error.message
            return False
        self.done += 1
        return True


def test_dropped_while_written_and_read(world: World) -> None:
    crowd = Crowd(world)
    gone = threading.Event()
    world.client.create_collection("passing", dimension=DIM)

    def write(client: MilvusClient) -> None:
        for number in range(2000):
            if not crowd.attempt(lambda at=number: client.insert("passing", rows(at * 10, 10))) and gone.is_set():
                return

    def read(client: MilvusClient) -> None:
        for _ in range(2000):
            if not crowd.attempt(lambda: client.search("passing", [[1.0] * DIM], limit=3)) and gone.is_set():
                return

    def drop(client: MilvusClient) -> None:
        while crowd.done < 40 and sum(crowd.codes.values()) < 40:
            gone.wait(0.01)
        client.drop_collection("passing")
        gone.set()

    crowd.run(write, write, read, drop)
    assert set(crowd.codes) <= GONE, crowd.texts
    assert not world.client.has_collection("passing")


def test_made_again_under_the_same_name(world: World) -> None:
    """Every life of a name begins empty and holds what was acknowledged in it."""
    crowd = Crowd(world)
    for life in range(5):
        world.client.create_collection("phoenix", dimension=DIM)
        world.client.insert("phoenix", rows(life * 1000, 10 + life))
        strong = {"consistency_level": "Strong"}
        found = world.client.query("phoenix", "id >= 0", output_fields=["id"], limit=100, **strong)
        assert sorted(row["id"] for row in found) == list(range(life * 1000, life * 1000 + 10 + life))
        world.client.drop_collection("phoenix")
    assert not crowd.codes


def test_made_by_many_at_once(world: World) -> None:
    crowd = Crowd(world)

    def make(client: MilvusClient) -> None:
        crowd.attempt(lambda: client.create_collection("popular", dimension=DIM))
        crowd.attempt(lambda: client.insert("popular", rows(0, 1)))

    crowd.run(*[make] * 6)
    assert set(crowd.codes) <= {100, 101, 65535}, crowd.texts
    assert world.client.list_collections().count("popular") == 1
    crowd.run(*[lambda client: client.drop_collection("popular")] * 6)
    assert not world.client.has_collection("popular")


def test_released_while_searched(world: World) -> None:
    crowd = Crowd(world)
    world.client.create_collection("restless", dimension=DIM)
    world.client.insert("restless", rows(0, 50))
    stop = threading.Event()

    def read(client: MilvusClient) -> None:
        while not stop.is_set():
            crowd.attempt(lambda: exactly(client))

    def exactly(client: MilvusClient) -> None:
        found = client.query("restless", "id >= 0", output_fields=["count(*)"], consistency_level="Strong")
        assert found[0]["count(*)"] == 50

    def toggle(client: MilvusClient) -> None:
        for _ in range(8):
            client.release_collection("restless")
            client.load_collection("restless")
        stop.set()

    crowd.run(read, read, toggle)
    assert set(crowd.codes) <= GONE, crowd.texts
    world.client.drop_collection("restless")
