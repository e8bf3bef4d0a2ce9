"""Every served index type under every metric passes the suite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from elanus.index import registry
from elanus.model.types import DataType as FieldType
from elanus.testing.conformance_index import (
    CHECKS,
    IndexCase,
    check_file,
    check_masks,
    check_small,
    check_time,
    index_cases,
)

CASES = list(index_cases())
FIRST_OF_ITS_TYPE = {case.label for case in {case.index_type: case for case in reversed(CASES)}.values()}
"""Over their first type of vectors, under their first metric."""
QUICK = (check_file, check_masks, check_small)
SLOW_TYPES = ("DISKANN", "HNSW_SQ", "HNSW_PQ", "HNSW_PRQ", "IVF_PQ")
"""Built in seconds, of which compiling is the most for the first."""
ALL_TYPES = ("HNSW", "IVF_FLAT", "BIN_IVF_FLAT", "SPARSE_INVERTED_INDEX")
"""Others are only over floats without the mark `drill`: what differs between types of vectors is in these."""


def tried() -> Iterator[Any]:
    """All checks of all cases; some of the first case of an index type are not `slow`."""
    for check in CHECKS:
        for case in CASES:
            quick = case.label in FIRST_OF_ITS_TYPE and check in QUICK and case.index_type not in SLOW_TYPES
            narrow = case.data_type is FieldType.FLOAT_VECTOR or case.index_type in ALL_TYPES
            drilled = check is check_time or not narrow
            marks = pytest.mark.drill if drilled else () if quick else pytest.mark.slow
            yield pytest.param(check, case, id=f"{check.__name__.removeprefix('check_')}-{case.label}", marks=marks)


@pytest.mark.parametrize(("check", "case"), list(tried()))
def test_index_conforms(check: Callable[[IndexCase], None], case: IndexCase) -> None:
    check(case)


def test_every_type_with_a_file_has_cases() -> None:
    vectors = [kind for kind in registry.INDEX_TYPES.values() if not registry.is_scalar(kind.name)]
    assert {case.index_type for case in CASES} == {kind.name for kind in vectors if hasattr(kind, "load")}
