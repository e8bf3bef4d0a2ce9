"""Carries everything that crosses a role's border as bytes, and back as the same value of the same type.

The contracts' annotations are the schema: for each type a pair of functions is made once, which walk its structure (not
its rows) to a tree that MessagePack holds. Arrays travel as raw memory and Arrow columns as IPC streams, both read in
place on arrival, where nobody may write to them. Structs are maps by field name, so that a field with a default may be
added; of unions the member's number is sent.

Strict: a value that is not what its annotation says fails here, at the sender, with `InvariantError`. That is what
running a composition through `through_codec` is for: whatever only works because caller and callee share memory (a
NumPy integer, a list for a tuple, a live object, writing into an argument) is found.

Errors cross as their class names, most special first, and their message; the receiver rebuilds the first class it knows
without calling its constructor.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Sequence
from enum import Enum
from functools import cache
from typing import Any, Final, NamedTuple, TypeVar, cast

import msgspec
import numpy as np
import pyarrow as pa

from elanus.base.errors import ElanusError, InvariantError
from elanus.model.columns import Batch, Column

T = TypeVar("T")

_ARROW_CODE: Final = 1
_DTYPES: Final = ("?", "<i1", "<i2", "<i4", "<i8", "<u1", "<u2", "<u4", "<u8", "<f2", "<f4", "<f8")
_DTYPE_CODES: Final = {np.dtype(name): code for code, name in enumerate(_DTYPES, start=2)}
_CODE_DTYPES: Final = {code: dtype for dtype, code in _DTYPE_CODES.items()}


class _Pair(NamedTuple):
    """How values of one type become a MessagePack tree, and back. `pack` also checks."""

    pack: Callable[[Any], Any]
    unpack: Callable[[Any], Any]


def encode(value: object) -> bytes:
    """The bytes of a value, by its own class. InvariantError names what cannot be carried."""
    return encode_as(value, type(value))


def encode_as(value: object, kind: Any) -> bytes:
    """The bytes of a value that is annotated as `kind`."""
    return msgspec.msgpack.encode(_pair(kind).pack(value))


def decode(data: bytes | memoryview, kind: type[T]) -> T:
    """The inverse of `encode`; arrays view `data`, which must stay unchanged."""
    return cast("T", decode_as(data, kind))


def decode_as(data: bytes | memoryview, kind: Any) -> Any:
    """The inverse of `encode_as`."""
    return _pair(kind).unpack(msgspec.msgpack.decode(data, ext_hook=_from_extension))


def _refuse(value: object, wanted: object) -> InvariantError:
    return InvariantError(f"{type(value).__name__} cannot cross a role's border as {wanted}: {str(value)[:80]}")


# --- arrays ---------------------------------------------------------------------------------------------------------
def _pack_array(array: Any) -> Any:
    code = _DTYPE_CODES.get(array.dtype) if isinstance(array, np.ndarray) else None
    if code is None:
        raise _refuse(array, "an array of numbers")
    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    return [array.shape, msgspec.msgpack.Ext(code, raw)]


def _unpack_array(tree: Any) -> Any:
    shape, flat = tree
    array = flat.reshape(shape)
    if not array.flags.aligned:
        array = array.copy()
        array.flags.writeable = False
    return array


def _from_extension(code: int, data: memoryview) -> Any:
    if code == _ARROW_CODE:
        with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
            return reader.read_next_batch().column(0)
    return np.frombuffer(data, _CODE_DTYPES[code])


def _pack_column(column: Any) -> Any:
    if not isinstance(column, Column):
        raise _refuse(column, "a Column")
    valid = None if column.valid is None else _pack_array(column.valid)
    if isinstance(column.values, np.ndarray):
        return [_pack_array(column.values), valid]
    if not isinstance(column.values, pa.Array) or column.values.null_count:
        raise _refuse(column.values, "an Arrow array without nulls")
    batch = pa.RecordBatch.from_arrays([column.values], names=["values"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return [msgspec.msgpack.Ext(_ARROW_CODE, memoryview(sink.getvalue())), valid]


def _unpack_column(tree: Any) -> Column:
    values, valid = tree
    return Column(
        values if isinstance(values, pa.Array) else _unpack_array(values),
        None if valid is None else _unpack_array(valid),
    )


def _pack_batch(batch: Any) -> Any:
    if not isinstance(batch, Batch):
        raise _refuse(batch, "a Batch")
    return [batch.row_count, {field_id: _pack_column(column) for field_id, column in batch.columns.items()}]


def _unpack_batch(tree: Any) -> Batch:
    return Batch(tree[0], {field_id: _unpack_column(column) for field_id, column in tree[1].items()})


# --- plain values ---------------------------------------------------------------------------------------------------
def _pack_any(value: Any) -> Any:
    """Where the contract says `Any`: plain values, in lists and maps."""
    match value:
        case list():
            return [_pack_any(one) for one in value]
        case dict():
            return {key: _pack_any(one) for key, one in value.items()}
        case _ if value is None or type(value) in (bool, int, float, str, bytes):
            return value
    raise _refuse(value, "a plain value")


def _same(value: Any) -> Any:
    return value


def _exactly(*kinds: type) -> _Pair:
    def pack(value: Any) -> Any:
        if type(value) not in kinds:
            raise _refuse(value, kinds[0].__name__)
        return value

    return _Pair(pack, _same)


def _enum(kind: type[Enum]) -> _Pair:
    def pack(value: Any) -> Any:
        if type(value) is not kind:
            raise _refuse(value, kind.__name__)
        return value.value

    return _Pair(pack, kind)


# --- structures -----------------------------------------------------------------------------------------------------
def _fields(kind: type, pairs: Sequence[tuple[str, _Pair]]) -> _Pair:
    """A struct or dataclass as a map by field name."""
    by_name = dict(pairs)

    def pack(value: Any) -> Any:
        if type(value) is not kind:
            raise _refuse(value, kind.__name__)
        return {name: pair.pack(getattr(value, name)) for name, pair in pairs}

    def unpack(tree: Any) -> Any:
        return kind(**{name: by_name[name].unpack(one) for name, one in tree.items() if name in by_name})

    return _Pair(pack, unpack)


def _sequence(kind: type, make: Callable[[Any], Any], pairs: Sequence[_Pair] | None, every: _Pair | None) -> _Pair:
    """A list, tuple or named tuple: of `every` kind alike, or of `pairs` in order."""

    def chosen(value: Any) -> Sequence[_Pair]:
        if every is not None:
            return [every] * len(value)
        if pairs is None or len(pairs) != len(value):
            raise _refuse(value, kind.__name__)
        return pairs

    def pack(value: Any) -> Any:
        if type(value) is not kind:
            raise _refuse(value, kind.__name__)
        items: Any = value
        return [pair.pack(one) for pair, one in zip(chosen(items), items, strict=True)]

    def unpack(tree: Any) -> Any:
        return make([pair.unpack(one) for pair, one in zip(chosen(tree), tree, strict=True)])

    return _Pair(pack, unpack)


def _mapping(key: _Pair, item: _Pair) -> _Pair:
    def pack(value: Any) -> Any:
        if type(value) is not dict:
            raise _refuse(value, "dict")
        return {key.pack(name): item.pack(one) for name, one in value.items()}

    return _Pair(pack, lambda tree: {key.unpack(name): item.unpack(one) for name, one in tree.items()})


def _optional(inner: _Pair) -> _Pair:
    return _Pair(
        lambda value: None if value is None else inner.pack(value),
        lambda tree: None if tree is None else inner.unpack(tree),
    )


def _union(kinds: Sequence[type]) -> _Pair:
    pairs = [_pair(kind) for kind in kinds]

    def pack(value: Any) -> Any:
        if type(value) not in kinds:
            raise _refuse(value, " or ".join(kind.__name__ for kind in kinds))
        number = list(kinds).index(type(value))
        return [number, pairs[number].pack(value)]

    return _Pair(pack, lambda tree: pairs[tree[0]].unpack(tree[1]))


_LEAVES: Final[dict[Any, _Pair]] = {
    Any: _Pair(_pack_any, _same),
    type(None): _exactly(type(None)),
    bool: _exactly(bool),
    int: _exactly(int),
    float: _exactly(float, int),
    str: _exactly(str),
    bytes: _exactly(bytes),
    np.ndarray: _Pair(_pack_array, _unpack_array),
    Column: _Pair(_pack_column, _unpack_column),
    Batch: _Pair(_pack_batch, _unpack_batch),
}


@cache
def _pair(kind: Any) -> _Pair:
    """The functions for an annotation."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind in _LEAVES or origin is np.ndarray:
        return _LEAVES[np.ndarray if origin is np.ndarray else kind]
    if origin in (types.UnionType, typing.Union):
        members = [one for one in arguments if one is not type(None)]
        inner = _pair(members[0]) if len(members) == 1 else _union(members)
        return _optional(inner) if len(members) < len(arguments) else inner
    if origin in (tuple, list):
        if origin is list or arguments[1:] == (...,):
            return _sequence(origin, origin, None, _pair(arguments[0]))
        return _sequence(tuple, tuple, [_pair(one) for one in arguments], None)
    if origin is dict:
        return _mapping(_pair(arguments[0]), _pair(arguments[1]))
    return _class_pair(kind)


