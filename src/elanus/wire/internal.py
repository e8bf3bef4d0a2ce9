"""How roles in different processes call one another: a role behind a contract, served over gRPC.

Owns one listening server and one channel per peer. A call is the arguments as `nodes.codec` encodes them; a reply is
the result, or, after the byte that MessagePack never uses, the error. Callers must know what became of a call that
failed, so every failure is one of three:

- the role's own typed error, which says what it did;
- `UnavailableError`: the call was surely not delivered. The connection could not be made, the server refused it while
  leaving, or the process at the address is not the one that was meant;
- `ReplyLostError`: the connection broke, the peer was silent for longer than the keep-alive allows, the deadline
  passed, or the peer failed in a way that nobody foresaw. The call may have run, may be running, may still run.

An address is `host:port#token`. The token is drawn anew by every server and stands, with the protocol's format and the
cluster's id, in the path of each call: a call meant for a process that has died can never reach its successor on the
same port, nor a process of another cluster or of an incompatible release. Such a call finds no handler; `hello` then
tells the caller why.

Races: a channel that lost its connection is seen as not ready before anything is sent (state is looked at before every
call), so a dead peer costs a writer certainty only for the calls in flight when it died. A server that leaves sends
GOAWAY; calls that it had not begun are sent again by gRPC itself and then fail to connect, which is told apart by text;
were the text to change, such a call would become one of unknown outcome, never the reverse.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar, cast

import grpc
import grpc.aio
import msgspec

from elanus.base.doors import Doors, Tasks
from elanus.base.errors import (
    ElanusError,
    InUseError,
    InvariantError,
    OverloadedError,
    ReplyLostError,
    UnavailableError,
)
from elanus.base.limits import INTERNAL_CALLS_MAX, INTERNAL_MESSAGE_BYTES_MAX
from elanus.nodes.codec import Method, decode_error, encode_error, methods
from elanus.nodes.transport import CUT_WITH_CALLER

T = TypeVar("T")
Report: TypeAlias = Callable[[BaseException], None]
"""Told of every exception that no contract foresees."""
Observe: TypeAlias = Callable[[str, int, float], None]
"""Told of every answered call: `Role.method`, code (0 success), seconds."""

FORMAT: Final = 1
"""Of the internal protocol; raised by a change that older processes would misread."""

CALL_S_MAX: Final = 60.0
LONG_CALL_S_MAX: Final = 6 * 3600.0
CONNECT_S_MAX: Final = 2.0
LONG_CALLS: Final = frozenset({"build", "compact", "load", "assign", "apply_change", "follow"})
"""Calls that may take long while the peer is well; the keep-alive finds out about a peer that is not."""

_ERROR_MARK: Final = b"\xc1"
_HELLO: Final = "/elanus/hello"
_NOT_CONNECTED: Final = "failed to connect to all addresses"
_MESSAGE_OPTIONS: Final = (
    ("grpc.max_receive_message_length", INTERNAL_MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", INTERNAL_MESSAGE_BYTES_MAX),
)


@dataclass(frozen=True, slots=True)
class Tls:
    """Mutual TLS, PEM bytes. `server_name`: the name that every peer's certificate carries; empty: its host's."""

    certificate: bytes
    key: bytes
    authority: bytes
    server_name: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """How this process is reached and reaches others. `listen`: `host:port` (port 0: a free one) or `unix:/path`;
    `advertise`: the host that peers connect to, the listening one when empty. `keep_alive_s`: a silent peer is given
    up after twice that. `grace_s`: how long `close` lets calls under way end."""

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


class GrpcTransport:
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
        self._server = _Server(self._link, self._doors, self._report, self._observe)
        return await self._server.start({**offered, **self._also})

    def connect(self, address: str, protocol: type[T]) -> T:
        """The role at an address that a peer's `serve` gave. Connects with the first call."""
        peer = self._peers.get(address)
        if peer is None:
            peer = self._peers[address] = _Peer(address, self._link, self._doors.tasks)
        return cast("T", _Client(peer, protocol))

    async def close(self) -> None:
        """Refuse new calls, let those under way end within the grace, then cut the connections."""
        if self._server is not None:
            await self._server.stop()
        for peer in list(self._peers.values()):
            await peer.close()


