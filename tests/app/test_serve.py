"""Start, announcement, and every way to the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket

import msgspec
import pytest

from elanus.app.health import bind
from elanus.app.serve import Companion, Running, forever, is_loopback, run
from elanus.app.settings import ServerSettings, Settings
from elanus.base.errors import InUseError, StorageError

QUIET = Settings(server=ServerSettings(metrics_port=-1))


class MemoryServer:
    """Answers nothing, but starts, fails and stops like a real one."""

    def __init__(self, settings: Settings, fails: bool = False) -> None:
        self.address = f"{settings.server.host}:{settings.server.port}"
        self.fails = fails
        self.stopped_with: list[float] = []

    def fault(self) -> str:
        return ""

    def metrics(self) -> bytes:
        return b""

    async def wait_failed(self) -> None:
        if self.fails:
            raise StorageError("the disk is gone")
        await asyncio.Event().wait()

    async def stop(self, grace_s: float) -> None:
        self.stopped_with.append(grace_s)


def play(server: MemoryServer, settings: Settings, companion: Companion) -> None:
    async def start(given: Settings) -> MemoryServer:
        assert given is settings
        return server

    run(start, settings, companion)


async def at_once() -> None:
    """An end that has come."""


def test_ends_cleanly_when_its_time_is_over() -> None:
    server, told = MemoryServer(QUIET), list[Running]()
    play(server, QUIET, Companion(told.append, at_once))
    assert told == [Running("127.0.0.1:19530", -1)]
    assert server.stopped_with == [QUIET.server.stop_grace_s]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ends_cleanly_at_a_signal(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    server = MemoryServer(QUIET)
    play(server, QUIET, Companion(lambda _: os.kill(os.getpid(), number), forever))
    assert server.stopped_with == [QUIET.server.stop_grace_s]
    assert signal.getsignal(number) == before


def test_a_signal_ends_a_long_start() -> None:
    begun = []

    async def start(_: Settings) -> MemoryServer:
        begun.append(True)
        os.kill(os.getpid(), signal.SIGTERM)
        await forever()
        raise AssertionError

    run(start, QUIET, Companion(lambda _: None, forever))
    assert begun


def test_a_failure_is_told_after_the_stop() -> None:
    server = MemoryServer(QUIET, fails=True)
    with pytest.raises(StorageError, match="the disk is gone"):
        play(server, QUIET, Companion(lambda _: None, forever))
    assert len(server.stopped_with) == 1


def test_a_taken_metrics_port_is_refused_before_anything_starts() -> None:
    with contextlib.closing(bind("127.0.0.1", 0, "x")) as holder:
        settings = msgspec.structs.replace(QUIET, server=ServerSettings(metrics_port=holder.getsockname()[1]))
        server = MemoryServer(settings)
        with pytest.raises(InUseError, match="--metrics-port"):
            play(server, settings, Companion(lambda _: None, at_once))
    assert server.stopped_with == []


def test_the_metrics_port_is_free_again() -> None:
    settings = msgspec.structs.replace(QUIET, server=ServerSettings(metrics_port=0))
    told: list[Running] = []
    play(MemoryServer(settings), settings, Companion(told.append, at_once))
    assert told[0].metrics_port > 0
    with contextlib.closing(socket.create_server(("127.0.0.1", told[0].metrics_port))):
        pass


def test_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.org")))
