"""The real doors: the machine's clock, chance, asyncio tasks, threads and disk, in one value with an end."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from elanus.base.compute import PoolCompute
from elanus.base.doors import Doors
from elanus.base.files import PosixFiles
from elanus.base.tasks import LoopTasks, OnFailure

_STEADY_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Counts the time a machine is suspended (CLOCK_MONOTONIC does so on macOS): evidence must age in a sleeping laptop."""


class SystemClock:
    """`doors.Clock` of the machine and the running loop."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.clock_gettime(_STEADY_CLOCK)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class SystemRandom:
    """`doors.Random` from the operating system's entropy."""

    def __init__(self) -> None:
        self._generator = random.Random()

    def token(self) -> str:
        return secrets.token_hex(8)

    def uniform(self) -> float:
        return self._generator.random()

    def below(self, bound: int) -> int:
        return self._generator.randrange(bound)


@dataclass(frozen=True, slots=True)
class RealDoors(Doors):
    """Doors that own threads and tasks; `close` them when the process or handle ends."""

    tasks: LoopTasks
    compute: PoolCompute

    async def stop_tasks(self) -> None:
        """Cancel every task spawned through these doors and wait for their ends."""
        await self.tasks.cancel_all()

    def close(self) -> None:
        """Let the threads end. Idempotent; calls after it are refused."""
        self.compute.close()


def available_cores() -> int:
    """Cores this process may run on, as its affinity says where that is known."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def real_doors(
    on_failure: OnFailure,
    *,
    cores: int | None = None,
    initialize_serving: Callable[[], None] | None = None,
    initialize_background: Callable[[], None] | None = None,
) -> RealDoors:
    """Doors to the machine.

    `on_failure(name, error)` hears of every task that died of an unexpected error. `cores` bounds the serving threads
    (all available by default). The two callables run once on each new thread of their pool.
    """
    return RealDoors(
        clock=SystemClock(),
        random=SystemRandom(),
        tasks=LoopTasks(on_failure),
        compute=PoolCompute(cores or available_cores(), initialize_serving, initialize_background),
        files=PosixFiles(),
    )
