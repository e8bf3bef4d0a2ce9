"""Bytes of the object-store log: a slot is an object, either batches of its term or a fence. Little-endian.

    slot    magic 8s | crc u32 | version u32 | kind u32 | batch_count u32
            | term u64 | first_sequence u64 | fence_term u64 | writer 16s        64 bytes
    data    frames of `wal.format`, one per batch, numbered first_sequence, first_sequence + 1, …
    fence   nothing

The checksums are seeded with the slot's identity (pchannel, term, first sequence), as those of a file are. `writer`
names the opener's attempt: with it no two writers ever put the same bytes, so "same bytes" means "mine".
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

from elanus.base.errors import CorruptedError
from elanus.model.channel import Position
from elanus.wal.format import FileName, encode_batch, frames, records_of
from elanus.wal.log import FormatError

if TYPE_CHECKING:
    from elanus.wal.log import Payload

FORMAT_VERSION: Final = 1
MAGIC: Final = b"ELANUSWS"
_HEADER: Final = struct.Struct("<8sIIIIQQQ16s")
HEADER_BYTES: Final = _HEADER.size
_CHECKED_FROM: Final = 12
_DATA, _FENCE = 0, 1


class Key(NamedTuple):
    """Name of a slot in its pchannel; compares in log order. (0, 0) is the root, where every chain begins."""

    term: int
    sequence: int


ROOT: Final = Key(0, 0)


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot as stored. `fence_term` 0: it holds batches."""

    key: Key
    batch_count: int
    fence_term: int
    writer: str
    data: memoryview
    name: str
    seed: int

    @property
    def is_fence(self) -> bool:
        """Whether the chain goes on in another term."""
        return self.fence_term != 0

    @property
    def next(self) -> Key:
        """Where the chain goes on."""
        if self.is_fence:
            return Key(self.fence_term, 0)
        return Key(self.key.term, self.key.sequence + self.batch_count)

    def records(self) -> list[tuple[Position, memoryview]]:
        """All records with their positions. CorruptedError."""
        found: list[tuple[Position, memoryview]] = []
        place, sequence = HEADER_BYTES, self.key.sequence
        for frame in frames(self.data, HEADER_BYTES, self.seed):
            if (frame.term, frame.sequence) != (self.key.term, sequence):
                break
            found.extend(records_of(frame, self.data))
            place, sequence = frame.end, sequence + 1
        if place != len(self.data) or sequence != self.key.sequence + self.batch_count:
            raise CorruptedError(f"{self.name}: a batch is damaged at offset {place}")
        return found


def encode_data(pchannel: str, key: Key, writer: str, batches: Sequence[Sequence[Payload]]) -> list[bytes | memoryview]:
    """The slot of these batches, in pieces, records uncopied."""
    seed = FileName(*key).seed(pchannel)
    parts: list[bytes | memoryview] = [_header(seed, _DATA, len(batches), (key, 0), writer)]
    place = HEADER_BYTES
    for number, records in enumerate(batches):
        frame, pieces = encode_batch(records, (key.term, key.sequence + number), place, 0, seed)
        parts += pieces
        place = frame.end
    return parts


def encode_fence(pchannel: str, key: Key, writer: str, fence_term: int) -> bytes:
    """The slot that ends a term's chain and leads to `fence_term`."""
    return _header(FileName(*key).seed(pchannel), _FENCE, 0, (key, fence_term), writer)


def _header(seed: int, kind: int, count: int, identity: tuple[Key, int], writer: str) -> bytes:
    key, fence_term = identity
    packed = _HEADER.pack(MAGIC, 0, FORMAT_VERSION, kind, count, *key, fence_term, writer.encode())
    return packed[:8] + struct.pack("<I", crc32(packed[_CHECKED_FROM:], seed)) + packed[_CHECKED_FROM:]


def decode_slot(pchannel: str, key: Key, name: str, data: bytes | memoryview) -> Slot:
    """The slot in an object, its batches unchecked. CorruptedError; FormatError for another version."""
    view = memoryview(data)
    seed = FileName(*key).seed(pchannel)
    if len(view) < HEADER_BYTES:
        raise CorruptedError(f"{name}: {len(view)} bytes are no slot of a log")
    magic, crc, version, kind, count, term, sequence, fence_term, writer = _HEADER.unpack_from(view)
    if magic != MAGIC or crc != crc32(view[_CHECKED_FROM:HEADER_BYTES], seed):
        raise CorruptedError(f"{name}: damaged")
    if version != FORMAT_VERSION:
        raise FormatError(f"{name}: format version {version}, this build reads {FORMAT_VERSION}")
    if Key(term, sequence) != key or (kind == _FENCE) != (fence_term != 0) or (kind == _DATA) != (count != 0):
        raise CorruptedError(f"{name}: damaged")
    return Slot(key, count, fence_term, writer.rstrip(b"\0").decode(), view, name, seed)
