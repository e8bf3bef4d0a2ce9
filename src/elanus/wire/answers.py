"""The answering side of calls between processes, whatever carries them: from the bytes of a call to those of its reply.

A call that `refusal` lets pass is answered `under_way`, which counts it; the count is bounded, and a process that
leaves waits for its end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final, TypeAlias

from elanus.base.doors import Doors
from elanus.base.errors import ElanusError, InvariantError, OverloadedError, ReplyLostError, UnavailableError
from elanus.base.limits import INTERNAL_CALLS_MAX, INTERNAL_MESSAGE_BYTES_MAX
from elanus.nodes.codec import Method, encode_error, methods

Report: TypeAlias = Callable[[BaseException], None]
"""Told of every exception that no contract foresees."""
Observe: TypeAlias = Callable[[str, int, float], None]
"""Told of every answered call: `Role.method`, code (0 success), seconds."""
Answer: TypeAlias = Callable[[bytes | memoryview], Awaitable[bytes]]

ERROR_MARK: Final = b"\xc1"
"""Before an error in place of a result: the byte that MessagePack never uses."""


class Answers:
    """See the module's head."""

    def __init__(self, doors: Doors, report: Report, observe: Observe) -> None:
        self._doors = doors
        self._report = report
        self._observe = observe
        self._leaving = False
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def of(self, offered: Mapping[type, object]) -> dict[tuple[str, str], Answer]:
        """What answers each call of these roles, by the names of protocol and method."""
        found: dict[tuple[str, str], Answer] = {}
        for protocol, role in offered.items():
            for name, method in methods(protocol).items():
                call = partial(self._answer, f"{protocol.__name__}.{name}", getattr(role, name), method)
                found[protocol.__name__, name] = call
        return found

    def refusal(self) -> bytes | None:
        """The reply to a call that cannot be answered now, which proves that nothing was done."""
        if self._leaving:
            return refused(UnavailableError("this node is leaving"))
        if self._running >= INTERNAL_CALLS_MAX:
            return refused(OverloadedError("this node has too many calls under way"))
        return None

    @contextlib.contextmanager
    def under_way(self) -> Iterator[None]:
        """From a call's beginning until its reply is sent."""
        self._running += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    async def leave(self, grace_s: float) -> None:
        """Refuse what comes from now on; let calls under way end, for so long."""
        self._leaving = True
        with contextlib.suppress(TimeoutError):
            await self._doors.tasks.timeout(grace_s, self._idle.wait())

    async def _answer(self, name: str, call: Callable[..., Any], method: Method, data: bytes | memoryview) -> bytes:
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
            return refused(ReplyLostError(f"{name} failed at the peer: {error.message}"))
        except ElanusError as error:
            code = error.code
            return refused(error)
        except Exception as error:
            code = ReplyLostError.code
            self._report(error)
            return refused(ReplyLostError(f"{name} failed at the peer"))
        finally:
            self._observe(name, code, self._doors.clock.monotonic_s() - started)


def refused(error: ElanusError) -> bytes:
    """The reply that carries an error."""
    return ERROR_MARK + encode_error(error)
