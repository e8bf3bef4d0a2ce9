"""Bytes of the file log: a header, then frames, each one batch. Little-endian, frames aligned to 8 bytes.

    file    magic 8s | crc u32 | version u32 | term u64 | first_sequence u64
            | link_term u64 | link_first_sequence u64 | link_kept_bytes u64
            | last_term u64 | last_sequence u64 | last_offset u64 | copied_bytes u64 | zero to 96 bytes
    frame   magic u32 | header_crc u32 | body_crc u32 | record_count u32
            | term u64 | sequence u64 | place u64 | synced_through u64 | body_bytes u64
            | length u32 per record | records | zero to a multiple of 8

Both header checksums are seeded with the file's identity (pchannel, term, first sequence), and a frame header names its
own place: a frame copied elsewhere by a disk, or old bytes in a reused block, or a log file inside a record, never
pass for a frame of this file. The body's checksum is not seeded, so that a copied frame keeps the one computed when the
batch was first written.

`synced_through` is the mark: when the frame was written, the file was known to be synced up to that place. A frame
without records carries only a mark.

The checksum is CRC-32 (zlib), the fastest one in the standard library: 4 GB/s where zlib folds by carry-less
multiplication.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

from elanus.base.limits import LOG_FRAME_BYTES_MAX
from elanus.model.channel import Position
from elanus.wal.log import FormatError

if TYPE_CHECKING:
    from elanus.wal.log import Payload

FORMAT_VERSION: Final = 1
FILE_MAGIC: Final = b"ELANUSWL"
FRAME_MAGIC: Final = b"ELFR"
FILE_HEADER_BYTES: Final = 96
_FILE: Final = struct.Struct("<8sII9Q")
_FRAME: Final = struct.Struct("<4sIIIQQQQQ")
FRAME_HEADER_BYTES: Final = _FRAME.size
_CHECKED_FROM: Final = 8
"""Both headers: where the bytes under the frame header's checksum begin."""
_FILE_CHECKED_FROM: Final = 12
_ALIGNMENT: Final = 8
_PLACE: Final = 4
"""Index of `place` among the fields after the header's checksum."""


class FileName(NamedTuple):
    """Identity of a file in its pchannel; compares in chain order."""

    term: int
    first_sequence: int

    def __str__(self) -> str:
        return f"{self.term:016d}-{self.first_sequence:016d}.log"

    @classmethod
    def parse(cls, name: str) -> FileName | None:
        """The identity behind a file's name, or None for a foreign file."""
        stem, _, suffix = name.partition(".")
        term, dash, first = stem.partition("-")
        if suffix == "log" and dash and term.isdecimal() and first.isdecimal():
            return cls(int(term), int(first))
        return None

    def seed(self, pchannel: str) -> int:
        """Start value of the checksums of this file."""
        return crc32(f"{pchannel}/{self.term}/{self.first_sequence}".encode())


class Link(NamedTuple):
    """The predecessor of a file, and how many of its bytes belong to the chain (all of them known to be synced)."""

    term: int
    first_sequence: int
    kept_bytes: int

    @property
    def name(self) -> FileName:
        return FileName(self.term, self.first_sequence)


class FileHeader(NamedTuple):
    """Start of a file. `last` is the last record of the chain below the file, without the frames copied into it."""

    name: FileName
    link: Link | None
    last: Position
    copied_bytes: int

    @property
    def own_from(self) -> int:
        """Where the copied frames end and the frames of the file's own term begin."""
        return FILE_HEADER_BYTES + self.copied_bytes


class Frame(NamedTuple):
    """A frame as found in a file."""

    body_crc: int
    record_count: int
    term: int
    sequence: int
    place: int
    synced_through: int
    body_bytes: int
    end: int
    """Where the next frame begins; not stored."""

    @property
    def body_from(self) -> int:
        return self.place + FRAME_HEADER_BYTES

    @property
    def last(self) -> Position:
        """Position of its last record."""
        return Position(self.term, self.sequence, self.record_count - 1)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def encode_file_header(header: FileHeader, pchannel: str) -> bytes:
    """The first FILE_HEADER_BYTES of a file."""
    name, link = header.name, header.link or Link(0, 0, 0)
    packed = _FILE.pack(FILE_MAGIC, 0, FORMAT_VERSION, *name, *link, *header.last, header.copied_bytes)
    padded = packed.ljust(FILE_HEADER_BYTES, b"\0")
    crc = crc32(padded[_FILE_CHECKED_FROM:], name.seed(pchannel))
    return padded[:_CHECKED_FROM] + struct.pack("<I", crc) + padded[_FILE_CHECKED_FROM:]


