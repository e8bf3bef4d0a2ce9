"""The loop of simulated processes: time, pauses, kills at any await."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from elanus.testing.clock import Deadlock
from elanus.testing.sim.loop import Crashed, Life, SimLoop, current_life


def run(main: Callable[[], Awaitable[Any]]) -> Any:
    loop = SimLoop()
    try:
        return loop.run_until_complete(main())  # type: ignore[arg-type]
    finally:
        loop.close()


def test_time_jumps_and_timers_fire_in_order() -> None:
    async def main() -> None:
        loop, seen = asyncio.get_running_loop(), []
        for delay in (5.0, 1.0, 3.0):
            loop.call_later(delay, seen.append, delay)
        await asyncio.sleep(4)
        assert (seen, loop.time()) == ([1.0, 3.0], 4.0)

    run(main)


def test_waiting_for_nothing_is_a_deadlock() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock):
        run(main)


async def count(seen: list[int]) -> None:
    for number in range(100):
        await asyncio.sleep(1)
        seen.append(number)


def test_a_paused_life_runs_nothing_and_catches_up() -> None:
    async def main() -> None:
        life, seen = Life("a"), []
        life.start(count(seen), "count")
        await asyncio.sleep(3.5)
        life.pause()
        await asyncio.sleep(10)
        assert seen == [0, 1, 2]
        life.resume()
        await asyncio.sleep(0.1)
        assert seen == [0, 1, 2, 3]
        life.kill()

    run(main)


@pytest.mark.parametrize("fuse", range(8))
def test_a_life_dies_at_any_await_and_reaches_nothing_more(fuse: int) -> None:
    async def main() -> None:
        life, seen, told, late = Life("a"), [], [], []

        async def work() -> None:
            try:
                await count(seen)
            finally:
                # What a dying process still schedules never runs.
                asyncio.get_running_loop().call_soon(late.append, 1)
                with pytest.raises(Crashed):
                    life.check()

        life.start(work(), "work")
        life.on_death.append(lambda: told.append(len(seen)))
        life.light_fuse(fuse)
        await asyncio.sleep(50)
        assert told == [len(seen)]
        assert len(seen) < 10
        assert not late

    run(main)


def test_tasks_belong_to_the_life_that_made_them() -> None:
    async def main() -> None:
        one, other, seen = Life("a"), Life("b"), []

        async def child() -> None:
            await asyncio.sleep(1)
            life = current_life()
            seen.append(life.name if life else "")

        async def parent() -> None:
            await asyncio.gather(child(), child())

        one.start(parent(), "parent")
        other.start(parent(), "parent")
        await asyncio.sleep(0.5)
        one.kill()
        await asyncio.sleep(2)
        assert seen == ["b", "b"]
        assert current_life() is None
        other.kill()

    run(main)
