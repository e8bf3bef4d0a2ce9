"""A cluster of processes, one role each, in virtual time: what survives whose death."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from node_calls import Client, rows

from elanus.testing.cluster import ClusterOptions, ClusterWorld, play_cluster
from elanus.testing.invariants import check_all


@pytest.fixture(params=["direct", "codec"])
def clustered(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Plays a scenario, then checks all invariants; keywords are `ClusterOptions`."""

    def start(scenario: Callable[[ClusterWorld], Any], *, seed: int = 0, **options: Any) -> None:
        play_cluster(scenario, ClusterOptions(codec=request.param == "codec", **options), seed=seed, check=check_all)

    return start


def client_of(world: ClusterWorld, name: str = "c") -> Client:
    return Client(cast("Any", world), name)


def test_a_cluster_serves(clustered: Callable[..., None]) -> None:
    async def scenario(world: ClusterWorld) -> None:
        client = client_of(world)
        await client.create(shard_count=2)
        await client.insert(rows(range(20)))
        await client.flush()
        await client.insert(rows(range(20, 30)))
        await client.delete_ids([3, 25])
        assert await client.ids() == [one for one in range(30) if one not in (3, 25)]
        assert (await client.search([7.0, 0.0], 1))[0][0] == 7

    clustered(scenario)
