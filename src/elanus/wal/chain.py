"""Opening a chain of log files: find its head, prove it whole above replay_from, take the tail not known synced.

Theory. A file is written by one term, in one life of one process, and never touched again: an opener only reads old
files. What an old file holds above its last mark may be nothing but page cache (the writer was killed before its sync,
or its sync failed and the kernel marked the pages clean), and serving it would promise what a power cut takes back. So
the opener copies those frames, with their old positions, into its own file and syncs that before it serves. The new
file's header links to the predecessor and says how many of its bytes belong to the chain. Bytes below a mark, or below
what a successor's link keeps, were synced: damage there is corruption and refuses to open. Damage above is a torn
tail, which was never acknowledged: it is left behind and reported.

Race stories
1. An opener dies while it writes its file. The next one finds a damaged header, or fewer copied frames than the header
   says, and no frame of the file's own term: the file never served and is passed over. A frame of its own term proves
   that it did serve, so then the same damage is corruption. Either way its header, where that is sound, proves how
   far its predecessor was synced.
2. An opener dies after its file is whole but before its first mark. Nothing tells whether the file or its name was
   synced, so the next opener copies all of it, links past it to its predecessor, and never depends on it.
3. A file is damaged at x, and sound frames follow. If one of them carries a mark above x, what is damaged was synced
   and perhaps acknowledged: corruption. If none does, the disk wrote out of order before a power cut: a torn tail.
4. Truncation deletes a file and the power fails before the folder is synced: any subset of the names may come back.
   The chain is followed by links from the head, never by listing, and only down to replay_from.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from elanus.base.doors import Files
from elanus.base.errors import CorruptedError, FencedError
from elanus.model.channel import ORIGIN, Position
from elanus.wal.format import (
    FILE_HEADER_BYTES,
    FileHeader,
    FileName,
    Frame,
    Link,
    decode_file_header,
    follows,
    frame_headers_after,
    frames,
)
from elanus.wal.log import OpenReport


@dataclass(frozen=True, slots=True)
class ChainFile:
    """A file whose first `kept_bytes` belong to the chain; `before` and `last` are the last records below and in it."""

    name: FileName
    kept_bytes: int
    before: Position
    last: Position


@dataclass(frozen=True, slots=True)
class Recovery:
    """What an opener needs in order to write its own file."""

    link: Link | None = None
    last: Position = ORIGIN
    """The last record of the chain below the new file."""
    tail: tuple[Frame, ...] = ()
    """Frames to copy, out of `tail_data`."""
    tail_data: memoryview = field(default_factory=lambda: memoryview(b""))
    files: tuple[ChainFile, ...] = ()
    """Verified files at or above replay_from, oldest first, without the new one."""
    surplus: tuple[FileName, ...] = ()
    """Files that nothing at or above replay_from needs."""
    report: OpenReport = field(default_factory=OpenReport)

    @property
    def end(self) -> Position:
        """The last record that the opened log replays."""
        return self.tail[-1].last if self.tail else self.last


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A file read through, as far as its frames are sound."""

    header: FileHeader
    data: bytes
    sound_bytes: int
    mark: int
    """Up to where the file is known to have been synced; 0 if nothing says so."""
    marked_last: Position
    """The last record below the mark."""
    tail: tuple[Frame, ...]
    """Batches from the mark on."""

    @property
    def last(self) -> Position:
        """The last record of all."""
        return self.tail[-1].last if self.tail else self.marked_last


