"""A process that keeps real servers for tests: started once, then a fresh store answers in a few milliseconds.

    python -m elanus.testing.servers

reads one JSON command per line from standard input and answers each with one line: `start` {folder} → {address};
`meet` {address, outage}; `restart` {address}; `stop` {address}. It ends with its input.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import msgspec

from elanus.app.settings import LoggingSettings, ServerSettings, Settings, StorageSettings
from elanus.app.standalone import Standalone
from elanus.base.errors import ElanusError
from elanus.testing.outage import CALM, Front, Outage


class Command(msgspec.Struct, frozen=True):
    """One line of input."""

    do: str
    folder: str = ""
    address: str = ""
    outage: Outage = CALM


class Answer(msgspec.Struct, frozen=True):
    """One line of output; `error` is empty when it was done."""

    address: str = ""
    error: str = ""


class Kept:
    """A server on a folder, behind a front whose address outlives restarts."""

    def __init__(self, folder: str) -> None:
        self.front = Front()
        self._settings = Settings(
            server=ServerSettings(host="127.0.0.1", port=0, metrics_port=-1),
            storage=StorageSettings(data=folder),
            logging=LoggingSettings(level="error"),
        )
        self._server: Standalone | None = None
        self._restarting: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()

    async def start(self) -> None:
        """Until it answers."""
        self._server = await Standalone.start(self._settings)
        host, _, port = self._server.address.rpartition(":")
        self.front.behind = (host, int(port))

    async def restart(self) -> None:
        """Stop and start again on what is stored; connections break."""
        async with self._lock:
            await self._stop_server()
            await self.start()

    async def meet(self, outage: Outage) -> None:
        """From now on these faults."""
        self.front.meet(outage)
        if self._restarting is not None:
            self._restarting.cancel()
            self._restarting = None
        if outage.restart_every_s:
            self._restarting = asyncio.create_task(self._restart_for_ever(outage.restart_every_s))

    async def _restart_for_ever(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            await asyncio.shield(self.restart())

    async def _stop_server(self) -> None:
        self.front.behind = None
        self.front.cut()
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(0.0)

    async def stop(self) -> None:
        """End it."""
        await self.meet(CALM)
        async with self._lock:
            await self._stop_server()
            await self.front.close()


class Keeper:
    """All servers of this process."""

    def __init__(self) -> None:
        self._kept: dict[str, Kept] = {}

    async def obey(self, command: Command) -> Answer:
        """Carry a command out."""
        match command.do:
            case "start":
                kept = Kept(command.folder)
                await kept.front.start()
                await kept.start()
                self._kept[kept.front.address] = kept
                return Answer(kept.front.address)
            case "restart":
                await self._kept[command.address].restart()
            case "meet":
                await self._kept[command.address].meet(command.outage)
            case "stop":
                await self._kept.pop(command.address).stop()
            case _:
                return Answer(error=f"unknown command {command.do!r}")
        return Answer(command.address)

    async def close(self) -> None:
        """Stop all."""
        for kept in self._kept.values():
            await kept.stop()


async def main() -> None:
    """Obey until the input ends."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    keeper = Keeper()
    try:
        while line := await reader.readline():
            try:
                answer: Any = await keeper.obey(msgspec.json.decode(line, type=Command))
            except ElanusError as error:
                answer = Answer(error=error.message)
            sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
            sys.stdout.buffer.flush()
    finally:
        transport.close()
        await keeper.close()


if __name__ == "__main__":
    asyncio.run(main())
