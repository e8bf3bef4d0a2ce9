"""Hybrid timestamps: 46 bits of unix milliseconds above an 18-bit counter, as Milvus clients know them."""

from __future__ import annotations

from typing import Final

COUNTER_BITS: Final = 18
TIMESTAMP_MAX: Final = (1 << 64) - 1
"""Also the 'never deleted' mark in `deleted_at` columns."""


def compose(unix_ms: int, counter: int = 0) -> int:
    """The timestamp of `unix_ms` and `counter`."""
    return (unix_ms << COUNTER_BITS) | counter


def physical_ms(timestamp: int) -> int:
    """Unix milliseconds of a timestamp."""
    return timestamp >> COUNTER_BITS
