"""JSON columns decoded to typed columns, one path at a time.

Documents of a block of rows are joined to one JSON array by Arrow and decoded in C by msgspec with a type that names
only the path, so everything else is skipped, not built. The few lines that run per row (picking the leaf, its type)
run once per source and path: the result is kept in the source's `ShredCache`.

What JSON may spell and msgspec refuses (a number beyond doubles, a lone surrogate, endless nesting) makes it refuse
the whole block; such a block is walked document by document: the number becomes an infinity, the surrogate a `?`, and
a document too deep for the stack has no value at any path.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, compress
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from elanus.base.errors import CorruptedError
from elanus.base.kernel import is_compiled
from elanus.base.pieces import repeated
from elanus.expr.arrays import take_values
from elanus.expr.compiled import scan
from elanus.expr.source import Scope, ShredSource
from elanus.expr.syntax import PathStep
from elanus.model.columns import Column, Mask, Rows

BLOCK_ROWS: Final = 1 << 16
PATH_TYPES_MAX: Final = 256
NARROW_FACTOR: Final = 8
SCAN_ROWS_MIN: Final = 1 << 16
"""Fewer documents are decoded before numba is loaded."""
UNSURE_SHARE: Final = 2
"""A scan is given up when more than one document in so many has to be decoded after all."""

MISSING, BOOL, INTEGER, FLOAT, STRING, LIST, OBJECT = range(7)
_CODES: Final[dict[type, int]] = {
    type(None): MISSING,
    msgspec.UnsetType: MISSING,
    bool: BOOL,
    int: INTEGER,
    float: FLOAT,
    str: STRING,
    list: LIST,
    dict: OBJECT,
}
_INT64_LIMIT: Final = 1 << 63
_BLANKS: Final = " \t\r\n"
_NUMBER: Final = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
"""As JSON spells numbers."""

Path = tuple[PathStep, ...]


@dataclass(frozen=True, slots=True)
class Shred:
    """One JSON value per row. `kinds` holds the codes above (null counts as missing); `integers` is set where the
    kind is BOOL (0, 1) or INTEGER, `numbers` where INTEGER or FLOAT, `strings` where STRING; elsewhere fillers.
    `solid` is what EXISTS asks: not missing and not recursively empty. `lists` holds canonical JSON where LIST.
    """

    kinds: npt.NDArray[np.uint8]
    integers: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.float64]
    strings: pa.Array
    solid: Mask
    lists: pa.Array | None = None

    def __len__(self) -> int:
        return len(self.kinds)

    @property
    def nbytes(self) -> int:
        """Size in memory."""
        lists = 0 if self.lists is None else self.lists.nbytes
        return int(self.kinds.nbytes * 18 + self.strings.nbytes + lists)

    def take(self, rows: Rows, *, texts: bool = True) -> Shred:
        """The values at these rows; `strings` is left empty unless `texts`, for it is dear to gather."""
        return Shred(
            self.kinds[rows],
            self.integers[rows],
            self.numbers[rows],
            take_values(self.strings, rows) if texts else self.strings.slice(0, 0),
            self.solid[rows],
            None if self.lists is None else take_values(self.lists, rows),
        )


@dataclass(frozen=True, slots=True)
class ListShred:
    """JSON arrays per row: offsets into the flat `elements` as in `ListView`; rows that hold no array own none."""

    is_list: Mask
    is_missing: Mask
    offsets: npt.NDArray[np.int64]
    elements: Shred

    @property
    def nbytes(self) -> int:
        """Size in memory."""
        return int(self.is_list.nbytes * 2 + self.offsets.nbytes + self.elements.nbytes)

    def take(self, rows: Rows) -> ListShred:
        """The arrays at these rows."""
        lengths = np.diff(self.offsets)[rows]
        offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))
        places = np.arange(offsets[-1]) + repeated(self.offsets[:-1][rows] - offsets[:-1], lengths)
        return ListShred(self.is_list[rows], self.is_missing[rows], offsets, self.elements.take(places))


def scalars(scope: Scope, field_id: int, path: Path, *, texts: bool, numeric_texts: bool = False) -> Shred:
    """The values at `path`, from the source's cache where it has one; `strings` may be empty unless `texts`. With
    `numeric_texts` those of `with_numbers`."""

    def made(column: Column) -> Shred:
        found = shred_column(column, path)
        return with_numbers(found) if numeric_texts else found

    if not isinstance(scope.source, ShredSource):
        return made(scope.column(field_id))
    key = (field_id, path, "numbers" if numeric_texts else "scalars")
    shred = scope.source.shreds.get(key, Shred)
    if shred is None:
        if not _is_worth_keeping(scope):
            return made(scope.column(field_id))
        shred = made(scope.source.column(field_id))
        scope.source.shreds.put(key, shred)
    return shred if scope.rows is None else shred.take(scope.rows, texts=texts)


def with_numbers(found: Shred) -> Shred:
    """The values with every string that spells a number as that double; blanks around it do not matter."""
    rows = np.flatnonzero(found.kinds == STRING)
    texts = pc.utf8_trim(take_values(found.strings, rows), _BLANKS)
    spelled = np.asarray(pc.match_substring_regex(texts, _NUMBER).to_numpy(zero_copy_only=False), np.bool_)
    if not spelled.any():
        return found
    kinds, numbers = found.kinds.copy(), found.numbers.copy()
    kinds[rows[spelled]] = FLOAT
    numbers[rows[spelled]] = pc.cast(texts.filter(pa.array(spelled)), pa.float64())
    return replace(found, kinds=kinds, numbers=numbers)


def lists(scope: Scope, field_id: int, path: Path) -> ListShred:
    """The arrays at `path`, from the source's cache where it has one."""
    if not isinstance(scope.source, ShredSource):
        return shred_lists(scope.column(field_id), path)
    key = (field_id, path, "lists")
    shred = scope.source.shreds.get(key, ListShred)
    if shred is None:
        if not _is_worth_keeping(scope):
            return shred_lists(scope.column(field_id), path)
        shred = shred_lists(scope.source.column(field_id), path)
        scope.source.shreds.put(key, shred)
    return shred if scope.rows is None else shred.take(scope.rows)


