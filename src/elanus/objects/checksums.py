"""Writing and reading files that a manifest names: each is known by key, length and CRC-32 (zlib's polynomial).

A load reads a file through once, verifies it, and then uses the same mapping, so that damage is met here and never as a
wrong answer. All checksums are computed off the event loop.
"""

from __future__ import annotations

import zlib
from typing import Final

from elanus.base.doors import Doors, ReadFile
from elanus.base.errors import CorruptedError
from elanus.base.limits import KIB, MIB
from elanus.model.segment import FileRef
from elanus.objects.store import Data, ObjectNotFoundError, ObjectStore, buffers, size_of

INLINE_BYTES_MAX: Final = 64 * KIB
"""Up to this size a checksum is cheaper than a change of thread."""
READ_BYTES: Final = 8 * MIB


def checksum(data: Data) -> int:
    """CRC-32 of all buffers one after another; about 1 GB/s."""
    if isinstance(data, bytes | memoryview):
        return zlib.crc32(data)
    state = 0
    for view in buffers(data):
        state = zlib.crc32(view, state)
    return state


async def write_file(doors: Doors, store: ObjectStore, key: str, data: Data) -> FileRef:
    """Put the object and return what a manifest says of it. Errors of `ObjectStore.put`."""
    ref = FileRef(key, size_of(data), await _checksum(doors, data))
    await store.put(key, data)
    return ref


async def read_verified(doors: Doors, store: ObjectStore, ref: FileRef) -> bytes:
    """The object's bytes. CorruptedError unless they are what was written; ObjectNotFoundError."""
    data = await store.get(ref.key)
    await _verify(doors, ref, data)
    return data


async def map_verified(doors: Doors, store: ObjectStore, ref: FileRef) -> memoryview:
    """The object as read-only memory, read through once. CorruptedError; ObjectNotFoundError.

    A large one is read piece by piece, not through the mapping: the bytes end up in the system's cache, and only what
    is touched later counts as this process's memory."""
    data = await store.map(ref.key)
    _check_size(ref, len(data))
    if ref.size_bytes <= INLINE_BYTES_MAX:
        _check_checksum(ref, checksum(data))
        return data
    state = 0
    for offset in range(0, ref.size_bytes, READ_BYTES):
        piece = await store.get_range(ref.key, offset, READ_BYTES)
        state = await doors.compute.run_io(zlib.crc32, piece, state)
    _check_checksum(ref, state)
    return data


async def open_local(doors: Doors, store: ObjectStore, ref: FileRef) -> ReadFile | None:
    """The object's local file for reading in pieces, where it has one; nothing is verified. ObjectNotFoundError."""
    path = store.local_path(ref.key)
    if path is None:
        return None
    try:
        return await doors.compute.run_io(doors.files.open, path)
    except FileNotFoundError:
        raise ObjectNotFoundError(f"object {ref.key} not found") from None


async def _checksum(doors: Doors, data: Data) -> int:
    if size_of(data) <= INLINE_BYTES_MAX:
        return checksum(data)
    return await doors.compute.run_io(checksum, data)


async def _verify(doors: Doors, ref: FileRef, data: bytes | memoryview) -> None:
    _check_size(ref, size_of(data))
    _check_checksum(ref, await _checksum(doors, data))


def _check_size(ref: FileRef, size_bytes: int) -> None:
    if size_bytes != ref.size_bytes:
        raise CorruptedError(f"{ref.key} has {size_bytes} bytes instead of {ref.size_bytes}")


def _check_checksum(ref: FileRef, found: int) -> None:
    if found != ref.checksum:
        raise CorruptedError(f"{ref.key} is damaged: its checksum is {found:08x} instead of {ref.checksum:08x}")
