"""The file log: per pchannel a folder with a chain of files, each written by one term.

`chain` reads old files and holds the theory of recovery, `tail` writes new ones, `format` knows the bytes. This module
owns the order of calls: who may write, what is in flight, who is told what.

Invariants
- At most one writer per pchannel may write; an opener of a higher term stops it and waits for its disk work to end.
- Batches get their numbers when `append` is called, and are written, synced and answered in that order, in runs: all
  that waits when the disk is free is one run with one sync.
- The first error ends the writer, and each batch in flight is told what is certain about its fate.

Race stories
1. Two openers of one pchannel, terms 6 and 7. Whichever calls `open` second finds the other's claim: 6 after 7 is
   refused; 7 after 6 makes 6 fail its next look at the claim, taken after each wait, the last one after `confirm`.
2. An append is on the disk thread while its writer is fenced. The opener waits for it before it reads, so the batch is
   either durable, acknowledged and replayed, or none of these; what still waits in memory is refused as fenced.
3. A file is deleted by truncation while a reader is between two files: the reader is told TruncatedError.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from elanus.base.doors import Doors, Job
from elanus.base.errors import (
    CorruptedError,
    ElanusError,
    FencedError,
    OutcomeUnknownError,
    OverloadedError,
    StorageError,
    check,
)
from elanus.base.events import QUIET, Events
from elanus.base.limits import (
    LOG_BATCH_BYTES_MAX,
    LOG_FILE_BYTES_MAX,
    LOG_FRAME_BYTES_MAX,
    PENDING_WRITE_BYTES_MAX,
    PENDING_WRITES_MAX,
)
from elanus.model.channel import ORIGIN, Position
from elanus.wal.chain import ChainFile, ChainReader
from elanus.wal.format import FILE_HEADER_BYTES, FileName, batch_bytes, frames, records_of
from elanus.wal.log import Confirm, OpenReport, TruncatedError
from elanus.wal.tail import Batch, Outcome, Tail

if TYPE_CHECKING:
    from elanus.wal.log import Payload

RUN_BYTES_MAX: Final = 2 * LOG_BATCH_BYTES_MAX
"""A run of waiting batches ends with the one that exceeds this."""
READ_FRAMES_PER_STEP: Final = 1024


def _always() -> None:
    """The guard of a log that needs none."""


@dataclass(slots=True)
class _Waiting:
    batch: Batch
    answer: asyncio.Future[None]


class FileWriter:
    """`log.Writer` on one chain of files."""

    def __init__(self, doors: Doors, tail: Tail, term: int, report: OpenReport, guard: Callable[[], None]) -> None:
        self._doors = doors
        self._tail = tail
        self._term = term
        self._report = report
        self._guard = guard
        self._active = tail.active
        self._next_sequence = 0
        self._queue: deque[_Waiting] = deque()
        self._queued_bytes = 0
        self._job: Job | None = None
        self._ended: ElanusError | None = None

    @property
    def term(self) -> int:
        return self._term

    @property
    def end(self) -> Position:
        return self._active.last

    @property
    def report(self) -> OpenReport:
        return self._report

    @property
    def files(self) -> list[ChainFile]:
        """Files of this term, oldest first, as far as they are durable."""
        return [*self._tail.closed_files, self._active]

    def forget_files(self, names: set[FileName]) -> None:
        """Truncation removed these."""
        self._tail.closed_files[:] = [file for file in self._tail.closed_files if file.name not in names]

    async def append(self, records: Sequence[Payload]) -> Position:
        if self._ended is not None:
            raise _again(self._ended)
        size = batch_bytes(records)
        check(len(records) > 0 and size <= LOG_FRAME_BYTES_MAX, f"a log batch of {len(records)} records, {size} bytes")
        if len(self._queue) >= PENDING_WRITES_MAX or self._queued_bytes > PENDING_WRITE_BYTES_MAX:
            raise OverloadedError(f"{len(self._queue)} log batches, {self._queued_bytes} bytes wait for the disk")
        sequence = self._next_sequence
        self._next_sequence += 1
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(Batch(sequence, records, size), answer))
        self._queued_bytes += size
        if self._job is None:
            self._job = self._doors.tasks.spawn(self._drain(), name=f"log-append-{self._term}")
        await answer
        return Position(self._term, sequence, 0)

    async def fence(self, term: int) -> None:
        """Write nothing more; return when no disk work is under way."""
        self._end(FencedError(f"term {self._term} was fenced by term {term}"))
        await self._release(mark=False)

    async def close(self) -> None:
        if self._job is not None:
            await self._job.wait()
        healthy = self._ended is None
        self._end(StorageError(f"the log of term {self._term} is closed"))
        await self._release(mark=healthy)

    async def _release(self, *, mark: bool) -> None:
        if self._job is not None:
            await self._job.wait()
        await self._doors.compute.run_io(partial(self._tail.close, mark=mark))

    async def _drain(self) -> None:
        """Write what waits, run by run, until nothing does. Cancelled, it leaves the fate of its run unknown."""
        try:
            while self._queue:
                run = self._take_run()
                outcome = Outcome(0, len(run), StorageError(f"the log of term {self._term} was interrupted"))
                try:
                    outcome = await self._doors.compute.run_io(
                        self._tail.write, [one.batch for one in run], self._guard
                    )
                finally:
                    self._settle(run, outcome)
        finally:
            self._job = None

    def _take_run(self) -> list[_Waiting]:
        run: list[_Waiting] = []
        taken = 0
        while self._queue and taken < RUN_BYTES_MAX:
            run.append(self._queue.popleft())
            taken += run[-1].batch.size
        self._queued_bytes -= taken
        return run

    def _settle(self, run: list[_Waiting], outcome: Outcome) -> None:
        if outcome.error is None:
            self._active = self._tail.active
            for one in run:
                _answer(one, None)
            return
        if outcome.durable:
            self._active = self._tail.active
        doubtful = outcome.durable + outcome.unknown
        for number, one in enumerate(run):
            if number < outcome.durable:
                _answer(one, None)
            elif number < doubtful:
                _answer(one, OutcomeUnknownError(f"a log write failed half-way: {outcome.error.message}"))
            else:
                _answer(one, _again(outcome.error))
        self._end(outcome.error)

    def _end(self, reason: ElanusError) -> None:
        """Refuse what waits and all that comes. The first reason stays, except that a fence is never forgotten."""
        if self._ended is None or isinstance(reason, FencedError):
            self._ended = reason
        while self._queue:
            _answer(self._queue.popleft(), _again(self._ended))
        self._queued_bytes = 0


def _again(error: ElanusError) -> ElanusError:
    """A fresh error of the same kind, so that tracebacks do not pile up on one instance."""
    return type(error)(error.message)


def _answer(waiting: _Waiting, error: ElanusError | None) -> None:
    if waiting.answer.done():
        return
    if error is None:
        waiting.answer.set_result(None)
    else:
        waiting.answer.set_exception(error)


@dataclass(slots=True)
class _Channel:
    """What a log knows of one pchannel."""

    reader: ChainReader
    claimed: int = 0
    writer: FileWriter | None = None
    files: tuple[ChainFile, ...] = ()
    """Verified files of lower terms, oldest first."""
    surplus: tuple[FileName, ...] = ()
    surplus_last: Position = ORIGIN
    """No surplus file holds a record above this one that counts."""

    def still(self, term: int) -> None:
        """Raise unless `term` is the highest that was claimed."""
        if self.claimed != term:
            raise FencedError(f"term {term} was fenced by term {self.claimed} while it was opening")


class FileLog:
    """`log.Log` in a folder of the local disk.

    `folder` is absolute; the pchannels are folders in it. `guard` is called on a disk thread before each write and
    raises if this process does not hold the store any more (`FolderLock.check`).
    """

    def __init__(
        self,
        doors: Doors,
        folder: str,
        *,
        guard: Callable[[], None] = _always,
        events: Events = QUIET,
        file_bytes_max: int = LOG_FILE_BYTES_MAX,
    ) -> None:
        self._doors = doors
        self._folder = folder
        self._guard = guard
        self._events = events
        self._file_bytes_max = file_bytes_max
        self._channels: dict[str, _Channel] = {}

    async def open(self, pchannel: str, term: int, replay_from: Position, confirm: Confirm) -> FileWriter:
        channel = self._channel(pchannel)
        if term <= channel.claimed:
            raise FencedError(f"{pchannel}: term {channel.claimed} was opened, so term {term} may not")
        channel.claimed = term
        if channel.writer is not None:
            await channel.writer.fence(term)
            channel.still(term)
        run_io, files, folder = self._doors.compute.run_io, self._doors.files, f"{self._folder}/{pchannel}"
        self._guard()
        await run_io(files.make_directory, folder)
        recovery = await run_io(channel.reader.recover, term, replay_from)
        channel.still(term)
        self._tell(pchannel, term, recovery.report)
        tail = Tail(files, folder, pchannel, term, self._file_bytes_max)
        try:
            await run_io(tail.begin, recovery)
            await confirm()
            channel.still(term)
        except BaseException:
            await run_io(tail.discard)
            raise
        channel.files, channel.surplus = recovery.files, recovery.surplus
        channel.surplus_last = recovery.files[0].before if recovery.files else recovery.last
        channel.writer = FileWriter(self._doors, tail, term, recovery.report, self._guard)
        return channel.writer

    async def read(self, pchannel: str, after: Position) -> AsyncIterator[tuple[Position, memoryview]]:
        channel = self._channel(pchannel)
        writer = channel.writer
        if writer is None:
            raise StorageError(f"{pchannel}: a log is read after it was opened")
        verified = channel.files
        chain = [*verified, *writer.files]
        if chain[0].before > after:
            raise TruncatedError(f"{pchannel}: records up to {chain[0].before} were truncated")
        for file in chain:
            if file.last <= after:
                continue
            data = await self._doors.compute.run_io(self._load, channel.reader, file)
            seed = file.name.seed(pchannel)
            place = FILE_HEADER_BYTES
            while place < file.kept_bytes:
                step = await self._doors.compute.run_io(_records, data, place, seed, file not in verified)
                place, records = step
                if not records and place < file.kept_bytes:
                    raise CorruptedError(f"{channel.reader.path(file.name)}: damaged at offset {place}")
                for position, record in records:
                    if position > after:
                        yield position, record

    async def truncate(self, pchannel: str, before: Position) -> None:
        channel = self._channel(pchannel)
        if channel.writer is None:
            raise StorageError(f"{pchannel}: a log is truncated after it was opened")
        doomed: list[FileName] = []
        if channel.surplus_last < before:
            doomed.extend(channel.surplus)
        for file in [*channel.files, *channel.writer.files[:-1]]:
            if file.last >= before:
                break
            doomed.append(file.name)
        if not doomed:
            return
        gone = set(doomed)
        channel.files = tuple(file for file in channel.files if file.name not in gone)
        channel.surplus = tuple(name for name in channel.surplus if name not in gone)
        channel.writer.forget_files(gone)
        await self._doors.compute.run_io(self._remove, channel.reader, doomed)

    def _channel(self, pchannel: str) -> _Channel:
        channel = self._channels.get(pchannel)
        if channel is None:
            reader = ChainReader(self._doors.files, f"{self._folder}/{pchannel}", pchannel)
            channel = self._channels[pchannel] = _Channel(reader)
        return channel

    def _load(self, reader: ChainReader, file: ChainFile) -> memoryview:
        try:
            data = self._doors.files.read(reader.path(file.name), 0, file.kept_bytes)
        except FileNotFoundError:
            raise TruncatedError(f"{reader.path(file.name)}: truncated while it was to be read") from None
        return memoryview(data)

    def _remove(self, reader: ChainReader, names: Sequence[FileName]) -> None:
        """Oldest first, so that an interruption leaves no gap."""
        for name in sorted(names):
            self._doors.files.remove(reader.path(name))
        self._doors.files.sync_directory(f"{self._folder}/{reader.pchannel}")

    def _tell(self, pchannel: str, term: int, report: OpenReport) -> None:
        if report.cut_bytes:
            self._events.warning(
                "wal.tail_cut",
                pchannel=pchannel,
                term=term,
                file=report.cut_file,
                offset=report.cut_offset,
                bytes=report.cut_bytes,
            )
        if report.abandoned:
            self._events.info("wal.abandoned_files", pchannel=pchannel, term=term, files=report.abandoned)


def _records(data: memoryview, place: int, seed: int, verify: bool) -> tuple[int, list[tuple[Position, memoryview]]]:
    """Records of the next frames from `place`, and the place after them."""
    found: list[tuple[Position, memoryview]] = []
    for count, frame in enumerate(frames(data, place, seed, verify=verify), 1):
        found.extend(records_of(frame, data))
        place = frame.end
        if count == READ_FRAMES_PER_STEP:
            break
    return place, found
