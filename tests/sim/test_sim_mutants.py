"""A checker that notices nothing proves nothing: with one rule switched off, a stated number of seeds finds it."""

from __future__ import annotations

import pytest
from mutants import MUTANTS

from elanus.testing.sim.run import play


def found(name: str) -> str:
    """What the first seed that notices the mutant says, or nothing."""
    mutant = MUTANTS[name]
    for seed in range(1, mutant.seeds + 1):
        outcome = play(mutant.plan(seed), mutant.make())
        if outcome.failure:
            return f"seed {seed}: {outcome.failure}"
    return ""


@pytest.mark.drill
@pytest.mark.parametrize("name", MUTANTS)
def test_a_rule_switched_off_is_found(name: str, record_property: pytest.RecordProperty) -> None:
    said = found(name)
    assert said, f"rule {MUTANTS[name].rule}: {name} was not found in {MUTANTS[name].seeds} seeds"
    assert "TypeError" not in said, f"the mutant no longer fits what it changes: {said}"
    record_property(name, said)
    print(f"\nrule {MUTANTS[name].rule:>2}  {name}: {said[:140]}")
