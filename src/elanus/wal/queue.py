"""What is in flight to a log that writes one run of batches at a time: order, answers, and the end.

Invariants
- Runs are written and answered in the order in which their batches were put (see `admission`).
- All that waits when the writer is free is one run (bounded by RUN_BYTES_MAX), so that it costs one sync.
- The first error ends the queue, and every batch in flight is told what is certain about its own fate.
- A putter that is cancelled leaves its batch in flight.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from elanus.base.doors import Job, Tasks
from elanus.base.errors import ElanusError, FencedError, OutcomeUnknownError, StorageError
from elanus.base.limits import LOG_BATCH_BYTES_MAX
from elanus.wal.admission import Admission, Batch, Waiting, again

if TYPE_CHECKING:
    from elanus.wal.log import Payload

RUN_BYTES_MAX: Final = 2 * LOG_BATCH_BYTES_MAX
"""A run ends with the batch that exceeds this."""


class Outcome(NamedTuple):
    """Fate of a run of batches: the first `durable` are, the next `unknown` may be, the rest are not, for `error`."""

    durable: int
    unknown: int = 0
    error: ElanusError | None = None


class AppendQueue:
    """The batches in flight of one writer. `write` takes a run and says what became of it."""

    def __init__(self, tasks: Tasks, name: str, write: Callable[[Sequence[Batch]], Awaitable[Outcome]]) -> None:
        self._tasks = tasks
        self._name = name
        self._write = write
        self._waiting = Admission()
        self._job: Job | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will be written."""
        return self._waiting.ended is not None

    async def put(self, records: Sequence[Payload]) -> int:
        """Number of the batch, once durable; errors as `Writer.append` says."""
        waiting = self._waiting.admit(records)
        if self._job is None:
            self._job = self._tasks.spawn(self._drain(), name=self._name)
        await waiting.answer
        return waiting.batch.sequence

    def end(self, reason: ElanusError) -> None:
        """Refuse what waits and all that comes. The first reason stays, except that a fence is never forgotten."""
        known = self._waiting.ended
        self._waiting.end(reason if known is None or isinstance(reason, FencedError) else known)

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
            run.append(self._waiting.take())
            taken += run[-1].batch.size
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
