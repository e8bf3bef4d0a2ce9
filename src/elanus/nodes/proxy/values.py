"""Checks of one sent column against its field. Each returns the column in the field's own dtype, or refuses.

No loop over rows: Arrow and NumPy look at whole columns, and JSON is parsed by one call of msgspec for all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import methodcaller
from typing import Any, Final, NoReturn

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from elanus.base.limits import JSON_BYTES_MAX
from elanus.model.columns import NUMPY_DTYPES, Column, Mask, Values, arrow_type
from elanus.model.errors import BadParameterError, RequestError
from elanus.model.schema import DYNAMIC_FIELD_NAME, FieldSchema
from elanus.model.types import DataType
from elanus.nodes.proxy.forms import DEFAULT_TIMEZONE, stored_shapes, stored_times
from elanus.nodes.proxy.schema import INTEGER_RANGES

Numbers = npt.NDArray[Any]
_ANY_JSON: Final = msgspec.json.Decoder(msgspec.Raw)
_JSON_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_SPARSE_ENTRY: Final = np.dtype([("index", "<u4"), ("value", "<f4")])
_FLOAT_BYTES: Final = 4
_SPARSE_INDEX_END: Final = (1 << 32) - 1
_ARRAY_WORDS: Final[Mapping[DataType, str]] = {
    DataType.BOOL: "bool",
    DataType.INT8: "int",
    DataType.INT16: "int",
    DataType.INT32: "int",
    DataType.INT64: "long",
    DataType.FLOAT: "float",
    DataType.DOUBLE: "double",
    DataType.VARCHAR: "string",
    DataType.JSON: "json",
    DataType.ARRAY: "array",
    DataType.GEOMETRY: "geometry",
    DataType.TIMESTAMPTZ: "timestamptz",
}
_VECTOR_WORDS: Final[Mapping[DataType, str]] = {
    DataType.FLOAT_VECTOR: "float vector",
    DataType.FLOAT16_VECTOR: "float16 vector",
    DataType.BFLOAT16_VECTOR: "bfloat16 vector",
    DataType.BINARY_VECTOR: "binary vector",
    DataType.INT8_VECTOR: "int8 vector",
    DataType.SPARSE_FLOAT_VECTOR: "sparse float vector",
}


def checked_values(field: FieldSchema, column: Column, zone: str = DEFAULT_TIMEZONE) -> Column:
    """The column's values checked and in storage dtype; its `valid` mask is passed on. Fillers are not looked at.
    `zone` is that of times without an offset."""
    kind = field.data_type
    if kind in (DataType.TIMESTAMPTZ, DataType.GEOMETRY):
        return Column(_converted(field, column, zone), column.valid)
    if kind is DataType.VARCHAR:
        return Column(_strings(field, column), column.valid)
    if kind is DataType.JSON:
        return Column(_json(field, column), column.valid)
    if kind is DataType.ARRAY:
        return Column(_arrays(field, column), column.valid)
    if kind is DataType.SPARSE_FLOAT_VECTOR:
        return Column(_sparse(field, column), column.valid)
    if kind is DataType.ARRAY_OF_VECTOR:
        return Column(_vector_lists(field, column), column.valid)
    if kind.is_vector:
        return Column(_dense(field, column.values), column.valid)
    return Column(_numbers(field, column), column.valid)


def _converted(field: FieldSchema, column: Column, zone: str) -> Values:
    is_time = field.data_type is DataType.TIMESTAMPTZ
    stored = stored_times(column.values, column.valid, zone) if is_time else stored_shapes(column.values, column.valid)
    if stored is None:
        type_mismatch(field)
    return stored


def type_mismatch(field: FieldSchema) -> NoReturn:
    """Refuse a column whose type is not the field's."""
    if field.data_type in _VECTOR_WORDS:
        word = _VECTOR_WORDS[field.data_type]
        raise BadParameterError(
            f"{word} field '{field.name}' is illegal, array type mismatch", expected=f"need {word}", actual="got nil"
        )
    word = _ARRAY_WORDS.get(field.data_type, field.data_type.label)
    raise BadParameterError(
        f"field '{field.name}' is illegal, array type mismatch", expected=f"need {word} array", actual="got nil"
    )


