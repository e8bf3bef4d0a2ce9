"""Looks for seeds that fail, makes a failing run small, and writes it down as a test.

Shrinking tries ever smaller plans and keeps each that still breaks the same promise: without some of the faults (halves
first, then one by one: Zeller's ddmin), with fewer clients, with fewer operations. What is left is usually a handful of
faults and a page of timeline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from elanus.testing.sim.faults import Fault
from elanus.testing.sim.plan import Plan
from elanus.testing.sim.run import Outcome
from elanus.testing.sim.workload import Load

SHRINK_RUNS_MAX: Final = 200


def kind_of(failure: str) -> str:
    """What a failure broke: an invariant's number, or the first words."""
    return failure.split(":", 1)[0].split(" ", 1)[0]


class Shrinker:
    """Makes a failing plan smaller."""

    def __init__(self, play: Callable[[Plan], Outcome], runs_max: int = SHRINK_RUNS_MAX) -> None:
        self._play = play
        self._runs_left = runs_max

    def shrink(self, failed: Outcome) -> Outcome:
        """The smallest plan found that breaks the same promise, with what came of it."""
        best, kind = failed, kind_of(failed.failure)
        progress = True
        while progress:
            progress = False
            for plan in self._smaller(best.plan):
                if self._runs_left == 0:
                    return best
                self._runs_left -= 1
                outcome = self._play(plan)
                if outcome.failure and kind_of(outcome.failure) == kind:
                    best, progress = outcome, True
                    break
        return best

    def _smaller(self, plan: Plan) -> Iterator[Plan]:
        for faults in _without_some(plan.faults):
            yield msgspec.structs.replace(plan, faults=faults)
        for load in _less(plan.load):
            yield msgspec.structs.replace(plan, load=load)


def _without_some(faults: tuple[Fault, ...]) -> Iterator[tuple[Fault, ...]]:
    size = len(faults)
    while size >= 1:
        for start in range(0, len(faults), size):
            yield faults[:start] + faults[start + size :]
        size //= 2


def _less(load: Load) -> Iterator[Load]:
    if load.collections:
        yield msgspec.structs.replace(load, collections=0)
        yield msgspec.structs.replace(load, collections=load.collections // 2)
    for clients in (1, load.clients // 2, load.clients - 1):
        if 0 < clients < load.clients:
            yield msgspec.structs.replace(load, clients=clients)
    for operations in (load.operations // 2, load.operations * 3 // 4, load.operations - 1):
        if 0 < operations < load.operations:
            yield msgspec.structs.replace(load, operations=operations)


def regression_test(outcome: Outcome) -> str:
    """A test to paste into `tests/sim/test_sim_regressions.py`."""
    plan = outcome.plan
    faults = "".join(f"            {fault!r},\n" for fault in plan.faults)
    parts = [f"seed={plan.seed}", f"shape={plan.shape!r}", f"load={plan.load!r}"]
    parts += [f"{name}={getattr(plan, name)!r}" for name in _VARIED if getattr(plan, name) != getattr(_DEFAULT, name)]
    return (
        f"def test_seed_{plan.seed}_{kind_of(outcome.failure).lower()}() -> None:\n"
        f'    """Cause: …"""\n'
        f"    # It was: {outcome.failure[:200]}\n"
        f"    plan = Plan(\n        {', '.join(parts)},\n        faults=(\n{faults}        ),\n    )\n"
        f"    outcome = play(plan)\n"
        f"    assert not outcome.failure, outcome.failure\n"
    )


_DEFAULT: Final = Plan(seed=0)
_VARIED: Final = ("pchannel_count", "shard_count", "growing_bytes_max", "growing_idle_s", "deleted_ratio_min")
