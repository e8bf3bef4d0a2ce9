"""Writing and reading files that a manifest names: each is known by key, length and CRC-32 (zlib's polynomial).

A load reads a file through once, verifies it, and then uses the same mapping, so that damage is met here and never as a
wrong answer. All checksums are computed off the event loop.
"""

from __future__ import annotations

import zlib
from typing import Final

from elanus.base.doors import Doors
from elanus.base.errors import CorruptedError
from elanus.base.limits import KIB
from elanus.model.segment import FileRef
from elanus.objects.store import Data, ObjectStore, buffers, size_of

INLINE_BYTES_MAX: Final = 64 * KIB
"""Up to this size a checksum is cheaper than a change of thread."""


def checksum(data: Data) -> int:
    """CRC-32 of all buffers one after another; about 1 GB/s."""
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
    """The object as read-only memory, read through once. CorruptedError; ObjectNotFoundError."""
    data = await store.map(ref.key)
    await _verify(doors, ref, data)
    return data


async def _checksum(doors: Doors, data: Data) -> int:
    if size_of(data) <= INLINE_BYTES_MAX:
        return checksum(data)
    return await doors.compute.run_io(checksum, data)


async def _verify(doors: Doors, ref: FileRef, data: bytes | memoryview) -> None:
    size = size_of(data)
    if size != ref.size_bytes:
        raise CorruptedError(f"{ref.key} has {size} bytes instead of {ref.size_bytes}")
    found = await _checksum(doors, data)
    if found != ref.checksum:
        raise CorruptedError(f"{ref.key} is damaged: its checksum is {found:08x} instead of {ref.checksum:08x}")
