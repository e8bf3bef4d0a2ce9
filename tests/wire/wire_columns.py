"""Random columns of every type, and a dumb twin of the field codec: protobuf, one value at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from elanus.model.columns import NUMPY_DTYPES, Column, arrow_type
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType
from elanus.wire.messages import messages

ELEMENTS = (
    *(DataType.BOOL, DataType.INT8, DataType.INT16, DataType.INT32, DataType.INT64),
    *(DataType.FLOAT, DataType.DOUBLE, DataType.VARCHAR),
)
SCALARS = (*ELEMENTS, DataType.JSON, DataType.GEOMETRY, DataType.ARRAY)
DENSE = (
    *(DataType.FLOAT_VECTOR, DataType.FLOAT16_VECTOR, DataType.BFLOAT16_VECTOR),
    *(DataType.INT8_VECTOR, DataType.BINARY_VECTOR),
)
VECTORS = (*DENSE, DataType.SPARSE_FLOAT_VECTOR)
MEMBERS = {
    DataType.BOOL: "bool_data",
    DataType.INT8: "int_data",
    DataType.INT16: "int_data",
    DataType.INT32: "int_data",
    DataType.INT64: "long_data",
    DataType.FLOAT: "float_data",
    DataType.DOUBLE: "double_data",
    DataType.VARCHAR: "string_data",
    DataType.JSON: "json_data",
    DataType.GEOMETRY: "geometry_wkt_data",
}
BYTE_MEMBERS = {
    DataType.FLOAT16_VECTOR: "float16_vector",
    DataType.BFLOAT16_VECTOR: "bfloat16_vector",
    DataType.INT8_VECTOR: "int8_vector",
    DataType.BINARY_VECTOR: "binary_vector",
}


def scalar_values(data_type: DataType) -> st.SearchStrategy[Any]:
    """One Python value of a scalar type."""
    if data_type is DataType.BOOL:
        return st.booleans()
    if data_type.is_integer:
        bounds = np.iinfo(NUMPY_DTYPES[data_type])
        return st.integers(int(bounds.min), int(bounds.max))
    if data_type is DataType.FLOAT:
        return st.floats(width=32, allow_nan=False)
    if data_type is DataType.DOUBLE:
        return st.floats(allow_nan=False)
    if data_type is DataType.JSON:
        return st.sampled_from([b"{}", b'{"a":1}', b"[1,2]", b""])
    if data_type is DataType.GEOMETRY:
        return st.sampled_from(["POINT (1 2)", ""])
    return st.text(max_size=200)


def wire_type(data_type: DataType, element: DataType) -> pa.DataType:
    """Arrow type of a column as the wire has it: shapes are text."""
    return pa.large_string() if data_type is DataType.GEOMETRY else arrow_type(data_type, element)


def sparse_row(indexes: list[int]) -> bytes:
    """A sparse row with these indexes."""
    pairs = np.zeros(len(indexes), [("index", "<u4"), ("value", "<f4")])
    pairs["index"] = sorted(set(indexes))[: len(pairs)] + [0] * (len(indexes) - len(set(indexes)))
    pairs["value"] = 0.5
    return pairs.tobytes()


@st.composite
def field_columns(draw: st.DrawFn, data_type: DataType, *, nullable: bool) -> tuple[FieldSchema, Column]:
    """A field of the type and a column for it, of 0 to 20 or of some 600 rows."""
    rows = draw(st.one_of(st.integers(0, 20), st.integers(590, 610)))
    valid = None
    if nullable:
        seed = draw(st.integers(0, 2**32 - 1))
        valid = np.random.default_rng(seed).random(rows) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    element = draw(st.sampled_from(ELEMENTS)) if data_type is DataType.ARRAY else DataType.NONE
    dimension = 16 if data_type in DENSE else 0
    params = {"dim": str(dimension)} if dimension else {}
    field = FieldSchema(
        draw(st.integers(0, 300)),
        draw(st.sampled_from(["f", "ein feld ü", "$meta"])),
        data_type,
        element_type=element,
        nullable=nullable,
        is_dynamic=draw(st.booleans()) and data_type is DataType.JSON,
        type_params=params,
    )
    return field, Column(draw(_values(data_type, element, rows, valid)), valid)


@st.composite
def _values(draw: st.DrawFn, data_type: DataType, element: DataType, rows: int, valid: Any) -> Any:
    if data_type in DENSE:
        kind = np.dtype(NUMPY_DTYPES[data_type])
        width = 2 if data_type is DataType.BINARY_VECTOR else 16
        raw = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).integers(0, 100, (rows, width)).astype(kind)
        if valid is not None:
            raw[~valid] = 0
        return raw
    pool = draw(st.lists(_one(data_type, element), min_size=1, max_size=8))
    filler = {pa.large_binary(): b"", pa.large_string(): ""}
    picks = [pool[index % len(pool)] for index in range(rows)]
    if data_type in NUMPY_DTYPES:
        array = np.array(picks, NUMPY_DTYPES[data_type])
        if valid is not None:
            array[~valid] = 0
        return array
    kind = wire_type(data_type, element)
    empty = filler.get(kind, [])
    return pa.array([pick if valid is None or valid[row] else empty for row, pick in enumerate(picks)], kind)


def _one(data_type: DataType, element: DataType) -> st.SearchStrategy[Any]:
    if data_type is DataType.ARRAY:
        return st.lists(scalar_values(element), max_size=5)
    if data_type is DataType.SPARSE_FLOAT_VECTOR:
        return st.lists(st.integers(0, 2**31), max_size=4, unique=True).map(sparse_row)
    return scalar_values(data_type)


def python_values(column: Column) -> list[Any]:
    """The column as Python values, None where null."""
    values = column.values.tolist() if isinstance(column.values, np.ndarray) else column.values.to_pylist()
    return values if column.valid is None else [v if ok else None for v, ok in zip(values, column.valid, strict=True)]


def twin_message(field: FieldSchema, column: Column, *, compressed: bool) -> Any:
    """The `FieldData` message for a column, built value by value; `compressed` leaves null rows out."""
    message = messages().FieldData(
        type=int(field.data_type), field_name=field.name, field_id=field.field_id, is_dynamic=field.is_dynamic
    )
    kept = range(len(column))
    if column.valid is not None:
        message.valid_data.extend(column.valid.tolist())
        if compressed:
            kept = [row for row in kept if column.valid[row]]  # type: ignore[assignment]
    if field.data_type.is_vector:
        _fill_vectors(message.vectors, field, [column.values[row] for row in kept])
    else:
        _fill_scalars(message.scalars, field, [_plain(column.values[row]) for row in kept])
    return message


def _plain(value: Any) -> Any:
    return value.as_py() if isinstance(value, pa.Scalar) else value.item()


def _fill_vectors(target: Any, field: FieldSchema, rows: list[Any]) -> None:
    if field.data_type is DataType.SPARSE_FLOAT_VECTOR:
        contents = [row.as_py() for row in rows]
        indexes = [int(index) for content in contents for index in np.frombuffer(content, "<u4")[::2]]
        target.dim = max(indexes) + 1 if indexes else 0
        target.sparse_float_vector.dim = target.dim
        target.sparse_float_vector.contents.extend(contents)
        return
    target.dim = field.dimension
    if field.data_type is DataType.FLOAT_VECTOR:
        target.float_vector.SetInParent()
        for row in rows:
            target.float_vector.data.extend(row.tolist())
    else:
        setattr(target, BYTE_MEMBERS[field.data_type], b"".join(row.tobytes() for row in rows))


def _fill_scalars(target: Any, field: FieldSchema, values: list[Any]) -> None:
    if field.data_type is not DataType.ARRAY:
        member = getattr(target, MEMBERS[field.data_type])
        member.SetInParent()
        member.data.extend(values)
        return
    target.array_data.element_type = int(field.element_type)
    for value in values:
        member = getattr(target.array_data.data.add(), MEMBERS[field.element_type])
        member.SetInParent()
        member.data.extend(value)
