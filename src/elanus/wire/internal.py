"""How roles in different processes call one another: a role behind a contract, served over plain streams of frames.

What `nodes.transport` promises, over TCP or a Unix socket (`frames`), with mutual TLS where there are certificates. One
connection to each peer carries all calls, many at once; a reply is the result, or, after the byte that MessagePack
never uses, the error.

An address is `host:port#token`. The token is drawn anew by every server. A connection begins with a hello from each
side, which names the protocol's format, the cluster and the token that is meant; nothing is sent before both agree. So
a call meant for a process that has died never reaches its successor on the same port, nor a process of another cluster.

What a caller may conclude. Until its frame is handed to the socket, a call is not delivered: UnavailableError. Then
only the server can say so: by a reply that refuses it, or by its last frame, which names the last call that it began.
Every other end of the connection leaves the calls on it of unknown outcome: ReplyLostError.

What is bounded. Messages in bytes; what waits to be sent (`room`: a caller or an answer waits for it, and an answer
that waits counts as a call under way); calls under way in the process; calls under way on one connection, refusals that
wait to be sent included: a peer that goes on calling and takes no answer is cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar, cast

import msgspec

from elanus.base.doors import Doors, Job
from elanus.base.errors import InUseError, OverloadedError, ReplyLostError, UnavailableError
from elanus.base.limits import INTERNAL_CALLS_MAX, INTERNAL_MESSAGE_BYTES_MAX
from elanus.nodes.codec import Method, decode_error, methods
from elanus.nodes.transport import CUT_WITH_CALLER
from elanus.wire.answers import ERROR_MARK, Answers, Observe, Report
from elanus.wire.frames import Body, Connection, Kind

T = TypeVar("T")

FORMAT: Final = 2
"""Of the internal protocol; raised by a change that older processes would misread."""

CALL_S_MAX: Final = 60.0
LONG_CALL_S_MAX: Final = 6 * 3600.0
CONNECT_S_MAX: Final = 2.0
LONG_CALLS: Final = frozenset({"build", "compact", "load", "assign", "apply_change", "follow"})
"""Calls that may take long while the peer is well; the keep-alive finds out about a peer that is not."""
UNANSWERED_MAX: Final = 2 * INTERNAL_CALLS_MAX
"""Calls on one connection whose answers are not sent; as many refusals as there can be calls under way."""
FLUSH_S_MAX: Final = 1.0
"""How long a connection that ends may take to send what it holds."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Mutual TLS: what this process serves and calls with. Both contexts hold its certificate and ask for one of the
    cluster's authority. `server_name`: the name that every peer's certificate carries; empty: its host's."""

    serving: ssl.SSLContext
    calling: ssl.SSLContext
    server_name: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """How this process is reached and reaches others. `listen`: `host:port` (port 0: a free one) or `unix:/path`;
    `advertise`: the host that peers connect to, the listening one when empty. `keep_alive_s`: a silent peer is given
    up after four times that. `grace_s`: how long `close` lets calls under way end."""

    listen: str
    cluster_id: str
    advertise: str = ""
    keep_alive_s: float = 2.0
    grace_s: float = 5.0
    tls: Tls | None = None


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """Who answers at an address."""

    format: int
    cluster_id: str
    token: str


class Greeting(msgspec.Struct, frozen=True, kw_only=True):
    """A server's hello: who answers, and which calls, in the order of their numbers."""

    hello: Hello
    calls: tuple[tuple[str, str], ...]


class StreamTransport:
    """`nodes.transport.Transport` between processes. Serve at most once; close once."""

    def __init__(self, link: Link, doors: Doors, *, report: Report, observe: Observe) -> None:
        self._link = link
        self._doors = doors
        self._report = report
        self._observe = observe
        self._server: _Server | None = None
        self._also: dict[type, object] = {}
        self._peers: weakref.WeakValueDictionary[str, _Peer] = weakref.WeakValueDictionary()

    def offer(self, protocol: type, role: object) -> None:
        """Serve this too, whatever else will be served. Before `serve`."""
        self._also[protocol] = role

    async def serve(self, offered: Mapping[type, object]) -> str:
        """Listen and answer the calls of these protocols; gives the address for peers. InUseError."""
        answers = Answers(self._doors, self._report, self._observe)
        self._server = _Server(self._link, self._doors, answers, {**offered, **self._also})
        return await self._server.start()

    def connect(self, address: str, protocol: type[T]) -> T:
        """The role at an address that a peer's `serve` gave. Connects with the first call."""
        peer = self._peers.get(address)
        if peer is None:
            peer = self._peers[address] = _Peer(address, self._link, self._doors)
        return cast("T", _Client(peer, protocol))

    async def close(self) -> None:
        """Refuse new calls, let those under way end within the grace, then cut the connections."""
        if self._server is not None:
            await self._server.stop()
        ending = [peer.close() for peer in list(self._peers.values())]
        await _all_closed(self._doors, [connection for connection in ending if connection is not None])


