"""Column codecs: decode undoes encode, and both agree with a twin that goes value by value through protobuf."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_columns import DENSE, SCALARS, VECTORS, field_columns, python_values, twin_message, wire_type

from elanus.model.columns import NUMPY_DTYPES, Column
from elanus.model.errors import BadParameterError, RequestError, UnsupportedError
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType
from elanus.wire import pack, walk
from elanus.wire.decode_fields import decode_field, to_bfloat16
from elanus.wire.encode_fields import encode_field as encode_parts
from elanus.wire.encode_fields import encode_keys
from elanus.wire.messages import messages

ALL = (*SCALARS, *VECTORS)
each_type = pytest.mark.parametrize("data_type", ALL, ids=lambda kind: kind.label)
quick = settings(max_examples=8, deadline=None)


def encode_field(field: FieldSchema, column: Column) -> bytes:
    return b"".join(encode_parts(field, column))


def decoded(data: bytes) -> Any:
    return decode_field(data, 0, len(data))


def assert_column(found: Any, field: FieldSchema, column: Column) -> None:
    assert found.name == field.name
    assert found.data_type is field.data_type
    assert found.is_dynamic == field.is_dynamic
    assert python_values(found.column) == python_values(column)
    if isinstance(column.values, np.ndarray):
        assert found.column.values.dtype == np.dtype(NUMPY_DTYPES[field.data_type])
        assert found.column.values.flags.aligned
    elif len(column):
        assert found.column.values.type == wire_type(field.data_type, field.element_type)
    if field.data_type in DENSE and len(column):
        assert found.column.values.shape == column.values.shape
        assert found.dimension == field.dimension


@each_type
@pytest.mark.parametrize("nullable", [False, True], ids=["required", "nullable"])
@quick
@given(data=st.data())
def test_decode_undoes_encode(data_type: DataType, nullable: bool, data: st.DataObject) -> None:
    field, column = data.draw(field_columns(data_type, nullable=nullable))
    assert_column(decoded(encode_field(field, column)), field, column)


@each_type
@pytest.mark.parametrize("nullable", [False, True], ids=["required", "nullable"])
@quick
@given(data=st.data())
def test_encode_equals_the_twin(data_type: DataType, nullable: bool, data: st.DataObject) -> None:
    field, column = data.draw(field_columns(data_type, nullable=nullable))
    # Results carry scalars at full length and vectors without their null rows.
    twin = twin_message(field, column, compressed=data_type.is_vector)
    assert messages().FieldData.FromString(encode_field(field, column)) == twin


@each_type
@pytest.mark.parametrize("compressed", [False, True], ids=["full", "compressed"])
@quick
@given(data=st.data())
def test_decode_reads_both_forms_of_nulls(data_type: DataType, compressed: bool, data: st.DataObject) -> None:
    field, column = data.draw(field_columns(data_type, nullable=True))
    serialized = twin_message(field, column, compressed=compressed).SerializeToString()
    assert_column(decoded(serialized), field, column)


def unpacked(message: Any) -> bytes:
    """The message with every packed array written number by number."""
    out = b""
    for field, value in message.ListFields():
        repeated = hasattr(value, "extend")
        if repeated and field.message_type is None and field.type != field.TYPE_STRING:
            if field.type == field.TYPE_BYTES:
                out += b"".join(pack.chunk(field.number, item) for item in value)
                continue
            width, wire_type = {field.TYPE_FLOAT: (4, 5), field.TYPE_DOUBLE: (8, 1)}.get(field.type, (0, 0))
            for item in value:
                out += pack.varint(field.number << 3 | wire_type)
                out += np.array(item, f"<f{width}").tobytes() if width else pack.varint(int(item))
        elif field.message_type is not None:
            for item in value if repeated else [value]:
                out += pack.chunk(field.number, unpacked(item))
        else:
            alone = type(message)()
            if repeated:
                getattr(alone, field.name).extend(value)
            else:
                setattr(alone, field.name, value)
            out += alone.SerializeToString()
    return out


@each_type
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_decode_reads_unpacked_numbers(data_type: DataType, data: st.DataObject) -> None:
    field, column = data.draw(field_columns(data_type, nullable=True))
    message = twin_message(field, column, compressed=False)
    raw = unpacked(message)
    assert messages().FieldData.FromString(raw) == message
    assert_column(decoded(raw), field, column)


@pytest.mark.parametrize("data_type", [DataType.FLOAT_VECTOR, DataType.INT64, DataType.DOUBLE, DataType.BOOL])
def test_decode_reads_an_array_in_several_pieces(data_type: DataType) -> None:
    field = FieldSchema(100, "f", data_type, type_params={"dim": "2"})
    values = np.arange(12).astype(NUMPY_DTYPES[data_type])
    column = Column(values.reshape(-1, 2) if data_type.is_vector else values)
    rows = len(column)
    first = encode_field(field, column.slice(0, 2))
    member = 4 if data_type.is_vector else 3
    raw = encode_field(field, column.slice(2, rows))
    rest = {entry.number: entry for entry in walk.entries(raw, 0, len(raw))}
    pieces = first + raw[rest[member].begin : rest[member].stop]
    assert python_values(decoded(pieces).column) == python_values(column)


def test_unknown_fields_are_ignored() -> None:
    field, column = FieldSchema(100, "f", DataType.INT64), Column(np.arange(5))
    extra = pack.chunk(99, b"later") + pack.integer(98, 5)
    assert_column(decoded(encode_field(field, column) + extra), field, column)


@pytest.mark.parametrize("data_type", [DataType.INT8, DataType.INT16])
def test_integers_that_do_not_fit_are_refused(data_type: DataType) -> None:
    message = messages().FieldData(type=int(data_type), field_name="f")
    message.scalars.int_data.data.extend([1, 70000])
    bounds = np.iinfo(NUMPY_DTYPES[data_type])
    with pytest.raises(
        BadParameterError, match=rf"the 1th element \(70000\) out of range: \[{bounds.min}, {bounds.max}\]"
    ):
        decoded(message.SerializeToString())


def test_data_of_another_type_is_refused() -> None:
    message = messages().FieldData(type=int(DataType.INT64), field_name="f")
    message.scalars.string_data.data.append("7")
    with pytest.raises(BadParameterError, match="field f"):
        decoded(message.SerializeToString())
    message = messages().FieldData(type=int(DataType.ARRAY), field_name="f")
    message.scalars.array_data.element_type = int(DataType.INT64)
    message.scalars.array_data.data.add().string_data.data.append("7")
    with pytest.raises(BadParameterError, match="field f"):
        decoded(message.SerializeToString())


def test_floats_that_are_no_whole_vectors_are_refused() -> None:
    message = messages().FieldData(type=int(DataType.FLOAT_VECTOR), field_name="f")
    message.vectors.dim = 4
    message.vectors.float_vector.data.extend([0.0] * 6)
    with pytest.raises(RequestError, match=r"float data should divide the dim\(4\)"):
        decoded(message.SerializeToString())


@pytest.mark.parametrize("dimension", [0, 1 << 40, -8])
def test_senseless_dimensions_are_refused(dimension: int) -> None:
    message = messages().FieldData(type=int(DataType.FLOAT_VECTOR), field_name="f")
    message.vectors.dim = dimension
    message.vectors.float_vector.data.extend([0.0] * 8)
    message.valid_data.extend([True] * 8)
    with pytest.raises(RequestError):
        decoded(message.SerializeToString())


def test_wrong_number_of_flags_is_refused() -> None:
    message = messages().FieldData(type=int(DataType.INT64), field_name="f")
    message.scalars.long_data.data.extend([1, 2, 3])
    message.valid_data.extend([True, False])
    with pytest.raises(BadParameterError, match=r"the length of valid_data of field\(f\) is wrong"):
        decoded(message.SerializeToString())


def test_filled_in_nulls_are_bounded() -> None:
    message = messages().FieldData(type=int(DataType.FLOAT_VECTOR), field_name="f")
    message.vectors.dim = 32768
    message.vectors.float_vector.data.extend([])
    message.valid_data.extend([False] * 100_000)
    with pytest.raises(BadParameterError, match="too large"):
        decoded(message.SerializeToString())


def test_struct_arrays_are_refused_by_name() -> None:
    message = messages().FieldData(type=int(DataType.ARRAY_OF_STRUCT), field_name="f")
    with pytest.raises(UnsupportedError, match="struct array field f"):
        decoded(message.SerializeToString())


def test_half_width_vectors_sent_as_floats_are_rounded() -> None:
    floats = np.array([[1.0, 1.00390625, -2.5, float("nan")]], np.float32)
    for data_type in (DataType.FLOAT16_VECTOR, DataType.BFLOAT16_VECTOR):
        message = messages().FieldData(type=int(data_type), field_name="f")
        message.vectors.dim = 4
        message.vectors.float_vector.data.extend(floats.reshape(-1).tolist())
        values = decoded(message.SerializeToString()).column.values
        if data_type is DataType.FLOAT16_VECTOR:
            np.testing.assert_array_equal(values, floats.astype(np.float16))
        else:
            back = (values.astype(np.uint32) << 16).view(np.float32)
            np.testing.assert_array_equal(back, np.array([[1.0, 1.0, -2.5, float("nan")]], np.float32))


@given(st.lists(st.floats(width=32), max_size=50))
def test_bfloat16_is_the_nearest(values: list[float]) -> None:
    floats = np.array(values, np.float32)
    bits = to_bfloat16(floats)
    back = (bits.astype(np.uint32) << 16).view(np.float32)
    below = ((floats.view(np.uint32) >> 16) << 16).view(np.float32).astype(np.float64)
    finite = np.isfinite(floats) & np.isfinite(back)
    # The truncated value is one neighbour; the rounded one is never farther away.
    exact = floats.astype(np.float64)[finite]
    assert (np.abs(back[finite] - exact) <= np.abs(below[finite] - exact)).all()
    assert (np.isnan(back) == np.isnan(floats)).all()


def test_times_go_out_as_iso_texts() -> None:
    field = FieldSchema(101, "t", DataType.TIMESTAMPTZ)
    message = messages().FieldData.FromString(encode_field(field, Column(np.array([0, 1_500_000, -1]))))
    assert list(message.scalars.string_data.data) == [
        "1970-01-01T00:00:00Z",
        "1970-01-01T00:00:01.5Z",
        "1969-12-31T23:59:59.999999Z",
    ]


@quick
@given(data=st.data(), data_type=st.sampled_from([DataType.INT64, DataType.VARCHAR]))
def test_keys(data: st.DataObject, data_type: DataType) -> None:
    _, column = data.draw(field_columns(data_type, nullable=False))
    found = messages().IDs.FromString(encode_keys(column))
    kept = found.int_id.data if data_type is DataType.INT64 else found.str_id.data
    assert list(kept) == python_values(column)
