"""Column data as sent (`FieldData`) into `IncomingField`s.

Packed numbers and byte vectors are read in place from the request's bytes; strings, documents and array rows go through
protobuf's C parser and Arrow. A field in an unusual wire form is first made canonical by protobuf (see `wire.walk`).

Rows that are null may be left out of the payload or filled; both become a full-length column here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from operator import attrgetter, methodcaller
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from elanus.base.limits import DIMENSION_MAX, GIB
from elanus.model.columns import NUMPY_DTYPES, Column, Values, arrow_type
from elanus.model.errors import BadParameterError, RequestError, UnsupportedError
from elanus.model.requests import IncomingField
from elanus.model.types import DataType
from elanus.wire import walk
from elanus.wire.messages import messages

_TYPE, _NAME, _SCALARS, _VECTORS, _DYNAMIC, _VALID, _STRUCTS = 1, 2, 3, 4, 6, 7, 8
_BOOL, _INT, _LONG, _FLOAT, _DOUBLE, _STRING, _ARRAY, _JSON = 1, 2, 3, 4, 5, 6, 8, 9
_GEOMETRY, _TIMESTAMPTZ, _GEOMETRY_TEXT = 10, 11, 12
_DIMENSION, _FLOAT_VECTOR, _BINARY, _FLOAT16, _BFLOAT16, _SPARSE, _INT8, _VECTOR_ARRAY = 1, 2, 3, 4, 5, 6, 7, 8

_VECTOR_MEMBERS: Final[Mapping[DataType, int]] = {
    DataType.FLOAT_VECTOR: _FLOAT_VECTOR,
    DataType.BINARY_VECTOR: _BINARY,
    DataType.FLOAT16_VECTOR: _FLOAT16,
    DataType.BFLOAT16_VECTOR: _BFLOAT16,
    DataType.INT8_VECTOR: _INT8,
}
_ELEMENT_MEMBERS: Final[Mapping[DataType, str]] = {
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
_MEMBER_ELEMENTS: Final[Mapping[str, DataType]] = {
    "bool_data": DataType.BOOL,
    "int_data": DataType.INT32,
    "long_data": DataType.INT64,
    "float_data": DataType.FLOAT,
    "double_data": DataType.DOUBLE,
    "string_data": DataType.VARCHAR,
}


EXPANDED_BYTES_MAX: Final = 1 * GIB
"""Size of a column after rows left out as null were filled in."""
_DIMENSION_MAX: Final = DIMENSION_MAX * 8
"""Binary vectors count bits."""


def decode_fields(data: bytes, start: int, stop: int) -> tuple[IncomingField, ...]:
    """The field in the `FieldData` message, or the parts of a struct array, named `struct[sub]`."""
    message = _struct_in(data, start, stop)
    if message is None:
        return (decode_field(data, start, stop),)
    parts = [part.SerializeToString() for part in message.struct_arrays.fields]
    return tuple(
        msgspec.structs.replace(part, name=f"{message.field_name}[{part.name}]")
        for part in (decode_field(serialized, 0, len(serialized)) for serialized in parts)
    )


def _struct_in(data: bytes, start: int, stop: int) -> Any:
    """The message of a struct array; None for every other field."""
    try:
        found = walk.once(data, start, stop)
        is_struct = _STRUCTS in found or _number(found.get(_TYPE)) == DataType.ARRAY_OF_STRUCT
    except walk.UnusualError:
        is_struct = True
    if not is_struct:
        return None
    message = messages().FieldData.FromString(data[start:stop])
    return message if message.HasField("struct_arrays") else None


def decode_field(data: bytes, start: int, stop: int) -> IncomingField:
    """The `FieldData` message in data[start:stop]."""
    try:
        return _decode(data, start, stop)
    except walk.UnusualError:
        canonical = messages().FieldData.FromString(data[start:stop])
        canonical.DiscardUnknownFields()
        serialized = canonical.SerializeToString()
        try:
            return _decode(serialized, 0, len(serialized))
        except walk.UnusualError as unusual:
            raise RequestError(f"field data cannot be read: {unusual}") from unusual


def data_type_of(number: int) -> DataType:
    """The type of that number on the wire."""
    try:
        return DataType(number)
    except ValueError:
        raise BadParameterError(f"data type {number} is not known") from None


def to_bfloat16(values: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
    """Float32 rounded to the nearest bfloat16 (ties to even), as its bits; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def _decode(data: bytes, start: int, stop: int) -> IncomingField:
    found = walk.once(data, start, stop)
    name = _string(data, found.get(_NAME))
    data_type = data_type_of(_number(found.get(_TYPE)))
    if sum(kind in found for kind in (_SCALARS, _VECTORS, _STRUCTS)) > 1:
        raise walk.UnusualError("two kinds of data")
    if _STRUCTS in found:
        _expect_delimited(found[_STRUCTS])
        raise UnsupportedError(f"struct array field {name}")
    if data_type in (DataType.ARRAY_OF_STRUCT, DataType.STRUCT):
        raise UnsupportedError(f"struct array field {name}")
    valid = None
    if _VALID in found:
        _expect_delimited(found[_VALID])
        flags = walk.varints(data, found[_VALID].value, found[_VALID].stop)
        valid = flags != 0 if len(flags) else None
    element_type, dimension = DataType.NONE, 0
    values: Values
    if data_type.is_vector:
        values, dimension = _vectors(data, found.get(_VECTORS), name, data_type)
    else:
        values, element_type = _scalars(data, found.get(_SCALARS), name, data_type)
    return IncomingField(
        name=name,
        data_type=data_type,
        column=_full_length(values, valid, name),
        element_type=element_type,
        dimension=dimension,
        is_dynamic=bool(_number(found.get(_DYNAMIC))),
    )


