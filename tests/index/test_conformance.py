"""Every served index type under every metric passes the suite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from elanus.testing.conformance_index import CHECKS, IndexCase, check_search_and_effort, index_cases

CASES = list(index_cases())
FIRST_OF_ITS_TYPE = {case.label for case in {case.index_type: case for case in reversed(CASES)}.values()}


def tried() -> Iterator[Any]:
    """All checks of all cases; the quick ones of the first case of an index type are not `slow`."""
    for check in CHECKS:
        for case in CASES:
            quick = case.label in FIRST_OF_ITS_TYPE and check is not check_search_and_effort
            marks = () if quick else pytest.mark.slow
            yield pytest.param(check, case, id=f"{check.__name__.removeprefix('check_')}-{case.label}", marks=marks)


@pytest.mark.parametrize(("check", "case"), list(tried()))
def test_index_conforms(check: Callable[[IndexCase], None], case: IndexCase) -> None:
    check(case)