# --- serving --------------------------------------------------------------------------------------------------------
class _Serving:
    """What is known of a connection to a caller."""

    def __init__(self) -> None:
        self.greeted = False
        self.last_begun = 0
        self.under_way: dict[int, Job | None] = {}
        """Calls by number; the job of one that ends when nobody waits for it."""


class _Server:
    """The listening side."""

    def __init__(self, link: Link, doors: Doors, answers: Answers, offered: Mapping[type, object]) -> None:
        self._link = link
        self._doors = doors
        self._answers = answers
        found = answers.of(offered)
        self._calls = list(found.values())
        self._names = tuple(found)
        self._hello = Hello(format=FORMAT, cluster_id=link.cluster_id, token=doors.random.token())
        self._open: dict[Connection, _Serving] = {}
        self._stopped = False
        self._server: asyncio.AbstractServer | None = None

    async def start(self) -> str:
        loop, listen = asyncio.get_running_loop(), self._link.listen
        context = None if self._link.tls is None else self._link.tls.serving
        try:
            if listen.startswith("unix:"):
                self._server = await loop.create_unix_server(self._connected, listen.removeprefix("unix:"), ssl=context)
                return f"{listen}#{self._hello.token}"
            host, _, port = listen.rpartition(":")
            server = await loop.create_server(self._connected, host.strip("[]") or None, int(port), ssl=context)
        except OSError as error:
            raise InUseError(f"cannot listen on {listen}: it is in use, or not an address of this host") from error
        self._server = server
        return f"{self._link.advertise or host}:{server.sockets[0].getsockname()[1]}#{self._hello.token}"

    def _connected(self) -> Connection:
        return Connection(self._doors, self._link.keep_alive_s, self._take, self._lost)

    def _lost(self, connection: Connection) -> None:
        serving = self._open.pop(connection, None)
        if serving is not None:
            for job in serving.under_way.values():
                if job is not None:
                    job.cancel()

    def _take(self, connection: Connection, kind: Kind, method: int, number: int, body: Body) -> None:
        serving = self._open.setdefault(connection, _Serving())
        if kind is Kind.HELLO and not serving.greeted and not self._stopped:
            self._greet(connection, serving, body)
        elif kind is Kind.CALL and self._may_begin(serving, method, number):
            serving.last_begun = number
            job = self._doors.tasks.spawn(self._serve(connection, serving, method, number, body), name="call")
            serving.under_way[number] = job if self._names[method][1] in CUT_WITH_CALLER else None
        elif kind is Kind.CANCEL:
            reading = serving.under_way.get(number)
            if reading is not None:
                reading.cancel()
                del serving.under_way[number]
        else:
            connection.abort()

    def _may_begin(self, serving: _Serving, method: int, number: int) -> bool:
        known = serving.greeted and method < len(self._calls) and number > serving.last_begun
        return known and len(serving.under_way) < UNANSWERED_MAX

    def _greet(self, connection: Connection, serving: _Serving, body: Body) -> None:
        """Say who this is, and take calls only from who meant it."""
        greeting = Greeting(hello=self._hello, calls=self._names)
        connection.send(Kind.HELLO, 0, msgspec.msgpack.encode(greeting))
        try:
            serving.greeted = msgspec.msgpack.decode(body, type=Hello) == self._hello
        except msgspec.MsgspecError:
            serving.greeted = False
        if serving.greeted:
            connection.trust()
        else:
            connection.close()

    async def _serve(self, connection: Connection, serving: _Serving, method: int, number: int, body: Body) -> None:
        refusal = self._answers.refusal()
        if refusal is None:
            with self._answers.under_way():
                await self._reply(connection, number, await self._calls[method](body))
        else:
            await self._reply(connection, number, refusal)
        serving.under_way.pop(number, None)

    async def _reply(self, connection: Connection, number: int, reply: bytes) -> None:
        await connection.room()
        connection.send(Kind.REPLY, number, reply)

    async def stop(self) -> None:
        await self._answers.leave(self._link.grace_s)
        self._stopped = True
        if self._server is None:
            return
        self._server.close()
        ending = list(self._open.items())
        for connection, serving in ending:
            connection.send(Kind.LEAVING, serving.last_begun)
            connection.close()
        await _all_closed(self._doors, [connection for connection, _ in ending])