def _string(data: bytes, entry: walk.Entry | None) -> str:
    if entry is None:
        return ""
    _expect_delimited(entry)
    try:
        return data[entry.value : entry.stop].decode()
    except UnicodeDecodeError:
        raise walk.UnusualError("a string is not UTF-8") from None


def _number(entry: walk.Entry | None) -> int:
    if entry is None:
        return 0
    if entry.wire_type != walk.VARINT:
        raise walk.UnusualError(f"field {entry.number} has wire type {entry.wire_type}")
    return entry.value


def _expect_delimited(entry: walk.Entry) -> None:
    if entry.wire_type != walk.DELIMITED:
        raise walk.UnusualError(f"field {entry.number} has wire type {entry.wire_type}")


# --- scalars --------------------------------------------------------------------------------------------------------
def _scalars(data: bytes, scalars: walk.Entry | None, name: str, data_type: DataType) -> tuple[Values, DataType]:
    """Values as sent and, for arrays, the element type."""
    if scalars is None:
        return _empty(data_type), DataType.NONE
    _expect_delimited(scalars)
    members = walk.once(data, scalars.value, scalars.stop)
    known = [entry for entry in members.values() if entry.number <= _GEOMETRY_TEXT]
    if not known:
        return _empty(data_type), DataType.NONE
    if len(known) > 1:
        raise walk.UnusualError("two kinds of scalar data")
    _expect_delimited(known[0])
    _, _, _, start, stop = known[0]
    if data_type is DataType.ARRAY and known[0].number == _ARRAY:
        return _arrays(messages().ArrayArray.FromString(data[start:stop]), name)
    reader = _SCALAR_READERS.get((data_type, known[0].number))
    if reader is None:
        raise BadParameterError(f"the data of field {name} is not of its type {data_type.label}")
    return reader(data, start, stop, data_type), DataType.NONE


def _empty(data_type: DataType) -> Values:
    if data_type in NUMPY_DTYPES:
        return np.empty(0, NUMPY_DTYPES[data_type])
    if data_type is DataType.NONE:
        raise BadParameterError("field data has no type")
    return pa.array([], arrow_type(data_type, DataType.INT64 if data_type is DataType.ARRAY else DataType.NONE))


def _read_bools(data: bytes, start: int, stop: int, data_type: DataType) -> Values:
    return walk.varints(data, *walk.payload(data, start, stop)) != 0


def _read_integers(data: bytes, start: int, stop: int, data_type: DataType) -> Values:
    values = walk.varints(data, *walk.payload(data, start, stop))
    # `int_data` is a 32-bit field: like protobuf, take the low half of whatever was sent.
    return values if values.dtype == NUMPY_DTYPES[data_type] else _narrow(values.astype(np.int32), data_type)


def _read_floats(data: bytes, start: int, stop: int, data_type: DataType) -> Values:
    return walk.fixed(data, *walk.payload(data, start, stop), NUMPY_DTYPES[data_type])


def _read_strings(data: bytes, start: int, stop: int, data_type: DataType) -> Values:
    return pa.array(list(messages().StringArray.FromString(data[start:stop]).data), pa.large_string())


def _read_bytes(data: bytes, start: int, stop: int, data_type: DataType) -> Values:
    return pa.array(list(messages().BytesArray.FromString(data[start:stop]).data), pa.large_binary())


