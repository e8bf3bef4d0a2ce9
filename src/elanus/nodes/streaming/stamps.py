"""Timestamps of one channel: strictly rising, near the clock, inside a window the coordinator has granted.

The window's end lies below the oracle's persisted bound, so nothing ever repeats; rising across owners of the channel
comes from the floor, which an opener sets above everything in manifests and replay, and only then asks for a window.

The clock here and the coordinator's may differ by any amount. One that is ahead of the window is not followed.
"""

from __future__ import annotations

from elanus.base.doors import Clock
from elanus.base.errors import check
from elanus.model.timestamp import compose
from elanus.nodes.contracts import Coordinator, Range


class Stamps:
    """One per channel, used by its appender alone; readers only raise the floor."""

    def __init__(self, clock: Clock, coordinator: Coordinator) -> None:
        self._clock = clock
        self._coordinator = coordinator
        self._last = 0
        self._window = Range(0, 0)
        self._clock_limit = 0

    @property
    def last(self) -> int:
        """No later record gets a timestamp at or below it."""
        return self._last

    def raise_floor(self, timestamp: int) -> None:
        """Every later timestamp is above this one."""
        self._last = max(self._last, timestamp)

    def is_granted(self, timestamp: int) -> bool:
        """Whether the oracle is known to have passed `timestamp`."""
        return timestamp < self._window.end

    async def reserve(self, count: int) -> None:
        """Make sure `count` timestamps can be drawn now; asks the coordinator when the window has run out."""
        if self._soonest(self._clock_timestamp()) + count >= self._window.end:
            self._window = await self._coordinator.allocate_timestamps()
            check(
                self._soonest(0) + count < self._window.end,
                "timestamp window ends below the channel's floor",
            )
        self._clock_limit = self._window.end - count

    def draw(self) -> int:
        """The next timestamp; `reserve` came before. The clock goes on between the two, perhaps out of the window: then
        it is not followed, and the next number is taken."""
        now = self._clock_timestamp()
        self._last = self._soonest(now if now < self._clock_limit else 0)
        check(self._last < self._window.end, "more timestamps drawn than reserved")
        return self._last

    def _clock_timestamp(self) -> int:
        return compose(self._clock.now_ms())

    def _soonest(self, at_least: int) -> int:
        return max(self._last + 1, self._window.first, at_least)
