"""The columnar evaluator against the twin, on generated rows and generated filters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elanus.expr import evaluate, parse_filter

from .twin import CASES, LEAVES, ROWS, SCHEMA, Case, MemorySource, Row

_SETTINGS = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


def _check(case: Case, rows: list[Row], picks: list[int]) -> None:
    source = MemorySource(rows)
    parsed = parse_filter(case.text, SCHEMA)
    wanted = [case.truth(row) is True for row in rows]
    assert evaluate(parsed, source).tolist() == wanted
    chosen = np.array([pick % len(rows) for pick in picks], np.int64)
    expected = [wanted[row] for row in chosen.tolist()]
    assert evaluate(parsed, source, chosen).tolist() == expected
    # A second run meets the cached shreds; a fresh source is given the subset first.
    assert evaluate(parsed, source, chosen).tolist() == expected
    assert evaluate(parsed, MemorySource(rows), chosen).tolist() == expected


@pytest.mark.slow
@_SETTINGS
@given(LEAVES, ROWS, st.lists(st.integers(0, 11), max_size=6))
def test_leaves_agree_with_the_twin(case: Case, rows: list[Row], picks: list[int]) -> None:
    """Every kind of leaf, on whole sources and on row subsets, cached and not."""
    _check(case, rows, picks)


@pytest.mark.slow
@_SETTINGS
@given(CASES, ROWS, st.lists(st.integers(0, 11), max_size=6))
def test_trees_agree_with_the_twin(case: Case, rows: list[Row], picks: list[int]) -> None:
    """Nested and/or/not over all leaves: Kleene logic survives negation normal form and narrowing."""
    _check(case, rows, picks)