def decode_file_header(data: bytes, name: FileName, pchannel: str) -> FileHeader | None:
    """The header, or None if it is damaged or incomplete. FormatError for another version."""
    if len(data) < FILE_HEADER_BYTES:
        return None
    magic, crc, version, term, first, *rest = _FILE.unpack_from(data)
    if magic != FILE_MAGIC or crc != crc32(data[_FILE_CHECKED_FROM:FILE_HEADER_BYTES], name.seed(pchannel)):
        return None
    if version != FORMAT_VERSION:
        raise FormatError(f"{pchannel}/{name}: format version {version}, this build reads {FORMAT_VERSION}")
    if FileName(term, first) != name:
        return None
    link = Link(*rest[:3]) if rest[0] else None
    return FileHeader(name, link, Position(*rest[3:6]), rest[6])


def _frame_header(frame: Frame, seed: int) -> bytes:
    checked = _FRAME.pack(FRAME_MAGIC, 0, *frame[:-1])[_CHECKED_FROM:]
    return FRAME_MAGIC + struct.pack("<I", crc32(checked, seed)) + checked


def _padding(frame: Frame) -> bytes:
    return bytes(frame.end - frame.body_from - frame.body_bytes)


def batch_bytes(records: Sequence[Payload]) -> int:
    """Bytes that a batch takes in a file."""
    body = 4 * len(records) + sum(memoryview(record).nbytes for record in records)
    return _aligned(FRAME_HEADER_BYTES + body)


def encode_batch(
    records: Sequence[Payload], batch: tuple[int, int], place: int, synced_through: int, seed: int
) -> tuple[Frame, list[bytes | memoryview]]:
    """The frame of one batch (term, sequence) and the pieces to write, records uncopied. No records: a mark alone."""
    views = [memoryview(record).cast("B") for record in records]
    lengths = [len(view) for view in views]
    table = struct.pack(f"<{len(lengths)}I", *lengths)
    crc = crc32(table)
    for view in views:
        crc = crc32(view, crc)
    body_bytes = len(table) + sum(lengths)
    end = place + _aligned(FRAME_HEADER_BYTES + body_bytes)
    frame = Frame(crc, len(lengths), *batch, place, synced_through, body_bytes, end)
    return frame, [_frame_header(frame, seed) + table, *views, _padding(frame)]


def encode_copy(frame: Frame, data: memoryview, place: int, seed: int) -> tuple[Frame, list[bytes | memoryview]]:
    """A verified frame of another file, moved to `place` of the file with `seed`, with its old position and no mark."""
    moved = frame._replace(place=place, synced_through=0, end=place + frame.end - frame.place)
    body = data[frame.body_from : frame.body_from + frame.body_bytes]
    return moved, [_frame_header(moved, seed), body, _padding(moved)]


def decode_frame_header(data: bytes | memoryview, place: int, seed: int) -> Frame | None:
    """The frame that begins at `place`, its body unchecked; None if there is no whole and sound header."""
    body_from = place + FRAME_HEADER_BYTES
    if body_from > len(data):
        return None
    magic, crc, *rest = _FRAME.unpack_from(data, place)
    if magic != FRAME_MAGIC or crc != crc32(data[place + _CHECKED_FROM : body_from], seed):
        return None
    if rest[_PLACE] != place or rest[-1] > LOG_FRAME_BYTES_MAX:
        return None
    return Frame._make((*rest, place + _aligned(FRAME_HEADER_BYTES + rest[-1])))


def decode_frame(data: memoryview, place: int, seed: int, *, verify: bool = True) -> Frame | None:
    """The whole frame at `place`, its body checked if `verify`; None if any of it is missing or damaged."""
    frame = decode_frame_header(data, place, seed)
    if frame is None or frame.end > len(data):
        return None
    body_from = place + FRAME_HEADER_BYTES
    if verify and crc32(data[body_from : body_from + frame.body_bytes]) != frame.body_crc:
        return None
    return frame


def frames(data: memoryview, place: int, seed: int, *, verify: bool = True) -> Iterator[Frame]:
    """The sound frames from `place` on, up to the first that is not."""
    while (frame := decode_frame(data, place, seed, verify=verify)) is not None:
        yield frame
        place = frame.end


def frame_headers_after(data: bytes, place: int, seed: int) -> Iterator[Frame]:
    """Every sound frame header at or above `place`, wherever it stands: what a damaged frame cannot hide."""
    found = data.find(FRAME_MAGIC, place)
    while found >= 0:
        frame = decode_frame_header(data, found, seed)
        if frame is not None:
            yield frame
        found = data.find(FRAME_MAGIC, found + 1)


def records_of(frame: Frame, data: memoryview) -> list[tuple[Position, memoryview]]:
    """The records of a verified frame with their positions, uncopied."""
    lengths = struct.unpack_from(f"<{frame.record_count}I", data, frame.body_from)
    start = frame.body_from + 4 * frame.record_count
    term, sequence = frame.term, frame.sequence
    found = []
    for offset, length in enumerate(lengths):
        found.append((Position(term, sequence, offset), data[start : start + length]))
        start += length
    return found


def follows(last: Position | Frame, frame: Frame) -> bool:
    """Whether `frame` may come directly after `last` in a chain: batches are counted from 0 in each term."""
    if frame.term == last.term:
        return frame.sequence == last.sequence + 1
    return frame.term > last.term and frame.sequence == 0
