"""The shared log of a simulated cluster: a service beyond all processes, which answers late, or not at all.

It is `wal.memory`'s log, which keeps every promise of the port. What runs there runs in no process: an append that was
sent goes on though its sender dies, and may be acknowledged to nobody. The confirmation of an opening is asked back
from the opener, so that a paused opener confirms when it wakes.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from elanus.base.errors import OutcomeUnknownError, StorageError
from elanus.base.tasks import LoopTasks
from elanus.model.channel import Position
from elanus.testing.sim.hosts import Host
from elanus.testing.sim.loop import current_life
from elanus.testing.sim.trace import Trace
from elanus.wal.log import Confirm, OpenReport, Writer
from elanus.wal.memory import MemoryLog

if TYPE_CHECKING:
    from elanus.wal.log import Payload

T = TypeVar("T")

TRAVEL_S: Final = (0.0003, 0.002)
DURABLE_S: Final = (0.001, 0.004)


class LogFaults:
    """How likely the service misbehaves towards one host now."""

    def __init__(self) -> None:
        self.calm()

    def calm(self) -> None:
        """It behaves."""
        self.refused = 0.0
        """Nothing done; the handle is dead."""
        self.lost_reply = 0.0
        """Done, and nobody told."""


class SharedLog:
    """The service."""

    def __init__(self, chance: random.Random, trace: Trace) -> None:
        self.chance = chance
        self.trace = trace
        self.log = MemoryLog(LoopTasks(self._failed), self._pause)
        self._faults: dict[str, LogFaults] = {}

    @staticmethod
    def _failed(name: str, error: BaseException) -> None:
        raise AssertionError(f"the log's task {name} died") from error

    async def _pause(self) -> None:
        await asyncio.sleep(self.between(DURABLE_S))

    def between(self, span_s: tuple[float, float]) -> float:
        """A time drawn from a span."""
        return span_s[0] + self.chance.random() * (span_s[1] - span_s[0])

    def faults(self, name: str) -> LogFaults:
        """What this host meets."""
        return self._faults.setdefault(name, LogFaults())

    def calm(self) -> None:
        """Behave towards all."""
        for faults in self._faults.values():
            faults.calm()


async def beyond(work: Coroutine[Any, Any, T]) -> T:
    """Run something outside all processes; it goes on when its caller ends."""
    task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
    task.add_done_callback(_seen)
    return await asyncio.shield(task)


def _seen(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


class SharedLogClient:
    """`log.Log` of one process."""

    def __init__(self, service: SharedLog, host: Host) -> None:
        self.service = service
        self._host = host
        self._faults = service.faults(host.name)

    async def open(self, pchannel: str, term: int, replay_from: Position, confirm: Confirm) -> Writer:
        await self.travel()
        life = current_life()
        assert life is not None

        async def confirm_here() -> None:
            await life.start(confirm(), "confirm")  # type: ignore[arg-type]

        writer = await beyond(self.service.log.open(pchannel, term, replay_from, confirm_here))
        await self.travel()
        return _RemoteWriter(self, writer)

    async def read(self, pchannel: str, after: Position) -> AsyncIterator[tuple[Position, memoryview]]:
        await self.travel()
        async for position, data in self.service.log.read(pchannel, after):
            yield position, data

    async def truncate(self, pchannel: str, before: Position) -> None:
        await self.travel()
        await self.service.log.truncate(pchannel, before)

    async def travel(self) -> None:
        """One way to the service."""
        await asyncio.sleep(self.service.between(TRAVEL_S))
        life = current_life()
        if life is not None:
            life.check()

    def strikes(self, fault: str) -> bool:
        """Whether it happens now."""
        likely = self._faults.refused if fault == "log_refused" else self._faults.lost_reply
        if likely and self.service.chance.random() < likely:
            self.service.trace.strike(fault, self._host.role, self._host.name)
            return True
        return False


class _RemoteWriter:
    """`log.Writer` of one process."""

    def __init__(self, client: SharedLogClient, writer: Writer) -> None:
        self._client = client
        self._writer = writer
        self._dead: OutcomeUnknownError | StorageError | None = None
        self.term = writer.term
        self.report: OpenReport = writer.report

    @property
    def end(self) -> Position:
        return self._writer.end

    async def append(self, records: Sequence[Payload]) -> Position:
        if self._dead is not None:
            raise type(self._dead)(self._dead.message)
        if self._client.strikes("log_refused"):
            self._dead = StorageError("the log refused an append")
            raise self._dead
        await self._client.travel()
        first = await beyond(self._writer.append([bytes(memoryview(record)) for record in records]))
        await self._client.travel()
        if self._client.strikes("log_lost"):
            self._dead = OutcomeUnknownError("the answer of the log was lost")
            raise self._dead
        return first

    async def close(self) -> None:
        await beyond(self._writer.close())
