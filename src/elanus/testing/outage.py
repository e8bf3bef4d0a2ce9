"""Faults between a real client and a real server: a TCP front that delays, breaks and loses, by chance from a seed.

Any SDK can be pointed at it. What a client then meets is what networks and restarts do to it: calls that take long,
connections that break before the request was delivered, replies that are lost though the call was carried out. Which
chunk of bytes meets what follows from the seed and the order of chunks, so a run is similar each time, not identical:
real time has no seed.
"""

from __future__ import annotations

import asyncio
import random
from typing import Final

import msgspec

CHUNK_BYTES: Final = 64 * 1024


class Outage(msgspec.Struct, frozen=True, kw_only=True):
    """How likely a chunk of bytes (about one message) meets each fault; all 0: none. `delay_s` is the longest delay.
    `restart_every_s`: the server is stopped and started again about so often; 0: never."""

    seed: int = 0
    delayed: float = 0.0
    delay_s: float = 0.2
    refused: float = 0.0
    reply_lost: float = 0.0
    restart_every_s: float = 0.0


CALM: Final = Outage()


class Front:
    """Listens on a port of its own and passes everything on to the server behind, or does not."""

    def __init__(self) -> None:
        self.behind: tuple[str, int] | None = None
        self.address = ""
        self._outage = CALM
        self._chance = random.Random(0)
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.StreamWriter, None] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}

    async def start(self, host: str = "127.0.0.1") -> None:
        """Take a free port."""
        self._server = await asyncio.start_server(self._accept, host, 0)
        self.address = "{}:{}".format(*self._server.sockets[0].getsockname()[:2])

    def meet(self, outage: Outage) -> None:
        """From now on these faults."""
        self._outage = outage
        self._chance = random.Random(outage.seed)

    def cut(self) -> None:
        """Break every connection now."""
        for writer in tuple(self._open):
            writer.transport.abort()

    async def close(self) -> None:
        """Stop listening and break every connection."""
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.behind is None:
            writer.transport.abort()
            return
        try:
            there_reader, there_writer = await asyncio.open_connection(*self.behind)
        except OSError:
            writer.transport.abort()
            return
        self._open[writer] = self._open[there_writer] = None
        passing = [
            asyncio.create_task(self._pass(reader, there_writer, writer, is_reply=False)),
            asyncio.create_task(self._pass(there_reader, writer, there_writer, is_reply=True)),
        ]
        for task in passing:
            self._tasks[task] = None
            task.add_done_callback(lambda ended: self._tasks.pop(ended, None))

    async def _pass(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, back: asyncio.StreamWriter, *, is_reply: bool
    ) -> None:
        try:
            while chunk := await source.read(CHUNK_BYTES):
                if await self._breaks(is_reply):
                    break
                target.write(chunk)
                await target.drain()
        except OSError:
            pass
        finally:
            for writer in (target, back):
                self._open.pop(writer, None)
                writer.transport.abort()

    async def _breaks(self, is_reply: bool) -> bool:
        """Whether the connection breaks here; a delay on the way."""
        outage, chance = self._outage, self._chance
        if outage.delayed and chance.random() < outage.delayed:
            await asyncio.sleep(chance.random() * outage.delay_s)
        likely = outage.reply_lost if is_reply else outage.refused
        return bool(likely) and chance.random() < likely
