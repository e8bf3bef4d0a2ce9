"""The model of the shard manifest: every rule is needed, and together they suffice within small bounds."""

from __future__ import annotations

from dataclasses import fields

import pytest

from models import load

model = load("manifest_model")
RULES = [rule.name for rule in fields(model.Rules)]


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_a_rule_left_out_breaks_something(rule: str) -> None:
    _, broken, steps = model.explore(model.without(rule), model.TIGHT)
    assert broken and len(steps) >= 3


@pytest.mark.slow
def test_all_rules_together_hold() -> None:
    count, broken, steps = model.explore(model.Rules(), model.TIGHT)
    assert (broken, steps) == ("", []) and count > 10_000


@pytest.mark.drill
@pytest.mark.parametrize("bounds", model.CHECKED, ids=str)
def test_all_rules_together_hold_within_wider_bounds(bounds: object) -> None:
    assert model.explore(model.Rules(), bounds)[1] == ""
