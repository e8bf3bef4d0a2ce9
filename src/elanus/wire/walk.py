"""A minimal reader of the protobuf wire format, for payloads too big to be parsed into Python objects.

It reads only the canonical form that serializers write: each field once, repeated numbers packed in one piece, no
groups. Whatever else is legal (several pieces, unpacked numbers, a sub-message in two parts) raises `UnusualError`; the
caller then lets protobuf parse and re-serialize the message, which yields the canonical form, and reads again. Bytes
that are not protobuf at all raise `UnusualError` here and protobuf's own DecodeError there.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

VARINT: Final = 0
FIXED64: Final = 1
DELIMITED: Final = 2
FIXED32: Final = 5
ENTRIES_MAX: Final = 4096
"""Entries of one message that are walked in Python; beyond it the message is taken as unusual."""
_VARINT_BYTES_MAX: Final = 10
_FIXED_BYTES: Final = {FIXED64: 8, FIXED32: 4}


class UnusualError(ValueError):
    """Not in the canonical form, or not protobuf."""


class Entry(NamedTuple):
    """One field as found. `value` is a varint's value, else the start of the payload; `stop` is the payload's end,
    and the whole entry, tag included, begins at `begin`."""

    number: int
    wire_type: int
    begin: int
    value: int
    stop: int


def entries(data: bytes, start: int, stop: int) -> list[Entry]:
    """The fields of the message in data[start:stop], in order."""
    return first(data, start, stop, None)


def first(data: bytes, start: int, stop: int, number: int | None) -> list[Entry]:
    """The fields up to and including the first one with this number (all where there is none)."""
    found: list[Entry] = []
    position = start
    while position < stop:
        begin = position
        tag, position = _varint(data, position, stop)
        wire_type = tag & 7
        if wire_type == DELIMITED:
            length, value = _varint(data, position, stop)
            position = value + length
        elif wire_type == VARINT:
            value, position = _varint(data, position, stop)
        elif wire_type in _FIXED_BYTES:
            value = position
            position += _FIXED_BYTES[wire_type]
        else:
            raise UnusualError(f"wire type {wire_type}")
        if position > stop or len(found) == ENTRIES_MAX:
            raise UnusualError("cut off, or too many fields")
        found.append(Entry(tag >> 3, wire_type, begin, value, position))
        if found[-1].number == number:
            break
    return found


def once(data: bytes, start: int, stop: int) -> dict[int, Entry]:
    """The fields of a message in which each occurs at most once, by number."""
    found = entries(data, start, stop)
    by_number = {entry.number: entry for entry in found}
    if len(by_number) != len(found):
        raise UnusualError("a field occurs twice")
    return by_number


def payload(data: bytes, start: int, stop: int) -> tuple[int, int]:
    """Bounds of the one delimited field 1 of an array message (`repeated T data = 1`, packed); empty where absent."""
    found = entries(data, start, stop)
    if not found:
        return stop, stop
    if len(found) > 1 or found[0].number != 1 or found[0].wire_type != DELIMITED:
        raise UnusualError("not one packed array")
    return found[0].value, found[0].stop


def fixed(data: bytes, start: int, stop: int, dtype: str) -> npt.NDArray[Any]:
    """data[start:stop] as an array: a view where the address is aligned, else a copy (libraries that take the raw
    pointer cannot all cope with a misaligned one)."""
    kind = np.dtype(dtype)
    if (stop - start) % kind.itemsize:
        raise UnusualError("a fixed-width array of broken length")
    array = np.frombuffer(data, kind, (stop - start) // kind.itemsize, start) if stop > start else np.empty(0, kind)
    return array if array.flags.aligned else array.copy()


def varints(data: bytes, start: int, stop: int) -> npt.NDArray[np.int64]:
    """Packed varints as signed 64-bit integers, with no loop over them."""
    raw = np.frombuffer(data, np.uint8, stop - start, start) if stop > start else np.empty(0, np.uint8)
    if not raw.size:
        return np.empty(0, np.int64)
    ends = np.flatnonzero(raw < 0x80)
    if not ends.size or ends[-1] != raw.size - 1:
        raise UnusualError("varints are cut off")
    if ends.size == raw.size:
        return raw.astype(np.int64)
    lengths = np.diff(ends, prepend=-1)
    longest = int(lengths.max())
    if longest > _VARINT_BYTES_MAX:
        raise UnusualError("a varint is too long")
    starts = ends - lengths + 1
    groups = raw & 0x7F
    values = groups[starts].astype(np.uint64)
    for index in range(1, longest):
        rows = np.flatnonzero(lengths > index)
        values[rows] |= groups[starts[rows] + index].astype(np.uint64) << np.uint64(7 * index)
    return values.view(np.int64)


def _varint(data: bytes, position: int, stop: int) -> tuple[int, int]:
    value = shift = 0
    while position < stop:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position
        shift += 7
        if shift >= 7 * _VARINT_BYTES_MAX:
            break
    raise UnusualError("a varint is cut off or too long")