def _is_worth_keeping(scope: Scope) -> bool:
    return scope.rows is None or len(scope.rows) * NARROW_FACTOR >= scope.source.row_count


def shred_column(column: Column, path: Path) -> Shred:
    """The values at `path` of a JSON column. Many documents are looked through by a kernel, where it is compiled, and
    only those that take more than looking are decoded."""
    if len(column) < SCAN_ROWS_MIN or not is_compiled():
        return decoded_column(column, path)
    return scanned_column(column, path) or decoded_column(column, path)


def scanned_column(column: Column, path: Path) -> Shred | None:
    """The values by `compiled.scan.locate`; None where too few documents can be read like that."""
    documents: pa.Array = column.values
    _, offset_buffer, data_buffer = documents.buffers()
    count = len(column)
    offsets = np.frombuffer(offset_buffer, np.int64, count + 1, documents.offset * 8)
    places = scan.Found(np.empty(count, np.uint8), *(np.empty(count, np.int64) for _ in range(3)))
    scan.locate(scan.Documents(np.frombuffer(data_buffer, np.uint8), offsets), _steps(path), places)
    kinds, starts, ends, integers = places
    if column.valid is not None:
        kinds[~column.valid], integers[~column.valid] = MISSING, 0
    unsure = np.flatnonzero(kinds == scan.UNSURE)
    if len(unsure) * UNSURE_SHARE > count:
        return None
    doubles = np.flatnonzero(kinds == FLOAT)
    numbers = np.where(kinds == INTEGER, integers, 0).astype(np.float64)
    quoted = kinds == STRING
    try:
        numbers[doubles] = pc.cast(_slices(data_buffer, starts[doubles], ends[doubles]), pa.float64())
        strings = _slices(data_buffer, starts, np.where(quoted, ends, starts)) if quoted.any() else _no_texts(count)
    except pa.ArrowInvalid:
        return None
    found = Shred(kinds, integers, numbers, strings, np.asarray(kinds != MISSING))
    return _completed(found, unsure, decoded_column(column.take(unsure), path)) if len(unsure) else found


def _steps(path: Path) -> scan.Steps:
    """The path as `locate` wants it."""
    keys, steps = b"", np.zeros((len(path), 3), np.int64)
    for number, step in enumerate(path):
        if isinstance(step, int):
            steps[number, 2] = step
        else:
            name = step.encode()
            steps[number] = len(keys), len(keys) + len(name), -1
            keys += name
    return scan.Steps(np.frombuffer(keys, np.uint8), steps)


def _slices(data: pa.Buffer, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> pa.Array:
    """The texts data[starts[i]:ends[i]], which follow one another; ArrowInvalid where one is not UTF-8."""
    if not len(starts):
        return pa.array([], pa.large_string())
    # Every other piece between the bounds, taken in order, is a wanted one.
    bounds = np.column_stack((starts, ends)).reshape(-1)
    pieces = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(bounds) - 1, [None, pa.py_buffer(bounds), data])
    return pieces.take(pa.array(np.arange(0, len(bounds), 2))).cast(pa.large_string())


