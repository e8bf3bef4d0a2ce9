"""What every writer of a log does with a batch before it is stored: number it, bound what waits, remember who waits.

Invariants
- A batch gets its number when it is put, before any await, so that numbers are in the order of the puts.
- What waits is bounded by PENDING_WRITES_MAX batches and PENDING_WRITE_BYTES_MAX bytes.
- After the end nothing is taken in, and what waits is refused for the end's reason.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from elanus.base.errors import ElanusError, OverloadedError, check
from elanus.base.limits import LOG_FRAME_BYTES_MAX, PENDING_WRITE_BYTES_MAX, PENDING_WRITES_MAX
from elanus.wal.format import batch_bytes

if TYPE_CHECKING:
    from elanus.wal.log import Payload


class Batch(NamedTuple):
    """One append: its number in the term, its records, and the bytes it takes in a file."""

    sequence: int
    records: Sequence[Payload]
    size: int


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


class Admission:
    """See the module's head."""

    def __init__(self) -> None:
        self.ended: ElanusError | None = None
        self.waiting_bytes = 0
        self._waiting: deque[Waiting] = deque()
        self._next_sequence = 0

    def __bool__(self) -> bool:
        """Whether something waits."""
        return bool(self._waiting)

    @property
    def next_sequence(self) -> int:
        """Number of the first batch that waits."""
        return self._waiting[0].batch.sequence

    def admit(self, records: Sequence[Payload]) -> Waiting:
        """Number a batch and let it wait. OverloadedError; the end's reason."""
        if self.ended is not None:
            raise again(self.ended)
        size = batch_bytes(records)
        check(len(records) > 0 and size <= LOG_FRAME_BYTES_MAX, f"a log batch of {len(records)} records, {size} bytes")
        if len(self._waiting) >= PENDING_WRITES_MAX or self.waiting_bytes > PENDING_WRITE_BYTES_MAX:
            raise OverloadedError(f"{len(self._waiting)} log batches, {self.waiting_bytes} bytes wait to be written")
        waiting = Waiting(Batch(self._next_sequence, records, size), asyncio.get_running_loop().create_future())
        self._next_sequence += 1
        self._waiting.append(waiting)
        self.waiting_bytes += size
        return waiting

    def take(self) -> Waiting:
        """The first batch that waits; it waits no longer."""
        waiting = self._waiting.popleft()
        self.waiting_bytes -= waiting.batch.size
        return waiting

    def end(self, reason: ElanusError) -> None:
        """Refuse what waits and all that comes."""
        self.ended = reason
        while self._waiting:
            self.take().settle(again(reason))


def again(error: ElanusError) -> ElanusError:
    """A fresh error of the same kind, so that tracebacks do not pile up on one instance."""
    return type(error)(error.message)
