"""Calls to an etcd cluster: endpoints in turn, TLS, user and password, deadlines, and what each failure proves.

Three outcomes matter to a caller that changes something. A reply; a refusal by etcd, which proves that nothing was
done (a typed error); or silence after the request may have left (`Silence`), which proves nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import grpc
import msgspec

from elanus.base.doors import Doors
from elanus.base.errors import DiskFullError, ElanusError, OverloadedError, StorageError, UnavailableError
from elanus.base.limits import MIB
from elanus.meta.etcd_wire import AUTHENTICATE, authenticate_request, decode_token
from elanus.meta.store import CompactedError, LeaseGoneError, MetaLimitError

ATTEMPT_TIMEOUT_S: Final = 2.0
"""Longest wait for one reply; a member that is stopped is given up after it, and the next one asked."""
BACKOFF_S: Final = 0.05
BACKOFF_MAX_S: Final = 1.0
_REPLY_BYTES_MAX: Final = 512 * MIB
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", _REPLY_BYTES_MAX),
    ("grpc.max_send_message_length", 4 * MIB),
    # A member that vanished without a word is noticed within 15 s; etcd allows a ping every 5 s.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)

# etcd's own words, in its error details. Each proves that nothing was done.
_REFUSALS: Final[tuple[tuple[str, type[ElanusError]], ...]] = (
    ("requested lease not found", LeaseGoneError),
    ("required revision has been compacted", CompactedError),
    ("request is too large", MetaLimitError),
    ("too many operations", MetaLimitError),
    ("database space exceeded", DiskFullError),
    ("too many requests", OverloadedError),
)
_STALE_TOKEN: Final = ("invalid auth token", "revision of auth store is old", "user name is empty")


class Silence(Exception):
    """No reply, after the request may have left: it was done, will be done, or never will be."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach an etcd cluster. Certificates are PEM bytes."""

    endpoints: tuple[str, ...]
    prefix: str
    user: str = ""
    password: str = ""
    tls: bool = False
    authority: bytes | None = None
    certificate: bytes | None = None
    private_key: bytes | None = None


