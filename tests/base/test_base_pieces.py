"""What is done in pieces is what is done at once."""

from __future__ import annotations

import numpy as np
import pytest

from elanus.base.pieces import REPEATED_ENTRIES, REPEATED_VALUES, repeated


@pytest.mark.parametrize("count", [0, 1, REPEATED_VALUES, REPEATED_VALUES + 1, 3 * REPEATED_VALUES + 5])
@pytest.mark.parametrize("most", [0, 1, 30, 200])
@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.float32])
def test_repeated_is_repeat(count: int, most: int, dtype: type[np.generic]) -> None:
    random = np.random.default_rng(count + most)
    values, counts = random.integers(0, 1000, count).astype(dtype), random.integers(0, most + 1, count)
    found = repeated(values, counts)
    assert found.dtype == values.dtype
    assert (found == np.repeat(values, counts)).all()


def test_one_value_may_fill_more_than_a_piece() -> None:
    counts = np.array([0, 3 * REPEATED_ENTRIES, 0, 1, 2 * REPEATED_ENTRIES, 0])
    assert (repeated(np.arange(6), counts) == np.repeat(np.arange(6), counts)).all()
