"""Virtual doors for one test: time that jumps, seeded chance, compute that runs inline.

`run(main, seed=…)` runs a coroutine on an event loop whose clock stands still while anything can run and jumps to the
next timer when nothing can. So sleeps are free, timeouts exact, and the same seed gives the same run. A loop with
nothing to run and no timer is a deadlock and says so.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from elanus.base.doors import Doors, Files
from elanus.base.tasks import LoopTasks, OnFailure
from elanus.testing.disk import ForgettingDisk

T = TypeVar("T")

EPOCH_MS: Final = 1_750_000_000_000
"""Wall time at which every virtual world begins."""
_YIELDS_MAX: Final = 3


class Deadlock(RuntimeError):
    """Every task waits and no timer will wake any."""


class _JumpingSelector(selectors.SelectSelector):
    """Never blocks: reports how long the loop would have slept instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise Deadlock("all tasks wait and no timer is set")
            self.now_s += max(0.0, timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop in virtual time, which starts at 0."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s


class VirtualClock:
    """`doors.Clock` of the running virtual loop. `skew_ms` moves the wall clock only."""

    def __init__(self) -> None:
        self.skew_ms = 0

    def now_ms(self) -> int:
        return EPOCH_MS + self.skew_ms + int(asyncio.get_running_loop().time() * 1000)

    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class SeededRandom:
    """`doors.Random` from one integer."""

    def __init__(self, seed: int) -> None:
        self._generator = random.Random(seed)

    def token(self) -> str:
        return f"{self._generator.getrandbits(64):016x}"

    def uniform(self) -> float:
        return self._generator.random()

    def below(self, bound: int) -> int:
        return self._generator.randrange(bound)


class InlineCompute:
    """`doors.Compute` on the loop itself. It gives way a drawn number of times, so that seeds reorder what races."""

    def __init__(self, seed: int) -> None:
        self._generator = random.Random(seed)

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        await self._give_way()
        result = function(*arguments)
        await self._give_way()
        return result

    run_background = run
    run_io = run

    async def _give_way(self) -> None:
        for _ in range(self._generator.randint(1, _YIELDS_MAX)):
            await asyncio.sleep(0)


class Failures:
    """What died unexpectedly; `run` raises the first at its end."""

    def __init__(self) -> None:
        self.errors: list[tuple[str, BaseException]] = []

    def __call__(self, name: str, error: BaseException) -> None:
        self.errors.append((name, error))


def virtual_doors(seed: int = 0, *, files: Files | None = None, on_failure: OnFailure | None = None) -> Doors:
    """Doors for use inside `run`; the disk is a new ForgettingDisk unless one is given."""
    return Doors(
        clock=VirtualClock(),
        random=SeededRandom(seed),
        tasks=LoopTasks(on_failure or Failures()),
        compute=InlineCompute(seed ^ 0x5EED),
        files=files if files is not None else ForgettingDisk(),
    )


def run(main: Callable[[Doors], Awaitable[T]], seed: int = 0, *, files: Files | None = None) -> T:
    """Run `main(doors)` in virtual time. An unexpected failure of any spawned task is raised in the end, or at once if
    everybody else waits for it in vain."""
    failures = Failures()

    async def outer() -> T:
        return await main(virtual_doors(seed, files=files, on_failure=failures))

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        try:
            result = runner.run(outer())
        except Deadlock as deadlock:
            if failures.errors:
                raise failures.errors[0][1] from deadlock
            raise
    if failures.errors:
        raise failures.errors[0][1]
    return result
