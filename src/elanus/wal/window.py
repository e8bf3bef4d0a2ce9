"""What is in flight to a log that stores several slots at once: grouping, answers in order, and the end.

Invariants
- A slot holds consecutive batches, in the order in which they were put (see `admission`); slots are cut in order.
- Answers are given strictly in order: a slot that is stored early waits for those before it.
- While few slots are in flight a batch starts one at once; beyond that, what waits is grouped until it fills a slot or
  one in flight ends. So an idle store costs one put of latency, a busy one works on full slots.
- The first failure, in order, ends the window; each batch is told what is certain about its own fate.
- A putter that is cancelled leaves its batch in flight.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from elanus.base.doors import Job, Tasks
from elanus.base.errors import DiskFullError, ElanusError, FencedError, OutcomeUnknownError, StorageError
from elanus.base.limits import MIB
from elanus.wal.admission import Admission, Batch, Waiting, again

if TYPE_CHECKING:
    from elanus.wal.log import Payload

SLOTS_IN_FLIGHT_MAX: Final = 8
SLOTS_EAGER: Final = 2
"""So many slots in flight do not wait to be filled."""
SLOT_BYTES: Final = 4 * MIB
"""A slot ends with the batch that exceeds this."""
SLOT_STRIDE: Final = 64
"""No slot holds a batch of this number's multiple but as its first: there an opener can fence ahead of a busy owner."""


@dataclass(slots=True)
class _Flight:
    """A slot being stored."""

    batches: list[Waiting]
    job: Job | None = None
    landed: bool = False
    error: ElanusError | None = None


class AppendWindow:
    """The batches in flight of one writer. `store` stores a slot; it raises FencedError or DiskFullError when the slot
    is certainly not stored, any other ElanusError when it may be. `settled` hears of each acknowledged batch."""

    def __init__(
        self,
        tasks: Tasks,
        name: str,
        store: Callable[[Sequence[Batch]], Awaitable[None]],
        settled: Callable[[Batch], None],
    ) -> None:
        self._tasks = tasks
        self._name = name
        self._store = store
        self._settled = settled
        self._waiting = Admission()
        self._flying: deque[_Flight] = deque()
        self._failed = False
        """Every batch has its answer; slots still in flight concern nobody."""

    async def put(self, records: Sequence[Payload]) -> int:
        """Number of the batch, once durable; errors as `Writer.append` says."""
        waiting = self._waiting.admit(records)
        self._launch()
        await waiting.answer
        return waiting.batch.sequence

    def end(self, reason: ElanusError) -> None:
        """Refuse what has not begun to be stored and all that comes. The first reason stays."""
        self._waiting.end(self._waiting.ended or reason)

    async def wait_idle(self) -> None:
        """Return when nothing is in flight."""
        while self._flying:
            job = self._flying[-1].job
            assert job is not None
            await job.wait()

    # --- slots ------------------------------------------------------------------------------------------------------
    def _launch(self) -> None:
        while self._waiting and self._may_launch():
            flight = _Flight(self._cut())
            self._flying.append(flight)
            flight.job = self._tasks.spawn(self._fly(flight), name=self._name)

    def _may_launch(self) -> bool:
        flying = len(self._flying)
        return flying < SLOTS_EAGER or (flying < SLOTS_IN_FLIGHT_MAX and self._waiting.waiting_bytes >= SLOT_BYTES)

    def _cut(self) -> list[Waiting]:
        """The batches of the next slot."""
        cut: list[Waiting] = []
        taken = 0
        while self._waiting and taken < SLOT_BYTES:
            if cut and self._waiting.next_sequence % SLOT_STRIDE == 0:
                break
            cut.append(self._waiting.take())
            taken += cut[-1].batch.size
        return cut

    async def _fly(self, flight: _Flight) -> None:
        # Stands if the task is cancelled, or dies of a defect, while the slot is being stored.
        flight.error = OutcomeUnknownError(f"{self._name} was interrupted")
        try:
            await self._store([waiting.batch for waiting in flight.batches])
            flight.error = None
        except ElanusError as error:
            flight.error = error
        finally:
            flight.landed = True
            if flight.error is not None:
                self.end(flight.error if _is_certain(flight.error) else StorageError(flight.error.message))
            self._settle()
            self._launch()

    def _settle(self) -> None:
        """Answer, in order, whatever can be answered."""
        while self._flying and self._flying[0].landed:
            flight = self._flying[0]
            if flight.error is not None and not self._failed:
                self._fail(flight.error)
            self._flying.popleft()
            for waiting in () if self._failed else flight.batches:
                self._settled(waiting.batch)
                waiting.settle(None)

    def _fail(self, error: ElanusError) -> None:
        """The oldest slot in flight failed. Where it is a hole for ever, nothing after it will ever be replayed."""
        self._failed = True
        for waiting in (waiting for flight in self._flying for waiting in flight.batches):
            if _is_certain(error):
                waiting.settle(again(error))
            else:
                waiting.settle(OutcomeUnknownError(f"a log write may or may not be stored: {error.message}"))


def _is_certain(error: ElanusError) -> bool:
    """Whether a slot that failed so is not stored and never will be."""
    return isinstance(error, FencedError | DiskFullError)
