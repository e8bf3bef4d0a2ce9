"""What is in flight to a log that writes one run of batches at a time: numbers, order, answers, and the end.

Invariants
- A batch gets its number when it is put, before any await; runs are written and answered in that order.
- All that waits when the writer is free is one run (bounded by RUN_BYTES_MAX), so that it costs one sync.
- The first error ends the queue, and every batch in flight is told what is certain about its own fate.
- A putter that is cancelled leaves its batch in flight.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from elanus.base.doors import Job, Tasks
from elanus.base.errors import ElanusError, FencedError, OutcomeUnknownError, OverloadedError, StorageError, check
from elanus.base.limits import LOG_BATCH_BYTES_MAX, LOG_FRAME_BYTES_MAX, PENDING_WRITE_BYTES_MAX, PENDING_WRITES_MAX
from elanus.wal.format import batch_bytes

if TYPE_CHECKING:
    from elanus.wal.log import Payload

RUN_BYTES_MAX: Final = 2 * LOG_BATCH_BYTES_MAX
"""A run ends with the batch that exceeds this."""


class Batch(NamedTuple):
    """One append: its number in the term, its records, and the bytes it takes in a file."""

    sequence: int
    records: Sequence[Payload]
    size: int


class Outcome(NamedTuple):
    """Fate of a run of batches: the first `durable` are, the next `unknown` may be, the rest are not, for `error`."""

    durable: int
    unknown: int = 0
    error: ElanusError | None = None


@dataclass(slots=True)
class Waiting:
    """A batch whose putter waits for the answer."""

    batch: Batch
    answer: asyncio.Future[None]

    def settle(self, error: ElanusError | None) -> None:
        if self.answer.done():
            return
        if error is None:
            self.answer.set_result(None)
        else:
            self.answer.set_exception(error)


class AppendQueue:
    """The batches in flight of one writer. `write` takes a run and says what became of it."""

    def __init__(self, tasks: Tasks, name: str, write: Callable[[Sequence[Batch]], Awaitable[Outcome]]) -> None:
        self._tasks = tasks
        self._name = name
        self._write = write
        self._next_sequence = 0
        self._waiting: deque[Waiting] = deque()
        self._waiting_bytes = 0
        self._job: Job | None = None
        self._ended: ElanusError | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will be written."""
        return self._ended is not None

    async def put(self, records: Sequence[Payload]) -> int:
        """Number of the batch, once durable; errors as `Writer.append` says."""
        if self._ended is not None:
            raise again(self._ended)
        size = batch_bytes(records)
        check(len(records) > 0 and size <= LOG_FRAME_BYTES_MAX, f"a log batch of {len(records)} records, {size} bytes")
        if len(self._waiting) >= PENDING_WRITES_MAX or self._waiting_bytes > PENDING_WRITE_BYTES_MAX:
            raise OverloadedError(f"{len(self._waiting)} log batches, {self._waiting_bytes} bytes wait to be written")
        sequence = self._next_sequence
        self._next_sequence += 1
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(Waiting(Batch(sequence, records, size), answer))
        self._waiting_bytes += size
        if self._job is None:
            self._job = self._tasks.spawn(self._drain(), name=self._name)
        await answer
        return sequence

    def end(self, reason: ElanusError) -> None:
        """Refuse what waits and all that comes. The first reason stays, except that a fence is never forgotten."""
        if self._ended is None or isinstance(reason, FencedError):
            self._ended = reason
        while self._waiting:
            self._waiting.popleft().settle(again(self._ended))
        self._waiting_bytes = 0

    async def wait_idle(self) -> None:
        """Return when no run is being written and none waits."""
        if self._job is not None:
            await self._job.wait()

    async def _drain(self) -> None:
        try:
            while self._waiting:
                run = self._take_run()
                # Stands if the task is cancelled, or dies of a defect, while the run is being written.
                outcome = Outcome(0, len(run), StorageError(f"{self._name} was interrupted"))
                try:
                    outcome = await self._write([one.batch for one in run])
                finally:
                    self._settle(run, outcome)
        finally:
            self._job = None

    def _take_run(self) -> list[Waiting]:
        run: list[Waiting] = []
        taken = 0
        while self._waiting and taken < RUN_BYTES_MAX:
            run.append(self._waiting.popleft())
            taken += run[-1].batch.size
        self._waiting_bytes -= taken
        return run

    def _settle(self, run: list[Waiting], outcome: Outcome) -> None:
        error = outcome.error
        for one in run[: outcome.durable]:
            one.settle(None)
        if error is None:
            return
        doubtful = outcome.durable + outcome.unknown
        for one in run[outcome.durable : doubtful]:
            one.settle(OutcomeUnknownError(f"a log write failed half-way: {error.message}"))
        for one in run[doubtful:]:
            one.settle(again(error))
        self.end(error)


def again(error: ElanusError) -> ElanusError:
    """A fresh error of the same kind, so that tracebacks do not pile up on one instance."""
    return type(error)(error.message)