async def _all_closed(doors: Doors, connections: list[Connection]) -> None:
    """Wait until they have sent what they hold; break those that take too long."""
    with contextlib.suppress(TimeoutError):
        await doors.tasks.timeout(FLUSH_S_MAX, _closed(connections))
    for connection in connections:
        connection.abort()


async def _closed(connections: list[Connection]) -> None:
    for connection in connections:
        await connection.wait_closed()


# --- calling --------------------------------------------------------------------------------------------------------
class _Line:
    """A connection to a server, with the calls that wait on it."""

    def __init__(self, target: str, link: Link, doors: Doors, mine: Hello) -> None:
        self._target = target
        self._mine = mine
        self.connection = Connection(doors, link.keep_alive_s, self._take, self._lost)
        self.waiting: dict[int, asyncio.Future[Body]] = {}
        self.greeting: asyncio.Future[Greeting] = asyncio.get_running_loop().create_future()
        self.greeting.add_done_callback(_retrieve)
        self.methods: dict[tuple[str, str], int] = {}
        self._next = 0

    @property
    def is_open(self) -> bool:
        return self.connection.is_open

    def begin(self, method: int, data: bytes) -> tuple[int, asyncio.Future[Body]]:
        """Send a call; its number, and what will hold the reply."""
        self._next += 1
        reply: asyncio.Future[Body] = asyncio.get_running_loop().create_future()
        self.waiting[self._next] = reply
        self.connection.send(Kind.CALL, self._next, data, method)
        return self._next, reply

    async def greet(self) -> None:
        """Learn who answers. UnavailableError when that is not who was meant."""
        self.connection.send(Kind.HELLO, 0, msgspec.msgpack.encode(self._mine))
        greeting = await self.greeting
        if greeting.hello != self._mine:
            told = mismatch(greeting.hello, self._mine.cluster_id, self._mine.token)
            raise UnavailableError(f"{self._target} {told}")
        self.connection.trust()
        self.methods = {name: number for number, name in enumerate(greeting.calls)}

    def _take(self, connection: Connection, kind: Kind, method: int, number: int, body: Body) -> None:
        if kind is Kind.REPLY:
            reply = self.waiting.pop(number, None)
            if reply is not None and not reply.done():
                reply.set_result(body)
        elif kind is Kind.HELLO and not self.greeting.done():
            try:
                self.greeting.set_result(msgspec.msgpack.decode(body, type=Greeting))
            except msgspec.MsgspecError:
                connection.abort()
        elif kind is Kind.LEAVING:
            self._end(lambda begun: begun > number, UnavailableError(f"{self._target} has left"))
            connection.close()
        else:
            connection.abort()

    def _lost(self, connection: Connection) -> None:
        if not self.greeting.done():
            self.greeting.set_exception(UnavailableError(f"{self._target} does not speak this protocol"))
        self._end(lambda begun: True, ReplyLostError(f"no reply from {self._target}: the connection was lost"))

    def _end(self, which: Callable[[int], bool], error: UnavailableError | ReplyLostError) -> None:
        for number in [one for one in self.waiting if which(one)]:
            reply = self.waiting.pop(number)
            if not reply.done():
                reply.set_exception(type(error)(error.message))


