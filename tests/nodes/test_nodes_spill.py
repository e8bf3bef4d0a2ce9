"""Results that are too large for one reply: the same answers, by way of the object store, of which nothing is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
from node_calls import Client, refused, row, rows

from elanus.base.doors import Doors
from elanus.base.errors import ReplyLostError, StorageError, UnavailableError
from elanus.model.columns import Column
from elanus.model.reads import Found, Hits
from elanus.nodes.codec import encode
from elanus.nodes.coordinator.leader import TIDY_S
from elanus.nodes.spill import Spills, collect_expired
from elanus.objects import paths
from elanus.objects.memory import MemoryObjectStore
from elanus.testing import clock
from elanus.testing.cluster import ClusterOptions, ClusterWorld, play_cluster
from elanus.testing.invariants import check_all

LIMIT_BYTES = 1024


@pytest.mark.slow
@pytest.mark.parametrize("codec", [False, True], ids=["direct", "codec"])
def test_a_cluster_answers_the_same_when_results_are_spilled(codec: bool) -> None:
    async def scenario(world: ClusterWorld) -> None:
        client = Client(cast("Any", world), "c")
        await client.create(shard_count=2)
        await client.insert([row(number, number % 7) for number in range(300)])
        await client.flush()
        await client.insert([row(number, number % 7) for number in range(300, 400)])
        assert await client.values() == {number: number % 7 for number in range(400)}
        assert await client.count() == 400
        found = await client.search([7.0, 0.0], 200)
        assert found[0][0] == 7 and len(found) == 200
        spilled = [key for key in world.object_history.contents if key.startswith(paths.SPILL_PREFIX)]
        assert len(spilled) > 4
        await world.sleep(1)
        assert not await world.objects.list(paths.SPILL_PREFIX)

    play_cluster(scenario, ClusterOptions(codec=codec, reply_bytes_max=LIMIT_BYTES), check=check_all)


@pytest.mark.slow
def test_what_nobody_comes_for_expires() -> None:
    async def scenario(world: ClusterWorld) -> None:
        client = Client(cast("Any", world), "c")
        await client.create()
        await client.insert(rows(range(3)))
        now_ms = world.clock.now_ms()
        left, kept = paths.spill(now_ms + 1000, "ab"), paths.spill(now_ms + 600_000, "cd")
        for key in (left, kept):
            await world.objects.put(key, b"...")
        await world.sleep(TIDY_S + 5)
        assert await world.objects.list(paths.SPILL_PREFIX) == [kept]

    play_cluster(scenario)


class Failing(MemoryObjectStore):
    """Fails when it is told to."""

    fails = False

    async def put(self, key: str, data: Any) -> None:
        if self.fails:
            raise StorageError("no answer")
        await super().put(key, data)


def found(count: int) -> Found:
    return Found(row_count=count, keys=Column(np.arange(count)), fields={7: Column(np.ones(count))}, read_timestamp=5)


def hits(count: int) -> Hits:
    return Hits(counts=np.array([count]), keys=Column(np.arange(count)), scores=np.ones(count, np.float32))


@pytest.mark.parametrize("make", [found, hits])
def test_a_result_comes_back_as_it_was_or_counts_as_lost(make: Callable[[int], Any]) -> None:
    async def main(doors: Doors) -> None:
        store = Failing()
        spills = Spills(doors, store, LIMIT_BYTES, ttl_s=10.0)
        small, large = make(10), make(1000)
        assert await spills.sent(small) is small and await spills.received(small) is small
        sent = await spills.sent(large)
        assert sent.spilled is not None and sent.nbytes < LIMIT_BYTES
        assert encode(await spills.received(sent)) == encode(large)
        await doors.clock.sleep(1)
        assert not await store.list("")
        await refused(spills.received(sent), ReplyLostError, "not to be had")

        sent = await spills.sent(large)
        await collect_expired(doors, store)
        assert await store.list("") == [sent.spilled.key]
        await doors.clock.sleep(11)
        await collect_expired(doors, store)
        assert not await store.list("")

        store.fails = True
        await refused(spills.sent(large), UnavailableError, "could not be spilled")

    clock.run(main)
