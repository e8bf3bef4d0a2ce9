"""Timestamps and ids: never handed out twice, across restarts and clock steps.

Both keep a bound in the meta store above everything handed out and move it ahead, under the election, before they hand
out more. A successor starts at the bound. While timestamps are asked for all the time, their bound is moved on before
it is reached, so that nobody waits for the meta store; it is never more than two windows ahead of the clock, for a
successor's timestamps run ahead of the clock as far.
"""

from __future__ import annotations

import asyncio
from typing import Final

from elanus.base.doors import Clock, Job, Tasks
from elanus.base.errors import Action, ElanusError
from elanus.base.limits import TIMESTAMP_WINDOW_MS
from elanus.meta.catalog import create_or_replace, fetch, run
from elanus.meta.records import ID_BOUND, TIMESTAMP_BOUND, IdBound, TimestampBound
from elanus.meta.store import Compare, MetaStore
from elanus.model.timestamp import compose, physical_ms
from elanus.nodes.contracts import Range

ID_BLOCK: Final = 1 << 16
AHEAD_MS: Final = TIMESTAMP_WINDOW_MS // 2


class TimestampOracle:
    """Windows of timestamps that begin at the clock's time and end a little ahead of it."""

    def __init__(self, meta: MetaStore, clock: Clock, tasks: Tasks, guard: Compare) -> None:
        self._meta = meta
        self._clock = clock
        self._tasks = tasks
        self._guard = guard
        self._extending: Job | None = None
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
        end = _later(first, TIMESTAMP_WINDOW_MS)
        if end > self._bound:
            async with self._lock:
                await self._raise_bound(end)
        elif _later(end, AHEAD_MS) > self._bound and (self._extending is None or self._extending.done()):
            self._extending = self._tasks.spawn(self._extend(end), name="timestamps ahead")
        return Range(first, end)

    async def _extend(self, end: int) -> None:
        """Move the bound before it is reached. Where that fails for now, who reaches it does."""
        try:
            async with self._lock:
                await self._raise_bound(_later(end, AHEAD_MS))
        except ElanusError as error:
            if error.action not in (Action.RETRY, Action.UNKNOWN):
                raise

    async def next(self) -> int:
        """One timestamp above all given out here before."""
        window = await self.window()
        self._floor = max(window.first, self._floor) + 1
        return self._floor

    async def _raise_bound(self, end: int) -> None:
        if end <= self._bound:
            return
        stored = await fetch(self._meta, TimestampBound, TIMESTAMP_BOUND)
        bound = _later(end, AHEAD_MS)
        await run(self._meta, create_or_replace(stored, TimestampBound(value=bound)), (self._guard,))
        self._bound = bound


def _later(timestamp: int, milliseconds: int) -> int:
    return compose(physical_ms(timestamp) + milliseconds)


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
