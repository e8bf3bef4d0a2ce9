"""The server process behind `elanus.connect`: one folder, a private socket, gone when nobody needs it.

Started by `app.embedded` as `main(data, runtime)`, detached from the client that happened to be first. Its runtime
folder is private to the user and holds

    LOCK   held for the life of the helper: at most one per folder
    s      the socket that Milvus clients speak to
    p      presence: every client keeps one connection open here for its life
    log    what the helper had to say since it began to serve

Until it serves, standard error is a pipe to the client that started it, and one line on it is the verdict: `READY`,
`BUSY` (another helper has the folder, or is about to) or `REFUSED` with the reason.

Race stories
1. Two clients start two helpers. LOCK decides; the loser says `busy` and its client joins the winner.
2. A client connects while the helper leaves. The listener is closed before anything else, and a client is counted
   only once it has been greeted; one that was accepted by the kernel alone reads an end of file and starts anew.
3. The old helper was killed and left its sockets behind. They are removed under LOCK, never before it is held.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator

from elanus.app import settings
from elanus.app.embedded import BUSY, GREETING, PRESENCE_SOCKET, READY, REFUSED, SERVER_SOCKET
from elanus.app.serve import Companion, Running, leave, run
from elanus.app.settings import Settings
from elanus.app.standalone import Standalone
from elanus.base.errors import ElanusError, InUseError
from elanus.base.lock import FolderLock

LOG_FILE = "log"


def main(data: str, runtime: str) -> None:
    """Serve the folder `data` from the runtime folder until idle. Never returns anything; speaks through `_say`."""
    os.umask(0o077)
    try:
        lock = FolderLock.acquire(runtime)
    except InUseError:
        _say(BUSY)
        return
    try:
        _run(data, runtime)
    except ElanusError as error:
        _say(f"{REFUSED}{error.message}")
    finally:
        lock.release()
    leave(0)


def _run(data: str, runtime: str) -> None:
    chosen = settings.load(
        environment=os.environ,
        flags={
            "storage.data": data,
            "server.unix_path": f"{runtime}/{SERVER_SOCKET}",
            "server.metrics_port": -1,
        },
    )
    presence = Presence(chosen, runtime)
    run(Standalone.start, chosen, Companion(presence.announce, presence.until_idle))


class Presence:
    """Counts clients by the connections they hold open, and ends when there were none for `embedded.idle_exit_s`."""

    def __init__(self, chosen: Settings, runtime: str) -> None:
        self._idle_exit_s = chosen.embedded.idle_exit_s
        self._runtime = runtime
        self._path = f"{runtime}/{PRESENCE_SOCKET}"
        self._clients = 0
        self._idle = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def announce(self, _: Running) -> None:
        """Nothing yet: the verdict is spoken when clients can be counted."""

    async def until_idle(self) -> None:
        """Serve presence until idle; afterwards no client can be greeted."""
        async with self._listening():
            self._arm()
            _say(READY)
            _redirect_to_log(f"{self._runtime}/{LOG_FILE}")
            await self._idle.wait()

    @contextlib.asynccontextmanager
    async def _listening(self) -> AsyncIterator[None]:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        server = await asyncio.start_unix_server(self._client, self._path)
        try:
            yield
        finally:
            server.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._idle.is_set():
            writer.close()
            return
        self._clients += 1
        self._disarm()
        try:
            writer.write(GREETING)
            with contextlib.suppress(ConnectionError):
                while await reader.read(64):
                    pass
        finally:
            self._clients -= 1
            if not self._clients:
                self._arm()
            writer.close()

    def _arm(self) -> None:
        self._disarm()
        self._timer = asyncio.get_running_loop().call_later(self._idle_exit_s, self._idle.set)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _say(verdict: str) -> None:
    """The first line to the client that started us; nobody listening is fine."""
    with contextlib.suppress(OSError):
        os.write(sys.stderr.fileno(), (" ".join(verdict.split()) + "\n").encode())


def _redirect_to_log(path: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    os.dup2(descriptor, sys.stderr.fileno())
    os.close(descriptor)
