"""One process per folder: an flock on a file that is never unlinked.

Stories this closes (each was seen on Linux)
1. flock belongs to the open file, which a forked child shares: the child believes it owns the store, and an idle child
   keeps the lock after its parent is gone. So the pid is compared at each append (`held`), the child closes its copy at
   the fork, and release unlocks before it closes.
2. POSIX record locks vanish when any descriptor of the file is closed, even by a reader that wants the holder's pid. So
   flock, not lockf.
3. An unlinked and re-created lock file grants a second lock. So it is never unlinked, and the inode behind the name is
   compared after locking.
"""

from __future__ import annotations

import fcntl
import os
import weakref
from typing import Final

from elanus.base.errors import InUseError, StorageError

LOCK_FILE_NAME: Final = "LOCK"
_PID_BYTES_MAX: Final = 32


class FolderLock:
    """The right of this process to write a folder, until `release` or the end of the process."""

    __slots__ = ("__weakref__", "_descriptor", "_folder", "_pid")

    def __init__(self, descriptor: int, folder: str) -> None:
        self._descriptor = descriptor
        self._folder = folder
        self._pid = os.getpid()
        _live.add(self)

    @classmethod
    def acquire(cls, folder: str) -> FolderLock:
        """Lock an existing folder.

        InUseError, naming the holder's process id, if a live process has it; StorageError if it cannot be written.
        """
        path = f"{folder}/{LOCK_FILE_NAME}"
        while True:
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise StorageError(f"cannot lock {folder}: {error}") from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _same_file(descriptor, path):
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
                    return cls(descriptor, folder)
            except BlockingIOError:
                holder = os.pread(descriptor, _PID_BYTES_MAX, 0).decode(errors="replace").strip() or "unknown"
                os.close(descriptor)
                raise InUseError(f"{folder} is in use by process {holder}") from None
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def held(self) -> bool:
        """Whether this very process still holds the lock: false after release, and in a forked child. Under 0.2 us."""
        return self._descriptor >= 0 and os.getpid() == self._pid

    def check(self) -> None:
        """Raise InUseError unless `held`: the guard of every append."""
        if not self.held():
            raise InUseError(f"{self._folder}: this process (pid {os.getpid()}) does not hold the folder's lock")

    def release(self) -> None:
        """Give the folder up. Idempotent; in a forked child it only drops the inherited descriptor."""
        if self._descriptor >= 0:
            if os.getpid() == self._pid:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = -1


def _same_file(descriptor: int, path: str) -> bool:
    try:
        named = os.stat(path)
    except FileNotFoundError:
        return False
    mine = os.fstat(descriptor)
    return (mine.st_dev, mine.st_ino) == (named.st_dev, named.st_ino)


_live: weakref.WeakSet[FolderLock] = weakref.WeakSet()


def _drop_in_child() -> None:
    for lock in list(_live):
        lock.release()


os.register_at_fork(after_in_child=_drop_in_child)
