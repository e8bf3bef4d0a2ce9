"""Every served index type under every metric passes the suite."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from elanus.testing.conformance_index import CHECKS, IndexCase, index_cases


@pytest.mark.parametrize("case", list(index_cases()), ids=lambda case: case.label)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_index_conforms(case: IndexCase, check: Callable[[IndexCase], None]) -> None:
    check(case)
