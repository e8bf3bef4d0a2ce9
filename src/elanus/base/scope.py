"""Tasks that end together: everything somebody does in an office he may lose."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from elanus.base.doors import Job, Tasks
from elanus.base.errors import FencedError, UnavailableError

T = TypeVar("T")

_JOBS_BEFORE_SWEEP: Final = 64


class Scope:
    """Implements `doors.Tasks` on other tasks. A task that ends by `FencedError` does not fail the process: it tells
    that the office is lost. After `end` nothing runs, and nothing new is started."""

    def __init__(self, tasks: Tasks, lost: Callable[[], None]) -> None:
        self._tasks = tasks
        self._lost = lost
        self._jobs: list[tuple[Job, Coroutine[Any, Any, Any]]] = []
        self._sweep_at = _JOBS_BEFORE_SWEEP
        self._ended = False

    def spawn(self, coroutine: Coroutine[Any, Any, Any], *, name: str) -> Job:
        """See Tasks. UnavailableError once the scope has ended."""
        if self._ended:
            coroutine.close()
            raise UnavailableError(f"{name}: not any more")
        if len(self._jobs) >= self._sweep_at:
            self._jobs = [one for one in self._jobs if not one[0].done()]
            self._sweep_at = 2 * len(self._jobs) + _JOBS_BEFORE_SWEEP
        job = self._tasks.spawn(self._run(coroutine), name=name)
        self._jobs.append((job, coroutine))
        return job

    async def _run(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        try:
            await coroutine
        except FencedError:
            self._lost()

    async def timeout(self, seconds: float, coroutine: Coroutine[Any, Any, T]) -> T:
        """See Tasks."""
        return await self._tasks.timeout(seconds, coroutine)

    async def end(self) -> None:
        """Cancel every task and wait until all have ended."""
        self._ended = True
        jobs = tuple(self._jobs)
        for job, _ in jobs:
            job.cancel()
        for job, coroutine in jobs:
            await job.wait()
            # Of a task that was cancelled before it began, nobody has awaited it.
            coroutine.close()
