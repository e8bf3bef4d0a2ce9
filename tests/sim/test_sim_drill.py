"""Many seeds of a cluster, every promise checked, every fault met by every role that can meet it; it prints its rates.

It plays the same seeds every time, so that a failure is the change's and not the machine's; `make sim-hunt` looks at
others. SIM_SEEDS=100 plays so many only, which leaves holes in the table of faults and fails at its end.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from elanus.testing.sim.plan import SHAPES
from elanus.testing.sim.report import table

PROCESSES = 2
COUNTED_EACH = int(os.environ.get("SIM_SEEDS", "1000")) // PROCESSES
CPU_S_EACH_MAX = 5.0 * COUNTED_EACH
"""Four times what the seeds take on a slow machine; one that needs more has not played them, and fails."""
OPEN: dict[int, str] = {}
"""Faults that these seeds show and that nobody has mended yet. They must go on failing until they are taken out here: a
run of any other seed that fails, or of one of these that does not, fails the drill."""


def play_seeds(number: int, report: Path) -> subprocess.Popen[bytes]:
    """One process plays every so manieth seed."""
    command = [sys.executable, "-m", "elanus.testing.sim", "--shape", "cluster", "batch", "--report", str(report)]
    command += ["--first", str(1 + number), "--step", str(PROCESSES)]
    command += ["--count", str(COUNTED_EACH), "--cpu", str(CPU_S_EACH_MAX)]
    return subprocess.Popen(
        command, env={name: value for name, value in os.environ.items() if not name.startswith("ELANUS_")}
    )


@pytest.mark.drill
@pytest.mark.alone
def test_many_seeds_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reports = [tmp_path / f"{number}.json" for number in range(PROCESSES)]
    running = [play_seeds(number, report) for number, report in enumerate(reports)]
    for one in running:
        one.wait()
    tallies: list[dict[str, Any]] = [msgspec.json.decode(report.read_bytes()) for report in reports]

    def total(name: str) -> float:
        return sum(tally[name] for tally in tallies)

    minutes = total("cpu_s") / 60
    failures = [failure for tally in tallies for failure in tally["failures"]]
    struck = Counter(dict.fromkeys(SHAPES["cluster"].possible, 0))
    for tally in tallies:
        struck.update({(fault, role): count for fault, role, count in tally["struck"]})
    with capsys.disabled():
        print(
            f"\n{total('counted')} seeds counted, {total('runs')} played in {minutes:.1f} CPU-minutes: "
            f"{total('counted') / minutes:.0f} seeds, {total('calls') / minutes:.0f} operations, "
            f"{total('strikes') / minutes:.0f} faults per CPU-minute",
            f"failed: {failures}, known and open: {OPEN}",
            *table(struck, SHAPES["cluster"].possible),
            sep="\n",
        )
    assert {seed for seed, _ in failures} == set(OPEN), failures
    assert total("counted") == COUNTED_EACH * PROCESSES
    missing = sorted(pair for pair in SHAPES["cluster"].possible if not struck[pair])
    assert not missing, f"never struck: {missing}"
