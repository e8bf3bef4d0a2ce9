"""Results too large for one reply travel through the object store.

A role that answers a read with more than a reply may hold writes the result as an object and replies with its name; who
asked reads the object and deletes it. Neither role knows: both sides stand at the border, around the transport.

A caller may die, or give up, between the two. So the name says until when the object is kept, and whoever leads deletes
what has expired, by the name alone: nothing else ever refers to it. Clocks that differ, or a caller that slept, meet an
object that is gone: the reply counts as lost, and a read is simply asked again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

import numpy as np

from elanus.base.doors import Doors
from elanus.base.errors import ReplyLostError, StorageError, UnavailableError
from elanus.model.columns import Column
from elanus.model.reads import Found, Hits
from elanus.model.segment import FileRef
from elanus.nodes.codec import decode, encode, methods
from elanus.nodes.contracts import Query, Streaming
from elanus.nodes.transport import Transport
from elanus.objects import paths
from elanus.objects.checksums import read_verified, write_file
from elanus.objects.store import ObjectNotFoundError, ObjectStore

T = TypeVar("T")
R = TypeVar("R", Hits, Found)

SPILLING: Final[tuple[type, ...]] = (Streaming, Query)
"""The roles that answer reads to other processes."""
SPILLED_CALLS: Final = ("search", "query")


@dataclass(frozen=True, slots=True)
class Spills:
    """`reply_bytes_max`: what a result may hold that is sent as it is. `ttl_s`: how long one is kept for its reader."""

    doors: Doors
    objects: ObjectStore
    reply_bytes_max: int
    ttl_s: float

    async def sent(self, result: R) -> R:
        """The result, or one that only says where it is. UnavailableError when it cannot be stored now."""
        if result.nbytes <= self.reply_bytes_max:
            return result
        data = await self.doors.compute.run_io(encode, result)
        expires_ms = self.doors.clock.now_ms() + int(1000 * self.ttl_s)
        key = paths.spill(expires_ms, self.doors.random.token())
        try:
            return _replaced(result, await write_file(self.doors, self.objects, key, data))
        except StorageError as error:
            raise UnavailableError(f"a result of {len(data)} bytes could not be spilled: {error.message}") from error

    async def received(self, result: R) -> R:
        """The whole result. ReplyLostError when it is gone or cannot be read now."""
        if result.spilled is None:
            return result
        try:
            data = await read_verified(self.doors, self.objects, result.spilled)
        except (ObjectNotFoundError, StorageError) as error:
            raise ReplyLostError(f"a spilled result was not to be had: {error.message}") from error
        self.doors.tasks.spawn(self._forget(result.spilled), name="forget spill")
        return await self.doors.compute.run_io(decode, data, type(result))

    async def _forget(self, spilled: FileRef) -> None:
        try:
            await self.objects.delete(spilled.key)
        except StorageError:
            return  # It expires.


async def collect_expired(doors: Doors, objects: ObjectStore) -> None:
    """Delete results that nobody has come for in time."""
    for key in await objects.list(paths.SPILL_PREFIX):
        if paths.parse_spill(key) < doors.clock.now_ms():
            await objects.delete(key)


def _replaced(result: R, spilled: FileRef) -> R:
    """A result of the same kind that holds nothing but the name of the object."""
    if isinstance(result, Found):
        return Found(row_count=result.row_count, spilled=spilled)
    nothing = np.empty(0, np.int64)
    return Hits(counts=nothing, keys=Column(nothing), scores=np.empty(0, np.float32), spilled=spilled)


class SpillingTransport:
    """`Transport` through which large results of reads are spilled and fetched."""

    def __init__(self, transport: Transport, spills: Spills) -> None:
        self._transport = transport
        self._spills = spills

    async def serve(self, offered: Mapping[type, object]) -> str:
        """See Transport."""
        sent = self._spills.sent
        return await self._transport.serve({kind: self._around(role, kind, sent) for kind, role in offered.items()})

    def connect(self, address: str, protocol: type[T]) -> T:
        """See Transport."""
        return self._around(self._transport.connect(address, protocol), protocol, self._spills.received)

    async def close(self) -> None:
        """See Transport."""
        await self._transport.close()

    def _around(self, role: Any, protocol: type[T], carry: Callable[[Any], Awaitable[Any]]) -> T:
        if protocol not in SPILLING:
            return cast("T", role)
        return cast("T", _Around(role, protocol, carry))


class _Around:
    """A role whose results of reads are carried; offers exactly the protocol's calls."""

    def __init__(self, role: Any, protocol: type, carry: Callable[[Any], Awaitable[Any]]) -> None:
        for name in methods(protocol):
            call = getattr(role, name)
            setattr(self, name, _carried(call, carry) if name in SPILLED_CALLS else call)


def _carried(call: Callable[[Any], Awaitable[Any]], carry: Callable[[Any], Awaitable[Any]]) -> Callable[..., Any]:
    async def carried(read: Any) -> Any:
        return await carry(await call(read))

    return carried
