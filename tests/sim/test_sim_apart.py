"""Runs in processes of their own: what a batch plays there is what `make sim` plays."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

DIGESTS = """
from elanus.testing.sim.apart import apart, settle
from elanus.testing.sim.plan import plan_cluster
from elanus.testing.sim.run import play

def digest():
    return play(plan_cluster(2)).digest.encode()

cold = digest()
settle()
print(cold, apart(digest)[0], apart(digest)[0], sep="\\n")
"""
FAILING = """
from elanus.testing.sim.apart import apart

try:
    apart(lambda: {}["missing"])
except RuntimeError as error:
    print(error)
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    """In a process without threads, from which can be forked."""
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    return subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)


@pytest.mark.slow
def test_a_seed_gives_the_same_run_in_a_forked_process() -> None:
    digests = run(DIGESTS).stdout.split()
    assert len(digests) == 3
    assert len(set(digests)) == 1


@pytest.mark.slow
def test_what_goes_wrong_there_is_told_here() -> None:
    done = run(FAILING)
    assert "status 1" in done.stdout
    assert "KeyError: 'missing'" in done.stderr