class _Peer:
    """The way to one process."""

    def __init__(self, address: str, link: Link, doors: Doors) -> None:
        self._target, _, token = address.partition("#")
        self._link = link
        self._doors = doors
        self._hello = Hello(format=FORMAT, cluster_id=link.cluster_id, token=token)
        self._line: _Line | None = None
        self._attempt: asyncio.Future[_Line] | None = None
        self._closed = False

    async def call(self, name: tuple[str, str], data: bytes, seconds: float) -> Body:
        """One request and its reply's bytes."""
        if len(data) > INTERNAL_MESSAGE_BYTES_MAX:
            raise OverloadedError(f"a message of {len(data)} bytes is too large to send")
        line = self._line
        if line is None or not line.is_open:
            line = await self._connected()
        await line.connection.room()
        method = line.methods.get(name)
        if method is None:
            raise UnavailableError(f"{self._target} does not offer this call: use one release")
        if not line.is_open:
            raise UnavailableError(f"{self._target}: the connection was lost before the call was sent")
        number, reply = line.begin(method, data)
        try:
            return await self._doors.tasks.timeout(seconds, _outcome(reply))
        except TimeoutError:
            raise ReplyLostError(f"no reply from {self._target} within {seconds:g} s") from None
        finally:
            if line.waiting.pop(number, None) is not None:
                line.connection.send(Kind.CANCEL, number)

    async def _connected(self) -> _Line:
        """A line that is open; all who want one wait for the same attempt. UnavailableError, with nothing sent."""
        if self._closed:
            raise UnavailableError(f"{self._target} cannot be reached: this process is leaving")
        if self._attempt is None:
            self._attempt = asyncio.get_running_loop().create_future()
            self._attempt.add_done_callback(_retrieve)
            self._doors.tasks.spawn(self._try(self._attempt), name=f"connect to {self._target}")
        return await asyncio.shield(self._attempt)

    async def _try(self, attempt: asyncio.Future[_Line]) -> None:
        line = _Line(self._target, self._link, self._doors, self._hello)
        try:
            await self._doors.tasks.timeout(CONNECT_S_MAX, self._open(line))
            if not self._closed:
                self._line = line
                attempt.set_result(line)
        except UnavailableError as error:
            attempt.set_exception(error)
        except (OSError, TimeoutError) as error:
            attempt.set_exception(UnavailableError(f"{self._target} cannot be reached: {error}"))
        finally:
            self._attempt = None
            if not attempt.done():
                attempt.set_exception(UnavailableError(f"{self._target} cannot be reached: this process is leaving"))
            if self._line is not line:
                line.connection.abort()

    async def _open(self, line: _Line) -> None:
        loop, tls = asyncio.get_running_loop(), self._link.tls
        host, _, port = self._target.rpartition(":")
        context = None if tls is None else tls.calling
        name = None if tls is None else tls.server_name or host
        if self._target.startswith("unix:"):
            path = self._target.removeprefix("unix:")
            await loop.create_unix_connection(lambda: line.connection, path, ssl=context, server_hostname=name)
        else:
            await loop.create_connection(
                lambda: line.connection, host.strip("[]"), int(port), ssl=context, server_hostname=name
            )
        await line.greet()

    def __del__(self) -> None:
        """Nobody calls there any more."""
        if self._line is not None:
            self._line.connection.close()

    def close(self) -> Connection | None:
        """Begin to end the connection, and give it; calls on it are of unknown outcome."""
        self._closed = True
        if self._line is None:
            return None
        self._line.connection.close()
        return self._line.connection


class _Client:
    """A role at a peer; offers exactly the protocol's calls."""

    def __init__(self, peer: _Peer, protocol: type) -> None:
        for name, method in methods(protocol).items():
            setattr(self, name, partial(_call, peer, (protocol.__name__, name), method, _seconds(name)))


def _seconds(name: str) -> float:
    return LONG_CALL_S_MAX if name in LONG_CALLS else CALL_S_MAX


async def _call(
    peer: _Peer, name: tuple[str, str], method: Method, seconds: float, *positional: Any, **named: Any
) -> Any:
    reply = await peer.call(name, method.encode_call(positional, named), seconds)
    if reply[:1] == ERROR_MARK:
        raise decode_error(bytes(reply[1:]))
    return method.decode_result(reply)


async def _outcome(reply: asyncio.Future[Body]) -> Body:
    return await reply


def _retrieve(done: asyncio.Future[Any]) -> None:
    """Look at an outcome nobody may wait for, lest the loop report it as never seen."""
    if not done.cancelled():
        done.exception()


def mismatch(hello: Hello, cluster_id: str, token: str) -> str:
    """How the process that answers differs from the one that was meant."""
    if hello.format != FORMAT:
        return f"speaks format {hello.format} of the internal protocol, this process {FORMAT}: use one release"
    if hello.cluster_id != cluster_id:
        return f"belongs to cluster {hello.cluster_id}, this process to {cluster_id}"
    if hello.token != token:
        return "is another process by now"
    return "does not offer this call: use one release"
