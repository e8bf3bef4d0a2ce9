"""Appending to and removing from arrays, against lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elanus.model.columns import Column, arrow_type
from elanus.model.errors import RequestError
from elanus.model.requests import FieldOperation
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType
from elanus.nodes.proxy.array_operations import operated

ELEMENTS: dict[DataType, st.SearchStrategy[Any]] = {
    DataType.INT64: st.integers(-3, 3),
    DataType.INT8: st.integers(-3, 3),
    DataType.BOOL: st.booleans(),
    DataType.DOUBLE: st.sampled_from([0.0, 0.5, -1.5]),
    DataType.VARCHAR: st.sampled_from(["", "a", "ä", "bb"]),
}


def column(rows: list[list[Any] | None], element: DataType) -> Column:
    """An ARRAY column; None is null."""
    valid = np.array([row is not None for row in rows], np.bool_)
    values = pa.array([row or [] for row in rows], arrow_type(DataType.ARRAY, element))
    return Column(values, None if valid.all() else valid)


def twin(operation: FieldOperation, current: list[Any] | None, payload: list[Any] | None) -> list[Any] | None:
    """One row."""
    if current is None and payload is None:
        return None
    if operation is FieldOperation.APPEND:
        return (current or []) + (payload or [])
    return [value for value in current or [] if value not in (payload or [])]


@pytest.mark.slow
@given(st.data(), st.sampled_from(sorted(ELEMENTS)), st.sampled_from([FieldOperation.APPEND, FieldOperation.REMOVE]))
def test_arrays_change_as_lists_do(data: st.DataObject, element: DataType, operation: FieldOperation) -> None:
    rows = data.draw(st.lists(st.none() | st.lists(ELEMENTS[element], max_size=6), max_size=12))
    count = st.none() | st.lists(ELEMENTS[element], max_size=6)
    payload = data.draw(st.lists(count, min_size=len(rows), max_size=len(rows)))
    field = FieldSchema(100, "a", DataType.ARRAY, element_type=element, type_params={"max_capacity": "12"})
    changed = operated(field, operation, column(rows, element), column(payload, element))
    valid = np.ones(len(rows), np.bool_) if changed.valid is None else changed.valid
    found = [row if ok else None for row, ok in zip(changed.values.to_pylist(), valid, strict=True)]
    assert found == [twin(operation, *pair) for pair in zip(rows, payload, strict=True)]
    assert changed.values.type == arrow_type(DataType.ARRAY, element)


def test_arrays_do_not_grow_beyond_their_capacity() -> None:
    field = FieldSchema(100, "a", DataType.ARRAY, element_type=DataType.INT64, type_params={"max_capacity": "4"})
    two, three = column([[1, 2]], DataType.INT64), column([[3, 4, 5]], DataType.INT64)
    with pytest.raises(RequestError, match="array length 5 exceeds max_capacity 4"):
        operated(field, FieldOperation.APPEND, two, three)