# --- serving --------------------------------------------------------------------------------------------------------
class _Server:
    """The listening side. Every call passes `_admit`, which counts it, bounds the count and refuses while leaving."""

    def __init__(self, link: Link, doors: Doors, report: Report, observe: Observe) -> None:
        self._link = link
        self._doors = doors
        self._report = report
        self._observe = observe
        self._token = doors.random.token()
        self._leaving = False
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._handlers: dict[str, Any] = {}
        self._server: Any = None

    async def start(self, offered: Mapping[type, object]) -> str:
        hello = Hello(format=FORMAT, cluster_id=self._link.cluster_id, token=self._token)
        self._handlers[_HELLO] = grpc.unary_unary_rpc_method_handler(partial(_greet, msgspec.msgpack.encode(hello)))
        for protocol, role in offered.items():
            for name, method in methods(protocol).items():
                answer = partial(self._answer, f"{protocol.__name__}.{name}", getattr(role, name), method)
                begin = answer if name in CUT_WITH_CALLER else partial(self._to_the_end, name, answer)
                path = _path(self._link.cluster_id, self._token, protocol, name)
                self._handlers[path] = grpc.unary_unary_rpc_method_handler(partial(self._admit, begin))
        self._server = grpc.aio.server(options=_server_options(self._link))
        self._server.add_generic_rpc_handlers((_Dispatch(self._handlers),))
        port = self._bind()
        await self._server.start()
        if self._link.listen.startswith("unix:"):
            return f"{self._link.listen}#{self._token}"
        host = self._link.advertise or self._link.listen.rpartition(":")[0]
        return f"{host}:{port}#{self._token}"

    def _bind(self) -> int:
        listen, tls = self._link.listen, self._link.tls
        try:
            if tls is None:
                port = self._server.add_insecure_port(listen)
            else:
                pairs = ((tls.key, tls.certificate),)
                credentials = grpc.ssl_server_credentials(pairs, tls.authority, require_client_auth=True)
                port = self._server.add_secure_port(listen, credentials)
        except RuntimeError as error:
            raise InUseError(f"cannot listen on {listen}: it is in use, or not an address of this host") from error
        return int(port)

    async def stop(self) -> None:
        self._leaving = True
        with contextlib.suppress(TimeoutError):
            await self._doors.tasks.timeout(self._link.grace_s, self._idle.wait())
        if self._server is not None:
            await self._server.stop(0)

    async def _admit(self, begin: Callable[[bytes], Awaitable[bytes]], data: bytes, context: Any) -> bytes:
        if self._leaving:
            return _refused(UnavailableError("this node is leaving"))
        if self._running >= INTERNAL_CALLS_MAX:
            return _refused(OverloadedError("this node has too many calls under way"))
        self._running += 1
        self._idle.clear()
        try:
            return await begin(data)
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    async def _to_the_end(self, name: str, answer: Callable[[bytes], Coroutine[Any, Any, bytes]], data: bytes) -> bytes:
        """Run as a task of its own: gRPC cancels the handler when the caller goes away, and the work goes on."""
        outcome: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._doors.tasks.spawn(_settle(outcome, answer(data)), name=f"call {name}")
        return await asyncio.shield(outcome)

    async def _answer(self, name: str, call: Callable[..., Any], method: Method, data: bytes) -> bytes:
        """The reply's bytes. Raises nothing but cancellation: what no contract foresees is reported here, and the
        caller, who must not take it for its own fault, is told that the outcome is unknown."""
        code, started = 0, self._doors.clock.monotonic_s()
        try:
            reply = method.encode_result(await call(**method.decode_call(data)))
            if len(reply) > INTERNAL_MESSAGE_BYTES_MAX:
                raise ReplyLostError(f"{name}: the reply of {len(reply)} bytes is too large to send")
            return reply
        except InvariantError as error:
            code = error.code
            self._report(error)
            return _refused(ReplyLostError(f"{name} failed at the peer: {error.message}"))
        except ElanusError as error:
            code = error.code
            return _refused(error)
        except Exception as error:
            code = ReplyLostError.code
            self._report(error)
            return _refused(ReplyLostError(f"{name} failed at the peer"))
        finally:
            self._observe(name, code, self._doors.clock.monotonic_s() - started)


class _Dispatch(grpc.GenericRpcHandler):
    """Finds the handler of a call by its path; None makes gRPC answer UNIMPLEMENTED."""

    def __init__(self, handlers: dict[str, Any]) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: Any) -> Any:
        return self._handlers.get(handler_call_details.method)


async def _greet(hello: bytes, data: bytes, context: Any) -> bytes:
    return hello


async def _settle(outcome: asyncio.Future[bytes], answering: Coroutine[Any, Any, bytes]) -> None:
    try:
        reply = await answering
    except asyncio.CancelledError:
        outcome.cancel()
        raise
    if not outcome.done():
        outcome.set_result(reply)


def _refused(error: ElanusError) -> bytes:
    return _ERROR_MARK + encode_error(error)


def _path(cluster_id: str, token: str, protocol: type, name: str) -> str:
    return f"/elanus.{FORMAT}.{cluster_id}/{token}/{protocol.__name__}/{name}"


def _server_options(link: Link) -> list[tuple[str, int]]:
    return [
        *_MESSAGE_OPTIONS,
        *_keep_alive_options(link),
        ("grpc.so_reuseport", 0),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 100),
        ("grpc.http2.max_ping_strikes", 0),
    ]