_SCALAR_READERS: Final[Mapping[tuple[DataType, int], Callable[[bytes, int, int, DataType], Values]]] = {
    (DataType.BOOL, _BOOL): _read_bools,
    (DataType.INT8, _INT): _read_integers,
    (DataType.INT16, _INT): _read_integers,
    (DataType.INT32, _INT): _read_integers,
    (DataType.INT64, _LONG): _read_integers,
    (DataType.FLOAT, _FLOAT): _read_floats,
    (DataType.DOUBLE, _DOUBLE): _read_floats,
    (DataType.VARCHAR, _STRING): _read_strings,
    (DataType.STRING, _STRING): _read_strings,
    (DataType.TEXT, _STRING): _read_strings,
    (DataType.JSON, _JSON): _read_bytes,
    (DataType.GEOMETRY, _GEOMETRY): _read_bytes,
    (DataType.GEOMETRY, _GEOMETRY_TEXT): _read_strings,
    (DataType.TIMESTAMPTZ, _TIMESTAMPTZ): _read_integers,
    (DataType.TIMESTAMPTZ, _STRING): _read_strings,
}
"""By type and member of `ScalarField`. Shapes and times sent as text stay string columns for the proxy, which knows the
collection's time zone."""


def _narrow(values: npt.NDArray[Any], data_type: DataType) -> npt.NDArray[Any]:
    """Into the type's own width; integers that do not fit are refused."""
    kind = np.dtype(NUMPY_DTYPES[data_type])
    if kind == values.dtype:
        return values
    bounds = np.iinfo(kind)
    outside = np.flatnonzero((values < bounds.min) | (values > bounds.max))
    if outside.size:
        row = int(outside[0])
        raise BadParameterError(f"the {row}th element ({values[row]}) out of range: [{bounds.min}, {bounds.max}]")
    return values.astype(kind)


def _arrays(message: Any, name: str) -> tuple[Values, DataType]:
    """One `ScalarField` per row into a list column."""
    rows = message.data
    kinds = set(map(methodcaller("WhichOneof", "data"), rows)) - {None}
    element_type = data_type_of(message.element_type)
    if element_type is DataType.NONE:
        element_type = _MEMBER_ELEMENTS.get(min(kinds), DataType.NONE) if kinds else DataType.INT64
    member = _ELEMENT_MEMBERS.get(element_type)
    if member is None or kinds - {member}:
        raise BadParameterError(f"the array elements of field {name} are not of their type {element_type.label}")
    lists = list(map(attrgetter(f"{member}.data"), rows))
    offsets = np.zeros(len(lists) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, lists), np.int64, len(lists)), out=offsets[1:])
    elements = _elements(chain.from_iterable(lists), int(offsets[-1]), element_type)
    kind = arrow_type(DataType.ARRAY, element_type)
    return pa.LargeListArray.from_arrays(pa.array(offsets), elements, type=kind), element_type


def _elements(elements: chain[Any], count: int, element_type: DataType) -> pa.Array:
    if element_type.is_string:
        return pa.array(list(elements), pa.large_string())
    if element_type.is_integer:
        return pa.array(_narrow(np.fromiter(elements, np.int64, count), element_type))
    return pa.array(np.fromiter(elements, NUMPY_DTYPES[element_type], count))


# --- vectors --------------------------------------------------------------------------------------------------------
def _vectors(data: bytes, vectors: walk.Entry | None, name: str, data_type: DataType) -> tuple[Values, int]:
    """Rows as sent, and the dimension the client named."""
    if vectors is None:
        return _no_vectors(data_type, 0), 0
    _expect_delimited(vectors)
    members = walk.once(data, vectors.value, vectors.stop)
    dimension = _number(members.get(_DIMENSION))
    known = [entry for entry in members.values() if _DIMENSION < entry.number <= _VECTOR_ARRAY]
    if not known:
        return _no_vectors(data_type, dimension), dimension
    if len(known) > 1:
        raise walk.UnusualError("two kinds of vector data")
    member, _, _, start, stop = known[0]
    _expect_delimited(known[0])
    if data_type is DataType.ARRAY_OF_VECTOR and member == _VECTOR_ARRAY:
        return _vector_lists(messages().VectorArray.FromString(data[start:stop]), name), dimension
    if data_type is DataType.SPARSE_FLOAT_VECTOR and member == _SPARSE:
        sparse = messages().SparseFloatArray.FromString(data[start:stop])
        return pa.array(list(sparse.contents), pa.large_binary()), int(sparse.dim)
    if member == _FLOAT_VECTOR:
        floats = walk.fixed(data, *walk.payload(data, start, stop), "<f4")
        return _dense(_from_floats(floats, name, data_type), dimension, name, data_type), dimension
    if member != _VECTOR_MEMBERS.get(data_type):
        raise BadParameterError(f"the data of field {name} is not of its type {data_type.label}")
    return _dense(walk.fixed(data, start, stop, NUMPY_DTYPES[data_type]), dimension, name, data_type), dimension


