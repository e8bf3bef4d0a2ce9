"""The transport between processes does what every transport must, and tells a lost call from one never delivered."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from elanus.base.errors import Action, InvariantError, ReplyLostError, UnavailableError
from elanus.base.real import RealDoors, real_doors
from elanus.testing.cases import case_name
from elanus.testing.conformance_transport import (
    CASES,
    Case,
    Desk,
    Network,
    Postman,
    a_lost_reply_is_an_unknown_outcome,
    raised,
    until,
)
from elanus.wire.internal import FORMAT, Hello, Link, StreamTransport, mismatch

HERE = Path(__file__).resolve().parent


@dataclass
class Loopback:
    """Members on ports of this machine, all in one process."""

    doors: RealDoors
    link: Link = field(default_factory=lambda: Link("127.0.0.1:0", "cluster", keep_alive_s=0.5, grace_s=2.0))
    reported: list[BaseException] = field(default_factory=list)
    calls: list[tuple[str, int]] = field(default_factory=list)

    def join(self, link: Link | None = None) -> StreamTransport:
        return StreamTransport(
            link or self.link,
            self.doors,
            report=self.reported.append,
            observe=lambda name, code, seconds: self.calls.append((name, code)),
        )


def play(scenario: Callable[[Loopback], Awaitable[None]]) -> None:
    async def run() -> None:
        doors = real_doors(lambda name, error: None)
        try:
            await scenario(Loopback(doors))
        finally:
            await doors.stop_tasks()
            doors.close()

    asyncio.run(run())


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_case(case: Case) -> None:
    play(case)


def test_case_over_a_unix_socket(tmp_path: Path) -> None:
    async def scenario(network: Loopback) -> None:
        desk, member = Desk(), network.join(replace(network.link, listen=f"unix:{tmp_path}/socket"))
        address = await member.serve({Postman: desk})
        assert await network.join().connect(address, Postman).add(1) == 2
        await member.close()

    play(scenario)


class Wire:
    """A TCP relay whose connections can be cut, or stopped with nobody told."""

    def __init__(self) -> None:
        self.writers: list[asyncio.StreamWriter] = []
        self.flowing = asyncio.Event()
        self.flowing.set()

    async def start(self, host: str, port: int) -> int:
        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            onward_reader, onward = await asyncio.open_connection(host, port)
            self.writers += [writer, onward]
            await asyncio.gather(self._pump(reader, onward), self._pump(onward_reader, writer))

        server = await asyncio.start_server(relay, "127.0.0.1", 0)
        return int(server.sockets[0].getsockname()[1])

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await self.flowing.wait()
                writer.write(data)
        except ConnectionError:
            pass

    def cut(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


class Relayed:
    """A network whose addresses lead through a wire."""

    def __init__(self, network: Loopback, wire: Wire) -> None:
        self._network = network
        self._wire = wire

    def join(self) -> StreamTransport:
        transport = self._network.join()
        serve = transport.serve

        async def through_wire(offered: object) -> str:
            target, _, token = (await serve(offered)).partition("#")  # type: ignore[arg-type]
            port = await self._wire.start("127.0.0.1", int(target.rpartition(":")[2]))
            return f"127.0.0.1:{port}#{token}"

        transport.serve = through_wire  # type: ignore[method-assign]
        return transport


def test_a_cut_connection_is_an_unknown_outcome() -> None:
    async def scenario(network: Loopback) -> None:
        wire = Wire()
        relayed: Network = Relayed(network, wire)
        await a_lost_reply_is_an_unknown_outcome(relayed, wire.cut)

    play(scenario)


@pytest.mark.slow
def test_a_silent_peer_is_given_up_by_keep_alive() -> None:
    async def scenario(network: Loopback) -> None:
        wire = Wire()
        started = time.monotonic()
        await a_lost_reply_is_an_unknown_outcome(Relayed(network, wire), wire.flowing.clear)
        assert time.monotonic() - started < 5.0

    play(scenario)


@pytest.mark.slow
def test_a_stopped_process_is_given_up_and_its_successor_is_not_mistaken_for_it() -> None:
    async def scenario(network: Loopback) -> None:
        port = free_port()
        first = await serve_apart(port)
        postman = network.join().connect(first.address, Postman)
        assert await postman.add(1) == 2
        first.process.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        assert (await raised(postman.add(1))).action is Action.UNKNOWN
        assert time.monotonic() - started < 5.0
        first.process.kill()
        first.process.wait()
        assert isinstance(await raised(postman.add(1)), UnavailableError)
        second = await serve_apart(port)
        await asyncio.sleep(0.5)
        error = await raised(postman.add(1))
        assert isinstance(error, UnavailableError), repr(error)
        assert await network.join().connect(second.address, Postman).add(1) == 2
        second.process.kill()
        second.process.wait()

    play(scenario)


@dataclass
class Apart:
    """A member in a process of its own."""

    process: subprocess.Popen[str]
    address: str


async def serve_apart(port: int) -> Apart:
    """Start a member on this port and learn its address."""
    return await asyncio.to_thread(_serve_apart, port)


def _serve_apart(port: int) -> Apart:
    process = subprocess.Popen(
        [sys.executable, str(HERE / "internal_member.py"), str(port)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(HERE)},
    )
    assert process.stdout is not None
    return Apart(process, process.stdout.readline().strip())


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_a_read_ends_when_its_caller_gives_up() -> None:
    async def scenario(network: Loopback) -> None:
        desk, member = Desk(), network.join()
        postman = network.join().connect(await member.serve({Postman: desk}), Postman)
        running = asyncio.ensure_future(postman.search(30.0))
        await until(lambda: desk.begun == 1)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await until(lambda: desk.cancelled == 1)
        await member.close()

    play(scenario)


def test_another_cluster_is_told_apart() -> None:
    async def scenario(network: Loopback) -> None:
        member = network.join()
        address = await member.serve({Postman: Desk()})
        stranger = network.join(replace(network.link, cluster_id="other"))
        error = await raised(stranger.connect(address, Postman).add(1))
        assert isinstance(error, UnavailableError)
        assert "belongs to cluster cluster" in error.message
        await member.close()

    play(scenario)


class Broken(Desk):
    """Fails in ways that no contract foresees."""

    async def add(self, one: int, other: int = 1) -> int:
        raise InvariantError("this cannot be") if one else ZeroDivisionError


def test_unforeseen_failures_are_reported_here_and_unknown_there() -> None:
    async def scenario(network: Loopback) -> None:
        member = network.join()
        postman = network.join().connect(await member.serve({Postman: Broken()}), Postman)
        for number, kind in ((1, InvariantError), (0, ZeroDivisionError)):
            assert isinstance(await raised(postman.add(number)), ReplyLostError)
            assert isinstance(network.reported.pop(), kind)
        assert network.calls == [("Postman.add", 5), ("Postman.add", 5)]
        await member.close()

    play(scenario)


def test_why_a_peer_is_not_the_one_that_was_meant() -> None:
    hello = Hello(format=FORMAT, cluster_id="c", token="t")
    assert "release" in mismatch(hello, "c", "t")
    assert "another process" in mismatch(hello, "c", "u")
    assert "cluster c" in mismatch(hello, "d", "t")
    assert "format" in mismatch(Hello(format=FORMAT + 1, cluster_id="c", token="t"), "c", "t")
