"""The Log port: one ordered, durable, single-writer log per pchannel.

The log is the database: an append that returned is replayed by every later owner, in the same order, under the same
position. Every implementation (memory, file, objects, brokers) keeps the same promises and passes the same suite,
`testing.conformance_log`.

A position is (term, sequence, offset): the writer's term, the number of its batch in that term counted from 0 without
gaps, and the record's place in the batch. Positions name records for ever and compare in log order.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from elanus.base.errors import Action, ElanusError
from elanus.model.channel import Position

if TYPE_CHECKING:
    from typing_extensions import Buffer

    Payload: TypeAlias = Buffer

Confirm: TypeAlias = Callable[[], Awaitable[None]]
"""Confirms the term by one meta transaction; raises (FencedError) if another term has been written since."""


class TruncatedError(ElanusError):
    """The records asked for were truncated: start from a newer manifest. Never means "not yet written"."""

    code = 5
    action = Action.ELSEWHERE


class FormatError(ElanusError):
    """The bytes are sound but of a format version that this build does not read."""

    code = 5
    action = Action.UNSUPPORTED


@dataclass(frozen=True, slots=True)
class OpenReport:
    """What an open found and did; shown to the operator when something was cut."""

    files: int = 0
    """Files read at or above replay_from."""
    bytes_read: int = 0
    copied_frames: int = 0
    """Batches after the last synced mark, copied into the new term's own file."""
    copied_bytes: int = 0
    cut_file: str = ""
    """The file with a torn tail, or empty. What is cut was never acknowledged; it stays behind in the old file."""
    cut_offset: int = 0
    cut_bytes: int = 0
    abandoned: tuple[str, ...] = ()
    """Files of openers that never came to serve; nothing in them is needed."""


class Writer(Protocol):
    """The right to append to one pchannel in one term."""

    @property
    def term(self) -> int:
        """The writer's term."""
        ...

    @property
    def end(self) -> Position:
        """Position of the last durable record of the whole log, other terms' included; ORIGIN if there is none."""
        ...

    @property
    def report(self) -> OpenReport:
        """What the open met."""
        ...

    async def append(self, records: Sequence[Payload]) -> Position:
        """Append one batch (at least one record) and return the position of its first record, once durable.

        Several appends may be in flight; they become durable, and return, strictly in the order of the calls (the
        order is fixed when the call is made, before its first await). The buffers must not change until then.

        The first failure ends the writer. OutcomeUnknownError: the batch may or may not be replayed by a successor.
        DiskFullError, StorageError: it certainly will not. FencedError: a higher term has opened the log, and the
        batch was not written. OverloadedError: too much in flight, nothing was done, the writer goes on.
        A caller that is cancelled while it waits leaves its batch in flight.
        """
        ...

    async def close(self) -> None:
        """Wait for what is in flight and give the log up. Idempotent."""
        ...


class Log(Protocol):
    """All pchannels of one store."""

    async def open(self, pchannel: str, term: int, replay_from: Position, confirm: Confirm) -> Writer:
        """Fence every lower term, repair the tail, confirm the term, and return the only writer.

        `replay_from`, read from the meta store after the term was written there: every record at or above it must be
        readable. `confirm` is awaited between the fence and the first append. A term is opened at most once, also
        when its open failed: draw a new one.

        FencedError: this or a higher term was opened before. CorruptedError, naming the file: a record that was once
        acknowledged is damaged, or the log lacks what replay_from promises. DiskFullError: reopen under a new term.
        """
        ...

    def read(self, pchannel: str, after: Position) -> AsyncIterator[tuple[Position, memoryview]]:
        """The durable records with positions above `after`, in order, up to the durable end when reading began.

        Only after an open of the pchannel by this log. A record's memory is valid as long as it is referred to.
        TruncatedError if records above `after` have been deleted.
        """
        ...

    async def truncate(self, pchannel: str, before: Position) -> None:
        """Allow all records below `before` to be deleted; some of them may stay readable.

        Only after the meta store's replay_from is durably at or above `before`.
        """
        ...


class Follower(Protocol):
    """A reader that goes on reading: it may stand on another machine than the writer. Not for several tasks at once,
    but for one that waits in `next` while another asks `at_end`."""

    @property
    def position(self) -> Position:
        """The last record that `next` returned; at first, where following began."""
        ...

    async def next(self) -> list[tuple[Position, memoryview]]:
        """The next records, at least one; waits for them as long as it takes.

        Only records that every later owner replays too. TruncatedError if the next one was deleted. CorruptedError.
        """
        ...

    async def at_end(self) -> bool:
        """Whether no record above `position` was acknowledged before this call. Linearizable evidence for a read that
        began before the call; False: take what comes by `next`, then ask again. TruncatedError as `next`."""
        ...

    async def close(self) -> None:
        """Stop reading ahead. Idempotent."""
        ...


@runtime_checkable
class SharedLog(Log, Protocol):
    """A log that several processes reach: one may append, any may follow."""

    def follow(self, pchannel: str, after: Position) -> Follower:
        """Read the records above `after`, without the right to append; needs no open."""
        ...
