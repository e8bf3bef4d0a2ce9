"""Thread pools for work that would hold the event loop: serving, background, disk.

Serving: one thread per core, each told by `initialize` to keep its libraries to one thread. Background: one thread of
lower priority that may use all cores. Disk: a few threads that mostly block.

The pools are our own because a hop through concurrent.futures costs twice as much (two futures, two locks, a chain of
callbacks) and the log makes one hop per batch. Threads start on first use and are daemons: an interrupted process never
hangs on them, and every write they do is safe to lose.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple, TypeVar

from elanus.base.errors import OverloadedError

T = TypeVar("T")

POOL_PENDING_MAX: Final = 8192
DISK_THREADS: Final = 4
BACKGROUND_NICENESS: Final = 10
BACKGROUND_THREADS: Final = 2
"""One for the long work of a data node, one so that sealing never waits for it."""


class _Call(NamedTuple):
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


class ThreadPool:
    """Up to `threads` daemon threads that take calls first in, first out, from any number of event loops."""

    def __init__(self, name: str, threads: int, initialize: Callable[[], None] | None = None) -> None:
        self._name = name
        self._threads_max = threads
        self._initialize = initialize
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._pending = 0
        self._closed = False

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run `function` on a thread of the pool.

        Cancelling the caller does not stop a call that has begun; one that has not begun is skipped. OverloadedError
        when POOL_PENDING_MAX calls wait.
        """
        if self._closed or self._pending >= POOL_PENDING_MAX:
            raise OverloadedError(f"{self._name}: {'closed' if self._closed else 'too many calls wait'}")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._pending += 1
        if self._pending > len(self._threads) < self._threads_max:
            self._start()
        self._calls.put(_Call(loop, future, function, arguments))
        try:
            return await future
        finally:
            self._pending -= 1

    def close(self) -> None:
        """Take no more calls; threads end after the calls already begun or queued. Idempotent."""
        if not self._closed:
            self._closed = True
            for _ in self._threads:
                self._calls.put(None)

    def _start(self) -> None:
        thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        initialize = self._initialize
        while (call := self._calls.get()) is not None:
            if not call.future.cancelled():
                self._perform(call, initialize)
                initialize = None
            del call

    def _perform(self, call: _Call, initialize: Callable[[], None] | None) -> None:
        result: Any = None
        error: BaseException | None = None
        try:
            if initialize is not None:
                initialize()
            result = call.function(*call.arguments)
        except BaseException as raised:  # handed to the caller, whatever it is
            error = raised
        try:
            call.loop.call_soon_threadsafe(_settle, call.future, result, error)
        except RuntimeError:
            if not call.loop.is_closed():
                raise


def thread_lock() -> AbstractContextManager[object]:
    """Lets one thread at a time into a block: for what goes on in a thread when its caller was cancelled."""
    return threading.Lock()


def run_in_threads(calls: Sequence[Callable[[], object]]) -> None:
    """Run the calls side by side, the first on this thread, and return when all have ended; raises what one raised.
    For long work that leaves the GIL. Threads of a background thread have its priority."""
    errors: list[BaseException] = []

    def work(call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as raised:  # handed to the caller, whatever it is
            errors.append(raised)

    threads = [threading.Thread(target=work, args=(call,), daemon=True) for call in calls[1:]]
    for thread in threads:
        thread.start()
    for call in calls[:1]:
        work(call)
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def lower_thread_priority() -> None:
    """Make the calling thread yield to serving threads (Linux schedules and nices threads one by one)."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), BACKGROUND_NICENESS)


class PoolCompute:
    """`doors.Compute` on three thread pools.

    `initialize_serving` and `initialize_background` run once on each new thread of their pool; `app/` passes what sets
    the thread counts of faiss and Arrow, which `base` does not know.
    """

    def __init__(
        self,
        cores: int,
        initialize_serving: Callable[[], None] | None = None,
        initialize_background: Callable[[], None] | None = None,
    ) -> None:
        def background() -> None:
            lower_thread_priority()
            if initialize_background is not None:
                initialize_background()

        self._serving = ThreadPool("serving", cores, initialize_serving)
        self._background = ThreadPool("background", BACKGROUND_THREADS, background)
        self._disk = ThreadPool("disk", DISK_THREADS)
        # Bound once: the doors are called on every batch.
        self.run = self._serving.run
        self.run_background = self._background.run
        self.run_io = self._disk.run

    def close(self) -> None:
        """Close the three pools. Idempotent."""
        for pool in (self._serving, self._background, self._disk):
            pool.close()
