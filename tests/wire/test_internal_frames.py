"""Frames arrive whole however the stream is cut; what does not speak the protocol costs nothing but its connection."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_internal_transport import Loopback, play

from elanus.base.errors import UnavailableError
from elanus.base.limits import INTERNAL_CALLS_MAX, INTERNAL_MESSAGE_BYTES_MAX
from elanus.base.real import real_doors
from elanus.model.columns import Batch
from elanus.nodes.codec import methods
from elanus.testing.conformance_transport import Desk, Parcel, Postman, raised, until
from elanus.wire.frames import HEAD, SCRATCH_BYTES, SILENT_MAX, STRANGE_BYTES_MAX, Body, Connection, Kind
from elanus.wire.internal import FORMAT, UNANSWERED_MAX, Greeting, Hello

Frame = tuple[int, int, int, bytes]

FRAMES = st.tuples(
    st.sampled_from([Kind.HELLO, Kind.CALL, Kind.REPLY, Kind.CANCEL, Kind.LEAVING]),
    st.integers(0, 2**16 - 1),
    st.integers(0, 2**64 - 1),
    st.one_of(
        st.binary(max_size=300),
        st.integers(SCRATCH_BYTES - 20, SCRATCH_BYTES + 20).map(lambda length: os.urandom(length)),
    ),
)


def packed(kind: int, number: int = 0, body: bytes = b"", method: int = 0) -> bytes:
    return HEAD.pack(len(body), kind, method, number) + body


# --- cutting --------------------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(sent=st.lists(FRAMES, max_size=8), cuts=st.randoms(use_true_random=False))
def test_frames_arrive_whole_however_the_stream_is_cut(sent: list[Frame], cuts: random.Random) -> None:
    stream = b"".join(packed(kind, number, body, method) for kind, method, number, body in sent)
    assert asyncio.run(received(stream, lambda: cuts.choice((1, 14, 15, 16, 1000, SCRATCH_BYTES)))) == sent


async def received(stream: bytes, piece: Callable[[], int]) -> list[Frame]:
    """What a connection makes of these bytes when it gets them in such pieces."""
    doors, taken = real_doors(lambda name, error: None), list[Frame]()

    def take(connection: Connection, kind: Kind, method: int, number: int, body: Body) -> None:
        taken.append((kind, method, number, bytes(body)))

    one, other = socket.socketpair()
    connection = Connection(doors, 60.0, take, lambda connection: None)
    await asyncio.get_running_loop().create_connection(lambda: connection, sock=one)
    connection.trust()
    while stream:
        room = connection.get_buffer(-1)
        length = min(len(room), len(stream), piece())
        room[:length], stream = stream[:length], stream[length:]
        connection.buffer_updated(length)
    connection.abort()
    await connection.wait_closed()
    other.close()
    await doors.stop_tasks()
    doors.close()
    return taken


# --- strangers ------------------------------------------------------------------------------------------------------
class Raw:
    """A peer that sends what it likes to a member of the network."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str) -> None:
        self.reader = reader
        self.writer = writer
        self._hello = Hello(format=FORMAT, cluster_id="cluster", token=token)

    @classmethod
    async def to(cls, address: str) -> Raw:
        target, _, token = address.partition("#")
        host, _, port = target.rpartition(":")
        return cls(*await asyncio.open_connection(host, int(port)), token)

    def hello(self, **changed: object) -> bytes:
        return packed(Kind.HELLO, body=msgspec.msgpack.encode(msgspec.structs.replace(self._hello, **changed)))

    async def frame(self) -> tuple[int, int, bytes]:
        """The next one from the server: kind, number, body."""
        length, kind, _, number = HEAD.unpack(await self.reader.readexactly(HEAD.size))
        return kind, number, await self.reader.readexactly(length)

    async def ended(self) -> None:
        """Wait until the server has hung up."""
        try:
            async with asyncio.timeout(10.0):
                while await self.reader.read(65536):
                    pass
        except ConnectionError:
            pass
        self.writer.close()


