"""Small files are decoded once: the same few bytes are opened again by each role of a process, and those of deletes by
every segment that folds them in.

What is kept is found by its bytes, so that it is never an older or another file; it must not be written to.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final, TypeVar

from elanus.base.limits import KIB

T = TypeVar("T")

SMALL_BYTES: Final = 64 * KIB
"""A file up to this size is decoded at once: reading one column costs as much as reading all."""
KEPT_BYTES_MAX: Final = 16 * KIB
KEPT_FILES_MAX: Final = 128
"""So many files of each kind, each up to that size, are kept decoded."""


def once_if_small(decode: Callable[[bytes | memoryview], T]) -> Callable[[bytes | memoryview], T]:
    """`decode`, which remembers what small files hold. What it raises is not remembered."""
    kept = lru_cache(maxsize=KEPT_FILES_MAX)(decode)

    def decoded(data: bytes | memoryview) -> T:
        return kept(_as_bytes(data)) if len(data) <= KEPT_BYTES_MAX else decode(data)

    return decoded


def _as_bytes(data: bytes | memoryview) -> bytes:
    """Without a copy where the memory is that of bytes, which know their hash."""
    if isinstance(data, memoryview) and type(data.obj) is bytes and len(data.obj) == len(data):
        return data.obj
    return bytes(data)
