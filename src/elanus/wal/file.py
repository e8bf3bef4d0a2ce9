"""The file log: per pchannel a folder with a chain of files, each written by one term.

`chain` reads old files and holds the theory of recovery, `tail` writes new ones, `format` knows the bytes. This module
owns the order of calls: who may write, what is in flight, who is told what.

Invariants
- At most one writer per pchannel may write; an opener of a higher term stops it and waits for its disk work to end.
- `queue` numbers the batches and answers them in order; a run of them costs one hop to a disk thread and one sync.

Race stories
1. Two openers of one pchannel, terms 6 and 7. Whichever calls `open` second finds the other's claim: 6 after 7 is
   refused; 7 after 6 makes 6 fail its next look at the claim, taken after each wait, the last one after `confirm`.
2. An append is on the disk thread while its writer is fenced. The opener waits for it before it reads, so the batch is
   either durable, acknowledged and replayed, or none of these; what still waits in memory is refused as fenced.
3. A file is deleted by truncation while a reader is between two files: the reader is told TruncatedError.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from elanus.base.doors import Doors
from elanus.base.errors import (
    CorruptedError,
    FencedError,
    StorageError,
)
from elanus.base.events import QUIET, Events
from elanus.base.limits import (
    LOG_FILE_BYTES_MAX,
)
from elanus.model.channel import ORIGIN, Position
from elanus.wal.admission import Batch
from elanus.wal.chain import ChainFile, ChainReader
from elanus.wal.format import FILE_HEADER_BYTES, FileName, frames, records_of
from elanus.wal.log import Confirm, OpenReport, TruncatedError
from elanus.wal.queue import AppendQueue, Outcome
from elanus.wal.tail import Tail

if TYPE_CHECKING:
    from elanus.wal.log import Payload

READ_FRAMES_PER_STEP: Final = 1024


def _always() -> None:
    """The guard of a log that needs none."""


class FileWriter:
    """`log.Writer` on one chain of files."""

    def __init__(self, doors: Doors, tail: Tail, term: int, report: OpenReport, guard: Callable[[], None]) -> None:
        self._compute = doors.compute
        self._tail = tail
        self._term = term
        self._report = report
        self._guard = guard
        self._active = tail.active
        self._queue = AppendQueue(doors.tasks, f"log-append-{term}", self._write)

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
        return Position(self._term, await self._queue.put(records), 0)

    async def fence(self, term: int) -> None:
        """Write nothing more; return when no disk work is under way."""
        self._queue.end(FencedError(f"term {self._term} was fenced by term {term}"))
        await self._release(mark=False)

    async def close(self) -> None:
        await self._queue.wait_idle()
        healthy = not self._queue.ended
        self._queue.end(StorageError(f"the log of term {self._term} is closed"))
        await self._release(mark=healthy)

    async def _release(self, *, mark: bool) -> None:
        await self._queue.wait_idle()
        await self._compute.run_io(partial(self._tail.close, mark=mark))

    async def _write(self, batches: Sequence[Batch]) -> Outcome:
        outcome = await self._compute.run_io(self._tail.write, batches, self._guard)
        self._active = self._tail.active
        return outcome


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
                for entry in records if file.before >= after else [one for one in records if one[0] > after]:
                    yield entry

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
