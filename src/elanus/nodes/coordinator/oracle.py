"""Timestamps and ids: never handed out twice, across restarts and clock steps.

Both keep a bound in the meta store above everything handed out and move it ahead, under the election, before they hand
out more. A successor starts at the bound.
"""

from __future__ import annotations

import asyncio
from typing import Final

from elanus.base.doors import Clock
from elanus.base.limits import TIMESTAMP_WINDOW_MS
from elanus.meta.catalog import create_or_replace, fetch, run
from elanus.meta.records import ID_BOUND, TIMESTAMP_BOUND, IdBound, TimestampBound
from elanus.meta.store import Compare, MetaStore
from elanus.model.timestamp import compose, physical_ms
from elanus.nodes.contracts import Range

ID_BLOCK: Final = 1 << 16


class TimestampOracle:
    """Windows of timestamps that begin at the clock's time and end a little ahead of it."""

    def __init__(self, meta: MetaStore, clock: Clock, guard: Compare) -> None:
        self._meta = meta
        self._clock = clock
        self._guard = guard
        self._floor = 0
        self._bound = 0
        self._lock = asyncio.Lock()

    async def start(self) -> None:
        """Read the bound of the predecessors."""
        stored = await fetch(self._meta, TimestampBound, TIMESTAMP_BOUND)
        self._floor = self._bound = 0 if stored is None else stored.record.value

    async def window(self) -> Range:
        """Timestamps an owner may use. Windows never go back, though the clock may: an owner that has stamped in one
        would have to wait until the clock is there again."""
        first = self._floor = max(compose(self._clock.now_ms()), self._floor)
        end = compose(physical_ms(first) + TIMESTAMP_WINDOW_MS)
        if end > self._bound:
            async with self._lock:
                await self._raise_bound(end)
        return Range(first, end)

    async def next(self) -> int:
        """One timestamp above all given out here before."""
        window = await self.window()
        self._floor = max(window.first, self._floor) + 1
        return self._floor

    async def _raise_bound(self, end: int) -> None:
        if end <= self._bound:
            return
        stored = await fetch(self._meta, TimestampBound, TIMESTAMP_BOUND)
        await run(self._meta, create_or_replace(stored, TimestampBound(value=end)), (self._guard,))
        self._bound = end


class IdAllocator:
    """Blocks of ids. The first ever is derived from the clock, as Milvus's are: none looks like a user's."""

    def __init__(self, meta: MetaStore, clock: Clock, guard: Compare) -> None:
        self._meta = meta
        self._clock = clock
        self._guard = guard
        self._free = Range(0, 0)
        self._lock = asyncio.Lock()

    async def allocate(self, count: int) -> Range:
        """`count` fresh ids, consecutive."""
        async with self._lock:
            if self._free.end - self._free.first < count:
                await self._extend(count)
            given = Range(self._free.first, self._free.first + count)
            self._free = Range(given.end, self._free.end)
            return given

    async def _extend(self, count: int) -> None:
        stored = await fetch(self._meta, IdBound, ID_BOUND)
        first = compose(self._clock.now_ms()) if stored is None else stored.record.value
        bound = IdBound(value=first + max(count, ID_BLOCK))
        await run(self._meta, create_or_replace(stored, bound), (self._guard,))
        self._free = Range(first, bound.value)
