"""A simulated etcd: one linearizable state for all hosts, and clients that lose answers, leases, watches, the quorum.

The state is `meta.state.State`, as every MetaStore has it. Each call of a client travels; a transaction
whose answer is lost, or that lands after its client gave up, is OutcomeUnknownError to the client. Watches are cut
(UnavailableError) or told that they are too far behind (CompactedError). Leases end by the server's clock, or early.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from elanus.base.errors import OutcomeUnknownError, UnavailableError
from elanus.meta.state import State
from elanus.meta.store import (
    NO_LEASE,
    CompactedError,
    Compare,
    Delete,
    Item,
    LeaseGoneError,
    Operation,
    Put,
    Snapshot,
    TransactionResult,
    WatchBatch,
    validate,
)
from elanus.testing.sim.hosts import Host
from elanus.testing.sim.loop import current_life, nap
from elanus.testing.sim.trace import Trace

TRAVEL_S: Final = (0.0002, 0.001)
PATIENCE_S: Final = 2.0
LATE_S_MAX: Final = 3.0
LOST: Final = 0.7
"""Of the answers that do not come at once; the others come late."""
_WATCH_READ_MAX: Final = 64
_NOBODY: Final = contextvars.Context()
"""Callbacks in it belong to no process."""


class MetaFaults:
    """How likely the store misbehaves towards one host now."""

    def __init__(self) -> None:
        self.calm()

    def calm(self) -> None:
        """It behaves."""
        self.lost_reply = 0.0
        """Done, and told late or not at all."""
        self.late = 0.0
        """Done some time after the client has given up."""
        self.watch_gap = 0.0
        self.cut = False
        """No way to the store at all."""


class MetaServer:
    """State and leases."""

    def __init__(self, chance: random.Random, trace: Trace) -> None:
        self.state = State()
        self.chance = chance
        self.trace = trace
        self.has_quorum = True
        self._loop = asyncio.get_running_loop()
        self._faults: dict[str, MetaFaults] = {}
        self._leases: dict[int, tuple[float, asyncio.TimerHandle]] = {}
        self._next_lease = 1
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}
        """Those that watch, by prefix."""
        self.seen: list[Callable[[WatchBatch, str], None]] = []
        """Told of every change, and which life of which process made it; '' is no process."""

    def faults(self, name: str) -> MetaFaults:
        """What this host meets."""
        return self._faults.setdefault(name, MetaFaults())

    def calm(self) -> None:
        """Behave towards all."""
        self.has_quorum = True
        for faults in self._faults.values():
            faults.calm()

    def transact(self, compares: Sequence[Compare], operations: Sequence[Operation], by: str = "") -> TransactionResult:
        """Atomic."""
        if not self.state.holds(compares):
            return TransactionResult(False, self.state.revision)
        for operation in operations:
            if isinstance(operation, Put) and operation.lease not in (NO_LEASE, *self._leases):
                raise LeaseGoneError(f"meta lease {operation.lease} has ended")
        change = self.state.stage(operations)
        if change is not None:
            self.state.apply(change)
            self.trace.note("meta", "revision", f"{change.revision} {','.join(one.key for one in change.events)}")
            for tell in self.seen:
                tell(change, by)
            self._wake([event.key for event in change.events])
        return TransactionResult(True, self.state.revision)

    async def changed(self, prefix: str) -> None:
        """Wait for the next revision that changes such a key."""
        one: asyncio.Future[None] = self._loop.create_future()
        self._waiting.setdefault(prefix, []).append(one)
        await one

    def _wake(self, keys: Sequence[str]) -> None:
        for prefix in [one for one in self._waiting if any(key.startswith(one) for key in keys)]:
            for one in self._waiting.pop(prefix):
                if not one.done():
                    one.set_result(None)

    # --- leases -----------------------------------------------------------------------------------------------------
    def grant(self, ttl_s: float) -> int:
        """A new lease."""
        lease, self._next_lease = self._next_lease, self._next_lease + 1
        self._begin(lease, ttl_s)
        return lease

    def _begin(self, lease: int, ttl_s: float) -> None:
        # In a context of nobody: a lease ends though the life that holds it is paused or dead.
        self._leases[lease] = (ttl_s, self._loop.call_later(ttl_s, self.end, lease, context=_NOBODY.copy()))

    def keep(self, lease: int) -> None:
        """Begin its time anew."""
        if lease not in self._leases:
            raise LeaseGoneError(f"meta lease {lease} has ended")
        ttl_s, timer = self._leases[lease]
        timer.cancel()
        self._begin(lease, ttl_s)

    def end(self, lease: int) -> None:
        """End a lease, now, and delete its keys. An ended one is fine."""
        found = self._leases.pop(lease, None)
        if found is None:
            return
        found[1].cancel()
        keys = [item.key for item in self.state.items.values() if item.lease == lease]
        self.trace.note("meta", "lease ends", f"{lease} {','.join(keys)}")
        if keys:
            self.transact((), [Delete(key) for key in sorted(keys)])

    def leases_of(self, owners: Sequence[str]) -> list[int]:
        """Leases under which one of these keys stands."""
        found = {item.lease for item in self.state.items.values() if item.lease and item.key in owners}
        return sorted(found)


class MetaClient:
    """`store.MetaStore` of one process."""

    def __init__(self, server: MetaServer, host: Host) -> None:
        self._server = server
        self._host = host
        self._faults = server.faults(host.name)
        self._by = "" if host.life is None else host.life.name
        self._closed = False

    # --- the way there and back -------------------------------------------------------------------------------------
    async def _travel(self) -> None:
        if self._closed:
            raise UnavailableError("the meta store is closed")
        least, most = TRAVEL_S
        await nap(least + self._server.chance.random() * (most - least))
        life = current_life()
        if life is not None:
            life.check()

    async def _reach(self) -> None:
        """To the store; UnavailableError when nobody answers there."""
        await self._travel()
        fault = self._silence()
        if fault:
            self._strike(fault)
            await nap(self._server.chance.random() * PATIENCE_S)
            raise UnavailableError("the meta store does not answer")

    def _silence(self) -> str:
        if not self._server.has_quorum:
            return "meta_no_quorum"
        return "meta_cut" if self._faults.cut else ""

    def _strike(self, fault: str, detail: object = "") -> None:
        self._server.trace.strike(fault, self._host.role, self._host.name, detail)

    def _strikes(self, fault: str, likely: float) -> bool:
        if likely and self._server.chance.random() < likely:
            self._strike(fault)
            return True
        return False

    # --- verbs ------------------------------------------------------------------------------------------------------
    async def get(self, key: str) -> Item | None:
        await self._reach()
        return self._server.state.items.get(key)

    async def range(self, prefix: str) -> list[Item]:
        return list((await self.snapshot(prefix)).items)

    async def snapshot(self, prefix: str) -> Snapshot:
        await self._reach()
        return Snapshot(tuple(self._server.state.range(prefix)), self._server.state.revision)

    async def transact(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> TransactionResult:
        validate(compares, operations)
        await self._reach()
        faults, server = self._faults, self._server
        if operations and self._strikes("meta_late", faults.late):
            delay_s = server.chance.random() * LATE_S_MAX
            asyncio.get_running_loop().call_later(
                delay_s, self._land, tuple(compares), tuple(operations), context=_NOBODY.copy()
            )
            raise OutcomeUnknownError("a meta transaction got no answer")
        result = server.transact(compares, operations, self._by)
        await self._travel()
        if operations and (self._silence() or self._strikes("meta_lost", faults.lost_reply)):
            await nap(server.chance.random() * PATIENCE_S)
            if self._silence() or server.chance.random() < LOST:
                raise OutcomeUnknownError("the answer to a meta transaction was lost")
        return result

    def _land(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> None:
        try:
            self._server.transact(compares, operations, self._by)
        except LeaseGoneError:
            self._server.trace.note("meta", "too late", "its lease has ended")

    async def watch(self, prefix: str, after_revision: int) -> AsyncIterator[WatchBatch]:
        await self._reach()
        seen, server = after_revision, self._server
        while True:
            if seen >= server.state.revision:
                await server.changed(prefix)
                await self._travel()
                if self._strikes("watch_gap", self._faults.watch_gap):
                    raise CompactedError(f"changes after revision {seen} are gone")
                fault = self._silence()
                if fault:
                    self._strike(fault)
                    raise UnavailableError("the watch was cut")
                continue
            for change in server.state.changes_after(seen, _WATCH_READ_MAX):
                seen = change.revision
                events = tuple(event for event in change.events if event.key.startswith(prefix))
                if events:
                    yield WatchBatch(change.revision, events)

    async def grant(self, ttl_s: float) -> int:
        await self._reach()
        return self._server.grant(ttl_s)

    async def keep_alive(self, lease: int) -> None:
        await self._reach()
        self._server.keep(lease)

    async def revoke(self, lease: int) -> None:
        await self._reach()
        self._server.end(lease)

    async def close(self) -> None:
        self._closed = True
