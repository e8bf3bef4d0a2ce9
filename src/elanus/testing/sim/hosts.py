"""Simulated machines: a name, a role, a clock that can be stepped, a disk that forgets, and the process now running."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, Final, TypeVar

from elanus.base.doors import Doors
from elanus.base.errors import DiskFullError, StorageError
from elanus.base.tasks import LoopTasks
from elanus.testing.clock import EPOCH_MS, SeededRandom
from elanus.testing.disk import ForgettingDisk, Point
from elanus.testing.sim.loop import Life, current_life, nap
from elanus.testing.sim.trace import Trace

T = TypeVar("T")

OnExit = Callable[["Host", str, BaseException], None]
_SYNC_S_MAX: Final = 0.004
_DISK_S_MAX: Final = 0.0005


class SimClock:
    """`doors.Clock` of one machine: the loop's time, with a wall clock that faults may step."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.skew_ms = 0

    def now_ms(self) -> int:
        return EPOCH_MS + self.skew_ms + int(self._loop.time() * 1000)

    def monotonic_s(self) -> float:
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        await nap(seconds)


class SimCompute:
    """`doors.Compute` without threads: compute gives way, disk calls take time, both as drawn."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        await asyncio.sleep(0)
        result = function(*arguments)
        if self._chance.random() < 0.5:
            await asyncio.sleep(0)
        return result

    run_background = run

    async def run_io(self, function: Callable[..., T], *arguments: Any) -> T:
        await nap(self._chance.random() * _DISK_S_MAX)
        result = function(*arguments)
        await nap(self._chance.random() * _SYNC_S_MAX)
        return result


class DiskFaults:
    """How likely a disk call of a host fails now; the hook of its disk."""

    def __init__(self, host: Host, chance: random.Random, trace: Trace) -> None:
        self._host = host
        self._chance = chance
        self._trace = trace
        self.calm()

    def calm(self) -> None:
        """None does."""
        self.full = 0.0
        self.write_error = 0.0
        self.sync_error = 0.0

    def __call__(self, point: Point) -> None:
        life = current_life()
        if life is not None:
            life.check()
        if point.phase != "before":
            return
        if point.verb == "append":
            self._perhaps("disk_full", self.full, point, DiskFullError)
            self._perhaps("write_error", self.write_error, point, StorageError)
        elif point.verb == "create":
            self._perhaps("disk_full", self.full, point, DiskFullError)
        elif point.verb in ("sync", "sync_directory"):
            self._perhaps("sync_error", self.sync_error, point, StorageError)

    def _perhaps(self, fault: str, likely: float, point: Point, kind: type[DiskFullError | StorageError]) -> None:
        if likely and self._chance.random() < likely:
            self._trace.strike(fault, self._host.role, self._host.name, point.path)
            raise kind(f"{fault} at {point.path}")


class Host:
    """A machine. Its process is begun by `begin` and ended by the life's own end or `end`."""

    def __init__(self, name: str, role: str, seed: int, trace: Trace) -> None:
        self.name = name
        self.role = role
        self.clock = SimClock(asyncio.get_running_loop())
        self.life: Life | None = None
        self.lives = 0
        self._seed = seed
        self._trace = trace
        self.disk_faults = DiskFaults(self, random.Random(f"{seed} disk of {name}"), trace)
        self._install(ForgettingDisk())

    @property
    def is_up(self) -> bool:
        """Whether a process runs here, be it paused."""
        return self.life is not None

    def _install(self, disk: ForgettingDisk) -> None:
        self.disk = disk
        disk.hook = self.disk_faults

    def begin(self) -> Life:
        """A new process, which has nothing but the disk from the one before."""
        assert self.life is None, f"{self.name} is running"
        self.lives += 1
        self.life = Life(f"{self.name}.{self.lives}")
        self._trace.note(self.name, "start", self.life.name)
        return self.life

    def doors(self, on_exit: OnExit) -> Doors:
        """Doors of the process now running; `on_exit` hears of a task that died."""
        chance = random.Random(f"{self._seed} {self.name} {self.lives}")

        def failed(task: str, error: BaseException) -> None:
            on_exit(self, task, error)

        return Doors(self.clock, SeededRandom(chance.getrandbits(64)), LoopTasks(failed), SimCompute(chance), self.disk)

    def end(self, *, power_seed: int | None = None) -> None:
        """Kill the process; with a seed the machine loses power, and the disk what was not synced."""
        if self.life is None:
            return
        life, self.life = self.life, None
        life.kill()
        if power_seed is None:
            self.disk.restart()
        else:
            self._install(self.disk.crash(power_seed))
