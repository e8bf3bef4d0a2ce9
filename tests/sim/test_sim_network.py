"""What a call over the simulated network may end in."""

from __future__ import annotations

from typing import Any

import pytest

from elanus.base.errors import InvariantError
from elanus.model.requests import ListCollectionsRequest
from elanus.nodes.coordinator.coordinator import Coordinator
from elanus.testing.sim.scenario import VirtualCluster, simulate


@pytest.mark.slow
@pytest.mark.parametrize("raised", [TypeError("of its own making"), InvariantError("of its own making")])
def test_a_role_that_raises_what_none_may_fails_the_run(raised: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any, **__: Any) -> Any:
        raise raised

    async def scenario(cluster: VirtualCluster) -> None:
        await cluster.proxy.list_collections(ListCollectionsRequest())

    monkeypatch.setattr(Coordinator, "list_collections", broken)
    with pytest.raises(AssertionError, match="of its own making"):
        simulate(scenario, seed=3)
