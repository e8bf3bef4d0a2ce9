"""The checker's quick way to say which rows are visible, beside the rule it stands for."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from elanus.testing.invariants import Delete, RowVersion, visible

few = st.integers(1, 4)
ROWS = st.lists(st.builds(RowVersion, few, st.integers(1, 20), few))
DELETES = st.lists(st.builds(Delete, few, st.integers(1, 20), st.integers(0, 4)))


@given(ROWS, DELETES, st.integers(0, 21))
def test_a_row_is_visible_unless_a_delete_hides_it(rows: list[RowVersion], deletes: list[Delete], at: int) -> None:
    shown = [row for row in rows if row.timestamp <= at and not any(one.hides(row, at) for one in deletes)]
    assert visible(rows, deletes, at) == Counter(shown)
