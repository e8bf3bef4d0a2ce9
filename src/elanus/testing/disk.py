"""A disk in memory that forgets what was not synced, tears, fills up and fails: the fake behind `doors.Files`.

It passes the same suite as the real disk (`testing.conformance_files`), and models what a test must not be able to
ignore:
- Appended bytes are durable only after `sync` of the file. A power cut keeps any prefix of the rest, and may turn any
  512-byte sector of what it keeps into zeros.
- Names (created, linked, renamed, removed) are durable only after `sync_directory` of the folder. A power cut takes
  each other change or leaves it, independently.
- A failed sync loses its bytes for good: readers see them until the power cut, and later syncs say that all is well.
- When the disk is full, an append leaves a prefix of its bytes behind.

Every call that changes something passes two points, before and after its effect, numbered from 0. A hook sees each and
may raise: StorageError or DiskFullError at "before" fails the call, `PowerCut` at either ends this disk's life. Then
`crash` gives the disk that the next process finds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from elanus.base.doors import ReadFile
from elanus.base.errors import DiskFullError, StorageError

SECTOR_BYTES: Final = 512
UNBOUNDED: Final = 1 << 60


class PowerCut(BaseException):
    """The machine lost power. Not an Exception: no code under test may catch it."""


class Point(NamedTuple):
    """A moment at which a hook may act."""

    number: int
    phase: str
    """"before" or "after" the effect."""
    verb: str
    path: str


Hook = Callable[[Point], None]


@dataclass(slots=True, eq=False)
class _Content:
    """The bytes of a file: what readers see, how much was synced, and which ranges a failed sync lost."""

    data: bytearray = field(default_factory=bytearray)
    synced: int = 0
    lost: list[tuple[int, int]] = field(default_factory=list)

    def after_power_loss(self, chance: random.Random) -> _Content:
        kept = self.synced + chance.randint(0, len(self.data) - self.synced)
        data = bytearray(self.data[:kept])
        if chance.random() < 0.5:
            for sector in range(self.synced, kept, SECTOR_BYTES):
                if chance.random() < 0.3:
                    stop = min(kept, sector + SECTOR_BYTES)
                    data[sector:stop] = bytes(stop - sector)
        for start, stop in self.lost:
            data[start:stop] = bytes(max(0, min(stop, kept) - start))
        return _Content(data, len(data))


@dataclass(slots=True, eq=False)
class _Folder:
    """Names of one folder: as seen, and as they would be found after a power cut."""

    seen: dict[str, _Content] = field(default_factory=dict)
    durable: dict[str, _Content] = field(default_factory=dict)


def _split(path: str) -> tuple[str, str]:
    folder, _, name = path.rstrip("/").rpartition("/")
    return folder or "/", name


class _AppendFile:
    """`doors.AppendFile` on the disk in memory."""

    __slots__ = ("_content", "_dead", "_disk", "_life", "_path")

    def __init__(self, disk: ForgettingDisk, content: _Content, path: str) -> None:
        self._disk = disk
        self._content = content
        self._path = path
        self._dead = False
        self._life = disk.life

    def append(self, data: bytes | memoryview) -> None:
        with self._alive(), self._disk.call("append", self._path):
            self._disk.take(self._content, bytes(data))

    def gather(self, parts: Sequence[bytes | memoryview]) -> None:
        with self._alive(), self._disk.call("append", self._path):
            self._disk.take(self._content, b"".join(parts))

    def sync(self) -> None:
        start = self._content.synced
        try:
            with self._alive(), self._disk.call("sync", self._path):
                self._content.synced = len(self._content.data)
        except (StorageError, DiskFullError):
            stop = len(self._content.data)
            if self._content.synced < stop:
                self._content.lost.append((start, stop))
                self._content.synced = stop
            raise

    def close(self) -> None:
        self._dead = True

    @contextmanager
    def _alive(self) -> Iterator[None]:
        if self._dead or self._life != self._disk.life:
            raise StorageError(f"{self._path}: the handle is closed or met an error before")
        try:
            yield
        except BaseException:
            self._dead = True
            raise


class _ReadFile:
    """A file by its content, whatever becomes of its name."""

    def __init__(self, disk: ForgettingDisk, path: str) -> None:
        self._disk = disk
        self._path = path
        self._content = disk.content(path)
        self.piece_count = 0

    def read_pieces(self, offsets: Sequence[int], into: Sequence[memoryview]) -> None:
        for offset, buffer in zip(offsets, into, strict=True):
            self._disk._powered()
            found = self._content.data[offset : offset + len(buffer)]
            if len(found) < len(buffer):
                raise StorageError(f"{self._path} ends before offset {offset + len(buffer)}")
            buffer[:] = found
        self.piece_count += len(offsets)


class ForgettingDisk:
    """`doors.Files` in memory. `hook` sees every point; `capacity_bytes` bounds the sum of all visible files."""

    def __init__(self, *, hook: Hook | None = None, capacity_bytes: int = UNBOUNDED) -> None:
        self.hook = hook
        self.capacity_bytes = capacity_bytes
        self.life = 0
        """Counts `restart`s: handles of an earlier life are dead."""
        self.points = 0
        """Points passed so far."""
        self.synced_points = 0
        """Points passed so far in `sync` and `sync_directory`."""
        self._folders: dict[str, _Folder] = {"/": _Folder()}
        self._off = False

    def crash(self, seed: int) -> ForgettingDisk:
        """The disk as it is found after a power cut now, with choices drawn from `seed`. This disk is off after it."""
        self._off = True
        chance = random.Random(seed)
        found = ForgettingDisk(capacity_bytes=self.capacity_bytes)
        survivors: dict[_Content, _Content] = {}
        for path, folder in sorted(self._folders.items()):
            names = found._folders[path] = _Folder()
            for name in sorted(folder.seen.keys() | folder.durable.keys()):
                content = chance.choice((folder.seen.get(name), folder.durable.get(name)))
                if content is None:
                    continue
                if content not in survivors:
                    survivors[content] = content.after_power_loss(chance)
                names.seen[name] = names.durable[name] = survivors[content]
        return found

    def restart(self) -> None:
        """The process died and its successor finds the disk as seen, unsynced bytes included; old handles are dead."""
        self.life += 1
        self._off = False

    def damage(self, path: str, offset: int, flip: int = 0xFF) -> None:
        """Flip bits of one durable byte, behind everybody's back."""
        self.content(path).data[offset] ^= flip

    def cut(self, path: str, size: int) -> None:
        """Shorten a file, behind everybody's back."""
        content = self.content(path)
        del content.data[size:]
        content.synced = min(content.synced, size)

    def create(self, path: str) -> _AppendFile:
        with self.call("create", path):
            folder, name = self._folder_of(path)
            if name in folder.seen:
                raise FileExistsError(path)
            folder.seen[name] = _Content()
            return _AppendFile(self, folder.seen[name], path)

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        self._powered()
        data = self.content(path).data
        return bytes(data[offset:] if length is None else data[offset : offset + length])

    def open(self, path: str) -> ReadFile:
        return _ReadFile(self, path)

    def map(self, path: str) -> memoryview:
        return memoryview(self.read(path))

    def size(self, path: str) -> int:
        self._powered()
        return len(self.content(path).data)

    def exists(self, path: str) -> bool:
        self._powered()
        folder, name = _split(path)
        return path in self._folders or (folder in self._folders and name in self._folders[folder].seen)

    def link(self, source: str, target: str) -> None:
        with self.call("link", target):
            content = self.content(source)
            folder, name = self._folder_of(target)
            if name in folder.seen:
                raise FileExistsError(target)
            folder.seen[name] = content

    def rename(self, source: str, target: str) -> None:
        with self.call("rename", target):
            content = self.content(source)
            folder, name = self._folder_of(target)
            folder.seen[name] = content
            from_folder, from_name = self._folder_of(source)
            if (from_folder, from_name) != (folder, name):
                del from_folder.seen[from_name]

    def remove(self, path: str) -> None:
        with self.call("remove", path):
            folder, name = _split(path)
            if folder in self._folders:
                self._folders[folder].seen.pop(name, None)

    def list(self, path: str) -> list[str]:
        self._powered()
        prefix = path.rstrip("/") + "/"
        inside = {other[len(prefix) :].split("/")[0] for other in self._folders if other.startswith(prefix)}
        names = self._folders[path].seen.keys() if path in self._folders else ()
        return sorted({*inside, *names} - {""})

    def make_directory(self, path: str) -> None:
        with self.call("make_directory", path):
            while path not in self._folders:
                self._folders[path] = _Folder()
                path = _split(path)[0]

    def sync_directory(self, path: str) -> None:
        with self.call("sync_directory", path):
            if path not in self._folders:
                raise FileNotFoundError(path)
            self._folders[path].durable = dict(self._folders[path].seen)

    def free_bytes(self, path: str) -> int:
        self._powered()
        if not self.exists(path):
            raise FileNotFoundError(path)
        return max(0, self.capacity_bytes - self._used())

    @contextmanager
    def call(self, verb: str, path: str) -> Iterator[None]:
        """The two points around a call that changes something."""
        self._point("before", verb, path)
        yield
        self._point("after", verb, path)

    def take(self, content: _Content, data: bytes) -> None:
        """Append what fits; DiskFullError if that is not all."""
        room = max(0, self.capacity_bytes - self._used()) if self.capacity_bytes < UNBOUNDED else len(data)
        content.data += data[:room]
        if room < len(data):
            raise DiskFullError(f"no room on the disk: {room} of {len(data)} bytes written")

    def _point(self, phase: str, verb: str, path: str) -> None:
        self._powered()
        number = self.points
        self.points += 1
        self.synced_points += verb.startswith("sync")
        if self.hook is not None:
            try:
                self.hook(Point(number, phase, verb, path))
            except PowerCut:
                self._off = True
                raise

    def _powered(self) -> None:
        if self._off:
            raise PowerCut

    def _folder_of(self, path: str) -> tuple[_Folder, str]:
        folder, name = _split(path)
        if folder not in self._folders:
            raise FileNotFoundError(path)
        return self._folders[folder], name

    def content(self, path: str) -> _Content:
        """What the name stands for; FileNotFoundError."""
        folder, name = self._folder_of(path)
        if name not in folder.seen:
            raise FileNotFoundError(path)
        return folder.seen[name]

    def _used(self) -> int:
        contents = {id(one): one for folder in self._folders.values() for one in folder.seen.values()}
        return sum(len(one.data) for one in contents.values())
