"""The ObjectStore port: immutable objects under names that are taken once.

Invariants of every implementation, checked by `testing.conformance_objects`:

- A key, once put, has one content until it is deleted; there is no overwriting put. Of several writers of different
  bytes under one key exactly one succeeds.
- `put` returns when object and name are durable; no reader ever sees a part of an object.
- A `get`, `stat` or `list` begun after a `put` or `delete` has returned sees its effect.

A key is components joined by '/'. The last one names the object, the others are folders. Components are made of
letters, digits and `._-`; folders have no dot, and no component starts with one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final, Protocol

import msgspec

from elanus.base.errors import Action, ElanusError, InvariantError

Buffer = bytes | bytearray | memoryview
Data = Buffer | Sequence[Buffer]
"""One buffer, or several that are stored one after another without joining them in memory."""

KEY_LENGTH_MAX: Final = 1024
KEYS_KEPT_MAX: Final = 4096
"""Keys that are known to be well-formed."""
_KEY: Final = re.compile(r"(?:[A-Za-z0-9_-]+/)*[A-Za-z0-9_-][A-Za-z0-9._-]*")


class ObjectNotFoundError(ElanusError):
    """No object has that key. It never had, or it was deleted: a reader fetches the newest view and tries again."""

    code = 1000
    action = Action.ELSEWHERE


class ObjectExistsError(ElanusError):
    """The key is taken by other bytes; nothing was written. Somebody else was first."""

    code = 1001
    action = Action.FENCED


class ObjectInfo(msgspec.Struct, frozen=True):
    """Key and length in bytes."""

    key: str
    size_bytes: int


class ObjectStore(Protocol):
    """See the module's head. All verbs may raise StorageError; a `put` that does may or may not have happened."""

    async def put(self, key: str, data: Data) -> None:
        """Store `data` under a free key. On return object and name survive power loss.

        The same bytes under the key already: success, so that a put may be repeated. Other bytes: ObjectExistsError.
        DiskFullError: nothing was written.
        """
        ...

    async def get(self, key: str) -> bytes:
        """The whole object. ObjectNotFoundError."""
        ...

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        """Bytes [offset, offset + length), shorter at the object's end. ObjectNotFoundError."""
        ...

    async def list(self, prefix: str) -> list[str]:
        """All keys that start with `prefix`, sorted."""
        ...

    async def delete(self, key: str) -> None:
        """Remove the object; a missing one is fine. Power loss may bring it back."""
        ...

    async def stat(self, key: str) -> ObjectInfo | None:
        """Key and length; None when there is no such object."""
        ...

    async def map(self, key: str) -> memoryview:
        """The whole object as read-only memory, of a local file where there is one; lives as long as it is referred to,
        also after `delete`. ObjectNotFoundError."""
        ...

    def local_path(self, key: str) -> str | None:
        """Path of the local file that holds exactly the object, for libraries that map files themselves; None when the
        object is not a local file. The file is read only. Says nothing about whether the object exists."""
        ...


def check_key(key: str) -> None:
    """A malformed key is a fault of ours."""
    if not _is_key(key):
        raise InvariantError(f"malformed object key {key!r}")


@lru_cache(maxsize=KEYS_KEPT_MAX)
def _is_key(key: str) -> bool:
    return len(key) <= KEY_LENGTH_MAX and _KEY.fullmatch(key) is not None


def buffers(data: Data) -> Iterator[memoryview]:
    """The bytes of `data`, buffer by buffer, without copies."""
    for part in (data,) if isinstance(data, bytes | bytearray | memoryview) else data:
        view = memoryview(part)
        yield view if view.format == "B" and view.ndim == 1 else view.cast("B")


def size_of(data: Data) -> int:
    """Length in bytes of all buffers together."""
    if isinstance(data, bytes):
        return len(data)
    return sum(view.nbytes for view in buffers(data))
