"""Who is there: nodes announce themselves in the meta store under a lease, and every process follows the list.

A lease says whom to replace and nothing else. A node whose lease was lost may still act: what must be safe is guarded
by terms. It announces itself anew under the same id as soon as it can, for what it holds in memory is worth having.
Only a coordinator stops, since its lease is its election (`coordinator.leader`).

Ids are drawn from a counter in the meta store, one per start of a process, so that no id ever means two lives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec

from elanus.base.doors import Doors, Tasks
from elanus.base.errors import Action, ElanusError, FencedError, ReplyLostError, UnavailableError
from elanus.meta.catalog import create_or_replace, fetch, run
from elanus.meta.follow import follow
from elanus.meta.records import NODE_ID_BOUND, NODES, NodeIdBound, NodeRecord, decode, encode
from elanus.meta.store import MetaStore, Put, Snapshot, unchanged
from elanus.nodes.contracts import Data, ProxyCache, Query, Streaming
from elanus.nodes.transport import Transport

T = TypeVar("T")

LEASE_S: Final = 15.0
RETRY_S: Final = 0.5
ID_ATTEMPTS_MAX: Final = 64

PROTOCOLS: Final[dict[str, type]] = {"streaming": Streaming, "query": Query, "data": Data, "proxy": ProxyCache}
"""What a node of each role offers to others."""


class Changes:
    """Tells whoever asked to be told."""

    def __init__(self) -> None:
        self._told: list[Callable[[], None]] = []

    def subscribe(self, tell: Callable[[], None]) -> Callable[[], None]:
        """Call `tell` at every change from now on; returns the way out."""
        self._told.append(tell)
        return lambda: self._told.remove(tell)

    def notify(self) -> None:
        """Something has changed."""
        for tell in tuple(self._told):
            tell()


@dataclass(frozen=True, slots=True)
class Peers:
    """The nodes that are there now, by id: live views, which change between awaits. `draining`: ids of nodes that want
    to leave. `changes` tells when any of this has changed."""

    streaming: Mapping[int, Streaming] = field(default_factory=dict)
    query: Mapping[int, Query] = field(default_factory=dict)
    data: Mapping[int, Data] = field(default_factory=dict)
    proxies: Mapping[int, ProxyCache] = field(default_factory=dict)
    records: Mapping[int, NodeRecord] = field(default_factory=dict)
    draining: Set[int] = frozenset()
    changes: Changes = field(default_factory=Changes)

    def lasting(self, nodes: Mapping[int, object]) -> list[int]:
        """Ids of those that are not about to leave, sorted."""
        return sorted(node_id for node_id in nodes if node_id not in self.draining)

    async def while_there(self, tasks: Tasks, node_id: int, call: Coroutine[Any, Any, T]) -> T:
        """The outcome of a call to a node. ReplyLostError when the node leaves before it is known: it may sleep, and
        would keep its caller waiting."""
        outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        outcome.add_done_callback(lambda done: done.cancelled() or done.exception())

        async def do() -> None:
            try:
                result = await call
            except ElanusError as error:
                if not outcome.done():
                    outcome.set_exception(error)
            else:
                if not outcome.done():
                    outcome.set_result(result)

        def look() -> None:
            there = any(node_id in nodes for nodes in (self.streaming, self.query, self.data, self.proxies))
            if not there and not outcome.done():
                outcome.set_exception(ReplyLostError(f"node {node_id} has left"))

        job = tasks.spawn(do(), name=f"call to node {node_id}")
        leave = self.changes.subscribe(look)
        try:
            return await outcome
        finally:
            leave()
            job.cancel()


class Membership:
    """Keeps a `Peers` up to date from the meta store."""

    def __init__(self, doors: Doors, meta: MetaStore, transport: Transport) -> None:
        self._doors = doors
        self._meta = meta
        self._transport = transport
        self._nodes: dict[str, dict[int, Any]] = {role: {} for role in PROTOCOLS}
        self._records: dict[int, NodeRecord] = {}
        self._draining: set[int] = set()
        self._listed = asyncio.Event()
        self.peers = Peers(
            streaming=self._nodes["streaming"],
            query=self._nodes["query"],
            data=self._nodes["data"],
            proxies=self._nodes["proxy"],
            records=self._records,
            draining=self._draining,
        )

    async def start(self) -> None:
        """Follow the list from now on; returns when it was read."""
        self._doors.tasks.spawn(self._follow(), name="follow nodes")
        await self._listed.wait()

    async def _follow(self) -> None:
        async for step in follow(self._doors.clock, self._meta, NODES):
            if isinstance(step, Snapshot):
                present = {item.key: item.value for item in step.items}
                for record in [one for one in self._records.values() if one.key not in present]:
                    self._leave(record.node_id)
                for key, value in present.items():
                    self._join(decode(NodeRecord, value, f"meta key {key}"))
            else:
                for event in step.events:
                    if event.item is None:
                        self._leave(_id_of(event.key))
                    else:
                        self._join(decode(NodeRecord, event.item.value, f"meta key {event.key}"))
            self._listed.set()
            self.peers.changes.notify()

    def _join(self, record: NodeRecord) -> None:
        known = self._records.get(record.node_id)
        self._records[record.node_id] = record
        if record.draining:
            self._draining.add(record.node_id)
        else:
            self._draining.discard(record.node_id)
        protocol = PROTOCOLS.get(record.role)
        if protocol is not None and (known is None or known.address != record.address):
            self._nodes[record.role][record.node_id] = self._transport.connect(record.address, protocol)

    def _leave(self, node_id: int) -> None:
        record = self._records.pop(node_id, None)
        self._draining.discard(node_id)
        if record is not None and record.role in self._nodes:
            self._nodes[record.role].pop(node_id, None)


def _id_of(key: str) -> int:
    return int(key.rpartition("/")[2])


class Registration:
    """A node's announcement, kept up while the process lives."""

    def __init__(self, doors: Doors, meta: MetaStore, record: NodeRecord, lease_s: float = LEASE_S) -> None:
        self._doors = doors
        self._meta = meta
        self._lease_s = lease_s
        self._lease = 0
        self.record = record

    async def start(self) -> None:
        """Announce the node; retried until the meta store takes it."""
        await self._announce()
        self._doors.tasks.spawn(self._keep(), name=f"lease of {self.record.role} {self.record.node_id}")

    async def drain(self) -> None:
        """Say that the node wants to leave."""
        self.record = msgspec.structs.replace(self.record, draining=True)
        await self._announce()

    async def end(self) -> None:
        """Leave at once, if the meta store can be told; otherwise when the lease has ended."""
        lease, self._lease = self._lease, -1
        try:
            await self._meta.revoke(lease)
        except UnavailableError:
            return

    async def _keep(self) -> None:
        while self._lease >= 0:
            await self._doors.clock.sleep(self._lease_s / 3)
            try:
                await self._meta.keep_alive(self._lease)
            except ElanusError as error:
                if error.action is Action.CORRUPTED:
                    raise
                if error.action is Action.FENCED and self._lease >= 0:
                    await self._announce()

    async def _announce(self) -> None:
        """Put the record under a fresh lease, in place of what stands there now.

        Story: an attempt of unknown outcome lands after the next one has succeeded, and puts the record back under its
        own lease, which nobody keeps. Hence the compare: of attempts that saw the same, one lands."""
        key = self.record.key
        while True:
            try:
                found = await self._meta.get(key)
                lease = await self._meta.grant(self._lease_s)
                compare = unchanged(key, 0 if found is None else found.mod_revision)
                done = await self._meta.transact((compare,), (Put(key, encode(self.record), lease),))
                if done.succeeded:
                    self._lease = lease
                    return
            except ElanusError as error:
                if error.action not in (Action.RETRY, Action.UNKNOWN, Action.FENCED):
                    raise
            await self._doors.clock.sleep(RETRY_S)


async def draw_node_id(doors: Doors, meta: MetaStore) -> int:
    """An id that no node ever had. UnavailableError when the meta store cannot be asked."""
    for _ in range(ID_ATTEMPTS_MAX):
        old = await fetch(meta, NodeIdBound, NODE_ID_BOUND)
        drawn = NodeIdBound(value=1 if old is None else old.record.value + 1)
        try:
            await run(meta, create_or_replace(old, drawn))
        except ElanusError as error:
            if isinstance(error, FencedError) or error.action not in (Action.RETRY, Action.UNKNOWN):
                raise
            await doors.clock.sleep(RETRY_S * doors.random.uniform())
            continue
        return drawn.value
    raise UnavailableError("no node id could be drawn")
