"""Supervised tasks on the asyncio loop: the only place that creates one.

Invariant: a task that ends by an exception other than its cancellation is reported to `on_failure` exactly once,
whether or not somebody waits for it. References are held until the end: the collector never eats a running task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from elanus.base.doors import Job

T = TypeVar("T")

OnFailure = Callable[[str, BaseException], None]
"""Called on the loop with the task's name and what it raised."""


class LoopJob:
    """A running asyncio task."""

    __slots__ = ("_task",)

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task

    def cancel(self) -> None:
        self._task.cancel()

    def done(self) -> bool:
        return self._task.done()

    async def wait(self) -> None:
        await asyncio.wait((self._task,))
        if not self._task.cancelled():
            self._task.result()


class LoopTasks:
    """`doors.Tasks` on the running loop."""

    def __init__(self, on_failure: OnFailure) -> None:
        self._on_failure = on_failure
        self._running: dict[asyncio.Task[Any], None] = {}  # in the order of their start

    def spawn(self, coroutine: Coroutine[Any, Any, Any], *, name: str) -> Job:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._running[task] = None
        task.add_done_callback(self._ended)
        return LoopJob(task)

    async def timeout(self, seconds: float, coroutine: Coroutine[Any, Any, T]) -> T:
        async with asyncio.timeout(seconds):
            return await coroutine

    def names(self) -> list[str]:
        """Names of the tasks now running, sorted."""
        return sorted(task.get_name() for task in self._running)

    async def cancel_all(self) -> None:
        """Cancel every running task but the caller's and wait until all have ended."""
        while others := [task for task in self._running if task is not asyncio.current_task()]:
            for task in others:
                task.cancel()
            await asyncio.wait(others)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.pop(task, None)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._on_failure(task.get_name(), error)
