"""Giving memory back: an allocator keeps what was freed, and the process stays as large as its peak."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable


def _find_trim() -> Callable[[int], int] | None:
    """glibc's `malloc_trim`; None on systems whose allocator has no such call."""
    if sys.platform != "linux":
        return None
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim


_TRIM = _find_trim()


def release_memory() -> None:
    """Return freed memory to the system; some milliseconds, off the event loop."""
    if _TRIM is not None:
        _TRIM(0)