# --- numbers --------------------------------------------------------------------------------------------------------
def _numbers(field: FieldSchema, column: Column) -> Numbers:
    values, kind = column.values, field.data_type
    if not isinstance(values, np.ndarray) or values.ndim != 1:
        type_mismatch(field)
    if kind is DataType.BOOL:
        if values.dtype != np.bool_:
            type_mismatch(field)
        return values
    if kind.is_integer:
        if values.dtype.kind != "i":
            type_mismatch(field)
        return _integers(values, kind, column.valid)
    if values.dtype.kind != "f":
        type_mismatch(field)
    check_finite(values if column.valid is None else values[column.valid])
    return values.astype(NUMPY_DTYPES[kind], copy=False)


def _integers(values: Numbers, kind: DataType, valid: Mask | None) -> Numbers:
    dtype = np.dtype(NUMPY_DTYPES[kind])
    if values.dtype.itemsize <= dtype.itemsize:
        return values.astype(dtype, copy=False)
    low, high = INTEGER_RANGES[kind]
    outside = (values < low) | (values > high)
    if valid is not None:
        outside &= valid
    if outside.any():
        row = int(outside.argmax())
        raise BadParameterError(
            f"the {row}th element ({values[row]}) out of range: [{low}, {high}]",
            expected="integer doesn't overflow",
            actual="out of range",
        )
    return values.astype(dtype)