class Served:
    """A member that serves, and a good client of it."""

    def __init__(self, network: Loopback) -> None:
        self.network = network
        self.desk = Desk()
        self._link = replace(network.link, keep_alive_s=0.1)
        self._member = network.join(self._link)

    async def __aenter__(self) -> Served:
        self.address = await self._member.serve({Postman: self.desk})
        self.postman = self.network.join(self._link).connect(self.address, Postman)
        await self.is_well()
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self._member.close()

    async def is_well(self) -> None:
        """The good client is served, nobody else holds a task, and nothing was reported."""
        assert await self.postman.add(1) == 2
        await until(lambda: self.network.doors.tasks.names() == ["keep a connection alive"] * 2)
        assert not self.network.reported


def serving(scenario: Callable[[Served], Awaitable[None]]) -> None:
    async def run(network: Loopback) -> None:
        async with Served(network) as served:
            await scenario(served)
            await served.is_well()

    play(run)


def number_of(name: str) -> int:
    return list(methods(Postman)).index(name)


def add_call(number: int) -> bytes:
    return packed(Kind.CALL, number, methods(Postman)["add"].encode_call((1,), {}), number_of("add"))


GARBAGE: dict[str, Callable[[Raw], bytes]] = {
    "an HTTP/2 client": lambda raw: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(30),
    "an HTTP/1 client": lambda raw: b"GET / HTTP/1.1\r\nHost: elanus\r\n\r\n",
    "a TLS client": lambda raw: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),
    "a large hello": lambda raw: HEAD.pack(STRANGE_BYTES_MAX + 1, Kind.HELLO, 0, 0),
    "a hello that is none": lambda raw: packed(Kind.HELLO, body=b"\xc1\xc1"),
    "a call before the hello": lambda raw: add_call(1),
    "another format": lambda raw: raw.hello(format=FORMAT + 1) + add_call(1),
    "another cluster": lambda raw: raw.hello(cluster_id="other") + add_call(1),
    "another life": lambda raw: raw.hello(token="other") + add_call(1),
    "a second hello": lambda raw: raw.hello() + raw.hello(),
    "a frame too large": lambda raw: raw.hello() + HEAD.pack(INTERNAL_MESSAGE_BYTES_MAX + 1, Kind.CALL, 0, 1),
    "an unknown kind": lambda raw: raw.hello() + packed(200),
    "an unknown call": lambda raw: raw.hello() + packed(Kind.CALL, 1, method=2**16 - 1),
    "a number used again": lambda raw: raw.hello() + add_call(7) + add_call(7),
    "a reply to nothing": lambda raw: raw.hello() + packed(Kind.REPLY, 1),
    "pings and no hello": lambda raw: packed(Kind.PING) * 3,
    "half a head": lambda raw: HEAD.pack(5, Kind.HELLO, 0, 0)[:7],
    "half a body": lambda raw: packed(Kind.HELLO, body=bytes(100))[:-1],
    "nothing": lambda raw: b"",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GARBAGE)
def test_what_does_not_speak_the_protocol_is_cut_off(name: str) -> None:
    async def scenario(served: Served) -> None:
        raw = await Raw.to(served.address)
        raw.writer.write(GARBAGE[name](raw))
        await raw.ended()

    serving(scenario)


@settings(max_examples=40, deadline=None)
@given(garbage=st.binary(min_size=1, max_size=200), greets=st.booleans())
def test_no_bytes_do_harm(garbage: bytes, greets: bool) -> None:
    async def scenario(served: Served) -> None:
        raw = await Raw.to(served.address)
        raw.writer.write((raw.hello() if greets else b"") + garbage)
        await asyncio.sleep(0)
        await served.postman.add(1)
        raw.writer.close()

    async def run(network: Loopback) -> None:
        async with Served(network) as served:
            await scenario(served)
            assert await served.postman.add(1) == 2

    play(run)


def test_a_stranger_that_keeps_talking_is_let_go() -> None:
    """One that is never silent and never says who it is."""

    async def scenario(served: Served) -> None:
        raw = await Raw.to(served.address)
        for _ in range(20 * SILENT_MAX):
            raw.writer.write(packed(Kind.PING))
            await asyncio.sleep(0.02)
            if raw.reader.at_eof():
                break
        await raw.ended()

    serving(scenario)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", packed(Kind.REPLY), packed(Kind.HELLO), b""])
