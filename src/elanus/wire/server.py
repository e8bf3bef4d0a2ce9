"""The gRPC server: bytes in, a row of `wire.table`, bytes out.

Owns the listening sockets and the calls in flight. Invariants:

- Every refusal goes out as a `Status` in the call's own response type; only bytes that are not protobuf end a call with
  a gRPC error (INTERNAL), as do unknown methods (UNIMPLEMENTED) and oversized messages (RESOURCE_EXHAUSTED).
- `_Method.answer` is the one place that catches every exception: the client reads a generic text with code 5, the
  exception itself goes to the `report` callback, whose owner decides whether the role goes on. So does a broken
  invariant, though its text is told to the client, too.
- A call that changes something runs as a task of its own. When the client cancels or hangs up, gRPC cancels the
  handler, which only stops waiting; the write itself runs to its end. `stop` waits for such calls, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from elanus.base.doors import Clock, Doors
from elanus.base.errors import Action, ElanusError, InUseError
from elanus.base.limits import REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX
from elanus.model.errors import BadParameterError, ReadTimeoutError
from elanus.nodes.contracts import Frontend
from elanus.wire.messages import SERVICE, messages
from elanus.wire.status import INTERNAL_CODE, in_response, internal_status, status_field, status_of
from elanus.wire.table import CALLS, Call

Report: TypeAlias = Callable[[BaseException], None]
"""Told of every exception that no role expected, and of every broken invariant."""
Observe: TypeAlias = Callable[[str, int, float], None]
"""Told of every answered call: name, Milvus code (0 success), seconds."""

CONCURRENT_CALLS_MAX: Final = 16384
CONNECTION_GRACE_MS: Final = 600_000
UNIX_PATH_BYTES_MAX: Final = 107
_UNIX: Final = "unix:"
_HEALTH_CHECK: Final = "/grpc.health.v1.Health/Check"
_HEALTH_WATCH: Final = "/grpc.health.v1.Health/Watch"
_SERVING: Final = b"\x08\x01"
_NOT_SERVING: Final = b"\x08\x02"
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", REQUEST_BYTES_MAX),
    ("grpc.max_send_message_length", RESPONSE_BYTES_MAX),
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5000),
    ("grpc.http2.max_ping_strikes", 0),
)


class GrpcServer:
    """One gRPC server over one `Frontend`. Start once, stop once."""

    def __init__(
        self, frontend: Frontend, doors: Doors, *, report: Report, observe: Observe, connection_age_s_max: float = 0.0
    ) -> None:
        """`connection_age_s_max`: a connection of about that age (within a tenth) is asked to end after its calls, so
        that clients behind a balancer of TCP connections spread anew over the servers there are; 0: never."""
        self._server: Any = None
        self._connection_age_s_max = connection_age_s_max
        self._doors = doors
        self._report = report
        self._running: set[asyncio.Future[bytes | None]] = set()
        self._stopping = asyncio.Event()
        self._handlers: dict[str, Any] = {}
        catalogue = messages().methods
        for call in CALLS.values():
            if call.name in catalogue:
                number = status_field(catalogue[call.name].response) or 0
                answer = _Method(call, number, frontend, doors.clock, report, observe).answer
                serve = self._mutation(call.name, answer) if call.mutates else _read(answer)
                self._handlers[f"/{SERVICE}/{call.name}"] = grpc.unary_unary_rpc_method_handler(serve)
        self._handlers[_HEALTH_CHECK] = grpc.unary_unary_rpc_method_handler(self._health_check)
        self._handlers[_HEALTH_WATCH] = grpc.unary_stream_rpc_method_handler(self._health_watch)

    async def start(self, addresses: Sequence[str]) -> tuple[int, ...]:
        """Listen on `host:port` and `unix:/path` addresses; gives the bound ports (1 for a path).

        InUseError when an address is taken; then nothing is served.
        """
        options = [*_OPTIONS]
        if self._connection_age_s_max:
            options.append(("grpc.max_connection_age_ms", int(self._connection_age_s_max * 1000)))
            options.append(("grpc.max_connection_age_grace_ms", CONNECTION_GRACE_MS))
        server = grpc.aio.server(options=options, maximum_concurrent_rpcs=CONCURRENT_CALLS_MAX)
        server.add_generic_rpc_handlers((_Dispatch(self._handlers),))
        ports = tuple(_bind(server, address) for address in addresses)
        self._server = server
        await server.start()
        return ports

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, let those in flight end within `grace_s`, then cut the rest off. Writes that run on
        without their client are waited for as long."""
        self._stopping.set()
        if self._server is None:
            return
        deadline = self._doors.clock.monotonic_s() + grace_s
        await self._server.stop(grace_s)
        remaining = deadline - self._doors.clock.monotonic_s()
        if self._running and remaining > 0:
            await asyncio.wait(self._running, timeout=remaining)

    def _mutation(self, name: str, answer: Any) -> Any:
        """Serve a call that must run to its end once begun."""

        async def serve(data: bytes, context: Any) -> bytes:
            outcome: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
            self._running.add(outcome)
            outcome.add_done_callback(self._running.discard)
            self._doors.tasks.spawn(_settle(outcome, answer(data, _database(context))), name=f"wire {name}")
            return await _sent(await asyncio.shield(outcome), context)

        return serve

    async def _health_check(self, data: bytes, context: Any) -> bytes:
        return _NOT_SERVING if self._stopping.is_set() else _SERVING

    async def _health_watch(self, data: bytes, context: Any) -> AsyncIterator[bytes]:
        if not self._stopping.is_set():
            yield _SERVING
            await self._stopping.wait()
        yield _NOT_SERVING


