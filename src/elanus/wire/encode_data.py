"""Replies to writes and reads as response bytes, put together by hand around the column payloads."""

from __future__ import annotations

import struct
from functools import cache
from typing import Final

import numpy as np

from elanus.model.requests import MutationReply, QueryReply, SearchReply
from elanus.wire import pack
from elanus.wire.encode_fields import encode_element_indices, encode_field, encode_fields, encode_keys

_SUCCESS: Final = pack.chunk(1, b"")
_CACHED_ROW_NUMBERS: Final = 1 << 14
_ONE_BYTE_NUMBERS: Final = 1 << 7


def mutation(reply: MutationReply) -> bytes:
    """`MutationResult` of an insert, upsert or delete; inserted rows are all in the success index."""
    parts = [_SUCCESS]
    if reply.keys is not None and len(reply.keys):
        parts.append(pack.chunk(2, encode_keys(reply.keys)))
    if reply.insert_count:
        parts.append(pack.chunk(3, row_numbers(reply.insert_count)))
    parts.append(pack.integer(6, reply.insert_count))
    parts.append(pack.integer(7, reply.delete_count))
    parts.append(pack.integer(8, reply.upsert_count))
    parts.append(pack.integer(9, reply.timestamp))
    return b"".join(parts)


def search(reply: SearchReply) -> bytes:
    """`SearchResults`: hits of all queries flat, cut by `topks`."""
    counts = reply.counts
    inner: list[pack.Part] = [
        pack.integer(1, len(counts)),
        pack.integer(2, int(counts.max()) if len(counts) else 0),
    ]
    for parts in encode_fields(reply.fields):
        inner += pack.wrap(3, parts)
    if len(reply.scores):
        inner += pack.wrap(4, [pack.raw(reply.scores, "<f4")])
        inner.append(pack.chunk(5, encode_keys(reply.keys)))
    if len(counts):
        inner.append(pack.chunk(6, pack.packed_varints(counts)))
    inner += [pack.chunk(7, name.encode()) for name in reply.output_fields]
    if reply.groups is not None:
        inner += pack.wrap(8, encode_field(reply.groups.field, reply.groups.column))
    inner.append(pack.integer(9, reply.searched_row_count))
    if reply.iterator_token:
        bound = b"\x15" + struct.pack("<f", reply.iterator_last_bound)
        inner.append(pack.chunk(11, pack.text(1, reply.iterator_token) + bound))
    inner.append(pack.text(13, reply.primary_field))
    if reply.elements is not None and len(reply.elements):
        inner += pack.wrap(15, [pack.chunk(1, pack.packed_varints(reply.elements))])
    outer = [_SUCCESS, *pack.wrap(2, inner), pack.text(3, reply.collection), pack.integer(4, reply.session_timestamp)]
    return b"".join(outer)


def query(reply: QueryReply) -> bytes:
    """`QueryResults`."""
    parts: list[pack.Part] = [_SUCCESS]
    for field in encode_fields(reply.fields):
        parts += pack.wrap(2, field)
    parts.append(pack.text(3, reply.collection))
    parts += [pack.chunk(4, name.encode()) for name in reply.output_fields]
    parts.append(pack.integer(5, reply.session_timestamp))
    parts.append(pack.text(6, reply.primary_field))
    if reply.element_places is not None:
        parts.append(encode_element_indices(7, reply.element_places))
    return b"".join(parts)


def row_numbers(count: int) -> bytes:
    """The row numbers 0 to count - 1 as packed varints: a prefix of one constant, in all but huge requests."""
    if count > _CACHED_ROW_NUMBERS:
        return pack.packed_varints(np.arange(count))
    return _first_row_numbers()[: count + max(0, count - _ONE_BYTE_NUMBERS)]


@cache
def _first_row_numbers() -> bytes:
    return pack.packed_varints(np.arange(_CACHED_ROW_NUMBERS))
