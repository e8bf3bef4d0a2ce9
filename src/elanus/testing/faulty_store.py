"""An object store as a network shows it: slow, forgetful of replies, late, and twice.

What it does to calls, by chance: a call waits; a put is executed and its reply lost; a put fails and is executed later,
when nobody waits for it any more; a put is executed now and once more later; a read fails. Names are still taken once.
"""

from __future__ import annotations

from elanus.base.doors import Doors
from elanus.base.errors import StorageError
from elanus.objects.memory import MemoryObjectStore
from elanus.objects.store import Data, ObjectExistsError, ObjectInfo, buffers

_Keys = list[str]
"""Inside the class `list` is a verb."""


class FaultyObjectStore:
    """`ObjectStore` of one process on a shared `MemoryObjectStore`; `trouble` is the share of calls that meet some."""

    def __init__(self, doors: Doors, shared: MemoryObjectStore, trouble: float, delay_s: float = 0.02) -> None:
        self._doors = doors
        self._shared = shared
        self._trouble = trouble
        self._delay_s = delay_s
        self.stopped = False
        """No call is answered, and none executed, until this is False again."""

    async def put(self, key: str, data: Data) -> None:
        """See ObjectStore."""
        content = b"".join(buffers(data))
        await self._travel()
        chance = self._doors.random.uniform()
        if chance < self._trouble / 4:
            raise StorageError("the request was lost")
        if chance < self._trouble / 2:
            self._later(key, content)
            raise StorageError("the request is late")
        if chance < self._trouble * 3 / 4:
            self._later(key, content)
        await self._shared.put(key, content)
        await self._travel()
        if chance > 1 - self._trouble / 2:
            raise StorageError("the reply was lost")

    def _later(self, key: str, content: bytes) -> None:
        async def execute() -> None:
            await self._doors.clock.sleep(self._doors.random.uniform() * 40 * self._delay_s)
            try:
                await self._shared.put(key, content)
            except ObjectExistsError:
                return

        self._doors.tasks.spawn(execute(), name=f"late put {key}")

    async def get(self, key: str) -> bytes:
        """See ObjectStore."""
        await self._ask()
        return await self._shared.get(key)

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See ObjectStore."""
        await self._ask()
        return await self._shared.get_range(key, offset, length)

    async def list(self, prefix: str) -> _Keys:
        """See ObjectStore."""
        await self._ask()
        return await self._shared.list(prefix)

    async def delete(self, key: str) -> None:
        """See ObjectStore."""
        await self._ask()
        await self._shared.delete(key)

    async def stat(self, key: str) -> ObjectInfo | None:
        """See ObjectStore."""
        await self._ask()
        return await self._shared.stat(key)

    async def map(self, key: str) -> memoryview:
        """See ObjectStore."""
        return memoryview(await self.get(key))

    def local_path(self, key: str) -> str | None:
        """See ObjectStore."""
        return self._shared.local_path(key)

    async def _ask(self) -> None:
        await self._travel()
        if self._doors.random.uniform() < self._trouble / 8:
            raise StorageError("the request or its reply was lost")

    async def _travel(self) -> None:
        await self._doors.clock.sleep(self._delay_s * self._doors.random.uniform())
        while self.stopped:
            await self._doors.clock.sleep(self._delay_s)
