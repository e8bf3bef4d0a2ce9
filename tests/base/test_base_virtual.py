"""Virtual doors: time jumps, seeds repeat, deadlocks speak."""

from __future__ import annotations

import asyncio
import time

import pytest

from elanus.base.doors import Doors
from elanus.testing.clock import EPOCH_MS, Deadlock, run


def test_time_jumps_and_sleepers_wake_in_order() -> None:
    async def main(doors: Doors) -> list[str]:
        woken: list[str] = []

        async def sleeper(name: str, seconds: float) -> None:
            await doors.clock.sleep(seconds)
            woken.append(f"{name}@{doors.clock.monotonic_s():g}")

        jobs = [doors.tasks.spawn(sleeper(f"s{n}", n * 1000.0), name="sleeper") for n in (3, 1, 2)]
        for job in jobs:
            await job.wait()
        assert doors.clock.now_ms() == EPOCH_MS + 3_000_000
        return woken

    start = time.perf_counter()
    assert run(main) == ["s1@1000", "s2@2000", "s3@3000"]
    assert time.perf_counter() - start < 5


def test_timeouts_are_exact() -> None:
    async def main(doors: Doors) -> None:
        with pytest.raises(TimeoutError):
            await doors.tasks.timeout(7.5, doors.clock.sleep(8))
        assert doors.clock.monotonic_s() == 7.5
        await doors.tasks.timeout(7.5, doors.clock.sleep(7))

    run(main)


def race(seed: int) -> list[int]:
    async def main(doors: Doors) -> list[int]:
        order: list[int] = []
        await asyncio.gather(*(doors.compute.run_io(order.append, number) for number in range(6)))
        return [*order, doors.random.below(1000), int(doors.random.token(), 16) % 1000]

    return run(main, seed)


def test_a_seed_repeats_and_seeds_differ() -> None:
    assert [race(seed) for seed in range(10)] == [race(seed) for seed in range(10)]
    assert len({tuple(race(seed)) for seed in range(10)}) == 10
    assert len({tuple(race(seed)[:6]) for seed in range(10)}) > 3


def test_a_deadlock_says_so() -> None:
    async def main(doors: Doors) -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock):
        run(main)


@pytest.mark.parametrize("wait_for_ever", [True, False])
def test_a_task_that_died_is_the_error_that_is_shown(wait_for_ever: bool) -> None:
    async def main(doors: Doors) -> None:
        async def dies() -> None:
            raise ZeroDivisionError

        doors.tasks.spawn(dies(), name="dies")
        await (asyncio.Event().wait() if wait_for_ever else doors.clock.sleep(1))

    with pytest.raises(ZeroDivisionError):
        run(main)