def _vector_lists(message: Any, name: str) -> Values:
    """One `VectorField` per row into rows of float32 bytes."""
    rows = message.data
    if set(map(methodcaller("WhichOneof", "data"), rows)) - {None, "float_vector"}:
        raise BadParameterError(f"the vectors of field {name} are not float vectors")
    lists = list(map(attrgetter("float_vector.data"), rows))
    offsets = np.zeros(len(lists) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, lists), np.int64, len(lists)), out=offsets[1:])
    floats = np.fromiter(chain.from_iterable(lists), "<f4", int(offsets[-1]))
    buffers = [None, pa.py_buffer(offsets * floats.itemsize), pa.py_buffer(floats)]
    return pa.Array.from_buffers(pa.large_binary(), len(lists), buffers)


def _no_vectors(data_type: DataType, dimension: int) -> Values:
    if data_type in (DataType.SPARSE_FLOAT_VECTOR, DataType.ARRAY_OF_VECTOR):
        return pa.array([], pa.large_binary())
    return np.empty((0, _width(data_type, dimension)), NUMPY_DTYPES[data_type])


def _from_floats(floats: npt.NDArray[Any], name: str, data_type: DataType) -> npt.NDArray[Any]:
    """Half-width vectors may be sent as float32; the server rounds them."""
    if data_type is DataType.FLOAT_VECTOR:
        return floats
    if data_type is DataType.FLOAT16_VECTOR:
        with np.errstate(over="ignore"):  # too large becomes infinite, which the proxy refuses
            return floats.astype(np.float16)
    if data_type is DataType.BFLOAT16_VECTOR:
        return to_bfloat16(floats)
    raise BadParameterError(f"the data of field {name} is not of its type {data_type.label}")


def _width(data_type: DataType, dimension: int) -> int:
    """Array width of one vector."""
    if not 0 <= dimension <= _DIMENSION_MAX:
        raise RequestError(f"invalid dimension: {dimension}")
    return dimension // 8 if data_type is DataType.BINARY_VECTOR else dimension


def _dense(flat: npt.NDArray[Any], dimension: int, name: str, data_type: DataType) -> npt.NDArray[Any]:
    width = _width(data_type, dimension)
    if width == 0:
        if not len(flat):
            return np.empty((0, 0), flat.dtype)
        raise RequestError(f"dim({dimension}) of field {name} should be greater than 0")
    if len(flat) % width:
        raise RequestError(f"the length({len(flat)}) of float data should divide the dim({dimension})")
    return flat.reshape(-1, width)


# --- nulls ----------------------------------------------------------------------------------------------------------
def _full_length(values: Values, valid: npt.NDArray[np.bool_] | None, name: str) -> Column:
    """A column with one entry per flag, whether the payload held all rows or the valid ones only."""
    if valid is None or len(values) == len(valid):
        return Column(values, valid)
    if len(values) != int(valid.sum()):
        raise BadParameterError(f"the length of valid_data of field({name}) is wrong")
    if isinstance(values, np.ndarray):
        if len(valid) * values[:0].itemsize * int(np.prod(values.shape[1:])) > EXPANDED_BYTES_MAX:
            raise BadParameterError(f"field({name}) is too large when its nulls are filled in")
        full = np.zeros((len(valid), *values.shape[1:]), values.dtype)
        full[valid] = values
        return Column(full, valid)
    return Column(spread(values, valid), valid)


def spread(values: pa.Array, valid: npt.NDArray[np.bool_]) -> pa.Array:
    """An Arrow column of strings, bytes or lists with an empty value put wherever `valid` is False."""
    offsets = np.frombuffer(values.buffers()[1], np.int64, len(values) + 1, values.offset * 8) if len(values) else None
    kept = np.concatenate(([0], np.cumsum(valid)))
    full = pa.array(np.zeros(len(valid) + 1, np.int64) if offsets is None else offsets[kept])
    if pa.types.is_large_list(values.type):
        return pa.LargeListArray.from_arrays(full, values.values, type=values.type)
    return pa.Array.from_buffers(values.type, len(valid), [None, full.buffers()[1], values.buffers()[2]])
