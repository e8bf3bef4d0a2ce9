"""Many seeds of a cluster, every promise checked, the surest faults met by every role; it prints its rates."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from elanus.testing.sim.faults import NETWORK
from elanus.testing.sim.plan import CLUSTER_KINDS, CLUSTER_MACHINES

CPU_S_MAX = 600.0
PROCESSES = 2
SEEDS_EACH = 60
SURE = (*NETWORK, "object_503", "meta_cut", "meta_no_quorum", "pause", "crash", "clock_step")
"""Kinds that strike every role that can meet them, in any hundred seeds; the others are shown."""

RARE = {("delay", "data"), ("reorder", "data")}
"""A data node is called too seldom for these to strike it in so few seeds."""


@pytest.mark.drill
def test_many_seeds_hold(tmp_path: Path) -> None:
    """Each process plays its own seeds until enough of them were hard enough to count."""
    reports = [tmp_path / f"{number}.json" for number in range(PROCESSES)]
    running = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "elanus.testing.sim", "--shape", "cluster", "batch"),
                *("--first", str(1 + number * SEEDS_EACH), "--cpu", str(CPU_S_MAX), "--count", str(SEEDS_EACH)),
                *("--report", str(report)),
            ],
            env={name: value for name, value in os.environ.items() if not name.startswith("ELANUS_")},
        )
        for number, report in enumerate(reports)
    ]
    assert [one.wait() for one in running] == [0] * PROCESSES
    tallies = [msgspec.json.decode(report.read_bytes()) for report in reports]
    failures = [failure for tally in tallies for failure in tally["failures"]]
    assert not failures, failures
    struck = {(fault, role) for tally in tallies for fault, role, count in tally["struck"] if count}
    wanted = {(kind, CLUSTER_MACHINES[name]) for name, kinds in CLUSTER_KINDS.items() for kind in kinds if kind in SURE}
    assert wanted - RARE <= struck, f"never struck: {sorted(wanted - RARE - struck)}"
    assert sum(tally["counted"] for tally in tallies) == PROCESSES * SEEDS_EACH
