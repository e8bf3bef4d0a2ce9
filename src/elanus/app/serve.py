"""Running one server in this process: from taken ports to a clean end.

Owns the order of start and stop and the process's signals; knows the server only by the `Server` protocol, so that the
command line, the embedded helper and tests run whatever server they are given.

Start: the metrics port is bound (a taken one is refused before anything is opened), the server opens its folder and
answers, the probes answer, the caller is told. Stop, on SIGTERM, SIGINT, `until` or a failure: the server drains
for at most `server.stop_grace_s`, closes its files, the probes go last. A stop that takes longer than that and a little
more is cut: the log makes an unclean end safe, and whoever asked for the stop gets it. A second signal cuts at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from elanus.app.health import HealthServer, Probes, bind
from elanus.app.settings import ServerSettings, Settings
from elanus.base.errors import ElanusError, InUseError

try:
    import uvloop
except ImportError:  # Windows has none; asyncio's own loop does the same, more slowly
    uvloop = None

STOP_S_MAX = 9.0
EXIT_FAILED = 1
EXIT_WRONG_SETTINGS = 2  # argparse's own code for wrong flags
EXIT_IN_USE = 3
EXIT_CUT = 70


class Server(Protocol):
    """What is run: one standalone server that already answers."""

    @property
    def address(self) -> str:
        """Where clients connect: `host:port`, or `unix:path`."""
        ...

    def fault(self) -> str:
        """Why it cannot serve now; empty when it can."""
        ...

    def metrics(self) -> bytes:
        """Prometheus text."""
        ...

    async def wait_failed(self) -> None:
        """Wait for a failure that ends the server, and raise it."""
        ...

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, let those under way end for at most `grace_s`, close everything."""
        ...


Start = Callable[[Settings], Awaitable[Server]]


@dataclass(frozen=True)
class Running:
    """A server that answers, as told to the caller."""

    address: str
    metrics_port: int  # -1: off


@dataclass(frozen=True)
class Companion:
    """What the caller does beside the server, while it answers."""

    ready: Callable[[Running], None]  # told once
    until: Callable[[], Coroutine[Any, Any, None]]  # its end ends the server, cleanly


async def forever() -> None:
    """An `until` that leaves the end to signals."""
    await asyncio.Event().wait()


async def until_end_of_input() -> None:
    """An `until` that ends when whoever started the process closes its standard input, or dies."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        while await reader.read(1024):
            pass
    finally:
        transport.close()


def warn_of_open_port(host: str) -> None:
    """Say so when others than this machine can reach the port."""
    if not is_loopback(host):
        sys.stderr.write(
            f"elanus: warning: {host} can be reached from other machines, and nothing controls access: "
            "whoever reaches the port can read and delete everything\n"
        )


def run_and_leave(start: Start, settings: Settings, companion: Companion) -> NoReturn:
    """`run`, and the end of the process with the exit code that says how it went."""
    try:
        run(start, settings, companion)
    except ElanusError as error:
        sys.stderr.write(f"elanus: {error.message}\n")
        leave(EXIT_IN_USE if isinstance(error, InUseError) else EXIT_FAILED)
    leave(0)


def run(start: Start, settings: Settings, companion: Companion) -> None:
    """Run until the end; raises what the start refused or the failure that ended the server."""
    factory = uvloop.new_event_loop if uvloop is not None else None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(start, settings, companion))


def leave(code: int) -> NoReturn:
    """End the process at once. A thread may still be inside an index build; taking the interpreter down around it would
    crash, and there is nothing left to tidy: every file is closed, and what is acknowledged is in the log."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


async def serve(start: Start, settings: Settings, companion: Companion) -> None:
    """`run` on the running loop."""
    asked = asyncio.Event()
    with contextlib.ExitStack() as stack:
        stack.callback(_watch_signals(asked))
        sock = _bind_metrics(settings)
        server = None
        try:
            server = await _start_unless_asked(start, settings, asked)
        finally:
            if sock is not None and server is None:
                sock.close()
        if server is None:
            return
        try:
            await _serve_until(server, sock, companion, asked)
        finally:
            with _late_stop_cut(settings):
                await server.stop(settings.server.stop_grace_s)


async def _start_unless_asked(start: Start, settings: Settings, asked: asyncio.Event) -> Server | None:
    """The started server, or None when the stop was asked for before it answered."""
    starting = asyncio.ensure_future(start(settings))
    asking = asyncio.create_task(asked.wait())
    await asyncio.wait((starting, asking), return_when=asyncio.FIRST_COMPLETED)
    asking.cancel()
    if starting.done():
        return starting.result()
    with _late_stop_cut(settings):
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
    return None


async def _serve_until(server: Server, sock: socket.socket | None, companion: Companion, asked: asyncio.Event) -> None:
    health = HealthServer(sock, Probes(server.fault, server.metrics)) if sock is not None else None
    companion.ready(Running(server.address, health.port if health else -1))
    ends = [asyncio.create_task(end) for end in (asked.wait(), server.wait_failed(), companion.until())]
    try:
        done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in done:
            end.result()
    finally:
        for end in ends:
            end.cancel()
        await asyncio.gather(*ends, return_exceptions=True)
        if health is not None:
            await health.stop()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bind_metrics(settings: Settings) -> socket.socket | None:
    port = settings.server.metrics_port
    return bind(settings.server.host, port, "server.metrics_port (--metrics-port; -1 is off)") if port >= 0 else None


def _watch_signals(asked: asyncio.Event) -> Callable[[], None]:
    """Set `asked` at the first SIGTERM or SIGINT and end the process at the second; returns the way back."""
    loop = asyncio.get_running_loop()

    def ask() -> None:
        if asked.is_set():
            os._exit(EXIT_CUT)
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask)

    def undo() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)

    return undo


@contextlib.contextmanager
def _late_stop_cut(settings: Settings) -> Iterator[None]:
    """End the process if the stop inside takes too long; a thread, as the loop may be what hangs."""
    seconds = settings.server.stop_grace_s + STOP_S_MAX - ServerSettings().stop_grace_s

    def cut() -> None:
        sys.stderr.write(f"elanus: the stop took longer than {seconds} s and was cut\n")
        os._exit(EXIT_CUT)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
