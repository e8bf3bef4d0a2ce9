"""The standalone server under the simulator: seeds hold, and are repeated byte for byte."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from elanus.testing.sim.plan import plan_standalone
from elanus.testing.sim.run import play

DIGEST = """
from elanus.testing.sim.plan import plan_standalone
from elanus.testing.sim.run import play
print(play(plan_standalone(5)).digest)
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 108))
def test_nothing_is_lost(seed: int) -> None:
    outcome = play(plan_standalone(seed))
    assert not outcome.failure, outcome.failure
    assert sum(outcome.score.calls.values()) >= 300
    assert outcome.score.acknowledged["query"] > 20


@pytest.mark.slow
def test_a_seed_gives_the_same_run_whatever_hashes_are() -> None:
    digests = {play(plan_standalone(5)).digest}
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", DIGEST], env=environment, capture_output=True, text=True, check=True
        )
        digests.add(done.stdout.strip())
    assert len(digests) == 1


@pytest.mark.slow
def test_another_seed_gives_another_run() -> None:
    assert play(plan_standalone(5)).digest != play(plan_standalone(6)).digest
