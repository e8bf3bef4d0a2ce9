"""Calls that change the catalog run to their end, whatever becomes of whoever asked; calls that read it are answered on
fresh evidence of the lead.

Story of the first: a client creates a collection and its deadline passes between the intent and the commit. Were the
call cancelled there, the intent would lie open while others change what it is about, and the next coordinator would
carry it out on a catalog it was not made for: a second collection of the name, or a partition of a collection that is
gone. A call that is cancelled between a transaction and the reading back of what it changed would leave an old picture
of the catalog.

Story of the second: a coordinator is deposed and does not know it yet. It lists a collection that its successor has
dropped, and denies a partition that its successor has made.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any, Protocol, TypeVar

from elanus.base.doors import Tasks
from elanus.base.errors import Action, ElanusError, OutcomeUnknownError

S = TypeVar("S")
Q = TypeVar("Q")
A = TypeVar("A")
Call = Callable[[S, Q], Coroutine[Any, Any, None]]


class Lead(Protocol):
    """What `Leader` gives."""

    async def confirm(self) -> None: ...


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


@asynccontextmanager
async def refusals_confirmed(lead: Lead) -> AsyncIterator[None]:
    """That a request is to blame is said on evidence, begun after it was found so, that `lead` lasts: UnavailableError
    if it does not, or what the store of metadata has to say."""
    try:
        yield
    except ElanusError as error:
        if error.action is Action.FIX_REQUEST:
            await lead.confirm()
        raise


def confirmed(call: Callable[..., Coroutine[Any, Any, A]]) -> Callable[..., Coroutine[Any, Any, A]]:
    """Makes a method that reads the catalog, of an object with a `leader`, answer on such evidence, too."""

    @wraps(call)
    async def answer(self: Any, *positional: Any, **named: Any) -> A:
        lead: Lead = self.leader
        async with refusals_confirmed(lead):
            found = await call(self, *positional, **named)
        await lead.confirm()
        return found

    return answer


def _retrieve(outcome: asyncio.Future[None]) -> None:
    """Look at an outcome whose caller may be gone, lest the loop report it as never seen."""
    if not outcome.cancelled():
        outcome.exception()