class ChainReader:
    """Reads the files of one pchannel. Blocking: runs on a disk thread."""

    def __init__(self, files: Files, folder: str, pchannel: str) -> None:
        self._files = files
        self._folder = folder
        self.pchannel = pchannel

    def path(self, name: FileName) -> str:
        """Where the file stands."""
        return f"{self._folder}/{name}"

    def names(self) -> list[FileName]:
        """All log files of the folder, oldest first."""
        parsed = (FileName.parse(name) for name in self._files.list(self._folder))
        return sorted(name for name in parsed if name is not None)

    def recover(self, term: int, replay_from: Position) -> Recovery:
        """Everything the opener of `term` must know. FencedError, CorruptedError as `Log.open` says."""
        names = self.names()
        if names and names[-1].term >= term:
            raise FencedError(f"{self.pchannel}: term {names[-1].term} was opened, so term {term} may not")
        head, abandoned = self._head(names)
        if head is None:
            if replay_from > ORIGIN:
                raise CorruptedError(f"{self._folder}: no usable log file, but records from {replay_from} are needed")
            report = OpenReport(abandoned=tuple(map(str, abandoned)))
            return Recovery(surplus=tuple(names), report=report)
        return self._from_head(head, abandoned, names, replay_from)

    def _head(self, names: list[FileName]) -> tuple[_Loaded | None, list[FileName]]:
        """The newest file that is whole, and the newer ones that never served (stories 1 and 2)."""
        abandoned: list[FileName] = []
        proven: dict[FileName, int] = {}
        for name in reversed(names):
            data = self._files.read(self.path(name))
            loaded = self._load(name, data)
            if loaded is not None and loaded.sound_bytes >= loaded.header.own_from:
                self._refuse_damage_below_a_mark(loaded, proven.get(name, 0))
                return loaded, abandoned
            if loaded is not None and loaded.header.link is not None:
                link = loaded.header.link
                proven[link.name] = max(proven.get(link.name, 0), link.kept_bytes)
            if any(frame.term == name.term for frame in frame_headers_after(data, 0, name.seed(self.pchannel))):
                place = 0 if loaded is None else loaded.sound_bytes
                raise CorruptedError(f"{self.path(name)}: damaged at offset {place}, before records that were served")
            abandoned.append(name)
        return None, abandoned

    def _from_head(
        self, head: _Loaded, abandoned: list[FileName], names: list[FileName], replay_from: Position
    ) -> Recovery:
        name, mark, tail, last = head.header.name, head.mark, head.tail, head.marked_last
        link = Link(*name, mark) if mark else head.header.link
        if replay_from > max(Position(head.last.term, head.last.sequence + 1), Position(name.term, 0)):
            raise CorruptedError(f"{self._folder}: ends at {head.last}, but is to be replayed from {replay_from}")
        older, older_bytes = self._verify_chain(head.header, replay_from)
        files = (*older, ChainFile(name, mark, head.header.last, last)) if mark else older
        used = {file.name for file in files}
        cut = len(head.data) - head.sound_bytes
        report = OpenReport(
            files=len(files),
            bytes_read=older_bytes + len(head.data),
            copied_frames=len(tail),
            copied_bytes=sum(frame.end - frame.place for frame in tail),
            cut_file=self.path(name) if cut else "",
            cut_offset=head.sound_bytes if cut else 0,
            cut_bytes=cut,
            abandoned=tuple(map(str, abandoned)),
        )
        surplus = tuple(other for other in names if other not in used)
        return Recovery(link, last, tail, memoryview(head.data), files, surplus, report)

    def _verify_chain(self, header: FileHeader, replay_from: Position) -> tuple[tuple[ChainFile, ...], int]:
        """Follow the links down to replay_from; every kept byte on the way must be sound."""
        found: list[ChainFile] = []
        total = 0
        while header.link is not None and header.last >= replay_from:
            name, kept_bytes = header.link.name, header.link.kept_bytes
            loaded = self._load_kept(name, kept_bytes)
            if loaded.last != header.last:
                raise CorruptedError(f"{self.path(name)}: ends at {loaded.last}, its successor says {header.last}")
            found.append(ChainFile(name, kept_bytes, loaded.header.last, loaded.last))
            total += kept_bytes
            header = loaded.header
        return tuple(reversed(found)), total

    def _load_kept(self, name: FileName, kept_bytes: int) -> _Loaded:
        path = self.path(name)
        try:
            data = self._files.read(path, 0, kept_bytes)
        except FileNotFoundError:
            raise CorruptedError(f"{path}: missing, but its records are needed") from None
        loaded = self._load(name, data)
        if loaded is None or loaded.sound_bytes != kept_bytes:
            place = 0 if loaded is None else loaded.sound_bytes
            raise CorruptedError(f"{path}: damaged at offset {place}, below {kept_bytes} which was synced")
        return loaded

    def _load(self, name: FileName, data: bytes) -> _Loaded | None:
        """One pass over a file; only the frames after the newest mark are kept, so that memory stays small."""
        header = decode_file_header(data, name, self.pchannel)
        if header is None:
            return None
        sound_bytes, mark = FILE_HEADER_BYTES, 0
        marked: Position | Frame = header.last
        previous: Position | Frame = header.last
        tail: deque[Frame] = deque()
        for frame in frames(memoryview(data), FILE_HEADER_BYTES, name.seed(self.pchannel)):
            if frame.record_count:
                self._check_order(name, previous, frame)
                previous = frame
                tail.append(frame)
            if frame.synced_through > mark:
                mark = frame.synced_through
                while tail and tail[0].end <= mark:
                    marked = tail.popleft()
            sound_bytes = frame.end
        marked_last = marked.last if isinstance(marked, Frame) else marked
        return _Loaded(header, data, sound_bytes, mark, marked_last, tuple(tail))

    def _refuse_damage_below_a_mark(self, loaded: _Loaded, proven: int) -> None:
        """Story 3; `proven` is how far newer files' links say that this one was synced."""
        name = loaded.header.name
        later = frame_headers_after(loaded.data, loaded.sound_bytes, name.seed(self.pchannel))
        mark = max((frame.synced_through for frame in later), default=0)
        if max(mark, proven) > loaded.sound_bytes:
            place, synced = loaded.sound_bytes, max(mark, proven)
            raise CorruptedError(f"{self.path(name)}: damaged at offset {place}, below {synced} which was synced")

    def _check_order(self, name: FileName, last: Position | Frame, frame: Frame) -> None:
        if not follows(last, frame):
            raise CorruptedError(
                f"{self.path(name)}: at offset {frame.place} batch {frame.term}.{frame.sequence} follows"
                f" {last.term}.{last.sequence}"
            )
