"""What every server process has under it, whatever it serves: doors, events, metrics, and the failure that ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pyarrow as pa
from threadpoolctl import threadpool_limits

from elanus.app import logs
from elanus.app.metrics import ServerMetrics
from elanus.app.settings import Settings
from elanus.base.errors import Action, ElanusError, InvariantError
from elanus.base.events import Events, Level
from elanus.base.memory import keep_heap_small
from elanus.base.real import RealDoors, available_cores, real_doors
from elanus.index.kernels import initialize_thread
from elanus.model.arrow import leave_pandas_out


class Host:
    """One per process. `fault` is told by the server: why it cannot serve now."""

    def __init__(self, settings: Settings) -> None:
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.serving_threads = settings.compute.serving_threads or available_cores()
        self.building_threads = settings.index.build_threads or available_cores()
        self.doors: RealDoors = real_doors(
            self.on_failure, cores=self.serving_threads, initialize_serving=initialize_thread
        )
        level = Level[settings.logging.level.upper()]
        self.events = Events(self.doors.clock.now_ms, level=level, sink=logs.sink(settings.logging))
        self.metrics = ServerMetrics(lambda: self.fault())
        self.fault = self.failure

    def prepare_libraries(self) -> None:
        """Bound the threads and the memory of the numeric libraries, before any is used."""
        leave_pandas_out()
        initialize_thread()
        keep_heap_small()
        threadpool_limits(1, user_api="blas")
        pa.set_memory_pool(pa.system_memory_pool())

    # --- failing ----------------------------------------------------------------------------------------------------
    def on_failure(self, name: str, error: BaseException) -> None:
        """A task died: the process ends."""
        self.events.error("task.failed", task=name, error=repr(error))
        self.fail(error)

    def on_unexpected(self, error: BaseException) -> None:
        """A call failed in a way that its contract does not foresee. A broken invariant ends the process."""
        self.events.error("call.failed", error=repr(error))
        if isinstance(error, InvariantError) or (isinstance(error, ElanusError) and error.action is Action.CORRUPTED):
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """End the process with this error; the first one counts."""
        if not self._failed.done():
            self._failed.set_exception(error)

    def failure(self) -> str:
        """What ends the process; empty while nothing does."""
        return str(self._failed.exception()) if self._failed.done() else ""

    async def unless_failed(self, starting: Coroutine[Any, Any, None]) -> None:
        """Take the steps of a start, or raise as soon as a task has died: what they wait for may never come."""
        task = asyncio.create_task(starting)
        try:
            await asyncio.wait((task, self._failed), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                await self.wait_failed()
        finally:
            task.cancel()
            await asyncio.wait((task,))
        await task

    async def wait_failed(self) -> None:
        """Wait for a failure that ends the process, and raise it."""
        await asyncio.shield(self._failed)

    async def close(self) -> None:
        """Stop all tasks and threads."""
        await self.doors.stop_tasks()
        self.doors.close()
        if self._failed.done():
            self._failed.exception()
