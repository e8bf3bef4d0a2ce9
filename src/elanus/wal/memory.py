"""A log in memory, shared by all roles of one process: for tests, the simulator, and stores that need not last.

It keeps every promise of `wal.log` but survival of the process. `pause` stands for the time until a run of batches is
durable; an ElanusError raised by it makes their outcome unknown (and here: not written).
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from elanus.base.doors import Tasks
from elanus.base.errors import CorruptedError, ElanusError, FencedError, StorageError
from elanus.model.channel import ORIGIN, Position
from elanus.wal.admission import Batch
from elanus.wal.log import Confirm, OpenReport, TruncatedError
from elanus.wal.queue import AppendQueue, Outcome

if TYPE_CHECKING:
    from elanus.wal.log import Payload

Pause: TypeAlias = Callable[[], Awaitable[None]]


async def _at_once() -> None:
    """The pause of a log that is durable at once."""


@dataclass(slots=True)
class _Channel:
    claimed: int = 0
    writer: MemoryWriter | None = None
    positions: list[Position] = field(default_factory=list)
    records: list[bytes] = field(default_factory=list)
    before: Position = ORIGIN
    """The last record that was deleted."""
    grown: asyncio.Future[None] | None = None

    @property
    def end(self) -> Position:
        return self.positions[-1] if self.positions else self.before

    def still(self, term: int) -> None:
        """Raise unless `term` is the highest that was claimed."""
        if self.claimed != term:
            raise FencedError(f"term {term} was fenced by term {self.claimed} while it was opening")

    def wait_grown(self) -> asyncio.Future[None]:
        """Done when records are added from now on."""
        if self.grown is None or self.grown.done():
            self.grown = asyncio.get_running_loop().create_future()
        return self.grown

    def store(self, first: Position, records: Sequence[bytes]) -> None:
        if self.grown is not None and not self.grown.done():
            self.grown.set_result(None)
        self.positions.extend(first._replace(offset=offset) for offset in range(len(records)))
        self.records.extend(records)


class MemoryWriter:
    """`log.Writer` on a channel in memory."""

    def __init__(self, channel: _Channel, term: int, tasks: Tasks, pause: Pause) -> None:
        self._channel = channel
        self._term = term
        self._pause = pause
        self._queue = AppendQueue(tasks, f"log-append-{term}", self._write)

    @property
    def term(self) -> int:
        return self._term

    @property
    def end(self) -> Position:
        return self._channel.end

    @property
    def report(self) -> OpenReport:
        return OpenReport()

    async def append(self, records: Sequence[Payload]) -> Position:
        return Position(self._term, await self._queue.put(records), 0)

    async def close(self) -> None:
        await self._queue.wait_idle()
        self._queue.end(StorageError(f"the log of term {self._term} is closed"))

    async def fence(self, term: int) -> None:
        """Write nothing more; return when no write is under way."""
        self._queue.end(FencedError(f"term {self._term} was fenced by term {term}"))
        await self._queue.wait_idle()

    async def _write(self, batches: Sequence[Batch]) -> Outcome:
        try:
            await self._pause()
        except ElanusError as error:
            return Outcome(0, len(batches), error)
        for batch in batches:
            first = Position(self._term, batch.sequence, 0)
            self._channel.store(first, [bytes(memoryview(record)) for record in batch.records])
        return Outcome(len(batches))


class MemoryFollower:
    """`log.Follower` on a channel in memory."""

    def __init__(self, channel: _Channel, after: Position) -> None:
        self._channel = channel
        self._position = after

    @property
    def position(self) -> Position:
        return self._position

    async def next(self) -> list[tuple[Position, memoryview]]:
        while True:
            grown = self._channel.wait_grown()
            self._check_not_truncated()
            start = bisect_right(self._channel.positions, self._position)
            positions, records = self._channel.positions[start:], self._channel.records[start:]
            if positions:
                self._position = positions[-1]
                return [(position, memoryview(record)) for position, record in zip(positions, records, strict=True)]
            await asyncio.shield(grown)

    async def at_end(self) -> bool:
        self._check_not_truncated()
        return bisect_right(self._channel.positions, self._position) == len(self._channel.positions)

    def _check_not_truncated(self) -> None:
        if self._channel.before > self._position:
            raise TruncatedError(f"records up to {self._channel.before} were truncated")

    async def close(self) -> None:
        """Nothing is read ahead."""


class MemoryLog:
    """`log.SharedLog` in memory. Also the store: it outlives the roles that open it."""

    def __init__(self, tasks: Tasks, pause: Pause = _at_once) -> None:
        self._tasks = tasks
        self._pause = pause
        self._channels: dict[str, _Channel] = {}

    async def open(self, pchannel: str, term: int, replay_from: Position, confirm: Confirm) -> MemoryWriter:
        channel = self._channels.setdefault(pchannel, _Channel())
        if term <= channel.claimed:
            raise FencedError(f"{pchannel}: term {channel.claimed} was opened, so term {term} may not")
        highest, channel.claimed = channel.claimed, term
        if channel.writer is not None:
            await channel.writer.fence(term)
            channel.still(term)
        end = channel.end
        if channel.before > ORIGIN and channel.before >= replay_from:
            raise CorruptedError(f"{pchannel}: records up to {channel.before} are gone, {replay_from} is needed")
        if replay_from > max(Position(end.term, end.sequence + 1), Position(highest, 0)):
            raise CorruptedError(f"{pchannel}: ends at {end}, below {replay_from}, from which it must be replayed")
        await confirm()
        channel.still(term)
        channel.writer = MemoryWriter(channel, term, self._tasks, self._pause)
        return channel.writer

    async def read(self, pchannel: str, after: Position) -> AsyncIterator[tuple[Position, memoryview]]:
        channel = self._channels.get(pchannel)
        if channel is None or channel.writer is None:
            raise StorageError(f"{pchannel}: a log is read after it was opened")
        if channel.before > after:
            raise TruncatedError(f"{pchannel}: records up to {channel.before} were truncated")
        start = bisect_right(channel.positions, after)
        found = list(zip(channel.positions[start:], channel.records[start:], strict=True))
        for position, record in found:
            yield position, memoryview(record)

    def follow(self, pchannel: str, after: Position) -> MemoryFollower:
        """See SharedLog."""
        return MemoryFollower(self._channels.setdefault(pchannel, _Channel()), after)

    async def truncate(self, pchannel: str, before: Position) -> None:
        channel = self._channels.get(pchannel)
        if channel is None or channel.writer is None:
            raise StorageError(f"{pchannel}: a log is truncated after it was opened")
        # The last record stays, as the newest file does on a disk: a log that was written is never empty.
        count = min(bisect_left(channel.positions, before), max(0, len(channel.positions) - 1))
        if count:
            channel.before = channel.positions[count - 1]
            del channel.positions[:count], channel.records[:count]
