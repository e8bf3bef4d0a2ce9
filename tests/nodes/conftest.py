"""Every composition test runs by direct call and through the codec."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from node_calls import run

from elanus.testing.composition import Options, World


@pytest.fixture(params=["direct", "codec"])
def composed(request: pytest.FixtureRequest) -> Callable[..., World]:
    """Plays a scenario; keywords are `Options`."""

    def start(scenario: Callable[[World], Any], *, seed: int = 0, parts: Any = None, **options: Any) -> World:
        return run(scenario, Options(codec=request.param == "codec", **options), seed=seed, parts=parts)

    return start
