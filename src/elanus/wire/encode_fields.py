"""Result columns into `FieldData` and `IDs` messages, written as bytes.

Scalars go out at full length with `valid_data`; vector columns carry only their valid rows, as Milvus sends them. Big
payloads are assembled with NumPy (`wire.pack`), small ones by protobuf, which is quicker for a few rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from elanus.base.errors import InvariantError
from elanus.model.columns import NUMPY_DTYPES, Column, Values
from elanus.model.requests import OutgoingField
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType
from elanus.wire import pack
from elanus.wire.messages import messages
from elanus.wire.schemas import part_name

_VECTORISED_FROM: Final = 512
"""Rows of strings or documents from which NumPy beats protobuf's list of objects."""
_ARRAYS_VECTORISED_FROM: Final = 64
"""Rows of arrays from which NumPy beats protobuf's messages, one per row."""
_SCALARS, _VECTORS, _VALID, _STRUCTS = 3, 4, 7, 8
_VECTOR_ARRAY = 8
_SCALAR_MEMBERS: Final = {
    DataType.BOOL: 1,
    DataType.INT8: 2,
    DataType.INT16: 2,
    DataType.INT32: 2,
    DataType.INT64: 3,
    DataType.FLOAT: 4,
    DataType.DOUBLE: 5,
    DataType.STRING: 6,
    DataType.VARCHAR: 6,
    DataType.TEXT: 6,
    DataType.ARRAY: 8,
    DataType.JSON: 9,
    DataType.GEOMETRY: 12,
    DataType.TIMESTAMPTZ: 6,
}
_BYTE_VECTOR_MEMBERS: Final = {
    DataType.BINARY_VECTOR: 3,
    DataType.FLOAT16_VECTOR: 4,
    DataType.BFLOAT16_VECTOR: 5,
    DataType.INT8_VECTOR: 7,
}
_ELEMENT_NAMES: Final = {
    DataType.BOOL: "bool_data",
    DataType.INT8: "int_data",
    DataType.INT16: "int_data",
    DataType.INT32: "int_data",
    DataType.INT64: "long_data",
    DataType.FLOAT: "float_data",
    DataType.DOUBLE: "double_data",
    DataType.STRING: "string_data",
    DataType.VARCHAR: "string_data",
}
_FIXED: Final = {DataType.FLOAT: "<f4", DataType.DOUBLE: "<f8"}
_FLOAT_VECTOR, _SPARSE = 2, 6


def encode_fields(fields: Sequence[OutgoingField]) -> Iterator[list[pack.Part]]:
    """The `FieldData` messages of a result: the parts of a struct array become one."""
    structs: dict[str, list[pack.Part]] = {}
    for one in fields:
        struct = one.field.struct_name
        if not struct:
            yield encode_field(one.field, one.column)
            continue
        part = msgspec.structs.replace(one.field, name=part_name(one.field))
        structs.setdefault(struct, []).extend(pack.wrap(1, encode_field(part, one.column)))
    for struct, parts in structs.items():
        head = pack.integer(1, int(DataType.ARRAY_OF_STRUCT)) + pack.text(2, struct)
        yield [head, *pack.wrap(_STRUCTS, parts)]


def encode_field(field: FieldSchema, column: Column) -> list[pack.Part]:
    """One `FieldData` message, in parts."""
    head = pack.integer(1, int(field.data_type)) + pack.text(2, field.name)
    tail = pack.integer(5, field.field_id) + pack.integer(6, int(field.is_dynamic))
    valid = column.valid
    if valid is None and field.nullable:
        valid = np.ones(len(column), np.bool_)
    if valid is not None and len(valid):
        tail += pack.chunk(_VALID, valid.tobytes())
    if field.data_type.is_vector:
        body = pack.wrap(_VECTORS, _vectors(field, _only_valid(column)))
    else:
        body = pack.wrap(_SCALARS, _scalars(field, column.values))
    return [head, *body, tail]


def encode_keys(keys: Column) -> bytes:
    """An `IDs` message; empty for no keys."""
    values = keys.values
    if not len(values):
        return b""
    if isinstance(values, np.ndarray):
        return pack.chunk(1, pack.chunk(1, pack.packed_varints(values)))
    return pack.chunk(2, _strings(values))


def encode_element_indices(number: int, places: Column) -> bytes:
    """A repeated `ElementIndices` field of that number, from lists of integers."""
    if isinstance(places.values, np.ndarray):
        raise InvariantError("places of elements are not lists")
    offsets = np.asarray(places.values.offsets)
    flat = np.asarray(places.values.values)[offsets[0] : offsets[-1]]
    content, lengths = pack.packed_varint_rows(flat)
    rows = pack.group_lengths(lengths, offsets - offsets[0])
    for field in (1, 1, number):
        content, rows = pack.delimited(field, rows, content)
    return content.tobytes()


# --- scalars --------------------------------------------------------------------------------------------------------
def _scalars(field: FieldSchema, values: Values) -> list[pack.Part]:
    """A `ScalarField` message."""
    kind = field.data_type
    member = _SCALAR_MEMBERS.get(kind)
    if member is None:
        raise InvariantError(f"no wire form for a result column of type {kind.label}")
    if kind is DataType.ARRAY:
        return pack.wrap(member, [_arrays(values, field.element_type)])
    if kind is DataType.TIMESTAMPTZ and isinstance(values, np.ndarray):
        values = _iso_texts(values)
    if isinstance(values, np.ndarray):
        content = pack.raw(values, _FIXED[kind]) if kind in _FIXED else pack.packed_varints(values)
        return pack.wrap(member, pack.wrap(1, [content]) if len(content) else [])
    return pack.wrap(member, [_strings(values)])