def _class_pair(kind: Any) -> _Pair:
    if not isinstance(kind, type):
        raise InvariantError(f"no codec for {kind}")
    if issubclass(kind, Enum):
        return _enum(kind)
    if issubclass(kind, msgspec.Struct):
        return _fields(kind, [(field.name, _pair(field.type)) for field in msgspec.structs.fields(kind)])
    hints = typing.get_type_hints(kind)
    if dataclasses.is_dataclass(kind):
        return _fields(kind, [(field.name, _pair(hints[field.name])) for field in dataclasses.fields(kind)])
    names = getattr(kind, "_fields", None)
    if issubclass(kind, tuple) and names is not None:
        return _sequence(kind, lambda values: kind(*values), [_pair(hints[name]) for name in names], None)
    raise InvariantError(f"no codec for {kind.__name__}")


# --- errors ---------------------------------------------------------------------------------------------------------
def encode_error(error: ElanusError) -> bytes:
    """Class names from the error's own up to ElanusError, and the message."""
    names = [kind.__name__ for kind in type(error).__mro__ if issubclass(kind, ElanusError)]
    return msgspec.msgpack.encode((names, error.message))


def decode_error(data: bytes) -> ElanusError:
    """The error, of the most special of its classes that is known here."""
    names, message = msgspec.msgpack.decode(data, type=tuple[list[str], str])
    known = error_classes()
    kind = next(known[name] for name in names if name in known)
    error = kind.__new__(kind, message)
    error.message = message
    return error


