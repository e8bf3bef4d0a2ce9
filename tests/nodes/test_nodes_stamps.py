"""Timestamps of a channel: rising, inside the granted window, whatever the clock does between reserving and drawing."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from elanus.model.timestamp import compose
from elanus.nodes.contracts import Coordinator, Range
from elanus.nodes.streaming.stamps import Stamps

WINDOW_MS = 5
COUNT = 4


class _Time:
    """A clock that is set, and an oracle that grants windows from it."""

    def __init__(self) -> None:
        self.ms = 1000

    def now_ms(self) -> int:
        return self.ms

    async def allocate_timestamps(self) -> Range:
        return Range(compose(self.ms), compose(self.ms + WINDOW_MS))


@given(st.lists(st.tuples(st.integers(-2, 12), st.integers(-2, 12)), min_size=1, max_size=30))
def test_timestamps_rise_inside_their_window(steps: list[tuple[int, int]]) -> None:
    async def play() -> None:
        time = _Time()
        stamps = Stamps(cast("Any", time), cast("Coordinator", time))
        last = 0
        for before, between in steps:
            time.ms += max(0, before)
            await stamps.reserve(COUNT)
            time.ms += between
            for _ in range(COUNT):
                drawn = stamps.draw()
                assert drawn > last and stamps.is_granted(drawn)
                last = drawn

    asyncio.run(play())
