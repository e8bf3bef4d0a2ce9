"""A failing run is made small, and the test that is printed of it fails while the fault is there and passes without."""

from __future__ import annotations

from functools import partial

import pytest
from mutants import MUTANTS

from elanus.testing.sim.faults import Fault
from elanus.testing.sim.hunt import Shrinker, kind_of, regression_test
from elanus.testing.sim.plan import Plan
from elanus.testing.sim.run import play
from elanus.testing.sim.workload import Load

RUNS_MAX = 30


@pytest.mark.drill
def test_a_failing_run_is_made_small_and_written_down() -> None:
    mutant = MUTANTS["collected-by-age-alone"]
    broken = partial(play, make=mutant.make())
    failed = next(one for one in (broken(mutant.plan(seed)) for seed in range(1, 5)) if one.failure)
    small = Shrinker(broken, RUNS_MAX).shrink(failed)
    assert kind_of(small.failure) == kind_of(failed.failure) == "T9"
    assert len(small.plan.faults) < len(failed.plan.faults) // 2
    print(f"\n{len(failed.plan.faults)} faults became {len(small.plan.faults)}, {failed.steps} steps {small.steps}")

    written = regression_test(small)
    scope = {"Fault": Fault, "Load": Load, "Plan": Plan, "play": broken}
    exec(written, scope)
    name = next(one for one in scope if one.startswith("test_"))
    with pytest.raises(AssertionError, match="T9"):
        scope[name]()  # type: ignore[operator]
    scope["play"] = play
    scope[name]()  # type: ignore[operator]
