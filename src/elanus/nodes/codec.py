"""Carries everything that crosses a role's border as bytes, and back as the same value of the same type.

The contracts' annotations are the schema: for each type a pair of functions is made once, which walk its structure (not
its rows) to a tree that MessagePack holds. What MessagePack knows by itself, structs of plain values, stays as it is in
the tree and is only checked. Arrays travel as raw memory and Arrow columns as IPC streams, both read in
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
from functools import cache, partial
from operator import attrgetter
from typing import Any, Final, NamedTuple, TypeVar, cast

import msgspec
import numpy as np
import pyarrow as pa

from elanus.base.errors import ElanusError, InvariantError
from elanus.model.columns import Batch, Column

T = TypeVar("T")

_ARROW_CODE: Final = 1
_ANY_KINDS: Final = frozenset((type(None), bool, int, float, str, bytes))
_COMBINATIONS_MAX: Final = 1024
_DTYPES: Final = ("?", "<i1", "<i2", "<i4", "<i8", "<u1", "<u2", "<u4", "<u8", "<f2", "<f4", "<f8")
_DTYPE_CODES: Final = {np.dtype(name): code for code, name in enumerate(_DTYPES, start=2)}
_CODE_DTYPES: Final = {code: dtype for dtype, code in _DTYPE_CODES.items()}


class _Pair(NamedTuple):
    """How values of one type become a MessagePack tree, and back. `pack` also checks.

    `is_plain`: MessagePack knows such values itself, and `pack` only checks and gives them back. `is_leaf`: there is
    nothing to check but that the exact type is one of `kinds`."""

    pack: Callable[[Any], Any]
    unpack: Callable[[Any], Any]
    kinds: frozenset[type] = frozenset()
    is_plain: bool = False
    is_leaf: bool = False


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
def _check_any(value: Any) -> Any:
    """Where the contract says `Any`: plain values, in lists and maps."""
    kind = type(value)
    if kind is list:
        for one in value:
            _check_any(one)
    elif kind is dict:
        for one in value.values():
            _check_any(one)
    elif kind not in _ANY_KINDS:
        raise _refuse(value, "a plain value")
    return value


def _same(value: Any) -> Any:
    return value


def _leaf(kind: type, *also: type, unpack: Callable[[Any], Any] = _same) -> _Pair:
    """Values whose exact type tells all there is to check."""
    kinds = frozenset((kind, *also))

    def pack(value: Any) -> Any:
        if type(value) not in kinds:
            raise _refuse(value, kind.__name__)
        return value

    return _Pair(pack, unpack, kinds, is_plain=True, is_leaf=True)


# --- structures -----------------------------------------------------------------------------------------------------
def _fields(kind: type, pairs: Sequence[tuple[str, _Pair]], *, is_plain: bool) -> _Pair:
    """A struct or dataclass as a map by field name."""
    names = tuple(name for name, _ in pairs)
    all_names = frozenset(names)
    inner = [(place, name, pair) for place, (name, pair) in enumerate(pairs) if not pair.is_leaf]
    unpacked = [(name, pair.unpack) for name, pair in pairs if pair.unpack is not _same]
    values_of = _values_getter(names)
    known: set[tuple[type, ...]] = set()
    """Combinations of types that were found right: what is usual is recognised at once."""

    def check(value: Any) -> tuple[Any, ...]:
        if type(value) is not kind:
            raise _refuse(value, kind.__name__)
        values = values_of(value)
        types_found = tuple(map(type, values))
        if types_found not in known:
            for one, (_, pair) in zip(values, pairs, strict=True):
                pair.pack(one)
            if len(known) < _COMBINATIONS_MAX:
                known.add(types_found)
        return values

    def pack_plain(value: Any) -> Any:
        values = check(value)
        for place, _, pair in inner:
            pair.pack(values[place])
        return value

    def pack(value: Any) -> Any:
        values = check(value)
        tree = dict(zip(names, values, strict=True))
        for place, name, pair in inner:
            tree[name] = pair.pack(values[place])
        return tree

    def unpack(tree: Any) -> Any:
        for name, unpack_one in unpacked:
            if name in tree:
                tree[name] = unpack_one(tree[name])
        if tree.keys() == all_names:
            return kind(**tree)
        return kind(**{name: tree[name] for name in names if name in tree})

    return _Pair(pack_plain if is_plain else pack, unpack, frozenset((kind,)), is_plain=is_plain)


def _values_getter(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    if len(names) > 1:
        return attrgetter(*names)
    return lambda value: tuple(getattr(value, name) for name in names)


def _sequence(kind: type, make: Callable[[Any], Any], pairs: Sequence[_Pair]) -> _Pair:
    """A tuple or named tuple of `pairs` in order."""

    def pack(value: Any) -> Any:
        items: Any = value
        if type(value) is not kind or len(items) != len(pairs):
            raise _refuse(value, kind.__name__)
        packed = [pair.pack(one) for pair, one in zip(pairs, items, strict=True)]
        return value if is_plain else packed

    def unpack(tree: Any) -> Any:
        return make([pair.unpack(one) for pair, one in zip(pairs, tree, strict=True)])

    is_plain = all(pair.is_plain for pair in pairs)
    return _Pair(pack, unpack, frozenset((kind,)), is_plain=is_plain)


def _repeated(kind: type, every: _Pair) -> _Pair:
    """A list or tuple of `every` kind alike."""

    def pack(value: Any) -> Any:
        if type(value) is not kind:
            raise _refuse(value, kind.__name__)
        items: Any = value
        if every.is_leaf and every.kinds.issuperset(map(type, items)):
            return value
        packed = [every.pack(one) for one in items]
        return value if every.is_plain else packed

    return _Pair(
        pack, lambda tree: kind([every.unpack(one) for one in tree]), frozenset((kind,)), is_plain=every.is_plain
    )


def _mapping(key: _Pair, item: _Pair) -> _Pair:
    is_plain = key.is_plain and item.is_plain

    def pack(value: Any) -> Any:
        if type(value) is not dict:
            raise _refuse(value, "dict")
        packed = {key.pack(name): item.pack(one) for name, one in value.items()}
        return value if is_plain else packed

    def unpack(tree: Any) -> Any:
        return {key.unpack(name): item.unpack(one) for name, one in tree.items()}

    return _Pair(pack, unpack, frozenset((dict,)), is_plain=is_plain)


def _optional(inner: _Pair) -> _Pair:
    return _Pair(
        lambda value: None if value is None else inner.pack(value),
        _same if inner.unpack is _same else lambda tree: None if tree is None else inner.unpack(tree),
        inner.kinds | {type(None)},
        is_plain=inner.is_plain,
        is_leaf=inner.is_leaf,
    )


def _union(kinds: Sequence[type]) -> _Pair:
    pairs = [_pair(kind) for kind in kinds]

    def pack(value: Any) -> Any:
        if type(value) not in kinds:
            raise _refuse(value, " or ".join(kind.__name__ for kind in kinds))
        number = list(kinds).index(type(value))
        return [number, pairs[number].pack(value)]

    return _Pair(pack, lambda tree: pairs[tree[0]].unpack(tree[1]), frozenset(kinds))


_LEAVES: Final[dict[Any, _Pair]] = {
    Any: _Pair(_check_any, _same, is_plain=True),
    type(None): _leaf(type(None)),
    bool: _leaf(bool),
    int: _leaf(int),
    float: _leaf(float, int),
    str: _leaf(str),
    bytes: _leaf(bytes),
    np.ndarray: _Pair(_pack_array, _unpack_array),
    Column: _Pair(_pack_column, _unpack_column),
    Batch: _Pair(_pack_batch, _unpack_batch),
}


@cache
def _pair(kind: Any) -> _Pair:
    """The functions for an annotation."""
    made = _made_pair(kind)
    if made.is_plain and not made.is_leaf and kind is not Any:
        # What MessagePack knows by itself is made from the tree at once.
        return made._replace(unpack=partial(msgspec.convert, type=kind))
    return made


def _made_pair(kind: Any) -> _Pair:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind in _LEAVES or origin is np.ndarray:
        return _LEAVES[np.ndarray if origin is np.ndarray else kind]
    if origin in (types.UnionType, typing.Union):
        members = [one for one in arguments if one is not type(None)]
        inner = _pair(members[0]) if len(members) == 1 else _union(members)
        return _optional(inner) if len(members) < len(arguments) else inner
    if origin in (tuple, list):
        if origin is list or arguments[1:] == (...,):
            return _repeated(origin, _pair(arguments[0]))
        return _sequence(tuple, tuple, [_pair(one) for one in arguments])
    if origin is dict:
        return _mapping(_pair(arguments[0]), _pair(arguments[1]))
    return _class_pair(kind)


def _class_pair(kind: Any) -> _Pair:
    if not isinstance(kind, type):
        raise InvariantError(f"no codec for {kind}")
    if issubclass(kind, Enum):
        return _leaf(kind, unpack=kind)
    if issubclass(kind, msgspec.Struct):
        pairs = [(field.name, _pair(field.type)) for field in msgspec.structs.fields(kind)]
        return _fields(kind, pairs, is_plain=_is_map_of_fields(kind) and all(pair.is_plain for _, pair in pairs))
    hints = typing.get_type_hints(kind)
    if dataclasses.is_dataclass(kind):
        return _fields(
            kind, [(field.name, _pair(hints[field.name])) for field in dataclasses.fields(kind)], is_plain=False
        )
    names = getattr(kind, "_fields", None)
    if issubclass(kind, tuple) and names is not None:
        return _sequence(kind, lambda values: kind(*values), [_pair(hints[name]) for name in names])
    raise InvariantError(f"no codec for {kind.__name__}")


def _is_map_of_fields(kind: type[msgspec.Struct]) -> bool:
    """Whether MessagePack's own form of the struct is a map by field name, perhaps without fields at their default."""
    config = kind.__struct_config__
    renamed = any(field.encode_name != field.name for field in msgspec.structs.fields(kind))
    return not (renamed or config.tag is not None or config.array_like)


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
    parameters: dict[str, _Pair]
    result: _Pair

    def encode_call(self, positional: Sequence[Any], named: dict[str, Any]) -> bytes:
        """The arguments of a call."""
        pairs = self.parameters
        if named or len(positional) != len(pairs):
            bound: dict[str, Any] = self.signature.bind(None, *positional, **named).arguments
        else:
            bound = dict(zip(pairs, positional, strict=True))
        return msgspec.msgpack.encode({name: pair.pack(bound[name]) for name, pair in pairs.items() if name in bound})

    def decode_call(self, data: bytes | memoryview) -> dict[str, Any]:
        """The inverse, as named arguments; unknown ones are left out."""
        tree = msgspec.msgpack.decode(data, ext_hook=_from_extension)
        return {name: pair.unpack(tree[name]) for name, pair in self.parameters.items() if name in tree}

    def encode_result(self, value: Any) -> bytes:
        """What the call answers."""
        return msgspec.msgpack.encode(self.result.pack(value))

    def decode_result(self, data: bytes | memoryview) -> Any:
        """The inverse."""
        return self.result.unpack(msgspec.msgpack.decode(data, ext_hook=_from_extension))


@cache
def methods(protocol: type) -> dict[str, Method]:
    """The calls of a protocol, by name."""
    found = {}
    for name, function in inspect.getmembers(protocol, inspect.iscoroutinefunction):
        hints = typing.get_type_hints(function)
        result = _pair(hints.pop("return"))
        pairs = {parameter: _pair(kind) for parameter, kind in hints.items()}
        found[name] = Method(name, inspect.signature(function), pairs, result)
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
