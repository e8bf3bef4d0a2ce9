"""The stores that the log suite runs on."""

from __future__ import annotations

from elanus.base.doors import Doors
from elanus.objects.store import ObjectStore
from elanus.testing.disk import ForgettingDisk
from elanus.wal.file import FileLog
from elanus.wal.memory import MemoryLog
from elanus.wal.objects import ObjectLog


class MemoryHarness:
    """One shared memory log; a process that dies leaves it as it is."""

    def __init__(self, doors: Doors, pause_s: float = 0.0) -> None:
        async def pause() -> None:
            await doors.clock.sleep(pause_s)

        self.log = MemoryLog(doors.tasks, pause)

    async def restart(self) -> None:
        return


class FileHarness:
    """A file log; a process that dies leaves its files as they are seen, synced or not."""

    def __init__(self, doors: Doors, folder: str, file_bytes_max: int) -> None:
        self._doors = doors
        self._folder = folder
        self._file_bytes_max = file_bytes_max
        self.log = self._new()

    async def restart(self) -> None:
        if isinstance(self._doors.files, ForgettingDisk):
            self._doors.files.restart()
        self.log = self._new()

    def _new(self) -> FileLog:
        return FileLog(self._doors, self._folder, file_bytes_max=self._file_bytes_max)


class ObjectHarness:
    """A log on an object store; a process that dies leaves the objects."""

    def __init__(self, doors: Doors, store: ObjectStore) -> None:
        self._doors = doors
        self._store = store
        self.log = ObjectLog(doors, store)

    async def restart(self) -> None:
        self.log = ObjectLog(self._doors, self._store)
