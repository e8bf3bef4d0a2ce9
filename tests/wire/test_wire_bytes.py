"""The hand-written reader and writer of the wire format agree with protobuf."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elanus.wire import pack, walk
from elanus.wire.messages import messages

integers = st.integers(-(2**63), 2**63 - 1)
quick = settings(max_examples=60, deadline=None)


@quick
@given(st.lists(integers, max_size=40), st.booleans())
def test_packed_varints(values: list[int], many: bool) -> None:
    array = np.array(values * (200 if many else 1), np.int64)
    serialized = messages().LongArray(data=array.tolist()).SerializeToString()
    content = pack.packed_varints(array)
    assert pack.chunk(1, content) == serialized or not len(array)
    assert walk.varints(content, 0, len(content)).tolist() == array.tolist()
    rows, lengths = pack.packed_varint_rows(array)
    assert rows.tobytes() == content
    assert int(lengths.sum()) == len(content)


@quick
@given(st.lists(st.integers(0, 255), max_size=40))
def test_packed_small_integers(values: list[int]) -> None:
    array = np.array(values, np.uint8)
    flags = array > 100
    for written, expected in ((array, values), (flags, flags.astype(int).tolist())):
        data = pack.packed_varints(written)
        assert walk.varints(data, 0, len(data)).tolist() == expected


@quick
@given(integers)
def test_one_varint(value: int) -> None:
    raw = pack.integer(3, value)
    message = messages().FieldSchema.FromString(pack.integer(1, value))
    assert message.fieldID == value
    if value:
        (entry,) = walk.entries(raw, 0, len(raw))
        assert (entry.number, entry.value) == (3, value % 2**64)


@quick
@given(st.lists(st.binary(max_size=300), max_size=30), st.integers(1, 300))
def test_delimited_rows(rows: list[bytes], number: int) -> None:
    lengths = np.array([len(row) for row in rows], np.int64)
    content = np.frombuffer(b"".join(rows), np.uint8)
    out, row_lengths = pack.delimited(number, lengths, content)
    assert out.tobytes() == b"".join(pack.chunk(number, row) for row in rows)
    assert row_lengths.tolist() == [len(pack.chunk(number, row)) for row in rows]


@quick
@given(st.lists(st.lists(st.integers(1, 9), max_size=4), max_size=10))
def test_group_lengths(groups: list[list[int]]) -> None:
    offsets = np.cumsum([0, *map(len, groups)])
    lengths = np.array([length for group in groups for length in group], np.int64)
    assert pack.group_lengths(lengths, offsets).tolist() == [sum(group) for group in groups]


@quick
@given(st.binary(max_size=60))
def test_any_bytes_are_walked_or_called_unusual(raw: bytes) -> None:
    for read in (walk.entries, walk.once, walk.payload, walk.varints):
        try:
            read(raw, 0, len(raw))
        except walk.UnusualError:
            continue


@pytest.mark.parametrize(
    "raw",
    [b"\x80", b"\x0b", b"\x0a\x05ab", b"\xff" * 11, b"\x0d\x00", b"\x0a\x80"],
    ids=["tag cut", "group", "payload cut", "tag too long", "fixed cut", "length cut"],
)
def test_broken_messages_are_unusual(raw: bytes) -> None:
    with pytest.raises(walk.UnusualError):
        walk.entries(raw, 0, len(raw))


def test_endless_messages_are_unusual() -> None:
    with pytest.raises(walk.UnusualError):
        walk.entries(b"\x08\x01" * (walk.ENTRIES_MAX + 1), 0, 2 * walk.ENTRIES_MAX + 2)


@pytest.mark.parametrize("offset", range(8))
def test_fixed_arrays_are_aligned(offset: int) -> None:
    data = b"x" * offset + np.arange(4.0).tobytes()
    array = walk.fixed(data, offset, len(data), "<f8")
    assert array.tolist() == [0, 1, 2, 3]
    assert array.flags.aligned