def _completed(found: Shred, rows: Rows, rest: Shred) -> Shred:
    """The values found, with those of some rows put in."""
    found.kinds[rows], found.integers[rows], found.numbers[rows] = rest.kinds, rest.integers, rest.numbers
    found.solid[rows] = rest.solid
    places = np.arange(len(found))
    places[rows] = len(found) + np.arange(len(rows))
    strings = pa.concat_arrays([found.strings, rest.strings]).take(pa.array(places))
    return Shred(found.kinds, found.integers, found.numbers, strings, found.solid)


def decoded_column(column: Column, path: Path) -> Shred:
    """The values at `path`, every document decoded."""
    blocks = [classified(decoded_values(block, path)) for block in _blocks(column)]
    return blocks[0] if len(blocks) == 1 else _concatenate(blocks)


def shred_lists(column: Column, path: Path) -> ListShred:
    """Decode the arrays at `path` of a JSON column."""
    parts = [classified_lists(decoded_values(block, path)) for block in _blocks(column)]
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    return ListShred(
        np.concatenate([part.is_list for part in parts]),
        np.concatenate([part.is_missing for part in parts]),
        np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths))),
        _concatenate([part.elements for part in parts]),
    )


def _blocks(column: Column) -> list[Column]:
    starts = range(0, max(len(column), 1), BLOCK_ROWS)
    return [column.slice(start, min(start + BLOCK_ROWS, len(column))) for start in starts]


def _concatenate(blocks: Sequence[Shred]) -> Shred:
    parts = [block.lists for block in blocks]
    return Shred(
        np.concatenate([block.kinds for block in blocks]),
        np.concatenate([block.integers for block in blocks]),
        np.concatenate([block.numbers for block in blocks]),
        pa.concat_arrays([block.strings for block in blocks]),
        np.concatenate([block.solid for block in blocks]),
        None if any(part is None for part in parts) else pa.concat_arrays(parts),
    )


def decoded_values(column: Column, path: Path) -> list[Any]:
    """The value at `path` of each row as msgspec decodes it; None where it is missing or null."""
    if len(column) == 0:
        return []
    documents: pa.Array = column.values
    filled = np.asarray(pc.greater(pc.binary_length(documents), 0).to_numpy(zero_copy_only=False))
    if column.valid is not None:
        filled &= column.valid
    if not filled.all():
        documents = pc.if_else(pa.array(filled), documents, pa.scalar(b"null", documents.type))
    whole = pa.LargeListArray.from_arrays(pa.array([0, len(documents)], pa.int64()), documents)
    joined = pc.binary_join(whole, pa.scalar(b",", documents.type))[0].as_buffer()
    if not all(_is_plain(step) for step in path):
        return [_walk(document, path) for document in documents.to_pylist()]
    decoder, structs = _decoder(path)
    try:
        values = decoder.decode(b"[" + memoryview(joined) + b"]")
    except (msgspec.DecodeError, RecursionError):
        return [_walk(document, path) for document in documents.to_pylist()]
    for step, struct in zip(path, structs, strict=True):
        if isinstance(step, str):
            values = [value.leaf if type(value) is struct else None for value in values]
        else:
            values = [value[step] if type(value) is list and len(value) > step else None for value in values]
    return list(values)


def _is_plain(step: PathStep) -> bool:
    """Whether a key can be written without JSON escapes, which msgspec's field names cannot hold."""
    return isinstance(step, int) or (step.isprintable() and '"' not in step and "\\" not in step)


class _AnyObject(msgspec.Struct, gc=False):
    """An object none of whose keys matter."""


@lru_cache(maxsize=PATH_TYPES_MAX)
def _decoder(path: Path) -> tuple[msgspec.json.Decoder[Any], tuple[Any, ...]]:
    """A decoder of an array of documents that builds only `path`, and the struct type met at each step."""
    kind: Any = Any
    structs: list[Any] = []
    for step in reversed(path):
        if isinstance(step, str):
            struct = msgspec.defstruct(
                "Step", [("leaf", kind, msgspec.field(name=step, default=msgspec.UNSET))], gc=False
            )
            structs.append(struct)
            kind = struct | list[msgspec.Raw] | None | bool | int | float | str
        else:
            structs.append(None)
            kind = list[kind] | _AnyObject | None | bool | int | float | str
    return msgspec.json.Decoder(list[kind]), tuple(reversed(structs))