def _keep_alive_options(link: Link) -> list[tuple[str, int]]:
    """Ping at this interval, and break the connection when no answer comes for as long. The last of the three is the
    one that breaks it: grpc's own default waits for a ping's answer for a minute."""
    interval_ms = int(link.keep_alive_s * 1000)
    names = ("grpc.keepalive_time_ms", "grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms")
    return [*((name, interval_ms) for name in names), ("grpc.keepalive_permit_without_calls", 1)]


# --- calling --------------------------------------------------------------------------------------------------------
class _Peer:
    """The channel to one process."""

    def __init__(self, address: str, link: Link, tasks: Tasks) -> None:
        self._tasks = tasks
        self.cluster_id = link.cluster_id
        self._target, _, self.token = address.partition("#")
        self._closed = False
        options: list[tuple[str, int | str]] = [
            *_MESSAGE_OPTIONS,
            *_keep_alive_options(link),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", int(CONNECT_S_MAX * 1000)),
            ("grpc.max_reconnect_backoff_ms", int(CONNECT_S_MAX * 1000)),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0),
        ]
        if link.tls is None:
            self.channel = grpc.aio.insecure_channel(self._target, options)
            return
        if link.tls.server_name:
            options.append(("grpc.ssl_target_name_override", link.tls.server_name))
        credentials = grpc.ssl_channel_credentials(link.tls.authority, link.tls.key, link.tls.certificate)
        self.channel = grpc.aio.secure_channel(self._target, credentials, options)

    async def call(self, send: Any, data: bytes, seconds: float) -> bytes:
        """One request and its reply's bytes."""
        if len(data) > INTERNAL_MESSAGE_BYTES_MAX:
            raise OverloadedError(f"a message of {len(data)} bytes is too large to send")
        if self._closed or self.channel.get_state() is not grpc.ChannelConnectivity.READY:
            await self._connected()
        try:
            return cast("bytes", await send(data, timeout=seconds))
        except grpc.aio.AioRpcError as error:
            code, details = error.code(), error.details() or ""
            if code is grpc.StatusCode.UNIMPLEMENTED:
                raise await self._stranger() from error
            raise failure(self._target, code, details) from error

    async def _connected(self) -> None:
        """Wait for the connection; UnavailableError when it cannot be made, with nothing sent."""
        try:
            connected = await self._tasks.timeout(CONNECT_S_MAX, self._connect())
        except TimeoutError:
            connected = False
        if not connected:
            raise UnavailableError(f"{self._target} cannot be reached")

    async def _connect(self) -> bool:
        while not self._closed:
            state = self.channel.get_state(try_to_connect=True)
            if state is grpc.ChannelConnectivity.READY:
                return True
            if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                return False
            await self.channel.wait_for_state_change(state)
        return False

    async def _stranger(self) -> ElanusError:
        """Why a call found no handler. It was not delivered, whatever the reason."""
        try:
            reply = await self.channel.unary_unary(_HELLO)(b"", timeout=CONNECT_S_MAX)
            hello = msgspec.msgpack.decode(reply, type=Hello)
        except (grpc.aio.AioRpcError, msgspec.DecodeError):
            return UnavailableError(f"{self._target} does not speak this protocol")
        return UnavailableError(f"{self._target} {mismatch(hello, self.cluster_id, self.token)}")

    async def close(self) -> None:
        self._closed = True
        await self.channel.close()


class _Client:
    """A role at a peer; offers exactly the protocol's calls."""

    def __init__(self, peer: _Peer, protocol: type) -> None:
        for name, method in methods(protocol).items():
            setattr(self, name, _remote(peer, protocol, name, method))


def _remote(peer: _Peer, protocol: type, name: str, method: Method) -> Callable[..., Any]:
    send = peer.channel.unary_unary(_path(peer.cluster_id, peer.token, protocol, name))
    seconds = LONG_CALL_S_MAX if name in LONG_CALLS else CALL_S_MAX

    async def call(*positional: Any, **named: Any) -> Any:
        reply = await peer.call(send, method.encode_call(positional, named), seconds)
        if reply[:1] == _ERROR_MARK:
            raise decode_error(reply[1:])
        return method.decode_result(reply)

    return call


def failure(target: str, code: grpc.StatusCode, details: str) -> ElanusError:
    """What a gRPC status says about the call: not delivered, or nobody knows."""
    if code is grpc.StatusCode.UNAVAILABLE and details.startswith(_NOT_CONNECTED):
        return UnavailableError(f"{target} cannot be reached")
    return ReplyLostError(f"no reply from {target}: {code.name} {details}")


def mismatch(hello: Hello, cluster_id: str, token: str) -> str:
    """How the process that answers differs from the one that was meant."""
    if hello.format != FORMAT:
        return f"speaks format {hello.format} of the internal protocol, this process {FORMAT}: use one release"
    if hello.cluster_id != cluster_id:
        return f"belongs to cluster {hello.cluster_id}, this process to {cluster_id}"
    if hello.token != token:
        return "is another process by now"
    return "does not offer this call: use one release"
