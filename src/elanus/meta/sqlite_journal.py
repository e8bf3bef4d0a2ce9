"""Finds commits that sqlite would silently forget.

Recovery of sqlite's write-ahead file stops at the first frame whose checksum is wrong, whatever follows. That is right
for a commit torn by a crash, of which there can be only one, the last: the next begins after its sync. Two or more
commits behind the recovered end mean that synced, answered commits are damaged.

The format (sqlite.org/fileformat2.html, "The Write-Ahead Log"): a header of 8 big-endian words {magic, version, page
size, checkpoint number, salt 1, salt 2, checksum 1, checksum 2}; then frames of {page number, pages after commit or 0,
salt 1, salt 2, checksum 1, checksum 2} and a page. Frames with other salts are left from an earlier round.
"""

from __future__ import annotations

import struct
from typing import Final

_HEADER_BYTES: Final = 32
_FRAME_HEADER_BYTES: Final = 24
_LITTLE_ENDIAN_MAGIC: Final = 0x377F0682
_PAGE_BYTES_MIN: Final = 512
_PAGE_BYTES_MAX: Final = 65536


def commit_frames(content: bytes) -> list[int]:
    """Numbers (from 1) of the frames of the current round that end a commit, valid or not."""
    if len(content) <= _HEADER_BYTES + _FRAME_HEADER_BYTES:
        return []
    page_bytes = struct.unpack_from(">I", content, 8)[0]
    if not _PAGE_BYTES_MIN <= page_bytes <= _PAGE_BYTES_MAX:
        page_bytes = 4096
    whole = _header_is_whole(content)
    salts = content[16:24] if whole else content[_HEADER_BYTES + 8 : _HEADER_BYTES + 16]
    if not any(salts):
        return []
    found = []
    starts = range(_HEADER_BYTES, len(content) - _FRAME_HEADER_BYTES + 1, _FRAME_HEADER_BYTES + page_bytes)
    for number, start in enumerate(starts, 1):
        if content[start + 8 : start + 16] == salts and any(content[start + 4 : start + 8]):
            found.append(number)
    return found


def _header_is_whole(content: bytes) -> bool:
    """sqlite's own check of the header."""
    magic = struct.unpack_from(">I", content)[0]
    order = "<" if magic == _LITTLE_ENDIAN_MAGIC else ">"
    words = struct.unpack_from(f"{order}6I", content)
    first = second = 0
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return (first, second) == struct.unpack_from(">2I", content, 24)
