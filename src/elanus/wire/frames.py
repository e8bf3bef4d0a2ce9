"""A connection that carries frames both ways: numbered messages of any size, and a sign of life now and then.

A frame is a head of 15 bytes (length of the body, kind, method, number; little-endian) and its body. Small frames are
taken from a buffer that the socket is read into; the body of a large one is read straight into memory of its own.

Whoever connects is a stranger first. A stranger's frames are small ones, and one that is not trusted within
`SILENT_MAX` intervals is let go, so that what has lost its way here holds neither memory nor a connection for long.

Both sides send a ping when an interval has passed, whatever else they send; who hears nothing for `SILENT_MAX` of its
own intervals breaks the connection. So a stopped process, or a way that swallows everything, is found out, and a loop
that was busy for a while is not: intervals are counted, not time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import IntEnum
from struct import Struct
from typing import Final, cast

from elanus.base.doors import Doors, Job
from elanus.base.limits import INTERNAL_MESSAGE_BYTES_MAX, KIB, MIB

HEAD: Final = Struct("<IBHQ")
SCRATCH_BYTES: Final = 64 * KIB
JOINED_BYTES_MAX: Final = 16 * KIB
"""Up to this size a body is joined to its head: one piece is cheaper to send than two."""
WAITING_BYTES_MAX: Final = 4 * MIB
"""Of what waits to be sent; above it `room` waits."""
SILENT_MAX: Final = 4
STRANGE_BYTES_MAX: Final = 32 * KIB
"""Of a stranger's frame."""

Body = bytes | memoryview


class Kind(IntEnum):
    """What a frame is."""

    PING = 0
    HELLO = 1
    CALL = 2
    REPLY = 3
    CANCEL = 4
    LEAVING = 5


class Connection(asyncio.BufferedProtocol):
    """See the module's head. `take(kind, method, number, body)` gets every frame but pings; `lost` is called once."""

    def __init__(
        self,
        doors: Doors,
        interval_s: float,
        take: Callable[[Connection, Kind, int, int, Body], None],
        lost: Callable[[Connection], None],
    ) -> None:
        self._doors = doors
        self._interval_s = interval_s
        self._take = take
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._scratch = memoryview(bytearray(SCRATCH_BYTES))
        self._filled = 0
        self._head: tuple[int, int, int, int] = (0, 0, 0, 0)
        self._body: memoryview | None = None
        self._heard = False
        self._trusted = False
        self._room = asyncio.Event()
        self._room.set()
        self._closed = asyncio.Event()
        self._keeping: Job | None = None

    # --- sending ----------------------------------------------------------------------------------------------------
    @property
    def is_open(self) -> bool:
        """Whether frames can still be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, kind: Kind, number: int, body: Body = b"", method: int = 0) -> None:
        """Hand a frame over; what becomes of it nobody says. No effect on a closed connection."""
        if self._transport is None or self._transport.is_closing():
            return
        head = HEAD.pack(len(body), kind, method, number)
        if len(body) <= JOINED_BYTES_MAX:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))

    def trust(self) -> None:
        """The peer has said who it is: take frames of any size from now on."""
        self._trusted = True

    async def room(self) -> None:
        """Wait while too much waits to be sent."""
        if not self._room.is_set():
            await self._room.wait()

    def close(self) -> None:
        """Send what was handed over, then end."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End at once."""
        if self._transport is not None:
            self._transport.abort()

    async def wait_closed(self) -> None:
        """Return when the connection has ended."""
        await self._closed.wait()

    # --- asyncio.BufferedProtocol -----------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WAITING_BYTES_MAX)
        self._keeping = self._doors.tasks.spawn(self._keep(), name="keep a connection alive")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._closed.set()
        self._room.set()
        if self._keeping is not None:
            self._keeping.cancel()
        self._lost(self)

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def get_buffer(self, sizehint: int) -> memoryview:
        return (self._scratch if self._body is None else self._body)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._heard = True
        self._filled += nbytes
        if self._body is None:
            self._take_frames()
        elif self._filled == len(self._body):
            body, self._body, self._filled = self._body, None, 0
            self._deliver(body.toreadonly())

    def _take_frames(self) -> None:
        """Deliver the whole frames in the scratch buffer; what is left of one begins it anew, or a body of its own."""
        scratch, start, end = self._scratch, 0, self._filled
        while end - start >= HEAD.size:
            self._head = HEAD.unpack_from(scratch, start)
            length = self._head[0]
            if length > (INTERNAL_MESSAGE_BYTES_MAX if self._trusted else STRANGE_BYTES_MAX):
                self.abort()
                return
            body_at = start + HEAD.size
            if HEAD.size + length <= SCRATCH_BYTES:
                if end - body_at < length:
                    break
                start = body_at + length
                self._deliver(bytes(scratch[body_at:start]))
                continue
            body = memoryview(bytearray(length))
            self._filled = end - body_at
            body[: self._filled] = scratch[body_at:end]
            self._body = body
            return
        left = end - start
        if start:
            scratch[:left] = bytes(scratch[start:end])
        self._filled = left

    def _deliver(self, body: Body) -> None:
        _, kind, method, number = self._head
        if kind == Kind.PING or not self.is_open:
            return
        try:
            known = Kind(kind)
        except ValueError:
            self.abort()
            return
        self._take(self, known, method, number, body)

    # --- signs of life ----------------------------------------------------------------------------------------------
    async def _keep(self) -> None:
        silent = 0
        while True:
            await self._doors.clock.sleep(self._interval_s)
            silent = 0 if self._heard and self._trusted else silent + 1
            self._heard = False
            if silent >= SILENT_MAX:
                self.abort()
                return
            self.send(Kind.PING, 0)
