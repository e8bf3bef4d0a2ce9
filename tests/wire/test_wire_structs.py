"""Arrays of structs over the wire: what is sent part by part is told as one field again."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elanus.model.columns import Column
from elanus.model.requests import OutgoingField
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType
from elanus.wire.decode_fields import decode_fields
from elanus.wire.encode_fields import encode_fields
from elanus.wire.messages import messages

DIMENSION = 2
PARTS = (
    FieldSchema(field_id=101, name="s[n]", data_type=DataType.ARRAY, element_type=DataType.INT32),
    FieldSchema(
        field_id=102,
        name="s[v]",
        data_type=DataType.ARRAY_OF_VECTOR,
        element_type=DataType.FLOAT_VECTOR,
        type_params={"dim": str(DIMENSION)},
    ),
)
elements = st.tuples(st.integers(-9, 9), st.lists(st.floats(width=32, allow_nan=False), min_size=2, max_size=2))


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(elements, max_size=4), min_size=1, max_size=8))
def test_struct_arrays_come_back_as_they_went(rows: list[list[tuple[int, list[float]]]]) -> None:
    numbers = pa.array([[one[0] for one in row] for row in rows], pa.large_list(pa.int32()))
    vectors = pa.array([np.array([one[1] for one in row], "<f4").tobytes() for row in rows], pa.large_binary())
    columns = (Column(numbers), Column(vectors))
    sent = [OutgoingField(field, column) for field, column in zip(PARTS, columns, strict=True)]
    (parts,) = encode_fields(sent)
    data = b"".join(map(bytes, parts))
    message = messages().FieldData.FromString(data)
    assert message.field_name == "s"
    assert [part.field_name for part in message.struct_arrays.fields] == ["n", "v"]
    assert [len(one.float_vector.data) for one in message.struct_arrays.fields[1].vectors.vector_array.data] == [
        DIMENSION * len(row) for row in rows
    ]
    received = decode_fields(data, 0, len(data))
    assert [one.name for one in received] == ["s[n]", "s[v]"]
    assert received[0].column.values.to_pylist() == numbers.to_pylist()
    assert received[1].column.values.to_pylist() == vectors.to_pylist()