def check_finite(values: Numbers) -> None:
    """Refuse NaN and infinities. A finite sum proves that all terms are finite; only an infinite one is looked into."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(values.sum(dtype=values.dtype if values.dtype.itemsize > 2 else np.float32)):
            return
    wrong = ~np.isfinite(values)
    if wrong.any():
        refuse_number(float(values[wrong][0]))


def refuse_number(value: float) -> NoReturn:
    """The refusal of a value that is not a finite number."""
    text = "NaN" if np.isnan(value) else "+Inf" if value > 0 else "-Inf"
    raise RequestError(f"value '{text}' is not a number or infinity")


# --- strings --------------------------------------------------------------------------------------------------------
def _strings(field: FieldSchema, column: Column) -> pa.Array:
    values = column.values
    if not isinstance(values, pa.Array) or values.type != pa.large_string():
        type_mismatch(field)
    _check_utf8(field, values)
    lengths = np.asarray(pc.binary_length(values))
    row = _first_above(lengths, field.max_length, column.valid)
    if row >= 0:
        raise BadParameterError(
            f"length of varchar field {field.name} exceeds max length, row number: {row}, length: {lengths[row]}, "
            f"max length: {field.max_length}",
            expected="valid length string",
            actual="string length exceeds max length",
        )
    return values


def _check_utf8(field: FieldSchema, values: pa.Array) -> None:
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        raise BadParameterError(f"field {field.name} contains text that is not UTF-8") from None


def _first_above(lengths: Numbers, largest: int, valid: Mask | None) -> int:
    """The first row whose length is above `largest`; -1 for none."""
    if int(lengths.max(initial=0)) <= largest:
        return -1
    above = lengths > largest if valid is None else (lengths > largest) & valid
    return int(above.argmax()) if above.any() else -1


# --- JSON -----------------------------------------------------------------------------------------------------------
def _json(field: FieldSchema, column: Column) -> pa.Array:
    values = column.values
    if not isinstance(values, pa.Array) or values.type != pa.large_binary():
        type_mismatch(field)
    lengths = np.asarray(pc.binary_length(values))
    row = _first_above(lengths, JSON_BYTES_MAX, column.valid)
    if row >= 0:
        subject = "dynamic field" if field.is_dynamic else f"json field ({field.name})"
        raise BadParameterError(f"the length ({lengths[row]}) of {subject} exceeds max length ({JSON_BYTES_MAX})")
    present = values if column.valid is None else values.filter(pa.array(column.valid))
    _check_json(field, present)
    return values


def _check_json(field: FieldSchema, values: pa.Array) -> None:
    """Each row must be exactly one JSON value: parsed line by line in one call, then lengths compared row by row."""
    rows = json_rows(values)
    try:
        parsed = _ANY_JSON.decode_lines(b"\n".join(rows))
    except (msgspec.DecodeError, UnicodeDecodeError):
        parsed = []
    lengths = list(map(len, parsed))
    if lengths != list(map(len, rows)) and lengths != list(map(len, map(bytes.strip, rows))):
        raise BadParameterError(f"field {field.name} contains data that is not valid JSON")


def json_rows(values: pa.Array) -> list[bytes]:
    """The rows as bytes without raw line breaks, which JSON allows between tokens only, where a blank does as well."""
    data = values.buffers()[2]
    if data is not None and b"\n" in data.to_pybytes():
        return list(map(methodcaller("replace", b"\n", b" "), values.to_pylist()))
    rows: list[bytes] = values.to_pylist()
    return rows


def json_objects(values: pa.Array) -> list[dict[str, msgspec.Raw]]:
    """Rows of valid JSON as objects whose values stay as written; refuses what is no object."""
    try:
        return _JSON_OBJECT.decode_lines(b"\n".join(json_rows(values)))
    except msgspec.ValidationError:
        raise BadParameterError("the dynamic field must hold JSON objects") from None


def check_dynamic_keys(values: pa.Array, static_names: frozenset[str]) -> None:
    """Refuse undeclared keys that carry the name of a declared field, or of the dynamic field itself."""
    keys: set[str] = set().union(*json_objects(values))
    if DYNAMIC_FIELD_NAME in keys:
        raise BadParameterError(f"cannot set json key to: {DYNAMIC_FIELD_NAME}")
    clashing = keys & static_names
    if clashing:
        raise BadParameterError(f"dynamic field name cannot include the static field name: {min(clashing)}")


# --- arrays ---------------------------------------------------------------------------------------------------------
def _arrays(field: FieldSchema, column: Column) -> pa.Array:
    values, element = column.values, field.element_type
    if not isinstance(values, pa.Array) or not pa.types.is_large_list(values.type):
        type_mismatch(field)
    lengths = np.asarray(pc.list_value_length(values))
    row = _first_above(lengths, field.max_capacity, column.valid)
    if row >= 0:
        raise BadParameterError(
            f"the length ({lengths[row]}) of {row}th array exceeds max capacity ({field.max_capacity})",
            expected="valid length array",
            actual="array length exceeds max capacity",
        )
    flat = values.flatten()
    if flat.null_count:
        raise BadParameterError(f"array field {field.name} contains null elements")
    checked = _elements(field, flat)
    if checked is flat and values.type == arrow_type(DataType.ARRAY, element):
        return values
    offsets = np.r_[0, np.cumsum(lengths)].astype(np.int64)
    return pa.LargeListArray.from_arrays(
        pa.array(offsets), checked.cast(arrow_type(element)), type=arrow_type(DataType.ARRAY, element)
    )


def _elements(field: FieldSchema, flat: pa.Array) -> pa.Array:
    """The elements of all rows, in the element type."""
    element = field.element_type
    if not len(flat):
        return pa.array([], arrow_type(element))
    if element is DataType.VARCHAR:
        if flat.type != pa.large_string():
            type_mismatch(field)
        _check_utf8(field, flat)
        if (pc.max(pc.binary_length(flat)).as_py() or 0) > field.max_length:
            raise BadParameterError(
                f'length of Array array field "{field.name}" exceeds max length, max length: {field.max_length}',
                expected="valid length string",
                actual="string length exceeds max length",
            )
        return flat
    accepted: Callable[[pa.DataType], bool] = (
        pa.types.is_boolean
        if element is DataType.BOOL
        else pa.types.is_integer
        if element.is_integer
        else pa.types.is_floating
    )
    if not accepted(flat.type):
        type_mismatch(field)
    if element is DataType.BOOL:
        return flat
    numbers = flat.to_numpy(zero_copy_only=False)
    if element.is_integer:
        checked = _integers(numbers, element, None)
        return flat if checked is numbers else pa.array(checked)
    check_finite(numbers)
    return flat


# --- vectors --------------------------------------------------------------------------------------------------------
def _dense(field: FieldSchema, values: Any) -> Numbers:
    kind = field.data_type
    if not isinstance(values, np.ndarray) or values.ndim != 2:
        type_mismatch(field)
    dimension = values.shape[1] * 8 if kind is DataType.BINARY_VECTOR else values.shape[1]
    if dimension != field.dimension and kind is not DataType.BINARY_VECTOR and values.size % field.dimension:
        raise BadParameterError(
            f"the length({values.size}) of float data should divide the dim({field.dimension})",
            expected=field.dimension,
            actual=dimension,
        )
    if dimension != field.dimension:
        raise BadParameterError(
            f"the dim ({dimension}) of field data({field.name}) is not equal to schema dim ({field.dimension})",
            expected=field.dimension,
            actual=dimension,
        )
    if values.dtype != np.dtype(NUMPY_DTYPES[kind]):
        type_mismatch(field)
    check_finite_vectors(values, kind)
    return values


def check_finite_vectors(values: Numbers, kind: DataType) -> None:
    """Refuse NaN and infinities in dense vectors as they are stored."""
    if kind in (DataType.FLOAT_VECTOR, DataType.FLOAT16_VECTOR):
        check_finite(values)
    elif kind is DataType.BFLOAT16_VECTOR:
        wrong = (values & 0x7F80) == 0x7F80
        if wrong.any():
            refuse_number(float((values[wrong][:1].astype("<u4") << 16).view("<f4")[0]))


def _vector_lists(field: FieldSchema, column: Column) -> pa.Array:
    """Rows of float32 vectors, one after another."""
    values = column.values
    if not isinstance(values, pa.Array) or values.type != pa.large_binary():
        type_mismatch(field)
    width = field.dimension * _FLOAT_BYTES
    lengths = np.asarray(pc.binary_length(values))
    if (lengths % width).any():
        raise BadParameterError(
            f"the dim of field data({field.name}) is not equal to schema dim ({field.dimension})",
            expected=field.dimension,
            actual="another",
        )
    row = _first_above(lengths, field.max_capacity * width, column.valid)
    if row >= 0:
        raise BadParameterError(
            f"the length ({lengths[row] // width}) of {row}th array exceeds max capacity ({field.max_capacity})",
            expected="valid length array",
            actual="array length exceeds max capacity",
        )
    offsets = np.frombuffer(values.buffers()[1], "<i8")[values.offset : values.offset + len(values) + 1]
    check_finite(np.frombuffer(memoryview(values.buffers()[2] or b"")[offsets[0] : offsets[-1]], "<f4"))
    return values


def _sparse(field: FieldSchema, column: Column) -> pa.Array:
    """Rows of (uint32 index, float32 value): indices strictly ascending, values finite and not negative."""
    values = column.values
    if not isinstance(values, pa.Array) or values.type != pa.large_binary():
        type_mismatch(field)
    lengths = np.asarray(pc.binary_length(values))
    if (lengths % _SPARSE_ENTRY.itemsize).any():
        raise BadParameterError(f"invalid data length in sparse float vector of field {field.name}")
    offsets = np.frombuffer(values.buffers()[1], "<i8")[values.offset : values.offset + len(values) + 1]
    data = memoryview(values.buffers()[2] or b"")[offsets[0] : offsets[-1]]
    entries = np.frombuffer(data, _SPARSE_ENTRY)
    indices, weights = entries["index"], entries["value"]
    check_finite(weights)
    if (weights < 0).any():
        raise BadParameterError(f"negative value in sparse float vector of field {field.name}")
    starts = (offsets[:-1] - offsets[0]) // _SPARSE_ENTRY.itemsize
    ascending = np.ones(len(indices), np.bool_)
    ascending[1:] = indices[1:] > indices[:-1]
    ascending[starts[lengths > 0]] = True
    if not ascending.all():
        raise BadParameterError(f"unsorted or same indices in sparse float vector of field {field.name}")
    if (indices == _SPARSE_INDEX_END).any():
        raise BadParameterError(f"index out of range in sparse float vector of field {field.name}")
    return values