def error_classes() -> dict[str, type[ElanusError]]:
    """Every loaded error class by name. InvariantError when two share one."""
    found: dict[str, type[ElanusError]] = {}
    waiting: list[type[ElanusError]] = [ElanusError]
    while waiting:
        kind = waiting.pop()
        if found.setdefault(kind.__name__, kind) is not kind:
            raise InvariantError(f"two error classes are called {kind.__name__}")
        waiting.extend(kind.__subclasses__())
    return found


# --- roles ----------------------------------------------------------------------------------------------------------
class Method(NamedTuple):
    """One call of a protocol, as bytes there and back."""

    name: str
    signature: inspect.Signature
    parameters: dict[str, Any]
    result: Any

    def encode_call(self, positional: Sequence[Any], named: dict[str, Any]) -> bytes:
        """The arguments of a call."""
        bound = self.signature.bind(None, *positional, **named).arguments
        kinds = self.parameters
        return msgspec.msgpack.encode({name: _pair(kinds[name]).pack(bound[name]) for name in kinds if name in bound})

    def decode_call(self, data: bytes | memoryview) -> dict[str, Any]:
        """The inverse, as named arguments; unknown ones are left out."""
        tree = msgspec.msgpack.decode(data, ext_hook=_from_extension)
        return {name: _pair(kind).unpack(tree[name]) for name, kind in self.parameters.items() if name in tree}

    def encode_result(self, value: Any) -> bytes:
        """What the call answers."""
        return encode_as(value, self.result)

    def decode_result(self, data: bytes | memoryview) -> Any:
        """The inverse."""
        return decode_as(data, self.result)


@cache
def methods(protocol: type) -> dict[str, Method]:
    """The calls of a protocol, by name."""
    found = {}
    for name, function in inspect.getmembers(protocol, inspect.iscoroutinefunction):
        hints = typing.get_type_hints(function)
        result = hints.pop("return")
        found[name] = Method(name, inspect.signature(function), hints, result)
    return found


class _Border:
    """A role behind the codec; offers exactly the protocol's calls."""

    def __init__(self, role: Any, protocol: type) -> None:
        for name, method in methods(protocol).items():
            setattr(self, name, _carried(getattr(role, name), method))


def _carried(call: Callable[..., Any], method: Method) -> Callable[..., Any]:
    async def carry(*positional: Any, **named: Any) -> Any:
        arguments = method.decode_call(method.encode_call(positional, named))
        try:
            result = await call(**arguments)
        except ElanusError as error:
            raise decode_error(encode_error(error)) from error
        return method.decode_result(method.encode_result(result))

    return carry


def through_codec(role: object, protocol: type[T]) -> T:
    """The role as it looks from another process: every argument, result and error is encoded and decoded."""
    return cast("T", _Border(role, protocol))
