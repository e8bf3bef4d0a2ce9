"""A network in memory: processes of one event loop that reach one another by address, with faults on demand.

A call runs at the process that offers the role, by that process's tasks, so that killing it ends the call: the caller
then learns that the reply is lost. A cut loses the replies of calls under way too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar, cast

from elanus.base.doors import Job, Tasks
from elanus.base.errors import ElanusError, ReplyLostError, UnavailableError
from elanus.nodes.codec import Method, methods, through_codec
from elanus.nodes.transport import CUT_WITH_CALLER

T = TypeVar("T")


class Network:
    """Who listens where, and which ways are cut."""

    def __init__(self) -> None:
        self.listening: dict[str, MemoryTransport] = {}
        self._cuts: set[frozenset[str]] = set()
        self._count = 0

    def transport(self, tasks: Tasks, name: str, *, codec: bool = True) -> MemoryTransport:
        """The way of one process, which is called `name` in `cut`; with `codec` every value is encoded on the way."""
        return MemoryTransport(self, tasks, name, codec)

    def cut(self, one: str, other: str) -> None:
        """Let nothing through between these processes until `mend`."""
        self._cuts.add(frozenset((one, other)))

    def mend(self, one: str, other: str) -> None:
        """Undo `cut`."""
        self._cuts.discard(frozenset((one, other)))

    def vanish(self, name: str) -> None:
        """The process of that name is gone: nobody listens at its addresses."""
        self.listening = {address: one for address, one in self.listening.items() if one.name != name}

    def is_cut(self, one: str, other: str) -> bool:
        """Whether the way between them is cut."""
        return frozenset((one, other)) in self._cuts

    def listen(self, transport: MemoryTransport) -> str:
        """A fresh address."""
        self._count += 1
        address = f"memory://{transport.name}/{self._count}"
        self.listening[address] = transport
        return address


class MemoryTransport:
    """`nodes.transport.Transport` on a `Network`."""

    def __init__(self, network: Network, tasks: Tasks, name: str, codec: bool) -> None:
        self.name = name
        self.tasks = tasks
        self.offered: dict[type, object] = {}
        self.running: set[Job] = set()
        self._network = network
        self._codec = codec

    async def serve(self, offered: Mapping[type, object]) -> str:
        self.offered = dict(offered)
        return self._network.listen(self)

    def connect(self, address: str, protocol: type[T]) -> T:
        kind: Any = protocol
        return cast("T", _Client({name: self._call(address, method, kind) for name, method in methods(kind).items()}))

    def _call(self, address: str, method: Method, protocol: type) -> Callable[..., Awaitable[Any]]:
        async def direct(*positional: Any, **named: Any) -> Any:
            there = self._reach(address, protocol)
            role: Any = there.offered[protocol]
            return await self._run(there, method.name, lambda: getattr(role, method.name)(*positional, **named))

        async def encoded(*positional: Any, **named: Any) -> Any:
            there = self._reach(address, protocol)
            border: Any = through_codec(there.offered[protocol], protocol)
            return await self._run(there, method.name, lambda: getattr(border, method.name)(*positional, **named))

        return encoded if self._codec else direct

    def _reach(self, address: str, protocol: type) -> MemoryTransport:
        there = self._network.listening.get(address)
        if there is None or protocol not in there.offered or self._network.is_cut(self.name, there.name):
            raise UnavailableError(f"{address} cannot be reached")
        return there

    async def _run(self, there: MemoryTransport, name: str, work: Callable[[], Awaitable[Any]]) -> Any:
        """Let the other process do it; what happened there, if word of it comes back."""
        outcomes: list[Any] = []

        async def do() -> None:
            try:
                outcomes.append(await work())
            except ElanusError as error:
                outcomes.append(error)

        job = there.tasks.spawn(do(), name=f"{there.name}: {name}")
        there.running.add(job)
        try:
            await job.wait()
        finally:
            if not job.done() and name in CUT_WITH_CALLER:
                job.cancel()
            there.running = {one for one in there.running if not one.done()}
        if not outcomes or self._network.is_cut(self.name, there.name):
            raise ReplyLostError(f"{name} at {there.name}: the reply was lost")
        if isinstance(outcomes[0], ElanusError):
            raise outcomes[0]
        return outcomes[0]

    async def close(self) -> None:
        for address in [address for address, one in self._network.listening.items() if one is self]:
            del self._network.listening[address]
        for job in tuple(self.running):
            await job.wait()


class _Client:
    """Calls by name."""

    def __init__(self, calls: Mapping[str, Callable[..., Awaitable[Any]]]) -> None:
        for name, call in calls.items():
            setattr(self, name, call)
