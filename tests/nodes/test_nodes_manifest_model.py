"""The model of the shard manifest: every rule is needed, and together they suffice within small bounds."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import pytest


def load() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "models" / "manifest_model.py"
    spec = importlib.util.spec_from_file_location("manifest_model", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


model = load()
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
