"""An event loop in virtual time for many simulated processes at once.

Theory. Every callback carries the context it was scheduled in, and the context names the life (one run of one process)
it belongs to. So one loop can run all processes and still stop one: callbacks of a paused life are parked until it goes
on, those of a dead one are dropped. A life with a fuse dies after so many more of its callbacks, which is to say at an
arbitrary await.

A kill closes the life's coroutines in the order of their creation. Their `finally` blocks run, as Python insists, but
reach nothing: the life is dead before the first is closed, so that whatever they schedule is dropped, and every door
and port they could call asks `Life.check` first.

Time stands still while anything can run and jumps to the next timer when nothing can. Nothing here depends on hash
order, object addresses or the wall clock.

A run is some ten thousands of callbacks, each of which does little, so that the loop itself is a good part of its cost:
handles are as small as they can be, and a `nap` wakes its task by the timer itself, where `asyncio.sleep` has a timer
resolve a future and the future wake the task.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from enum import IntEnum
from types import TracebackType
from typing import Any, Final

from elanus.testing.clock import Deadlock

_TASKS_BEFORE_SWEEP: Final = 64


class Crashed(BaseException):
    """This process is no more. Not an Exception: no code under test may catch it."""


class State(IntEnum):
    """What becomes of a life's callbacks."""

    RUNNING = 0
    FUSED = 1
    """Runs; some callbacks later it dies."""
    PAUSED = 2
    DEAD = 3


class Handle:
    """A callback that is to run, as asyncio's own handles are seen from outside."""

    __slots__ = ("arguments", "callback", "context", "is_cancelled")

    def __init__(
        self, callback: Callable[..., object], arguments: tuple[Any, ...], context: contextvars.Context
    ) -> None:
        self.callback = callback
        self.arguments = arguments
        self.context = context
        self.is_cancelled = False

    def cancel(self) -> None:
        """It shall not run."""
        self.is_cancelled = True

    def cancelled(self) -> bool:
        """Whether it was told so."""
        return self.is_cancelled


class Nap:
    """Wakes the one task that awaits it, some time later; what a task asks of a future, and no more."""

    __slots__ = ("_asyncio_future_blocking", "_cancelled", "_handle", "_loop", "_seconds", "_wake")

    def __init__(self, loop: SimLoop, seconds: float) -> None:
        self._asyncio_future_blocking = False
        self._loop = loop
        self._seconds = seconds
        self._cancelled = False
        self._handle: Handle | None = None
        self._wake: tuple[Callable[[Any], object], contextvars.Context] | None = None

    def __await__(self) -> Generator[Any, None, None]:
        self._asyncio_future_blocking = True
        yield self
        self.result()

    def get_loop(self) -> SimLoop:
        """Of the task."""
        return self._loop

    def add_done_callback(self, wake: Callable[[Any], object], *, context: contextvars.Context) -> None:
        """The task waits."""
        self._wake = (wake, context)
        self._handle = self._loop.timer(self._seconds, Handle(wake, (self,), context))

    def cancel(self, msg: object = None) -> bool:
        """Wake it now, with a cancellation."""
        handle = self._handle
        if self._cancelled or handle is None or handle.is_cancelled or self._wake is None:
            return False
        handle.cancel()
        self._cancelled = True
        self._loop.call_soon(self._wake[0], self, context=self._wake[1])
        return True

    def result(self) -> None:
        """What the task is told when it wakes."""
        # Whoever wakes has been woken: it cannot be cancelled here any more.
        self._wake = None
        if self._cancelled:
            raise asyncio.CancelledError


def nap(seconds: float) -> Awaitable[None]:
    """`asyncio.sleep` on this loop."""
    if seconds <= 0:
        return asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimLoop)
    return Nap(loop, seconds)


class Life:
    """One run of one simulated process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = State.RUNNING
        self.context = contextvars.copy_context()
        self.context.run(_LIFE.set, self)
        self.on_death: list[Callable[[], None]] = []
        self._fuse = 0
        self._parked: list[Handle] = []
        self._tasks: list[asyncio.Task[Any]] = []
        self._sweep_at = _TASKS_BEFORE_SWEEP

    def check(self) -> None:
        """Raise `Crashed` in what is left of a dead process."""
        if self.state is State.DEAD:
            raise Crashed(self.name)

    def start(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """A task that belongs to this life."""
        return asyncio.get_running_loop().create_task(coroutine, name=name, context=self.context.copy())

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """A task was made in this life's context."""
        if self.state is State.DEAD:
            _close(task, self.context)
            return
        if len(self._tasks) >= self._sweep_at:
            self._tasks = [one for one in self._tasks if not one.done()]
            self._sweep_at = 2 * len(self._tasks) + _TASKS_BEFORE_SWEEP
        self._tasks.append(task)

    # --- stopping ---------------------------------------------------------------------------------------------------
    def pause(self) -> None:
        """Stop as SIGSTOP does: the world goes on, timers become due, nothing here runs."""
        if self.state in (State.RUNNING, State.FUSED):
            self.state = State.PAUSED

    def resume(self) -> None:
        """Go on; everything that became due meanwhile runs now."""
        if self.state is State.PAUSED:
            self.state = State.RUNNING
            loop = asyncio.get_running_loop()
            assert isinstance(loop, SimLoop)
            loop.put_back(self._parked)
            self._parked = []

    def light_fuse(self, callbacks: int) -> None:
        """Die after so many more callbacks."""
        if self.state is State.RUNNING:
            self._fuse = callbacks
            self.state = State.FUSED

    def kill(self) -> None:
        """End as SIGKILL does."""
        if self.state is State.DEAD:
            return
        self.state = State.DEAD
        self._parked = []
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            _close(task, self.context)
        for tell in self.on_death:
            tell()
        self.on_death = []

    def takes(self, handle: Handle) -> bool:
        """Whether a callback of this life, which is not simply running, runs now."""
        if self.state is State.FUSED:
            self._fuse -= 1
            if self._fuse >= 0:
                return True
            self.kill()
        elif self.state is State.PAUSED:
            self._parked.append(handle)
        return False


