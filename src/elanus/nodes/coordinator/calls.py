"""Calls that change the catalog run to their end, whatever becomes of whoever asked.

Story: a client creates a collection and its deadline passes between the intent and the commit. Were the call cancelled
there, the intent would lie open while others change what it is about, and the next coordinator would carry it out on a
catalog it was not made for: a second collection of the name, or a partition of a collection that is gone. A call that
is cancelled between a transaction and the reading back of what it changed would leave an old picture of the catalog.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, TypeVar

from elanus.base.doors import Tasks
from elanus.base.errors import ElanusError, OutcomeUnknownError

S = TypeVar("S")
Q = TypeVar("Q")
Call = Callable[[S, Q], Coroutine[Any, Any, None]]


async def to_the_end(tasks: Tasks, steps: Coroutine[Any, Any, None], name: str) -> None:
    """Take the steps in a task of their own and wait for it; the caller's cancellation only ends the waiting."""
    outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    outcome.add_done_callback(_retrieve)

    async def take() -> None:
        try:
            await steps
            outcome.set_result(None)
        except ElanusError as error:
            outcome.set_exception(error)

    job = tasks.spawn(take(), name=name)
    await job.wait()
    if not outcome.done():
        raise OutcomeUnknownError(f"{name}: the coordinator stopped")
    outcome.result()


def uninterrupted(call: Call[S, Q]) -> Call[S, Q]:
    """Makes a method with one request of an object with `tasks` run to its end."""

    @wraps(call)
    async def run(self: S, request: Q) -> None:
        tasks: Tasks = getattr(self, "tasks")  # noqa: B009 - S is any class that has them
        await to_the_end(tasks, call(self, request), call.__name__)

    return run


def _retrieve(outcome: asyncio.Future[None]) -> None:
    """Look at an outcome whose caller may be gone, lest the loop report it as never seen."""
    if not outcome.cancelled():
        outcome.exception()
