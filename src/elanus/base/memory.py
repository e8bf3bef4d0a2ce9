"""A small heap: an allocator keeps what was freed, and the process stays as large as its peak.

Linux with glibc only; elsewhere both functions do nothing. The numbers are parameters of `mallopt(3)`.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any, Final

from elanus.base.limits import MIB

_ARENA_MAX: Final = -8
_MMAP_THRESHOLD: Final = -3
_TRIM_THRESHOLD: Final = -1
ARENAS: Final = 2
LARGE_BYTES: Final = 4 * MIB
"""Blocks of this size are mapped one by one and go back to the system when freed."""


def _glibc() -> Any:
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return library if hasattr(library, "malloc_trim") else None


_GLIBC: Final = _glibc()


def keep_heap_small() -> None:
    """Few arenas, and large blocks outside of them; before threads start."""
    if _GLIBC is not None:
        _GLIBC.mallopt(_ARENA_MAX, ARENAS)
        _GLIBC.mallopt(_MMAP_THRESHOLD, LARGE_BYTES)
        _GLIBC.mallopt(_TRIM_THRESHOLD, LARGE_BYTES)


def release_memory() -> None:
    """Return freed memory to the system; some milliseconds, off the event loop."""
    if _GLIBC is not None:
        _GLIBC.malloc_trim(0)