def _close(task: asyncio.Task[Any], context: contextvars.Context) -> None:
    coroutine: Any = task.get_coro()
    if task.done() or coroutine is None or getattr(coroutine, "cr_running", False):
        return
    setattr(task, "_log_destroy_pending", False)  # noqa: B010 - it ends here, though never run to its end
    # Whatever the closed coroutine raises, or still wants to await, is part of its death: nobody is left to hear of it.
    with suppress(Exception, Crashed):
        context.copy().run(_end, coroutine)


def _end(coroutine: Any) -> None:
    """Close a coroutine. One that has not begun may have been given others to await, which end with it."""
    if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
        for held in tuple(coroutine.cr_frame.f_locals.values()):
            if inspect.iscoroutine(held):
                _end(held)
    coroutine.close()


_LIFE: Final[contextvars.ContextVar[Life | None]] = contextvars.ContextVar("life", default=None)


def current_life() -> Life | None:
    """The life whose code is running; None outside all processes."""
    return _LIFE.get()


class _Reporting:
    """Hands what a callback raises to the loop's handler, as asyncio's own handles do."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        if error is None or isinstance(error, SystemExit | KeyboardInterrupt):
            return False
        self._loop.call_exception_handler({"message": "a callback failed", "exception": error})
        return True


class SimLoop(asyncio.BaseEventLoop):
    """See the module's head. One run, one loop."""

    _ready: deque[Handle]
    _stopping: bool

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0
        self._timers: list[tuple[float, int, Handle]] = []
        self._timer_count = 0
        self._reporting = _Reporting(self)
        self.steps = 0
        """Callbacks run so far."""

    def time(self) -> float:
        return self._now_s

    def create_task(self, coroutine: Any, *, name: str | None = None, context: Any = None) -> asyncio.Task[Any]:  # type: ignore[override]
        task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=self, name=name, context=context)
        life = _LIFE.get() if context is None else context.get(_LIFE)
        if life is not None:
            life.adopt(task)
        return task

    def put_back(self, handles: list[Handle]) -> None:
        """Let parked callbacks run next, in their order."""
        self._ready.extend(handles)

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Handle:
        handle = Handle(callback, args, contextvars.copy_context() if context is None else context)
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Handle:
        return self.timer(delay, Handle(callback, args, contextvars.copy_context() if context is None else context))

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Handle:
        return self._timer_at(when, Handle(callback, args, contextvars.copy_context() if context is None else context))

    def timer(self, delay: float, handle: Handle) -> Handle:
        """Let the handle run some seconds from now."""
        return self._timer_at(self._now_s + delay, handle)

    def _timer_at(self, when: float, handle: Handle) -> Handle:
        # Numbered, so that timers of equal time fire in the order they were set, and tuples are compared in C.
        self._timer_count += 1
        heapq.heappush(self._timers, (when, self._timer_count, handle))
        return handle

    def _run_once(self) -> None:
        """Run until stopped: a turn of the loop costs less than asyncio's call of it."""
        while True:
            self._turn()
            if self._stopping:
                return

    def _turn(self) -> None:
        """What can run now, or at the next timer."""
        ready, timers = self._ready, self._timers
        if not ready:
            while timers and timers[0][2].is_cancelled:
                heapq.heappop(timers)
            if not timers:
                raise Deadlock("all tasks wait and no timer is set")
            self._now_s = max(self._now_s, timers[0][0])
        while timers and timers[0][0] <= self._now_s:
            ready.append(heapq.heappop(timers)[2])
        left = len(ready)
        while left:
            # Entered again only after a callback that raised.
            with self._reporting:
                while left:
                    left -= 1
                    handle = ready.popleft()
                    if handle.is_cancelled:
                        continue
                    context = handle.context
                    life = context.get(_LIFE)
                    if life is None or not life.state or (life.state is not State.DEAD and life.takes(handle)):
                        self.steps += 1
                        context.run(handle.callback, *handle.arguments)

    def _write_to_self(self) -> None:
        raise AssertionError("a thread calls into a simulated world")

    def _process_events(self, event_list: object) -> None:
        return

    def _asyncgen_finalizer_hook(self, agen: Any) -> None:
        """Close a forgotten generator in the life that forgot it; a dead one's is just let go."""
        life = _LIFE.get()
        if not self.is_closed() and (life is None or life.state is not State.DEAD):
            self.create_task(agen.aclose())