class _Dispatch(grpc.GenericRpcHandler):
    """Finds the handler of a call by its path; None makes gRPC answer UNIMPLEMENTED."""

    def __init__(self, handlers: dict[str, Any]) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: Any) -> Any:
        return self._handlers.get(handler_call_details.method)


class _Method:
    """One row of the table, bound to the frontend."""

    __slots__ = ("_call", "_clock", "_frontend", "_observe", "_report", "_status_number")

    def __init__(
        self, call: Call, status_number: int, frontend: Frontend, clock: Clock, report: Report, observe: Observe
    ) -> None:
        self._call = call
        self._status_number = status_number
        self._frontend = frontend
        self._clock = clock
        self._report = report
        self._observe = observe

    async def answer(self, data: bytes, database: str) -> bytes | None:
        """The response; None for bytes that are no such request. Raises nothing but cancellation."""
        call, request, code = self._call, None, 0
        started = self._clock.monotonic_s()
        try:
            request = call.decode(data, database)
            return call.encode(request, await call.handle(self._frontend, request))
        except ElanusError as error:
            code = error.code
            if error.action is Action.CORRUPTED:
                self._report(error)
            return self._refused(request, error)
        except DecodeError:
            code = INTERNAL_CODE
            return None
        except TimeoutError:
            code = ReadTimeoutError.code
            return self._refused(request, ReadTimeoutError("context deadline exceeded"))
        except Exception as error:
            code = INTERNAL_CODE
            self._report(error)
            return in_response(self._status_number, internal_status())
        finally:
            self._observe(call.name, code, self._clock.monotonic_s() - started)

    def _refused(self, request: Any, error: ElanusError) -> bytes:
        if self._call.refuse is not None:
            return self._call.refuse(request, error)
        return in_response(self._status_number, status_of(error))


def _read(answer: Any) -> Any:
    """Serve a call that ends when its client goes away."""

    async def serve(data: bytes, context: Any) -> bytes:
        return await _sent(await answer(data, _database(context)), context)

    return serve


async def _settle(outcome: asyncio.Future[bytes | None], answering: Any) -> None:
    try:
        response = await answering
    except asyncio.CancelledError:
        outcome.cancel()
        raise
    if not outcome.done():
        outcome.set_result(response)


async def _sent(response: bytes | None, context: Any) -> bytes:
    if response is None:
        await context.abort(grpc.StatusCode.INTERNAL, "the request cannot be parsed")
        raise AssertionError("abort raises")
    return response


def _database(context: Any) -> str:
    """The connection's database, sent with every call."""
    for key, value in context.invocation_metadata() or ():
        if key == "dbname":
            return value if isinstance(value, str) else value.decode()
    return ""


def _bind(server: Any, address: str) -> int:
    if address.startswith(_UNIX) and len(address.removeprefix(_UNIX).encode()) > UNIX_PATH_BYTES_MAX:
        raise BadParameterError(f"the socket path {address} is longer than {UNIX_PATH_BYTES_MAX} bytes")
    try:
        port = int(server.add_insecure_port(address))
    except RuntimeError as error:
        raise InUseError(f"cannot listen on {address}: it is in use, or not an address of this host") from error
    if not port:
        raise InUseError(f"cannot listen on {address}: it is in use, or not an address of this host")
    return port
