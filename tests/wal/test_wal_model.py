"""The model of the file log: every rule is needed, and together they suffice within small bounds."""

from __future__ import annotations

from dataclasses import fields

import pytest

from models import load

model = load("file_log")
RULES = [rule.name for rule in fields(model.Rules)]
SMALL = [model.CHECKED[0], model.Bounds(terms=3, records=1, cuts=2, kills=2, failed_syncs=0)]


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_a_rule_left_out_breaks_something(rule: str) -> None:
    _, broken, steps = model.explore(model.without(rule), model.Bounds())
    assert broken not in ("", "limit") and len(steps) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("bounds", SMALL, ids=str)
def test_all_rules_together_hold(bounds: object) -> None:
    count, broken, steps = model.explore(model.Rules(), bounds)
    assert (broken, steps) == ("", []) and count > 1000


@pytest.mark.drill
@pytest.mark.parametrize("bounds", [*model.CHECKED, model.Bounds()], ids=str)
def test_all_rules_together_hold_within_wider_bounds(bounds: object) -> None:
    assert model.explore(model.Rules(), bounds)[1] == ""
