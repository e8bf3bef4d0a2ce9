"""A simulated S3: one bucket that all hosts share, which answers 200, 404, 412, 409 and 503, late or not at all.

The bucket itself is correct (a put under a taken key is refused, atomically); what a client meets on the way is not. A
`BucketClient` behaves as a careful S3 client must: it repeats a put that was refused for the moment or whose answer was
lost, and on 412 compares the bytes, since the first attempt may have landed. It gives up with StorageError, after which
the put may still land: a request can be on its way long after its sender has stopped waiting.

Lists may lag behind, as those of some stores do: correctness must never rest on a list.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections import deque
from collections.abc import Callable
from typing import Final

from elanus.base.errors import StorageError
from elanus.objects.memory import MemoryObjectStore
from elanus.objects.store import Data, ObjectExistsError, ObjectInfo, buffers
from elanus.testing.history import ObjectHistory
from elanus.testing.sim.hosts import Host
from elanus.testing.sim.loop import current_life, nap
from elanus.testing.sim.trace import Trace

ATTEMPTS_MAX: Final = 3
GET_S: Final = (0.0005, 0.002)
PUT_S: Final = (0.002, 0.008)
LATE_S_MAX: Final = 4.0
LIST_LAG_S: Final = 2.0
_CHANGES_KEPT_MAX: Final = 4096


class BucketFaults:
    """How likely the bucket misbehaves towards one host now."""

    def __init__(self) -> None:
        self.calm()

    def calm(self) -> None:
        """It behaves."""
        self.unavailable = 0.0
        """503, nothing done."""
        self.conflict = 0.0
        """409, nothing done: somebody else is writing this key."""
        self.lost_reply = 0.0
        """Done, and nobody told; the repetition meets 412."""
        self.late = 0.0
        """Done some time after the client has given up."""
        self.stale_list = 0.0
        self.slow_s = 0.0


class Bucket:
    """The objects, and what was lately added and removed."""

    def __init__(self, chance: random.Random, trace: Trace, history: ObjectHistory) -> None:
        self.store = MemoryObjectStore()
        self.history = history
        self.chance = chance
        self.trace = trace
        self._loop = asyncio.get_running_loop()
        self._changes: deque[tuple[float, str, bool]] = deque(maxlen=_CHANGES_KEPT_MAX)
        self._contents: dict[str, bytes] = {}
        self.seen_deletes: list[Callable[[str, str], None]] = []
        """Told of each deletion: the key, and who did it."""
        self._faults: dict[str, BucketFaults] = {}

    def faults(self, name: str) -> BucketFaults:
        """What this host meets."""
        return self._faults.setdefault(name, BucketFaults())

    def calm(self) -> None:
        """Behave towards all."""
        for faults in self._faults.values():
            faults.calm()

    async def put(self, key: str, content: bytes) -> None:
        """Atomic; ObjectExistsError is 412."""
        known = await self.store.stat(key)
        await self.store.put(key, content)
        if known is None:
            self.history.note(key, content)
            self._contents[key] = content
            self._changes.append((self._loop.time(), key, True))

    async def delete(self, key: str, by: str) -> None:
        """Atomic."""
        if await self.store.stat(key) is not None:
            self.history.deleted.add(key)
            await self.store.delete(key)
            del self._contents[key]
            self._changes.append((self._loop.time(), key, False))
            for tell in self.seen_deletes:
                tell(key, by)

    def look(self, key: str) -> bytes | None:
        """What stands under a key, for who looks on from outside; None where nothing does."""
        return self._contents.get(key)

    async def list(self, prefix: str, lag_s: float) -> list[str]:
        """The keys as they were `lag_s` ago."""
        keys = set(await self.store.list(prefix))
        for at_s, key, added in reversed(self._changes):
            if at_s < self._loop.time() - lag_s:
                break
            if key.startswith(prefix):
                (keys.discard if added else keys.add)(key)
        return sorted(keys)

    def put_later(self, key: str, content: bytes) -> None:
        """A put that lands when nobody waits for it any more."""
        nobody = contextvars.Context()
        self._loop.call_later(self.chance.random() * LATE_S_MAX, self._land, key, content, context=nobody)

    def _land(self, key: str, content: bytes) -> None:
        self.trace.note("bucket", "late put", key)
        landing = self._loop.create_task(self._land_now(key, content))
        landing.add_done_callback(lambda task: task.exception())

    async def _land_now(self, key: str, content: bytes) -> None:
        try:
            await self.put(key, content)
        except ObjectExistsError:
            self.trace.note("bucket", "412", key)


class BucketClient:
    """`store.ObjectStore` of one process."""

    def __init__(self, bucket: Bucket, host: Host) -> None:
        self._bucket = bucket
        self._host = host
        self._faults = bucket.faults(host.name)

    async def put(self, key: str, data: Data) -> None:
        content = b"".join(buffers(data))
        for _ in range(ATTEMPTS_MAX):
            if await self._put_once(key, content):
                return
            await self._travel((0.01, 0.05))
        raise StorageError(f"put {key}: no answer from the bucket")

    async def _put_once(self, key: str, content: bytes) -> bool:
        """Whether it is known to be there; ObjectExistsError when other bytes are."""
        faults = self._faults
        await self._travel(PUT_S)
        if self._strikes("object_503", faults.unavailable, key) or self._strikes("object_409", faults.conflict, key):
            return False
        if self._strikes("object_late", faults.late, key):
            self._bucket.put_later(key, content)
            raise StorageError(f"put {key}: no answer from the bucket")
        await self._bucket.put(key, content)
        if self._strikes("object_412", faults.lost_reply, key):
            return False
        await self._travel(GET_S)
        return True

    async def get(self, key: str) -> bytes:
        await self._ask(key)
        return await self._bucket.store.get(key)

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        await self._ask(key)
        return await self._bucket.store.get_range(key, offset, length)

    async def list(self, prefix: str) -> list[str]:
        await self._ask(prefix)
        stale = self._strikes("object_stale", self._faults.stale_list, prefix)
        return await self._bucket.list(prefix, LIST_LAG_S if stale else 0.0)

    async def delete(self, key: str) -> None:
        await self._ask(key)
        await self._bucket.delete(key, self._host.name)
        self._bucket.trace.note(self._host.name, "delete", key)

    async def stat(self, key: str) -> ObjectInfo | None:
        await self._ask(key)
        return await self._bucket.store.stat(key)

    async def map(self, key: str) -> memoryview:
        return memoryview(await self.get(key))

    def local_path(self, key: str) -> str | None:
        return None

    async def _ask(self, key: str) -> None:
        """There and back; 503 is repeated a few times."""
        for _ in range(ATTEMPTS_MAX):
            await self._travel(GET_S)
            if not self._strikes("object_503", self._faults.unavailable, key):
                return
        raise StorageError(f"{key}: no answer from the bucket")

    async def _travel(self, between_s: tuple[float, float]) -> None:
        chance, least = self._bucket.chance, between_s[0]
        await nap(least + chance.random() * (between_s[1] - least + self._faults.slow_s))
        life = current_life()
        if life is not None:
            life.check()

    def _strikes(self, fault: str, likely: float, key: str) -> bool:
        if likely and self._bucket.chance.random() < likely:
            self._bucket.trace.strike(fault, self._host.role, self._host.name, key)
            return True
        return False
