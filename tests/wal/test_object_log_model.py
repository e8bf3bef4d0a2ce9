"""The model of the log on objects: every rule is needed, and together they suffice within small bounds."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import pytest


def load() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "models" / "object_log.py"
    spec = importlib.util.spec_from_file_location("object_log_model", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


model = load()


@pytest.mark.parametrize("rule", [rule.name for rule in fields(model.Rules)])
def test_a_rule_left_out_breaks_something(rule: str) -> None:
    _, broken, steps = model.breaks(rule)
    assert broken not in ("", "limit") and len(steps) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("bounds", model.CHECKED, ids=str)
def test_all_rules_together_hold(bounds: object) -> None:
    count, broken, steps = model.explore(model.Rules(), bounds)
    assert (broken, steps) == ("", []) and count > 1000