def _strings(values: pa.Array) -> bytes:
    """The content of a `StringArray`, `BytesArray` or like message: repeated field 1."""
    if len(values) < _VECTORISED_FROM:
        binary = values if pa.types.is_large_binary(values.type) else values.cast(pa.large_binary())
        serialized: bytes = messages().BytesArray(data=binary.to_pylist()).SerializeToString()
        return serialized
    content, _ = pack.delimited(1, *_row_bytes(values))
    return content.tobytes()


def _row_bytes(values: pa.Array) -> tuple[pack.Lengths, npt.NDArray[np.uint8]]:
    """Byte length of each row of a string or bytes column, and all its bytes."""
    if not len(values):
        return np.empty(0, np.int64), np.empty(0, np.uint8)
    _, offset_buffer, data_buffer = values.buffers()
    offsets = np.frombuffer(offset_buffer, np.int64, len(values) + 1, values.offset * 8)
    first, last = int(offsets[0]), int(offsets[-1])
    data = np.frombuffer(data_buffer, np.uint8, last - first, first) if last > first else np.empty(0, np.uint8)
    return np.diff(offsets), data


def _iso_texts(values: npt.NDArray[Any]) -> pa.Array:
    """Microseconds since 1970 as UTC times: 2025-01-31T12:00:00.5Z, without trailing zeros."""
    texts = np.datetime_as_string(values.astype(np.int64).view("M8[us]"), unit="us")
    trimmed = np.strings.add(np.strings.rstrip(np.strings.rstrip(texts, "0"), "."), "Z")
    return pa.array(trimmed, pa.large_string())


def _arrays(values: pa.Array, element_type: DataType) -> bytes:
    """An `ArrayArray` message: one `ScalarField` per row."""
    if len(values) < _ARRAYS_VECTORISED_FROM:
        name = _ELEMENT_NAMES[element_type]
        rows = [{name: {"data": row}} for row in values.to_pylist()]
        serialized: bytes = messages().ArrayArray(data=rows, element_type=int(element_type)).SerializeToString()
        return serialized
    offsets = np.frombuffer(values.buffers()[1], np.int64, len(values) + 1, values.offset * 8)
    elements = values.values.slice(int(offsets[0]), int(offsets[-1] - offsets[0]))
    offsets = offsets - offsets[0]
    if element_type.is_string:
        content, lengths = pack.delimited(1, *_row_bytes(elements))
        row_lengths = pack.group_lengths(lengths, offsets)
    else:
        content, lengths = _packed_elements(elements, element_type)
        content, row_lengths = pack.delimited(1, pack.group_lengths(lengths, offsets), content)
    content, row_lengths = pack.delimited(_SCALAR_MEMBERS[element_type], row_lengths, content)
    content, _ = pack.delimited(1, row_lengths, content)
    return content.tobytes() + pack.integer(2, int(element_type))


def _packed_elements(elements: pa.Array, element_type: DataType) -> tuple[npt.NDArray[np.uint8], pack.Lengths]:
    """Packed bytes of all elements and the bytes of each."""
    numbers = elements.to_numpy(zero_copy_only=False)
    if element_type in _FIXED:
        kind = np.dtype(_FIXED[element_type])
        packed = np.frombuffer(pack.raw(numbers, kind.str), np.uint8)
        return packed, np.full(len(numbers), kind.itemsize, np.int64)
    return pack.packed_varint_rows(numbers)


# --- vectors --------------------------------------------------------------------------------------------------------
def _only_valid(column: Column) -> Values:
    if column.valid is None or column.valid.all():
        return column.values
    return column.take(np.flatnonzero(column.valid)).values


def _vector_lists(field: FieldSchema, values: pa.Array) -> bytes:
    """A `VectorArray` message: one `VectorField` per row."""
    lengths, data = _row_bytes(values)
    content, lengths = pack.delimited(1, lengths, data)
    content, lengths = pack.delimited(_FLOAT_VECTOR, lengths, content)
    head = np.frombuffer(pack.integer(1, field.dimension), np.uint8)
    content, lengths = pack.prefixed(head, lengths, content)
    content, _ = pack.delimited(2, lengths, content)
    return pack.integer(1, field.dimension) + content.tobytes() + pack.integer(3, int(DataType.FLOAT_VECTOR))


def _vectors(field: FieldSchema, values: Values) -> list[pack.Part]:
    """A `VectorField` message."""
    kind = field.data_type
    if kind is DataType.SPARSE_FLOAT_VECTOR:
        _, data = _row_bytes(values)
        width = int(data.view("<u4")[::2].max()) + 1 if len(data) else 0
        sparse = _strings(values) + pack.integer(2, width)
        return [pack.integer(1, width), *pack.wrap(_SPARSE, [sparse])]
    if kind is DataType.ARRAY_OF_VECTOR:
        return [pack.integer(1, field.dimension), *pack.wrap(_VECTOR_ARRAY, [_vector_lists(field, values)])]
    if not isinstance(values, np.ndarray):
        raise InvariantError(f"a dense vector column of field {field.name} is not an array")
    head = pack.integer(1, field.dimension or values.shape[1])
    content = pack.raw(values, NUMPY_DTYPES[kind])
    if kind is DataType.FLOAT_VECTOR:
        return [head, *pack.wrap(_FLOAT_VECTOR, pack.wrap(1, [content]) if len(content) else [])]
    return [head, *pack.wrap(_BYTE_VECTOR_MEMBERS[kind], [content])]
