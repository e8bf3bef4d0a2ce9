"""A small heap: an allocator keeps what was freed, and the process stays as large as its peak.

Linux with glibc only; elsewhere both functions do nothing. The numbers are parameters of `mallopt(3)`.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any, Final

from elanus.base.limits import MIB

_ARENA_MAX: Final = -8
_MMAP_THRESHOLD: Final = -3
_TRIM_THRESHOLD: Final = -1
_GROUP_LIMITS: Final = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
ARENAS: Final = 2
LARGE_BYTES: Final = 4 * MIB
"""Blocks of this size are mapped one by one and go back to the system when freed."""


def _glibc() -> Any:
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return library if hasattr(library, "malloc_trim") else None


_GLIBC: Final = _glibc()


def machine_memory_bytes() -> int:
    """What this process may use: the machine's memory, or its control group's limit where that is less."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")] if hasattr(os, "sysconf") else []
    for name in _GROUP_LIMITS:
        path = Path(name)
        text = path.read_text(encoding="ascii").strip() if path.is_file() else ""
        found += [int(text)] if text.isdigit() else []
    return min(found, default=0)


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