def test_a_server_that_speaks_something_else_was_not_reached(answer: bytes) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        writer.close()

    async def scenario(network: Loopback) -> None:
        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        error = await raised(network.join().connect(f"127.0.0.1:{port}#token", Postman).add(1))
        assert isinstance(error, UnavailableError), repr(error)
        server.close()
        await until(lambda: not network.doors.tasks.names())

    play(scenario)


def test_a_server_of_another_format_is_named() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = Hello(format=FORMAT + 1, cluster_id="cluster", token="token")
        writer.write(packed(Kind.HELLO, body=msgspec.msgpack.encode(Greeting(hello=hello, calls=()))))
        await writer.drain()
        writer.close()

    async def scenario(network: Loopback) -> None:
        server = await asyncio.start_server(greet, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        error = await raised(network.join().connect(f"127.0.0.1:{port}#token", Postman).add(1))
        assert isinstance(error, UnavailableError), repr(error)
        assert f"format {FORMAT + 1}" in error.message
        server.close()

    play(scenario)


# --- bounds ---------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_calls_under_way_are_bounded_and_the_refused_ones_were_not_begun() -> None:
    async def scenario(served: Served) -> None:
        waiting = [asyncio.ensure_future(served.postman.search(60.0)) for _ in range(INTERNAL_CALLS_MAX)]
        await until(lambda: served.desk.begun == INTERNAL_CALLS_MAX)
        error = await raised(served.postman.add(1))
        assert error.message == "this node has too many calls under way"
        for call in waiting:
            call.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await until(lambda: served.desk.cancelled == INTERNAL_CALLS_MAX)

    serving(scenario)


@pytest.mark.slow
def test_a_peer_that_calls_and_takes_no_answer_is_cut_off() -> None:
    async def scenario(served: Served) -> None:
        raw = await Raw.to(served.address)
        raw.writer.transport.pause_reading()
        raw.writer.write(raw.hello())
        parcel = Parcel(name="x" * 4096, batch=Batch(0, {}))
        body = methods(Postman)["echo"].encode_call((parcel,), {})
        try:
            for number in range(1, 40 * UNANSWERED_MAX):
                raw.writer.write(packed(Kind.CALL, number, body, number_of("echo")))
                await raw.writer.drain()
        except ConnectionError:
            pass
        else:
            raise AssertionError("it was never cut off")
        raw.writer.transport.abort()

    serving(scenario)


def test_a_read_given_up_before_it_began_leaves_nothing() -> None:
    async def scenario(served: Served) -> None:
        raw = await Raw.to(served.address)
        call = packed(Kind.CALL, 1, methods(Postman)["search"].encode_call((60.0,), {}), number_of("search"))
        raw.writer.write(raw.hello() + call + packed(Kind.CANCEL, 1) + add_call(2))
        kinds = [await raw.frame() for _ in range(2)]
        assert [(kind, number) for kind, number, _ in kinds] == [(Kind.HELLO, 0), (Kind.REPLY, 2)]
        assert served.desk.begun == served.desk.cancelled
        raw.writer.close()

    serving(scenario)


def test_closing_leaves_no_task() -> None:
    async def scenario(network: Loopback) -> None:
        members = [network.join() for _ in range(3)]
        addresses = [await member.serve({Postman: Desk()}) for member in members]
        for member in members:
            await asyncio.gather(*(member.connect(address, Postman).add(1) for address in addresses))
        for member in members:
            await member.close()
        await until(lambda: not network.doors.tasks.names())

    play(scenario)


def test_closing_while_connecting_leaves_nothing_open() -> None:
    async def scenario(network: Loopback) -> None:
        member, client = network.join(), network.join()
        postman = client.connect(await member.serve({Postman: Desk()}), Postman)
        call = asyncio.ensure_future(postman.add(1))
        await asyncio.sleep(0)
        await client.close()
        assert isinstance(await raised(call), UnavailableError)
        await until(lambda: not network.doors.tasks.names())
        await member.close()

    play(scenario)