def _walk(document: bytes, path: Path) -> Any:
    """The value at `path` of one document that the typed decoder refused; None where it nests beyond the stack."""
    try:
        value = json.loads(document)
    except ValueError as error:
        raise CorruptedError(f"a stored JSON document cannot be decoded: {error}") from error
    except RecursionError:
        return None
    for step in path:
        if isinstance(step, str):
            value = value.get(step) if isinstance(value, dict) else None
        else:
            value = value[step] if isinstance(value, list) and len(value) > step else None
    return _printable(value)


def _printable(value: Any) -> Any:
    """`value` with lone surrogates, which JSON may spell and UTF-8 may not, replaced."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_printable(item) for item in value]
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    return value


def classified(values: list[Any]) -> Shred:
    """Decoded values as columns."""
    count = len(values)
    kinds = _kinds(values)
    integers, numbers = np.zeros(count, np.int64), np.zeros(count, np.float64)
    solid = np.asarray(kinds != MISSING)
    doubles = kinds == FLOAT
    whole = np.flatnonzero(kinds == INTEGER)
    if len(whole):
        picked = _chosen(values, kinds == INTEGER)
        try:
            integers[whole] = np.fromiter(picked, np.int64, len(picked))
        except OverflowError:
            fits = np.array([-_INT64_LIMIT <= value < _INT64_LIMIT for value in picked])
            numbers[whole[~fits]] = [_as_float(value) for value in _chosen(picked, ~fits)]
            kinds[whole[~fits]] = FLOAT
            whole = whole[fits]
            integers[whole] = _chosen(picked, fits)
        numbers[whole] = integers[whole]
    numbers[doubles] = _chosen(values, doubles)
    truth = kinds == BOOL
    integers[truth] = _chosen(values, truth)
    strings = _texts(values, kinds == STRING)
    for row in np.flatnonzero(kinds >= LIST).tolist():
        solid[row] = _is_solid(values[row])
    return Shred(kinds, integers, numbers, strings, solid)


def _kinds(values: list[Any]) -> npt.NDArray[np.uint8]:
    """The code of each decoded value's type. Most columns hold one type at a path, and then no value is looked up."""
    types = set(map(type, values))
    if len(types) == 1:
        return np.full(len(values), _CODES[types.pop()], np.uint8)
    return np.fromiter(map(_CODES.__getitem__, map(type, values)), np.uint8, len(values))


def _chosen(values: list[Any], mask: Mask) -> list[Any]:
    # Bytes are walked several times faster than NumPy's truth values.
    return values if mask.all() else list(compress(values, mask.tobytes()))


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def _texts(values: list[Any], chosen: Mask) -> pa.Array:
    if not chosen.any():
        return _no_texts(len(values))
    if chosen.all():
        return pa.array(values, pa.large_string())
    return pa.array([value if type(value) is str else "" for value in values], pa.large_string())


def _no_texts(count: int) -> pa.Array:
    return pa.LargeStringArray.from_buffers(count, pa.py_buffer(np.zeros(count + 1, np.int64)), pa.py_buffer(b""))


def _is_solid(value: Any) -> bool:
    """Whether a decoded value is more than null, an empty container, or containers of such."""
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending.extend(value)
        elif isinstance(value, dict):
            pending.extend(value.values())
        elif value is not None:
            return True
    return False


def classified_lists(values: list[Any]) -> ListShred:
    """Decoded values as lists, where they are."""
    count = len(values)
    is_list = np.fromiter((type(value) is list for value in values), np.bool_, count)
    is_missing = np.fromiter((value is None or value is msgspec.UNSET for value in values), np.bool_, count)
    arrays = _chosen(values, is_list)
    lengths = np.zeros(count, np.int64)
    lengths[is_list] = [len(array) for array in arrays]
    flat = list(chain.from_iterable(arrays))
    shred = classified(flat)
    nested = shred.kinds == LIST
    texts = [canonical(value) if type(value) is list else "" for value in flat] if nested.any() else flat
    elements = Shred(
        shred.kinds, shred.integers, shred.numbers, shred.strings, shred.solid,
        pa.array(texts, pa.large_string()) if nested.any() else _texts(flat, nested),
    )  # fmt: skip
    return ListShred(is_list, is_missing, np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths))), elements)


def canonical(value: Any) -> str:
    """JSON text that two lists share only if they agree in types, values and order; empty if nested beyond reason."""
    try:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    except RecursionError:
        return ""
