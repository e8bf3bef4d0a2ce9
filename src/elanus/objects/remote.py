"""ObjectStores across the network: S3 and what speaks like it, Azure Blob, Google Cloud Storage, through obstore.

Theory. A put is one conditional request, "only if the name is free", of all the bytes. When its reply is lost, or says
that the name is taken, what is stored under the name is read and compared: our bytes mean that an earlier attempt of
ours was the one. So puts are repeated freely, and each call ends in time: an attempt is given up after a time that
grows with its size, and all attempts together after `Patience.calls_s`. A reply of "conflict" with nothing stored comes
of two puts at once: try again.

Every reply is judged in `_judge`: missing, taken, refused for good, or trouble worth a retry.

Requests in flight are bounded by `REQUESTS_MAX`; more wait for a turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, TypeVar

import msgspec

from elanus.base.doors import Doors
from elanus.base.errors import StorageError
from elanus.base.limits import GIB, MIB
from elanus.objects.store import (
    Data,
    ObjectExistsError,
    ObjectInfo,
    ObjectNotFoundError,
    buffers,
    check_key,
    size_of,
)

T = TypeVar("T")

REQUESTS_MAX: Final = 128
PUT_BYTES_MAX: Final = 5 * GIB
"""What S3 takes in one request."""
_COMPARE_BYTES: Final = 4 * MIB
_LIST_BYTES: Final = 64 * MIB
"""A long list takes as much patience as an object of this size."""
_BACKOFF_S: Final = 0.05
_BACKOFF_MAX_S: Final = 2.0
_SCHEMES: Final = ("s3", "az", "gs")

_Keys = list[str]
"""Inside the class `list` is a verb."""


class MissingLibraryError(StorageError):
    """The optional library behind a remote object store is not installed."""


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long to wait for a store."""

    attempt_s: float = 5.0
    bytes_per_s_min: float = 0.5 * MIB
    """An attempt that moves n bytes has n / this more seconds."""
    calls_s: float = 30.0
    """All attempts of one call together; the last one begun is waited for."""


class Location(msgspec.Struct, frozen=True, kw_only=True):
    """Where a store is. `options`, by obstore's names, add to what the usual environment variables say."""

    scheme: str
    bucket: str
    prefix: str = ""
    options: Mapping[str, Any] = {}


