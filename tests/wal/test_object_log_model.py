"""The model of the log on objects: every rule is needed, and together they suffice within small bounds."""

from __future__ import annotations

from dataclasses import fields

import pytest

from models import load

model = load("object_log")


@pytest.mark.parametrize("rule", [rule.name for rule in fields(model.Rules)])
def test_a_rule_left_out_breaks_something(rule: str) -> None:
    _, broken, steps = model.breaks(rule)
    assert broken not in ("", "limit") and len(steps) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("bounds", model.CHECKED, ids=str)
def test_all_rules_together_hold(bounds: object) -> None:
    count, broken, steps = model.explore(model.Rules(), bounds)
    assert (broken, steps) == ("", []) and count > 1000
