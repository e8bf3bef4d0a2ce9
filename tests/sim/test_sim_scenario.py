"""Scenarios as users write them."""

from __future__ import annotations

import pytest

from elanus.testing.client import Client, row
from elanus.testing.sim.scenario import VirtualCluster, simulate


@pytest.mark.slow
def test_what_was_acknowledged_survives_every_single_crash() -> None:
    async def scenario(cluster: VirtualCluster) -> None:
        client = Client(cluster)
        await client.create()
        for number, name in enumerate(("streaming-1", "query-1", "coordinator-1", "data-1", "streaming-2")):
            await client.upsert([row(number, number)])
            cluster.crash(name)
            await cluster.sleep(5)
            assert await client.values() == {one: one for one in range(number + 1)}

    simulate(scenario, seed=3)


@pytest.mark.slow
def test_a_wrong_expectation_fails_the_scenario() -> None:
    async def scenario(cluster: VirtualCluster) -> None:
        client = Client(cluster)
        await client.create()
        cluster.cut("query-1", "streaming-1")
        cluster.step_clock("streaming-2", 5000)
        await cluster.sleep(1)
        cluster.mend()
        assert await client.ids() == [1]

    with pytest.raises(AssertionError):
        simulate(scenario, seed=3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["streaming-1", "streaming-2"])
def test_an_owner_that_no_coordinator_reaches_loses_its_channels(name: str) -> None:
    """Seen on a real cluster: its lease lived on, so that it kept its channels until it had no timestamps left."""

    async def scenario(cluster: VirtualCluster) -> None:
        client = Client(cluster)
        await client.create(shard_count=4)
        await client.upsert([row(one) for one in range(40)])
        for coordinator in ("coordinator-1", "coordinator-2"):
            cluster.cut(name, coordinator)
        await cluster.sleep(20)
        before_s = cluster.now_s()
        for value in (1, 2, 3):
            await client.upsert([row(one, value) for one in range(40)])
            assert await client.values() == dict.fromkeys(range(40), value)
        assert cluster.now_s() - before_s < 2.0
        cluster.mend()
        for value in (4, 5, 6):
            await client.upsert([row(one, value) for one in range(40)])
            assert await client.values() == dict.fromkeys(range(40), value)
            await cluster.sleep(2)

    simulate(scenario, seed=3)


@pytest.mark.slow
def test_timestamps_of_a_channel_rise_over_a_record_of_a_dropped_shard() -> None:
    """Seen in a run: it was truncated, and no manifest told the next owner of its timestamp."""

    async def scenario(cluster: VirtualCluster) -> None:
        kept, dropped = Client(cluster), Client(cluster, "dropped")
        await kept.create(shard_count=2)
        # The oracle waits for its clock, so that what is stamped depends on what is known of the records before.
        for coordinator in ("coordinator-1", "coordinator-2"):
            cluster.step_clock(coordinator, 60_000)
        await dropped.create(shard_count=2)
        for coordinator in ("coordinator-1", "coordinator-2"):
            cluster.step_clock(coordinator, -60_000)
        await cluster.sleep(4)
        await kept.upsert([row(one) for one in range(20)])
        await dropped.drop()
        await kept.flush()
        await cluster.sleep(4)
        for streaming in ("streaming-1", "streaming-2"):
            cluster.crash(streaming)
        await cluster.sleep(5)
        await kept.upsert([row(one) for one in range(20)])

    simulate(scenario, seed=3)
