"""A folder of this machine, limited in size, in front of a remote object store.

Theory. Objects never change, so a copy is right or it is damaged; there is nothing to invalidate. A key that is read or
mapped whole is fetched once, whoever asks meanwhile waits for the same fetch, and its file is then mapped: readers
share one copy in the system's page cache. The least recently used files are removed when a new one would exceed the
limit; a mapping that is in use outlives the removal of its file's name (the disk space is given back when the last
mapping goes, so that the limit holds for what is named, and `bytes_max` should leave room for what is in use).

The folder holds nothing of its own: wiped at any time, even while in use, it is filled again. Each copy's name says the
checksum of its bytes, verified when it is first used after a start, so that a damaged or half-written copy is fetched
again and never served.

An object that another process deletes stays readable here until its copy goes: right for files that a manifest names,
wrong for the log, which reads the remote store itself.

Small objects are kept in memory too, up to `memory_bytes_max`. Puts, deletes, lists and stats go to the remote store;
a put leaves no copy, as its writer seldom reads it.

On disk an object is `<root>/<hash of the key>-<length>-<CRC-32>.copy`, exactly its bytes.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, NamedTuple
from zlib import crc32

import msgspec

from elanus.base.doors import Doors
from elanus.base.errors import DiskFullError, ElanusError, OutcomeUnknownError, StorageError, check
from elanus.base.limits import GIB, MIB
from elanus.objects.store import Data, ObjectInfo, ObjectNotFoundError, ObjectStore, check_key

_Keys = list[str]
"""Inside the class `list` is a verb."""

_COPY: Final = re.compile(r"([0-9a-f]{40})-(\d+)-([0-9a-f]{8})\.copy")
_TEMPORARY: Final = ".part"
_FETCH_BYTES: Final = 16 * MIB
_FETCHES_AT_ONCE: Final = 4
"""Ranges of one object."""
_CHECK_BYTES: Final = 8 * MIB


class CacheLimits(msgspec.Struct, frozen=True, kw_only=True):
    """`disk_bytes_max`: of all copies. `memory_bytes_max`: of small objects kept in memory, each at most
    `memory_object_bytes_max`. An object larger than the disk limit is served from memory and not kept."""

    disk_bytes_max: int = 16 * GIB
    memory_bytes_max: int = 64 * MIB
    memory_object_bytes_max: int = 256 * 1024


class _Copy(NamedTuple):
    """A file of the folder."""

    path: str
    size_bytes: int
    checksum: int


class CachedObjectStore:
    """`ObjectStore` in front of another one. Made by `open_cache`."""

    def __init__(self, doors: Doors, remote: ObjectStore, root: str, limits: CacheLimits) -> None:
        check(root.startswith("/"), f"{root!r} is not an absolute path")
        self._doors = doors
        self._files = doors.files
        self._remote = remote
        self._root = root.rstrip("/")
        self._limits = limits
        self._copies: OrderedDict[str, _Copy] = OrderedDict()
        """By hash of the key, least recently used first."""
        self._verified: set[str] = set()
        self._small: OrderedDict[str, bytes] = OrderedDict()
        self._small_bytes = 0
        self._fetching: dict[str, asyncio.Future[memoryview]] = {}
        self.disk_bytes = 0
        """Of all copies, those being written included."""
        self.hits = 0
        self.misses = 0

    def prepare(self) -> None:
        """Take over what an earlier process left, in no particular order; remove what is half-written. Blocking."""
        self._files.make_directory(self._root)
        for name in self._files.list(self._root):
            path = f"{self._root}/{name}"
            match = _COPY.fullmatch(name)
            if match is not None and self._files.size(path) == int(match[2]) and match[1] not in self._copies:
                self._copies[match[1]] = _Copy(path, int(match[2]), int(match[3], 16))
                self.disk_bytes += int(match[2])
            else:
                self._files.remove(path)
        for path in self._make_room():
            self._files.remove(path)

    # --- verbs that go through ---------------------------------------------------------------------------------------
    async def put(self, key: str, data: Data) -> None:
        """See ObjectStore."""
        await self._remote.put(key, data)

    async def list(self, prefix: str) -> _Keys:
        """See ObjectStore."""
        return await self._remote.list(prefix)

    async def delete(self, key: str) -> None:
        """See ObjectStore. The copy goes first: what was deleted is not found here either."""
        check_key(key)
        self._forget_small(key)
        await self._drop(_name(key))
        await self._remote.delete(key)

    async def stat(self, key: str) -> ObjectInfo | None:
        """See ObjectStore."""
        return await self._remote.stat(key)

    # --- verbs that are answered here ---------------------------------------------------------------------------------
    async def get(self, key: str) -> bytes:
        """See ObjectStore."""
        check_key(key)
        kept = self._small.get(key)
        if kept is not None:
            self._small.move_to_end(key)
            self.hits += 1
            return kept
        if _name(key) not in self._copies:
            info = await self._remote.stat(key)
            if info is not None and info.size_bytes <= self._limits.memory_object_bytes_max:
                self.misses += 1
                return self._keep_small(key, await self._remote.get(key))
        return bytes(await self.map(key))

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See ObjectStore. Of the copy where there is one; else the range alone is fetched, and not kept."""
        check_key(key)
        name = _name(key)
        if name in self._copies:
            mapped = await self._map_copy(name)
            if mapped is not None:
                self.hits += 1
                return bytes(mapped[offset : offset + length])
        return await self._remote.get_range(key, offset, length)

    async def map(self, key: str) -> memoryview:
        """See ObjectStore. Fetched at first, mapped afterwards."""
        check_key(key)
        name = _name(key)
        if name in self._copies:
            mapped = await self._map_copy(name)
            if mapped is not None:
                self.hits += 1
                return mapped
        fetching = self._fetching.get(name)
        if fetching is None:
            self.misses += 1
            fetching = self._fetching[name] = asyncio.get_running_loop().create_future()
            fetching.add_done_callback(_retrieve)
            self._doors.tasks.spawn(self._fetch_into(fetching, key, name), name=f"fetch {key}")
        return await asyncio.shield(fetching)

    def local_path(self, key: str) -> str | None:
        """See ObjectStore. That of the copy, if there is one now; it may be removed when others need the room."""
        check_key(key)
        copy = self._copies.get(_name(key))
        return None if copy is None else copy.path

    # --- fetching ---------------------------------------------------------------------------------------------------
    async def _fetch_into(self, result: asyncio.Future[memoryview], key: str, name: str) -> None:
        """A task of its own: whoever asked first may be cancelled while others wait."""
        try:
            result.set_result(await self._fetch(key, name))
        except ElanusError as error:
            result.set_exception(error)
        finally:
            self._fetching.pop(name, None)
            if not result.done():
                result.set_exception(OutcomeUnknownError(f"fetching {key} was interrupted"))

    async def _fetch(self, key: str, name: str) -> memoryview:
        info = await self._remote.stat(key)
        if info is None:
            raise ObjectNotFoundError(f"object {key} not found")
        needed = info.size_bytes
        if needed > self._limits.disk_bytes_max:
            return memoryview(await self._remote.get(key))
        self.disk_bytes += needed
        try:
            for doomed in self._make_room():
                await self._remove(doomed)
            copy = await self._copy(key, name, info.size_bytes)
            mapped = await self._doors.compute.run_io(self._files.map, copy.path)
        except (DiskFullError, FileNotFoundError):
            # No room though the limit allows it, or the folder was wiped under us: serve without a copy.
            self.disk_bytes -= needed
            return memoryview(await self._remote.get(key))
        except BaseException:
            self.disk_bytes -= needed
            raise
        self._copies[name] = copy
        self._verified.add(name)
        return mapped

    async def _copy(self, key: str, name: str, size: int) -> _Copy:
        """Fetch the object, some ranges at once, into a file that gets its name when it is whole."""
        temporary = f"{self._root}/{self._doors.random.token()}{_TEMPORARY}"
        run_io, files = self._doors.compute.run_io, self._files
        await run_io(files.make_directory, self._root)
        file = await run_io(files.create, temporary)
        try:
            state = 0
            ranges = [(offset, min(_FETCH_BYTES, size - offset)) for offset in range(0, size, _FETCH_BYTES)]
            for start in range(0, len(ranges), _FETCHES_AT_ONCE):
                some = ranges[start : start + _FETCHES_AT_ONCE]
                pieces = await asyncio.gather(*(self._remote.get_range(key, *one) for one in some))
                for (offset, length), piece in zip(some, pieces, strict=True):
                    if len(piece) != length:
                        raise StorageError(f"object {key}: {len(piece)} of {length} bytes at {offset} came")
                    state = await run_io(crc32, piece, state)
                    await run_io(file.append, piece)
            file.close()
            path = f"{self._root}/{name}-{size}-{state:08x}.copy"
            await run_io(files.rename, temporary, path)
            return _Copy(path, size, state)
        except BaseException:
            file.close()
            files.remove(temporary)
            raise

    # --- copies -----------------------------------------------------------------------------------------------------
    async def _map_copy(self, name: str) -> memoryview | None:
        """The copy, verified once per process; None when it is damaged or gone, which forgets it."""
        self._copies.move_to_end(name)
        copy = self._copies[name]
        try:
            mapped = await self._doors.compute.run_io(self._files.map, copy.path)
            if name not in self._verified and not await self._doors.compute.run_io(_is_whole, mapped, copy):
                raise FileNotFoundError
        except FileNotFoundError:
            await self._drop(name)
            return None
        self._verified.add(name)
        return mapped

    def _make_room(self) -> Iterator[str]:
        """Paths of copies to remove, oldest first, until the limit holds; forgets them."""
        while self._copies and self.disk_bytes > self._limits.disk_bytes_max:
            name, copy = self._copies.popitem(last=False)
            self.disk_bytes -= copy.size_bytes
            self._verified.discard(name)
            yield copy.path

    async def _drop(self, name: str) -> None:
        copy = self._copies.pop(name, None)
        if copy is not None:
            self.disk_bytes -= copy.size_bytes
            self._verified.discard(name)
            await self._remove(copy.path)

    async def _remove(self, path: str) -> None:
        await self._doors.compute.run_io(self._files.remove, path)

    # --- small objects ----------------------------------------------------------------------------------------------
    def _keep_small(self, key: str, data: bytes) -> bytes:
        self._forget_small(key)
        self._small[key] = data
        self._small_bytes += len(data)
        while self._small_bytes > self._limits.memory_bytes_max:
            self._small_bytes -= len(self._small.popitem(last=False)[1])
        return data

    def _forget_small(self, key: str) -> None:
        self._small_bytes -= len(self._small.pop(key, b""))


def _name(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:40]


def _is_whole(mapped: memoryview, copy: _Copy) -> bool:
    """Whether the bytes are those that were fetched. Blocking; reads them through."""
    state = 0
    for start in range(0, len(mapped), _CHECK_BYTES):
        state = crc32(mapped[start : start + _CHECK_BYTES], state)
    return len(mapped) == copy.size_bytes and state == copy.checksum


def _retrieve(fetched: asyncio.Future[memoryview]) -> None:
    """Look at an outcome whose waiters may be gone, lest the loop report it as never seen."""
    if not fetched.cancelled():
        fetched.exception()


async def open_cache(
    doors: Doors, remote: ObjectStore, root: str, limits: CacheLimits | None = None
) -> CachedObjectStore:
    """The store `remote` behind the folder `root` (absolute), which one process uses at a time."""
    store = CachedObjectStore(doors, remote, root, limits or CacheLimits())
    await doors.compute.run_io(store.prepare)
    return store
