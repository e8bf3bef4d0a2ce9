"""A cluster of every role under the simulator."""

from __future__ import annotations

import msgspec
import pytest

from elanus.testing.sim.plan import plan_cluster
from elanus.testing.sim.run import play


@pytest.mark.slow
def test_without_faults_everything_is_answered() -> None:
    outcome = play(msgspec.structs.replace(plan_cluster(1), faults=()))
    assert not outcome.failure, outcome.failure
    assert outcome.score.unknown == 0
