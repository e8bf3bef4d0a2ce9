"""Timestamps of a channel: rising, inside the granted window, whatever the clock does between reserving and drawing."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elanus.base.doors import Clock, Doors
from elanus.base.errors import UnavailableError
from elanus.base.limits import TIMESTAMP_WINDOW_MS
from elanus.meta.catalog import elected, fetch
from elanus.meta.local import LocalMetaStore
from elanus.meta.memory import open_memory
from elanus.meta.records import TIMESTAMP_BOUND, TimestampBound
from elanus.meta.state import State
from elanus.meta.store import Put, TransactionResult
from elanus.model.timestamp import compose
from elanus.nodes.contracts import Coordinator, Range, TimestampWindow
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

    async def allocate_timestamps(self) -> TimestampWindow:
        return TimestampWindow(compose(self.oracle_ms), compose(self.oracle_ms + WINDOW_MS), 1)


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
        oracle = TimestampOracle(meta, clock, doors.tasks, guard)
        await oracle.start()
        last = Range(0, 0)
        for skew_ms in (0, 5000, -20_000, -10_000, 7000):
            clock.skew_ms = skew_ms
            window = await oracle.window()
            assert window.first >= last.first and window.end >= last.end
            last = window

    run(main)


class _Slow(LocalMetaStore):
    """Takes its time for everything that it writes, or for ever."""

    takes_s = 0.5

    async def transact(self, compares: Any, operations: Any) -> TransactionResult:
        await self.clock.sleep(self.takes_s)
        return await super().transact(compares, operations)

    clock: Clock


def test_who_asks_all_the_time_never_waits_for_the_meta_store() -> None:
    async def main(doors: Doors) -> None:
        guard = elected(1)
        meta = _Slow(doors, State(), None)
        meta.clock = doors.clock
        await meta.transact((), (Put(guard.key, b""),))
        oracle = TimestampOracle(meta, doors.clock, doors.tasks, guard)
        await oracle.start()
        await oracle.window()
        for _ in range(20):
            begun_s = doors.clock.monotonic_s()
            window = await oracle.window()
            assert doors.clock.monotonic_s() == begun_s
            stored = await fetch(meta, TimestampBound, TIMESTAMP_BOUND)
            assert stored is not None and window.end <= stored.record.value
            assert stored.record.value <= compose(doors.clock.now_ms() + 2 * TIMESTAMP_WINDOW_MS)
            await doors.clock.sleep(1.4)

        meta.takes_s = 3600.0
        for _ in range(20):
            begun_s = doors.clock.monotonic_s()
            asking = doors.tasks.timeout(60.0, oracle.window())
            try:
                await asking
            except TimeoutError:
                break
            await doors.clock.sleep(0.5)
        else:
            raise AssertionError("windows beyond the bound were handed out")

    run(main)


class _Far:
    """A coordinator whose answers take half a second, with a term."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.term = 7

    async def allocate_timestamps(self) -> TimestampWindow:
        await self.clock.sleep(0.5)
        now_ms = self.clock.now_ms()
        return TimestampWindow(compose(now_ms), compose(now_ms + TIMESTAMP_WINDOW_MS), self.term)


def test_a_window_is_renewed_when_half_of_it_is_used_and_never_from_a_deposed_coordinator() -> None:
    async def main(doors: Doors) -> None:
        far = _Far(doors.clock)
        stamps = Stamps(doors.clock, cast("Coordinator", far))
        await stamps.reserve(COUNT)
        assert not stamps.runs_low
        last = 0
        for _ in range(50):
            begun_s = doors.clock.monotonic_s()
            await stamps.reserve(COUNT)
            assert doors.clock.monotonic_s() == begun_s
            if stamps.runs_low:
                doors.tasks.spawn(stamps.renew(), name="renew")
            drawn = stamps.draw()
            assert drawn > last
            last = drawn
            await doors.clock.sleep(0.2)
        far.term = 6
        with pytest.raises(UnavailableError, match="deposed"):
            await stamps.renew()
        await doors.clock.sleep(10)
        with pytest.raises(UnavailableError, match="deposed"):
            await stamps.reserve(COUNT)
        far.term = 8
        await stamps.reserve(COUNT)

    run(main)
