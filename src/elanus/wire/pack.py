"""A minimal writer of the protobuf wire format, for payloads too big to be built out of Python objects.

Messages are assembled as bytes. Repeated strings, byte strings and nested rows are written by `delimited`, which puts
all their headers between all their payloads in a few NumPy passes, with no loop over rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from elanus.wire.messages import messages

_VARINT: Final = 0
_DELIMITED: Final = 2
_ONE_BYTE: Final = tuple(bytes((value,)) for value in range(0x80))
_FEW: Final = 8
"""Numbers up to which writing them one by one is fastest."""
_VECTORISED_FROM: Final = 2048
"""Below it protobuf writes packed integers faster than NumPy's fixed cost per call allows."""

Lengths: TypeAlias = npt.NDArray[np.int64]
Part: TypeAlias = bytes | memoryview
"""A piece of a message; a memoryview is one of single bytes, so that `len` is its size."""


def varint(value: int) -> bytes:
    """One varint; negative numbers as 64-bit two's complement."""
    if 0 <= value < 0x80:
        return _ONE_BYTE[value]
    value &= 0xFFFF_FFFF_FFFF_FFFF
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def integer(number: int, value: int) -> bytes:
    """A varint field; nothing for 0, the default."""
    return varint(number << 3 | _VARINT) + varint(value) if value else b""


def chunk(number: int, content: bytes) -> bytes:
    """A delimited field: message, packed array, string or bytes. An empty one is written, too (a present message)."""
    return varint(number << 3 | _DELIMITED) + varint(len(content)) + content


def wrap(number: int, parts: Sequence[Part]) -> list[Part]:
    """A delimited field whose content is these parts, not yet joined: nesting costs no copy of a big payload."""
    size_bytes = sum(map(len, parts))
    return [varint(number << 3 | _DELIMITED) + varint(size_bytes), *parts]


def text(number: int, value: str) -> bytes:
    """A string field; nothing for the empty string, the default."""
    return chunk(number, value.encode()) if value else b""


def packed_varints(values: npt.NDArray[Any]) -> bytes:
    """The content of a packed integer or boolean array."""
    if (
        values.dtype.itemsize == 1
        and values.dtype.kind in "bu"
        and (values.dtype.kind == "b" or _all_below_128(values))
    ):
        return values.tobytes()
    if len(values) <= _FEW:
        return b"".join(map(varint, values.tolist()))
    if len(values) < _VECTORISED_FROM:
        return _content_of_one_field(messages().LongArray(data=values.astype(np.int64).tolist()).SerializeToString())
    unsigned = values.astype(np.int64).view(np.uint64)
    data, _ = _varint_bytes(unsigned)
    return data.tobytes()


def packed_varint_rows(values: npt.NDArray[Any]) -> tuple[npt.NDArray[np.uint8], Lengths]:
    """Packed integers, and how many bytes each took."""
    return _varint_bytes(values.astype(np.int64).view(np.uint64))


def raw(values: npt.NDArray[Any], dtype: str) -> Part:
    """The bytes of an array of this dtype: packed floats or doubles, or dense vectors; not copied where possible."""
    contiguous = np.ascontiguousarray(values, dtype)
    return contiguous.data.cast("B") if contiguous.size else b""


def delimited(number: int, lengths: Lengths, content: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], Lengths]:
    """Repeated delimited fields: row i is the next lengths[i] bytes of `content`.

    Returns all rows with their tags and lengths, and the bytes each row takes now, so that calls nest.
    """
    tag = np.frombuffer(varint(number << 3 | _DELIMITED), np.uint8)
    size_bytes, size_lengths = _varint_bytes(lengths.astype(np.uint64))
    header_lengths = size_lengths + len(tag)
    row_lengths = header_lengths + lengths
    out = np.empty(int(row_lengths.sum()), np.uint8)
    starts = np.cumsum(row_lengths) - row_lengths
    is_content = np.ones(len(out), np.bool_)
    for offset, byte in enumerate(tag):
        out[starts + offset] = byte
        is_content[starts + offset] = False
    size_starts = starts + len(tag)
    within = np.arange(len(size_bytes)) - np.repeat(np.cumsum(size_lengths) - size_lengths, size_lengths)
    positions = np.repeat(size_starts, size_lengths) + within
    out[positions] = size_bytes
    is_content[positions] = False
    out[is_content] = content
    return out, row_lengths


def prefixed(
    head: npt.NDArray[np.uint8], lengths: Lengths, content: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.uint8], Lengths]:
    """The same bytes put before each row; rows and lengths as in `delimited`."""
    row_lengths = lengths + len(head)
    out = np.empty(int(row_lengths.sum()), np.uint8)
    starts = np.cumsum(row_lengths) - row_lengths
    is_content = np.ones(len(out), np.bool_)
    places = (starts[:, None] + np.arange(len(head))).reshape(-1)
    out[places] = np.tile(head, len(lengths))
    is_content[places] = False
    out[is_content] = content
    return out, row_lengths


def group_lengths(lengths: Lengths, offsets: Lengths) -> Lengths:
    """Bytes of each list, where list i owns the elements offsets[i] to offsets[i + 1] of these byte lengths."""
    ends = np.concatenate(([0], np.cumsum(lengths)))
    sums: Lengths = ends[offsets[1:]] - ends[offsets[:-1]]
    return sums


def _all_below_128(values: npt.NDArray[Any]) -> bool:
    return not len(values) or int(values.max()) < 0x80


def _content_of_one_field(serialized: bytes) -> bytes:
    """What is inside the only, delimited field (number below 16) of a message."""
    if not serialized:
        return b""
    position = 2
    while serialized[position - 1] >= 0x80:
        position += 1
    return serialized[position:]


def _varint_bytes(values: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.uint8], Lengths]:
    """The bytes of these varints one after another, and the length of each."""
    lengths = np.ones(len(values), np.int64)
    if not len(values):
        return np.empty(0, np.uint8), lengths
    longest = max(1, -(-int(values.max()).bit_length() // 7))
    if longest == 1:
        return values.astype(np.uint8), lengths
    for index in range(1, longest):
        lengths += values >= np.uint64(1 << (7 * index))
    table = np.empty((len(values), longest), np.uint8)
    for index in range(longest):
        group = (values >> np.uint64(7 * index)).astype(np.uint8) & 0x7F
        table[:, index] = group | ((lengths > index + 1).astype(np.uint8) << 7)
    if int(lengths.min()) == longest:
        return table.reshape(-1), lengths
    return table[np.arange(longest) < lengths[:, None]], lengths
