"""A network in memory: processes of one event loop that reach one another by address, with faults on demand.

A call runs at the process that offers the role, by that process's tasks, so that killing it ends the call: the caller
then learns that the reply is lost. A cut loses the replies of calls under way too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar, cast

from elanus.base.doors import Tasks
from elanus.base.errors import ElanusError, ReplyLostError, UnavailableError
from elanus.nodes.codec import answer, calls_of, client

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
        self._network = network
        self._codec = codec

    async def serve(self, offered: Mapping[type, object]) -> str:
        self.offered = dict(offered)
        return self._network.listen(self)

    def connect(self, address: str, protocol: type[T]) -> T:
        async def send(name: str, request: bytes) -> bytes:
            there = self._reach(address, protocol)
            return await self._run(there, name, lambda: answer(there.offered[protocol], protocol, name, request))

        if self._codec:
            return client(protocol, send)
        return cast("T", _Direct({name: self._direct(address, protocol, name) for name in calls_of(protocol)}))

    def _direct(self, address: str, protocol: type, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*positional: Any, **named: Any) -> Any:
            there = self._reach(address, protocol)
            method = getattr(there.offered[protocol], name)
            return await self._run(there, name, lambda: method(*positional, **named))

        return call

    def _reach(self, address: str, protocol: type) -> MemoryTransport:
        there = self._network.listening.get(address)
        if there is None or protocol not in there.offered or self._network.is_cut(self.name, there.name):
            raise UnavailableError(f"{address} cannot be reached")
        return there

    async def _run(self, there: MemoryTransport, name: str, work: Callable[[], Awaitable[T]]) -> T:
        """Let the other process do it; what happened there, if word of it comes back."""
        outcomes: list[T | ElanusError] = []

        async def do() -> None:
            try:
                outcomes.append(await work())
            except ElanusError as error:
                outcomes.append(error)

        job = there.tasks.spawn(do(), name=f"{there.name}: {name}")
        await job.wait()
        if not outcomes or self._network.is_cut(self.name, there.name):
            raise ReplyLostError(f"{name} at {there.name}: the reply was lost")
        if isinstance(outcomes[0], ElanusError):
            raise outcomes[0]
        return outcomes[0]

    async def close(self) -> None:
        for address in [address for address, one in self._network.listening.items() if one is self]:
            del self._network.listening[address]


class _Direct:
    """Calls by name."""

    def __init__(self, calls: Mapping[str, Callable[..., Awaitable[Any]]]) -> None:
        for name, call in calls.items():
            setattr(self, name, call)