class Client:
    """One channel per endpoint, opened on first need; the current one is kept as long as it answers."""

    def __init__(self, doors: Doors, options: Options) -> None:
        self._doors = doors
        self._options = options
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._current = 0
        self._token = ""
        self._closed = False
        self._streams: set[Stream] | None = set()
        """Those that are open; None once no more may be."""

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    async def close(self) -> None:
        """Cancel what is under way and hang up. Idempotent."""
        self.end_streams()
        self._closed = True
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            await channel.close()

    def end_streams(self) -> None:
        """Let every reader of a stream meet UnavailableError, and open no more."""
        streams, self._streams = self._streams, None
        for stream in streams or ():
            stream.cancel()

    def check_open(self) -> None:
        """UnavailableError once closed."""
        if self._closed:
            raise UnavailableError("the meta store is closed")

    # --- unary ------------------------------------------------------------------------------------------------------
    async def read(self, path: str, request: bytes, within_s: float) -> bytes:
        """The reply to a call that may be repeated. UnavailableError after `within_s`; etcd's refusals."""
        deadline_s = self._doors.clock.monotonic_s() + within_s
        pause = Backoff(self._doors)
        while True:
            try:
                return await self.attempt(path, request, deadline_s)
            except Silence as silence:
                if self._doors.clock.monotonic_s() >= deadline_s:
                    raise UnavailableError(f"etcd does not answer: {silence}") from None
                await pause.wait()

    async def attempt(self, path: str, request: bytes, deadline_s: float) -> bytes:
        """Send once, as soon as a member is reached. Silence; UnavailableError: it was certainly not sent."""
        channel = await self._connected(deadline_s)
        try:
            return await self._send(channel, path, request)
        except grpc.aio.AioRpcError as error:
            if not (self._options.user and any(words in (error.details() or "") for words in _STALE_TOKEN)):
                raise self._judge(error) from None
        self._token = ""
        try:
            return await self._send(channel, path, request)
        except grpc.aio.AioRpcError as error:
            raise self._judge(error) from None

    async def _send(self, channel: grpc.aio.Channel, path: str, request: bytes) -> bytes:
        try:
            call = channel.unary_unary(path)(request, timeout=ATTEMPT_TIMEOUT_S, metadata=await self._metadata(channel))
            reply: bytes = await call
            return reply
        except (asyncio.CancelledError, grpc.aio.UsageError):
            if self._hung_up():
                raise Silence("the meta store was closed") from None
            raise

    # --- streams ----------------------------------------------------------------------------------------------------
    async def stream(self, path: str, request: bytes, within_s: float) -> Stream:
        """A two-way stream with its first request sent. UnavailableError, Silence."""
        channel = await self._connected(self._doors.clock.monotonic_s() + within_s)
        try:
            metadata = (*await self._metadata(channel), ("hasleader", "true"))
            call = channel.stream_stream(path)(metadata=metadata)
            await call.write(request)
        except grpc.aio.AioRpcError as error:
            raise self._judge(error) from None
        if self._streams is None:
            call.cancel()
            raise UnavailableError("the meta store is closed")
        stream = Stream(self, call)
        self._streams.add(stream)
        return stream

    def forget(self, stream: Stream) -> None:
        """The stream was cancelled."""
        if self._streams is not None:
            self._streams.discard(stream)

    async def next_of(self, call: Any) -> bytes:
        """The next message of a stream. Silence when it broke; etcd's refusals; UnavailableError once closed."""
        try:
            message = await call.read()
        except grpc.aio.AioRpcError as error:
            if any(words in (error.details() or "") for words in _STALE_TOKEN):
                self._token = ""
                raise Silence("the token of etcd has expired") from None
            raise self._judge(error) from None
        except asyncio.CancelledError:
            if self._hung_up():
                raise UnavailableError("the meta store is closed") from None
            raise
        if message is grpc.aio.EOF:
            raise Silence("etcd ended the stream")
        reply: bytes = message
        return reply

    # --- connecting -------------------------------------------------------------------------------------------------
    async def _connected(self, deadline_s: float) -> grpc.aio.Channel:
        """A channel that is up: the current endpoint's, or that of the first other one that can be reached."""
        while True:
            self.check_open()
            endpoint = self._options.endpoints[self._current]
            channel = self._channels.get(endpoint)
            if channel is None:
                channel = self._channels[endpoint] = self._dial(endpoint)
            if channel.get_state() is grpc.ChannelConnectivity.READY:
                return channel
            try:
                left_s = deadline_s - self._doors.clock.monotonic_s()
                await self._doors.tasks.timeout(max(0.01, min(left_s, ATTEMPT_TIMEOUT_S)), channel.channel_ready())
                return channel
            except TimeoutError:
                self._move_on()
                if self._doors.clock.monotonic_s() >= deadline_s:
                    raise UnavailableError(f"etcd cannot be reached at {endpoint}") from None
            except (asyncio.CancelledError, grpc.aio.UsageError):
                if self._hung_up():
                    self.check_open()
                raise

    def _hung_up(self) -> bool:
        """Whether a cancellation comes from `close`, and not from whoever cancelled the caller."""
        task = asyncio.current_task()
        return self._streams is None and task is not None and not task.cancelling()

    def _dial(self, endpoint: str) -> grpc.aio.Channel:
        options = self._options
        if not options.tls:
            return grpc.aio.insecure_channel(endpoint, options=_OPTIONS)
        credentials = grpc.ssl_channel_credentials(options.authority, options.private_key, options.certificate)
        return grpc.aio.secure_channel(endpoint, credentials, options=_OPTIONS)

    def _move_on(self) -> None:
        self._current = (self._current + 1) % len(self._options.endpoints)

    async def _metadata(self, channel: grpc.aio.Channel) -> Sequence[tuple[str, str]]:
        if not self._options.user:
            return ()
        if not self._token:
            request = authenticate_request(self._options.user, self._options.password)
            self._token = decode_token(await channel.unary_unary(AUTHENTICATE)(request, timeout=ATTEMPT_TIMEOUT_S))
        return (("token", self._token),)

    def _judge(self, error: grpc.aio.AioRpcError) -> ElanusError | Silence:
        """What a failed call proves."""
        code, details = error.code(), error.details() or ""
        for words, kind in _REFUSALS:
            if words in details:
                return kind(f"etcd: {details}")
        if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED) or "authentication" in details:
            return StorageError(f"etcd refuses this user: {details}")
        if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED):
            return StorageError(f"etcd does not take the request: {details}")
        self._move_on()
        return Silence(f"{code.name}: {details}")


class Stream:
    """A two-way stream; ends with `cancel`."""

    def __init__(self, client: Client, call: Any) -> None:
        self._client = client
        self._call = call

    async def next(self) -> bytes:
        """See `Client.next_of`."""
        return await self._client.next_of(self._call)

    def cancel(self) -> None:
        """Hang up."""
        self._client.forget(self)
        self._call.cancel()


class Backoff:
    """Growing pauses between attempts."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors
        self._next_s = BACKOFF_S

    async def wait(self) -> None:
        """Sleep a while, longer each time, with chance so that many clients do not come back at once."""
        await self._doors.clock.sleep(self._next_s * (0.5 + self._doors.random.uniform()))
        self._next_s = min(2 * self._next_s, BACKOFF_MAX_S)

    def reset(self) -> None:
        """All is well again."""
        self._next_s = BACKOFF_S
