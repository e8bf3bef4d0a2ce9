"""The ObjectStore that forgets everything with its process: for tests and the simulator."""

from __future__ import annotations

from elanus.objects.store import Data, ObjectExistsError, ObjectInfo, ObjectNotFoundError, buffers, check_key


class MemoryObjectStore:
    """Objects in a dict."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}

    async def put(self, key: str, data: Data) -> None:
        """See ObjectStore."""
        check_key(key)
        content = b"".join(buffers(data))
        if self._objects.setdefault(key, content) != content:
            raise ObjectExistsError(f"object {key} exists with other bytes")

    async def get(self, key: str) -> bytes:
        """See ObjectStore."""
        check_key(key)
        if key not in self._objects:
            raise ObjectNotFoundError(f"object {key} not found")
        return self._objects[key]

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See ObjectStore."""
        return (await self.get(key))[offset : offset + length]

    async def list(self, prefix: str) -> list[str]:
        """See ObjectStore."""
        return sorted(key for key in self._objects if key.startswith(prefix))

    async def delete(self, key: str) -> None:
        """See ObjectStore."""
        check_key(key)
        self._objects.pop(key, None)

    async def stat(self, key: str) -> ObjectInfo | None:
        """See ObjectStore."""
        check_key(key)
        return ObjectInfo(key, len(self._objects[key])) if key in self._objects else None

    async def map(self, key: str) -> memoryview:
        """See ObjectStore."""
        return memoryview(await self.get(key))

    def local_path(self, key: str) -> str | None:
        """See ObjectStore."""
        check_key(key)
        return None
