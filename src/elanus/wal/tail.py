"""The growing end of a file log: the only code that writes log files. Blocking, one call at a time, on a disk thread.

Invariants
- Before a file takes its first own frame, its header, its copied frames and its name are synced.
- A file is rolled only when all of it is synced, so that its successor may link to every byte of it.
- After any error nothing more is written: the successor reads what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from elanus.base.doors import AppendFile, Files
from elanus.base.errors import DiskFullError, ElanusError, StorageError
from elanus.model.channel import ORIGIN, Position
from elanus.wal.admission import Batch
from elanus.wal.chain import ChainFile, Recovery
from elanus.wal.format import (
    FILE_HEADER_BYTES,
    FileHeader,
    FileName,
    Frame,
    Link,
    encode_batch,
    encode_copy,
    encode_file_header,
)
from elanus.wal.queue import Outcome

_COPY_PARTS_MAX: Final = 1020


class Tail:
    """The open file of one term and the chain it closed behind itself."""

    def __init__(self, files: Files, folder: str, pchannel: str, term: int, file_bytes_max: int) -> None:
        self._files = files
        self._folder = folder
        self._pchannel = pchannel
        self._term = term
        self._file_bytes_max = file_bytes_max
        self._file: AppendFile | None = None
        self._header = FileHeader(FileName(term, 0), None, ORIGIN, 0)
        self._seed = 0
        self._place = 0
        self._synced = 0
        self._last = ORIGIN
        self._writing = False
        """Whether bytes of a batch are being written, or were when an error came."""
        self.closed_files: list[ChainFile] = []
        """Files of this term that were rolled, oldest first."""

    @property
    def active(self) -> ChainFile:
        """The open file, as far as it is durable."""
        return ChainFile(self._header.name, self._synced, self._header.last, self._last)

    def begin(self, recovery: Recovery) -> None:
        """Write the term's first file with the tail of the old chain; durable on return."""
        seed = FileName(self._term, 0).seed(self._pchannel)
        place = FILE_HEADER_BYTES
        copies: list[tuple[Frame, list[bytes | memoryview]]] = []
        for frame in recovery.tail:
            copies.append(encode_copy(frame, recovery.tail_data, place, seed))
            place = copies[-1][0].end
        header = FileHeader(FileName(self._term, 0), recovery.link, recovery.last, place - FILE_HEADER_BYTES)
        parts = [part for _, pieces in copies for part in pieces if part]
        self._start(header, parts)
        self._last = recovery.end

    def write(self, batches: Sequence[Batch], guard: Callable[[], None]) -> Outcome:
        """Write the batches in order and sync once. After an outcome with an error no other call may follow."""
        synced = written = 0
        try:
            guard()
            self._check_room(batches)
            for batch in batches:
                if self._is_full(batch):
                    self._sync(batches[synced:written])
                    synced = written
                    self._roll(batch.sequence)
                self._write_one(batch)
                written += 1
        except DiskFullError as error:
            return Outcome(synced, written - synced, error)
        except ElanusError as error:
            return Outcome(synced, written - synced + self._writing, error)
        try:
            self._sync(batches[synced:written])
        except ElanusError as error:
            return Outcome(synced, written - synced, error)
        return Outcome(written)

    def close(self, *, mark: bool) -> None:
        """Close the file; with `mark` and something unmarked in it, first record that all of it is synced."""
        file, self._file = self._file, None
        if file is None:
            return
        try:
            if mark and self._synced > self._header.own_from:
                _, parts = encode_batch(
                    [], (self._term, self._last.sequence + 1), self._place, self._synced, self._seed
                )
                file.gather(parts)
                file.sync()
        finally:
            file.close()

    def discard(self) -> None:
        """Take back a file that never served."""
        self.close(mark=False)
        self._files.remove(f"{self._folder}/{self._header.name}")

    def _open_file(self) -> AppendFile:
        if self._file is None:
            raise StorageError(f"{self._folder}/{self._header.name}: the file is closed")
        return self._file

    def _start(self, header: FileHeader, parts: list[bytes | memoryview]) -> None:
        path = f"{self._folder}/{header.name}"
        self._file = file = self._files.create(path)
        self._header = header
        file.append(encode_file_header(header, self._pchannel))
        for start in range(0, len(parts), _COPY_PARTS_MAX):
            file.gather(parts[start : start + _COPY_PARTS_MAX])
        file.sync()
        self._files.sync_directory(self._folder)
        self._seed = header.name.seed(self._pchannel)
        self._place = self._synced = header.own_from

    def _check_room(self, batches: Sequence[Batch]) -> None:
        """Refuse before the first byte what would not fit: so most full disks leave nothing in doubt."""
        needed = sum(batch.size for batch in batches) + FILE_HEADER_BYTES
        free = self._files.free_bytes(self._folder)
        if free < needed:
            raise DiskFullError(f"{self._folder}: {free} bytes free, {needed} needed")

    def _is_full(self, batch: Batch) -> bool:
        return self._place > self._header.own_from and self._place + batch.size > self._file_bytes_max

    def _roll(self, first_sequence: int) -> None:
        done = self.active
        link = Link(*self._header.name, self._place)
        self._open_file().close()
        self._file = None
        self._start(FileHeader(FileName(self._term, first_sequence), link, self._last, 0), [])
        self.closed_files.append(done)

    def _write_one(self, batch: Batch) -> None:
        numbered = (self._term, batch.sequence)
        frame, parts = encode_batch(batch.records, numbered, self._place, self._synced, self._seed)
        self._writing = True
        self._open_file().gather(parts)
        self._writing = False
        self._place = frame.end

    def _sync(self, batches: Sequence[Batch]) -> None:
        if batches:
            self._open_file().sync()
            self._synced = self._place
            self._last = Position(self._term, batches[-1].sequence, len(batches[-1].records) - 1)