class RemoteObjectStore:
    """See the module's head. Made by `open_remote`."""

    def __init__(self, doors: Doors, location: Location, patience: Patience) -> None:
        self._doors = doors
        self._patience = patience
        self._name = f"{location.scheme}://{location.bucket}"
        self._library, self._store = _connect(location)
        self._turns = asyncio.Semaphore(REQUESTS_MAX)

    # --- verbs ------------------------------------------------------------------------------------------------------
    async def put(self, key: str, data: Data) -> None:
        """See ObjectStore."""
        check_key(key)
        size = size_of(data)
        if size > PUT_BYTES_MAX:
            raise StorageError(f"object {key} of {size} bytes; a remote store takes {PUT_BYTES_MAX}")
        parts = list(buffers(data))
        content = parts[0] if len(parts) == 1 else parts

        async def attempt() -> None:
            await self._library.put_async(self._store, key, content, mode="create", use_multipart=False)

        pause_s, deadline_s = _BACKOFF_S, self._doors.clock.monotonic_s() + self._patience.calls_s
        while True:
            try:
                await self._call(key, attempt, size)
                return
            except ObjectExistsError as taken:
                held = await self._holds(key, parts, size)
                if held:
                    return
                if held is not None:
                    raise
                trouble = taken.message
            except ObjectNotFoundError:
                raise StorageError(f"{self._name}: there is no such bucket") from None
            except _Trouble as unknown:
                trouble = unknown.message
            if self._doors.clock.monotonic_s() >= deadline_s:
                raise StorageError(f"{self._name}: object {key} may or may not be stored: {trouble}")
            pause_s = await self._pause(pause_s)

    async def get(self, key: str) -> bytes:
        """See ObjectStore."""

        check_key(key)

        async def attempt() -> bytes:
            found = await self._library.get_async(self._store, key)
            return bytes(await found.bytes_async())

        return await self._repeat(key, attempt)

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See ObjectStore."""

        check_key(key)

        async def attempt() -> bytes:
            return bytes(await self._library.get_range_async(self._store, key, start=offset, length=length))

        if length > 0:
            try:
                return await self._repeat(key, attempt, length)
            except _RangeError:
                pass  # nothing there, or not even the object
        if await self.stat(key) is None:
            raise ObjectNotFoundError(f"object {key} not found")
        return b""

    async def list(self, prefix: str) -> _Keys:
        """See ObjectStore. Costs a request per thousand keys in the prefix's folder."""
        folder = prefix.rpartition("/")[0]

        async def attempt() -> _Keys:
            found = await self._library.list(self._store, folder or None, chunk_size=1000).collect_async()
            return sorted(entry["path"] for entry in found if entry["path"].startswith(prefix))

        return await self._repeat(f"the list of {prefix}", attempt, _LIST_BYTES)

    async def delete(self, key: str) -> None:
        """See ObjectStore."""

        check_key(key)

        async def attempt() -> None:
            await self._library.delete_async(self._store, key)

        try:
            await self._repeat(key, attempt)
        except ObjectNotFoundError:
            return

    async def stat(self, key: str) -> ObjectInfo | None:
        """See ObjectStore."""

        check_key(key)

        async def attempt() -> ObjectInfo:
            return ObjectInfo(key, (await self._library.head_async(self._store, key))["size"])

        try:
            return await self._repeat(key, attempt)
        except ObjectNotFoundError:
            return None

    async def map(self, key: str) -> memoryview:
        """See ObjectStore. In memory: see `objects.cache` for files."""
        return memoryview(await self.get(key))

    def local_path(self, key: str) -> str | None:
        """See ObjectStore."""
        check_key(key)
        return None

    # --- calls ------------------------------------------------------------------------------------------------------
    async def _repeat(self, key: str, attempt: Callable[[], Awaitable[T]], size: int = 0) -> T:
        """A call that changes nothing when done twice. StorageError when the store does not answer in time."""
        pause_s, deadline_s = _BACKOFF_S, self._doors.clock.monotonic_s() + self._patience.calls_s
        while True:
            try:
                return await self._call(key, attempt, size)
            except _Trouble as trouble:
                if self._doors.clock.monotonic_s() >= deadline_s:
                    raise StorageError(trouble.message) from None
            pause_s = await self._pause(pause_s)

    async def _call(self, key: str, attempt: Callable[[], Awaitable[T]], size: int) -> T:
        """One attempt. ObjectNotFoundError, ObjectExistsError, StorageError; `_Trouble`: worth another."""
        limit_s = self._patience.attempt_s + size / self._patience.bytes_per_s_min

        async def run() -> T:
            return await attempt()

        async with self._turns:
            try:
                return await self._doors.tasks.timeout(limit_s, run())
            except FileNotFoundError:
                raise ObjectNotFoundError(f"object {key} not found") from None
            except TimeoutError:
                raise _Trouble(f"{self._name}: no answer for {key} within {limit_s:.0f} s") from None
            except self._library.exceptions.BaseError as error:
                raise self._judge(key, error) from None

    def _judge(self, key: str, error: Exception) -> StorageError | ObjectExistsError:
        kinds = self._library.exceptions
        words = str(error).partition("\n")[0][:300]
        if isinstance(error, kinds.AlreadyExistsError | kinds.PreconditionError):
            return ObjectExistsError(f"object {key} exists")
        if isinstance(error, kinds.PermissionDeniedError | kinds.UnauthenticatedError) or "NoSuchBucket" in str(error):
            return StorageError(f"{self._name} refuses: {words}")
        if isinstance(error, kinds.InvalidPathError | kinds.NotSupportedError):
            return StorageError(f"{self._name}: {words}")
        if " 416 " in words or "StartTooLarge" in str(error):
            return _RangeError(f"object {key} has no such range")
        return _Trouble(f"{self._name}: {words}")

    async def _pause(self, pause_s: float) -> float:
        """Sleep; the next pause."""
        await self._doors.clock.sleep(pause_s * (0.5 + self._doors.random.uniform()))
        return min(2 * pause_s, _BACKOFF_MAX_S)

    async def _holds(self, key: str, parts: Sequence[memoryview], size: int) -> bool | None:
        """Whether the object holds these bytes; None when there is no such object (any more, or yet)."""
        found = await self.stat(key)
        if found is None or found.size_bytes != size:
            return None if found is None else False
        offset = 0
        try:
            for view in parts:
                for start in range(0, view.nbytes, _COMPARE_BYTES):
                    piece = view[start : start + _COMPARE_BYTES]
                    if await self.get_range(key, offset, piece.nbytes) != piece:
                        return False
                    offset += piece.nbytes
        except ObjectNotFoundError:
            return None
        return True


class _Trouble(StorageError):
    """The store or the way to it is in trouble: the call may or may not have been done; try again."""


class _RangeError(StorageError):
    """The range asked for begins at or beyond the object's end."""


async def open_remote(doors: Doors, location: Location, patience: Patience | None = None) -> RemoteObjectStore:
    """Connect. MissingLibraryError; StorageError when scheme or options are wrong. See `objects.probe` for trust."""
    return RemoteObjectStore(doors, location, patience or Patience())


def _connect(location: Location) -> tuple[Any, Any]:
    """obstore and its store; retries and their pauses are ours, so that the simulator's clock could own them."""
    try:
        import obstore
        import obstore.store as stores
    except ImportError:
        raise MissingLibraryError(
            f"{location.scheme}:// needs the library obstore: pip install 'elanus[cluster]'"
        ) from None
    classes = {"s3": stores.S3Store, "az": stores.AzureStore, "gs": stores.GCSStore}
    if location.scheme not in classes:
        raise StorageError(f"no object store is known by {location.scheme}://; there are {', '.join(_SCHEMES)}")
    options = dict(location.options)
    client = {"timeout": timedelta(hours=1), "connect_timeout": timedelta(seconds=3), **options.pop("client", {})}
    try:
        store = classes[location.scheme](
            location.bucket,
            prefix=location.prefix or None,
            client_options=client,
            retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=1)},
            **options,
        )
    except (obstore.exceptions.BaseError, ValueError, TypeError) as error:
        raise StorageError(f"{location.scheme}://{location.bucket}: {error}") from None
    return obstore, store
