"""Many seeds of a cluster within a budget of CPU time, every promise checked, every fault met by every role."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from elanus.testing.sim.plan import CLUSTER_KINDS, CLUSTER_MACHINES

CPU_S_MAX = 600.0
SEEDS_MIN = 1000


@pytest.mark.drill
def test_a_thousand_seeds_hold(tmp_path: Path) -> None:
    """Two processes share the seeds; each stops when its half of the budget is used."""
    reports = [tmp_path / f"{number}.json" for number in range(2)]
    running = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "elanus.testing.sim", "--shape", "cluster", "batch"),
                *("--first", str(1 + number * SEEDS_MIN), "--cpu", str(CPU_S_MAX / 2), "--count", str(SEEDS_MIN // 2)),
                *("--report", str(report)),
            ],
            env={name: value for name, value in os.environ.items() if not name.startswith("ELANUS_")},
        )
        for number, report in enumerate(reports)
    ]
    assert [one.wait() for one in running] == [0, 0]
    tallies = [msgspec.json.decode(report.read_bytes()) for report in reports]
    failures = [failure for tally in tallies for failure in tally["failures"]]
    assert not failures, failures
    struck = {(fault, role) for tally in tallies for fault, role, count in tally["struck"] if count}
    kinds_of = CLUSTER_KINDS.items()
    wanted = {
        (kind, CLUSTER_MACHINES[name])
        for name, kinds in CLUSTER_KINDS.items()
        for kind in kinds
        if kind != "lease_lost"
    }
    assert wanted <= struck, f"never struck: {sorted(wanted - struck)}"
    assert sum(tally["counted"] for tally in tallies) >= SEEDS_MIN
