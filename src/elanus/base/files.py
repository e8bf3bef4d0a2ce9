"""The real disk: POSIX files behind `doors.Files`.

Invariants
- Nothing here ever overwrites bytes: files only grow, and a name is taken by O_EXCL or link, except in `rename`.
- A handle that met an error is dead. A failed sync marks dirty pages clean, so that a second sync would lie.
- No plain OSError leaves this module.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Final, ParamSpec, TypeVar

from elanus.base.doors import AppendFile, ReadFile
from elanus.base.errors import DiskFullError, StorageError
from elanus.base.limits import KIB

P = ParamSpec("P")
R = TypeVar("R")

_FULL_ERRORS: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_VECTOR_PARTS_MAX: Final = 1024
"""IOV_MAX of Linux and macOS."""
_JOIN_BYTES_MAX: Final = 64 * KIB
"""Below this, one copy costs less than a vector of parts."""
_FULL_SYNC: Final[int | None] = getattr(fcntl, "F_FULLFSYNC", None) if sys.platform == "darwin" else None


def _typed(error: OSError) -> Exception:
    if isinstance(error, FileNotFoundError | FileExistsError):
        return error
    if error.errno in _FULL_ERRORS:
        return DiskFullError(f"no room on the disk: {error}")
    return StorageError(f"disk error: {error}")


def _translated(function: Callable[P, R]) -> Callable[P, R]:
    def call(*arguments: P.args, **named: P.kwargs) -> R:
        try:
            return function(*arguments, **named)
        except OSError as error:
            raise _typed(error) from error

    return call


def _sync(descriptor: int, *, data_only: bool) -> None:
    if _FULL_SYNC is not None:
        fcntl.fcntl(descriptor, _FULL_SYNC)
    elif data_only and sys.platform == "linux":
        os.fdatasync(descriptor)
    else:
        os.fsync(descriptor)


class PosixAppendFile:
    """One growing file. Not thread-safe: the caller uses it from one thread at a time."""

    __slots__ = ("_descriptor", "_failed", "_path")

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor = descriptor
        self._path = path
        self._failed = False

    def append(self, data: bytes | memoryview) -> None:
        self._guarded(self._write, memoryview(data).cast("B"))

    def gather(self, parts: Sequence[bytes | memoryview]) -> None:
        views = [memoryview(part).cast("B") for part in parts]
        if sum(map(len, views)) <= _JOIN_BYTES_MAX:
            self._guarded(self._write, memoryview(b"".join(views)))
        else:
            self._guarded(self._write_vector, views)

    def sync(self) -> None:
        self._guarded(self._sync)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _guarded(self, work: Callable[P, None], *arguments: P.args, **named: P.kwargs) -> None:
        if self._failed or self._descriptor < 0:
            raise StorageError(f"{self._path}: the handle is closed or met an error before")
        try:
            work(*arguments, **named)
        except OSError as error:
            self._failed = True
            raise _typed(error) from error
        except BaseException:
            self._failed = True
            raise

    def _sync(self) -> None:
        _sync(self._descriptor, data_only=True)

    def _write(self, view: memoryview) -> None:
        while view:
            view = view[os.write(self._descriptor, view) :]

    def _write_vector(self, views: list[memoryview]) -> None:
        start = 0
        while start < len(views):
            written = os.writev(self._descriptor, views[start : start + _VECTOR_PARTS_MAX])
            while start < len(views) and written >= len(views[start]):
                written -= len(views[start])
                start += 1
            if written:
                views[start] = views[start][written:]


class PosixReadFile:
    """One file read in pieces, by `pread` on the caller's thread."""

    __slots__ = ("_descriptor", "_lock", "_path", "piece_count")

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor = descriptor
        self._path = path
        self._lock = threading.Lock()
        self.piece_count = 0
        _advise(descriptor, 0, 0, "POSIX_FADV_RANDOM")

    def __del__(self) -> None:
        os.close(self._descriptor)

    def read_pieces(self, offsets: Sequence[int], into: Sequence[memoryview]) -> None:
        if len(offsets) > 1:
            for offset, buffer in zip(offsets, into, strict=True):
                _advise(self._descriptor, offset, len(buffer), "POSIX_FADV_WILLNEED")
        try:
            for offset, buffer in zip(offsets, into, strict=True):
                done = os.preadv(self._descriptor, [buffer], offset)
                if done < len(buffer):
                    self._read_rest(offset, buffer, done)
        except OSError as error:
            raise _typed(error) from error
        with self._lock:
            self.piece_count += len(offsets)

    def _read_rest(self, offset: int, buffer: memoryview, done: int) -> None:
        rest = _read_exactly(self._descriptor, offset + done, len(buffer) - done)
        if len(rest) < len(buffer) - done:
            raise StorageError(f"{self._path} ends before offset {offset + len(buffer)}")
        buffer[done:] = rest


def _advise(descriptor: int, offset: int, length: int, advice: str) -> None:
    """Tell the system what will be read, where it listens (macOS does not)."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, offset, length, getattr(os, advice))


class PosixFiles:
    """`doors.Files` on the operating system's file system."""

    @_translated
    def create(self, path: str) -> AppendFile:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        return PosixAppendFile(os.open(path, flags, 0o644), path)

    @_translated
    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        with open(path, "rb", buffering=0) as file:
            end = os.fstat(file.fileno()).st_size
            stop = end if length is None else min(end, offset + length)
            return _read_exactly(file.fileno(), offset, max(0, stop - offset))

    @_translated
    def open(self, path: str) -> ReadFile:
        return PosixReadFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC), path)

    @_translated
    def map(self, path: str) -> memoryview:
        with open(path, "rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size == 0:
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    @_translated
    def size(self, path: str) -> int:
        return os.stat(path).st_size

    @_translated
    def exists(self, path: str) -> bool:
        return os.path.lexists(path)

    @_translated
    def link(self, source: str, target: str) -> None:
        os.link(source, target)

    @_translated
    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)

    @_translated
    def remove(self, path: str) -> None:
        try:
            os.unlink(path)
        except FileNotFoundError:
            return

    @_translated
    def list(self, path: str) -> list[str]:
        try:
            return sorted(os.listdir(path))
        except FileNotFoundError:
            return []

    @_translated
    def make_directory(self, path: str) -> None:
        missing = []
        while not os.path.isdir(path):
            missing.append(path)
            path = os.path.dirname(path)
        for folder in reversed(missing):
            os.makedirs(folder, exist_ok=True)
            self.sync_directory(os.path.dirname(folder))

    @_translated
    def sync_directory(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _sync(descriptor, data_only=False)
        finally:
            os.close(descriptor)

    @_translated
    def free_bytes(self, path: str) -> int:
        volume = os.statvfs(path)
        return volume.f_bavail * volume.f_frsize


def _read_exactly(descriptor: int, offset: int, length: int) -> bytes:
    """Up to `length` bytes from `offset`; one system call in the usual case (Linux caps a read at 2 GiB)."""
    first = os.pread(descriptor, length, offset)
    if len(first) in (0, length):
        return first
    pieces = [first]
    done = len(first)
    while done < length:
        piece = os.pread(descriptor, length - done, offset + done)
        if not piece:
            break
        pieces.append(piece)
        done += len(piece)
    return b"".join(pieces)
