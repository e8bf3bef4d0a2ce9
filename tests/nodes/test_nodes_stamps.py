"""Timestamps of a channel: rising, inside the granted window, whatever the clock does between reserving and drawing."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from elanus.base.doors import Doors
from elanus.meta.catalog import elected
from elanus.meta.memory import open_memory
from elanus.meta.store import Put
from elanus.model.timestamp import compose
from elanus.nodes.contracts import Coordinator, Range
from elanus.nodes.coordinator.oracle import TimestampOracle
from elanus.nodes.streaming.stamps import Stamps
from elanus.testing.clock import VirtualClock, run

WINDOW_MS = 5
COUNT = 4


class _Time:
    """A clock that is set, and an oracle that grants windows from one that goes another way."""

    def __init__(self) -> None:
        self.ms = 1000
        self.oracle_ms = 1000

    def now_ms(self) -> int:
        return self.ms

    async def allocate_timestamps(self) -> Range:
        return Range(compose(self.oracle_ms), compose(self.oracle_ms + WINDOW_MS))


@given(st.lists(st.tuples(st.integers(-12, 12), st.integers(-12, 12), st.integers(0, 12)), min_size=1, max_size=30))
def test_timestamps_rise_inside_their_window(steps: list[tuple[int, int, int]]) -> None:
    async def play() -> None:
        time = _Time()
        stamps = Stamps(cast("Any", time), cast("Coordinator", time))
        last = 0
        for before, between, oracle in steps:
            time.ms += before
            time.oracle_ms += oracle
            await stamps.reserve(COUNT)
            time.ms += between
            for _ in range(COUNT):
                drawn = stamps.draw()
                assert drawn > last and stamps.is_granted(drawn)
                last = drawn

    asyncio.run(play())


def test_windows_never_go_back_though_the_clock_does() -> None:
    async def main(doors: Doors) -> None:
        clock = cast("VirtualClock", doors.clock)
        guard = elected(1)
        meta = open_memory(doors)
        await meta.transact((), (Put(guard.key, b""),))
        oracle = TimestampOracle(meta, clock, guard)
        await oracle.start()
        last = Range(0, 0)
        for skew_ms in (0, 5000, -20_000, -10_000, 7000):
            clock.skew_ms = skew_ms
            window = await oracle.window()
            assert window.first >= last.first and window.end >= last.end
            last = window

    run(main)
