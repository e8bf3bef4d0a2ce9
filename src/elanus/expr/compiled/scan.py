"""Where the value at a path lies in each of many JSON documents, without decoding them.

One pass over the bytes for each key of the path: strings are skipped to their closing quote, values by counting
brackets outside strings. Of equal keys in an object the last one counts, so every object on the way is read to its end.
Documents are known to be JSON. What would need more than looking (an escape in a key or in the value, a list or an
object as the value, a number of more than 18 digits) is called UNSURE and left to the decoder; so is every document by
the twin.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from elanus.base.kernel import kernel, part

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

MISSING, BOOL, INTEGER, FLOAT, STRING = 0, 1, 2, 3, 4
UNSURE: Final = 255
DIGITS_MAX: Final = 18

_QUOTE, _BACKSLASH, _COMMA, _COLON, _MINUS, _ZERO, _NINE = 34, 92, 44, 58, 45, 48, 57
_OPEN_LIST, _CLOSE_LIST, _OPEN_OBJECT, _CLOSE_OBJECT = 91, 93, 123, 125
_TRUE, _FALSE, _NULL = 116, 102, 110
_NOWHERE, _LOST = -1, -2


class Documents(NamedTuple):
    """Document i is data[offsets[i]:offsets[i + 1]]; an empty one has no value anywhere."""

    data: Bytes
    offsets: Ints


class Steps(NamedTuple):
    """`steps` is (steps, 3): of a key its bytes in `keys`, from and to, and -1; of a place 0, 0 and the place."""

    keys: Bytes
    steps: Ints


class Found(NamedTuple):
    """To be filled in for each document: the kind of the value; of a BOOL or INTEGER the value; of a FLOAT or STRING
    the bytes that spell it, data[starts[i]:ends[i]], without quotes."""

    kinds: Bytes
    starts: Ints
    ends: Ints
    integers: Ints


@part
def _skip_blanks(data: Bytes, at: int, end: int) -> int:
    """The first byte from `at` on that is no white space."""
    while at < end and data[at] <= 32:
        at += 1
    return at


@part
def _string_end(data: Bytes, at: int, end: int) -> int:
    """The byte behind the string whose opening quote is at `at`."""
    at += 1
    while at < end:
        byte = data[at]
        if byte == _QUOTE:
            return at + 1
        at += 2 if byte == _BACKSLASH else 1
    return end


@part
def _value_end(data: Bytes, at: int, end: int) -> int:
    """The byte behind the value that begins at `at`."""
    depth = 0
    while at < end:
        byte = data[at]
        if byte == _QUOTE:
            at = _string_end(data, at, end)
            if depth == 0:
                return at
            continue
        if byte in (_OPEN_OBJECT, _OPEN_LIST):
            depth += 1
        elif byte in (_CLOSE_OBJECT, _CLOSE_LIST):
            if depth <= 1:
                return at + depth
            depth -= 1
        elif depth == 0 and (byte == _COMMA or byte <= 32):
            return at
        at += 1
    return end


@part
def _member(data: Bytes, at: int, end: int, keys: Bytes, first: int, last: int) -> int:
    """Where the value of the last member that is named keys[first:last] begins in the object at `at`."""
    found = _NOWHERE
    at = _skip_blanks(data, at + 1, end)
    while at < end and data[at] == _QUOTE:
        close = at + 1
        while close < end and data[close] != _QUOTE:
            if data[close] == _BACKSLASH:
                return _LOST
            close += 1
        same = close - at - 1 == last - first
        place = 0
        while same and place < last - first:
            same = data[at + 1 + place] == keys[first + place]
            place += 1
        at = _skip_blanks(data, close + 1, end)
        if at >= end or data[at] != _COLON:
            return _LOST
        at = _skip_blanks(data, at + 1, end)
        if same:
            found = at
        at = _skip_blanks(data, _value_end(data, at, end), end)
        if at < end and data[at] == _COMMA:
            at = _skip_blanks(data, at + 1, end)
    return found


@part
def _item(data: Bytes, at: int, end: int, index: int) -> int:
    """Where the value at that place of the list at `at` begins."""
    at = _skip_blanks(data, at + 1, end)
    while at < end and data[at] != _CLOSE_LIST:
        if index == 0:
            return at
        index -= 1
        at = _skip_blanks(data, _value_end(data, at, end), end)
        if at >= end or data[at] != _COMMA:
            return _NOWHERE
        at = _skip_blanks(data, at + 1, end)
    return _NOWHERE


@part
def _number(data: Bytes, at: int, end: int) -> int:
    """INTEGER, FLOAT or UNSURE."""
    digits = 0
    for place in range(at, end):
        byte = data[place]
        if _ZERO <= byte <= _NINE:
            digits += 1
        elif byte != _MINUS or place > at:
            return FLOAT
    return INTEGER if 0 < digits <= DIGITS_MAX else UNSURE


@part
def _integer(data: Bytes, at: int, end: int) -> int:
    """The value of a short integer."""
    negative = data[at] == _MINUS
    value = 0
    for place in range(at + 1 if negative else at, end):
        value = value * 10 + (int(data[place]) - _ZERO)
    return -value if negative else value


def locate_unsure(documents: Documents, path: Steps, found: Found) -> None:
    """Twin of `locate`: every document is left to the decoder."""
    found.kinds[:] = UNSURE


@kernel(locate_unsure)
def locate(documents: Documents, path: Steps, found: Found) -> None:
    """Fill in what is found at the path in each document."""
    data, offsets = documents
    keys, steps = path
    kinds, starts, ends, integers = found
    for row in range(len(offsets) - 1):
        start, end = offsets[row], offsets[row + 1]
        at = _skip_blanks(data, start, end)
        starts[row] = ends[row] = start
        integers[row] = 0
        kind = MISSING if at >= end else UNSURE
        if at >= end:
            at = _NOWHERE
        for step in range(len(steps)):
            if at < 0 or at >= end:
                break
            if steps[step, 2] >= 0:
                at = _item(data, at, end, steps[step, 2]) if data[at] == _OPEN_LIST else _NOWHERE
            elif data[at] == _OPEN_OBJECT:
                at = _member(data, at, end, keys, steps[step, 0], steps[step, 1])
            else:
                at = _NOWHERE
        if at == _NOWHERE:
            kind = MISSING
        elif 0 <= at < end:
            close = _value_end(data, at, end)
            first = data[at]
            if first == _QUOTE:
                kind = STRING
                for place in range(at + 1, close - 1):
                    if data[place] == _BACKSLASH:
                        kind = UNSURE
                        break
                starts[row], ends[row] = at + 1, close - 1
            elif first in (_TRUE, _FALSE):
                kind = BOOL
                integers[row] = 1 if first == _TRUE else 0
            elif first == _NULL:
                kind = MISSING
            elif first == _MINUS or _ZERO <= first <= _NINE:
                kind = _number(data, at, close)
                if kind == INTEGER:
                    integers[row] = _integer(data, at, close)
                elif kind == FLOAT:
                    starts[row], ends[row] = at, close
        kinds[row] = kind
