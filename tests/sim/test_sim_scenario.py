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
