"""The ObjectStore of a local folder.

Theory. An object is written to a temporary file on the same volume, synced, and then *linked* to its name: link, unlike
rename, fails when the name is taken, so that one of several writers wins and nobody's bytes are replaced. Then the name
is made durable by syncing its folder, and only then `put` returns. A crash leaves at worst a temporary file, removed at
the next opening, or a name that nobody was told of.

On disk a file is an object and a folder is a folder of the key. A name with a dot is a file, one without is a folder:
an object whose last component has no dot gets the ending `.object` on disk. So listing needs no call per entry.

1. Two writers put the same bytes, the first has linked but not yet synced the folder, the second finds its bytes there
   and answers. It syncs the folder itself before it does.
2. A sync fails. The kernel may have marked the pages clean, so a repeated put would succeed on air. The store takes no
   more puts; reads go on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from elanus.base.doors import Doors
from elanus.base.errors import DiskFullError, StorageError, check
from elanus.base.limits import MIB
from elanus.objects.store import (
    Data,
    ObjectExistsError,
    ObjectInfo,
    ObjectNotFoundError,
    buffers,
    check_key,
    size_of,
)

_TEMPORARY: Final = ".temporary"
_PLAIN_ENDING: Final = ".object"
_COMPARE_BYTES: Final = 4 * MIB
KNOWN_FOLDERS_MAX: Final = 65536


_Keys = list[str]
"""Inside the class `list` is a verb."""


OnFailure = Callable[[StorageError], None]


async def open_posix(
    doors: Doors, root: str, on_failure: OnFailure | None = None, *, shared: bool = False
) -> PosixObjectStore:
    """Open the store in folder `root` (absolute), which one process owns at a time. Removes leftover temporaries.

    `on_failure` hears once, on the event loop, that the store takes no more puts. `shared`: several processes of one
    machine use the folder at once, so that temporaries may be in use and stay.
    """
    store = PosixObjectStore(doors, root, on_failure)
    await doors.compute.run_io(store.prepare, shared)
    return store


class PosixObjectStore:
    """See the module's head. Made by `open_posix`."""

    def __init__(self, doors: Doors, root: str, on_failure: OnFailure | None = None) -> None:
        check(root.startswith("/"), f"{root!r} is not an absolute path")
        self._doors = doors
        self._files = doors.files
        self._root = root.rstrip("/")
        self._temporary = f"{self._root}/{_TEMPORARY}"
        self._folders: set[str] = set()
        self._failure: str | None = None
        self._on_failure = on_failure

    def prepare(self, shared: bool) -> None:
        """Create the folders and, unless others may be at work, remove what a crash left behind. Blocking."""
        self._files.make_directory(self._temporary)
        self._files.sync_directory(self._root.rpartition("/")[0] or "/")
        for name in () if shared else self._files.list(self._temporary):
            self._files.remove(f"{self._temporary}/{name}")

    # --- verbs ------------------------------------------------------------------------------------------------------
    async def put(self, key: str, data: Data) -> None:
        """See ObjectStore."""
        try:
            await self._doors.compute.run_io(self._put, key, data)
        except StorageError as error:
            if self._on_failure is not None:
                tell, self._on_failure = self._on_failure, None
                tell(error)
            raise

    async def get(self, key: str) -> bytes:
        """See ObjectStore."""
        return await self._doors.compute.run_io(self._read, key, 0, None)

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See ObjectStore."""
        return await self._doors.compute.run_io(self._read, key, offset, length)

    async def list(self, prefix: str) -> list[str]:
        """See ObjectStore."""
        return await self._doors.compute.run_io(self._list, prefix)

    async def delete(self, key: str) -> None:
        """See ObjectStore."""
        await self._doors.compute.run_io(self._files.remove, self._path(key))

    async def stat(self, key: str) -> ObjectInfo | None:
        """See ObjectStore."""
        return await self._doors.compute.run_io(self._stat, key)

    async def map(self, key: str) -> memoryview:
        """See ObjectStore."""
        return await self._doors.compute.run_io(self._map, key)

    def local_path(self, key: str) -> str | None:
        """See ObjectStore."""
        return self._path(key)

    # --- blocking halves --------------------------------------------------------------------------------------------
    def _put(self, key: str, data: Data) -> None:
        if self._failure is not None:
            raise StorageError(f"the object store takes no more writes: {self._failure}")
        path = self._path(key)
        folder = path.rpartition("/")[0]
        try:
            self._make_folder(folder)
            taken = self._files.exists(path) or not self._write_and_link(path, data)
            if taken and not self._same_bytes(path, data):
                raise ObjectExistsError(f"object {key} exists with other bytes")
            self._sync_name(folder)
        except StorageError as error:
            self._failure = error.message
            raise

    def _write_and_link(self, path: str, data: Data) -> bool:
        """Whether the name was free. The content is durable, the name is not yet."""
        temporary = f"{self._temporary}/{self._doors.random.token()}"
        try:
            file = self._files.create(temporary)
            try:
                file.gather(list(buffers(data)))
                file.sync()
            finally:
                file.close()
            self._files.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            self._files.remove(temporary)
        return True

    def _same_bytes(self, path: str, data: Data) -> bool:
        """Whether the file holds these bytes; a file that has just been deleted holds no bytes of ours."""
        try:
            if self._files.size(path) != size_of(data):
                return False
            offset = 0
            for view in buffers(data):
                for start in range(0, view.nbytes, _COMPARE_BYTES):
                    piece = view[start : start + _COMPARE_BYTES]
                    if self._files.read(path, offset, piece.nbytes) != piece:
                        return False
                    offset += piece.nbytes
        except FileNotFoundError:
            return False
        return True

    def _make_folder(self, folder: str) -> None:
        """Create the folder; the names of all folders down to it are durable on return.

        One that exists may have been created just before a crash, so each process syncs each folder's parents once.
        """
        if folder in self._folders:
            return
        self._files.make_directory(folder)
        if len(self._folders) >= KNOWN_FOLDERS_MAX:
            self._folders.clear()
        parent = folder
        while len(parent) > len(self._root):
            parent = parent.rpartition("/")[0]
            self._files.sync_directory(parent)
        self._folders.add(folder)

    def _sync_name(self, folder: str) -> None:
        try:
            self._files.sync_directory(folder)
        except DiskFullError as error:
            raise StorageError(f"the object's name may not be durable: {error.message}") from error

    def _read(self, key: str, offset: int, length: int | None) -> bytes:
        path = self._path(key)
        try:
            return self._files.read(path, offset, length)
        except FileNotFoundError:
            raise ObjectNotFoundError(f"object {key} not found") from None

    def _map(self, key: str) -> memoryview:
        path = self._path(key)
        try:
            return self._files.map(path)
        except FileNotFoundError:
            raise ObjectNotFoundError(f"object {key} not found") from None

    def _stat(self, key: str) -> ObjectInfo | None:
        try:
            return ObjectInfo(key, self._files.size(self._path(key)))
        except FileNotFoundError:
            return None

    def _list(self, prefix: str) -> _Keys:
        folder, _, start = prefix.rpartition("/")
        if "." in folder:
            return []
        found: _Keys = []
        self._walk(f"{folder}/" if folder else "", start, found)
        return sorted(found)

    def _walk(self, folder: str, start: str, found: _Keys) -> None:
        """Collect the keys below `folder` ('' or ending in '/') whose rest starts with `start`."""
        for name in self._files.list(f"{self._root}/{folder}".rstrip("/")):
            if name.startswith("."):
                continue
            if "." in name:
                rest = name.removesuffix(_PLAIN_ENDING)
                if rest.startswith(start):
                    found.append(folder + rest)
            elif name.startswith(start):
                self._walk(f"{folder}{name}/", "", found)

    def _path(self, key: str) -> str:
        check_key(key)
        check(not key.endswith(_PLAIN_ENDING), f"object keys do not end in {_PLAIN_ENDING}: {key!r}")
        ending = "" if "." in key.rpartition("/")[2] else _PLAIN_ENDING
        return f"{self._root}/{key}{ending}"
