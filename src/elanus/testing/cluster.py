"""A whole cluster in one process for tests: each role a process of its own on one virtual loop, by `app.cluster`.

What outlives the processes (catalog, objects, log) is in memory and shared; each process has tasks and chance of its
own, a way to the others that can be cut, and a way to the catalog that can be cut. A process can be killed at any time,
stopped, and joined by others.

    async def scenario(world: ClusterWorld) -> None:
        await world.proxy.create_collection(...)
        await world.kill("streaming 1")

    play_cluster(scenario, ClusterOptions(streaming=3), seed=7)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import msgspec

from elanus.app.cluster import ClusterProcess
from elanus.app.roles import Footing, Roles
from elanus.app.settings import ClusterSettings, CompactionSettings, LogSettings, SegmentSettings, Settings
from elanus.base.doors import Doors
from elanus.base.errors import OutcomeUnknownError, UnavailableError
from elanus.base.events import Events, Level, discard
from elanus.base.tasks import LoopTasks
from elanus.meta.local import LocalMetaStore
from elanus.meta.state import State
from elanus.meta.store import Compare, Item, MetaStore, Operation, Snapshot, TransactionResult, WatchBatch
from elanus.model.channel import pchannel_of
from elanus.model.reads import Found, ShardRead
from elanus.nodes.contracts import Frontend, ShardStatus
from elanus.nodes.coordinator.leader import Leader
from elanus.nodes.streaming.node import StreamingNode
from elanus.objects.memory import MemoryObjectStore
from elanus.testing.clock import InlineCompute, SeededRandom, VirtualClock, VirtualLoop
from elanus.testing.disk import ForgettingDisk
from elanus.testing.history import LogHistory, ObjectHistory, RecordingLog, RecordingObjects
from elanus.testing.network import Network
from elanus.wal.memory import MemoryLog

LASTS_S_MAX: Final = 900.0
CALM_S: Final = 3.0


class ClusterOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How many processes of each role, and the settings of the same names."""

    codec: bool = True
    coordinators: int = 1
    streaming: int = 2
    query: int = 2
    data: int = 1
    proxies: int = 1
    lease_s: float = 2.0
    pchannel_count: int = 2
    growing_bytes_max: int = 64 * 1024 * 1024
    growing_idle_s: float = 600.0
    segment_bytes_max: int = 1024 * 1024 * 1024
    retention_ms: int = 300_000
    compacts: bool = True
    reply_bytes_max: int = 64 * 1024 * 1024

    def settings(self) -> Settings:
        """The tree that the processes are made from."""
        return Settings(
            log=LogSettings(pchannel_count=self.pchannel_count),
            segment=SegmentSettings(
                flush_bytes_max=self.growing_bytes_max,
                flush_idle_s=self.growing_idle_s,
                segment_bytes_max=self.segment_bytes_max,
            ),
            compaction=CompactionSettings(retention_ms=self.retention_ms, enabled=self.compacts),
            cluster=ClusterSettings(lease_s=self.lease_s, reply_bytes_max=self.reply_bytes_max),
        )


class GatedMeta:
    """A process's way to the catalog; shut, nothing passes and watches break off. What is committed while answers are
    withheld is told when they are no longer."""

    def __init__(self, store: MetaStore) -> None:
        self._store = store
        self._shut = asyncio.Event()
        self._answers = asyncio.Event()
        self._answers.set()
        self._loses = False

    def shut(self) -> None:
        """Cut the way."""
        self._shut.set()

    def open(self) -> None:
        """Undo it."""
        self._shut.clear()

    def withhold(self) -> None:
        """Let changes through, and no answer to them."""
        self._answers.clear()

    def answer(self) -> None:
        """Undo it."""
        self._answers.set()

    def lose(self) -> None:
        """Let the next change through, and its answer be lost."""
        self._loses = True

    def _check(self) -> None:
        if self._shut.is_set():
            raise UnavailableError("the meta store cannot be reached")

    async def get(self, key: str) -> Item | None:
        self._check()
        return await self._store.get(key)

    async def range(self, prefix: str) -> list[Item]:
        self._check()
        return await self._store.range(prefix)

    async def snapshot(self, prefix: str) -> Snapshot:
        self._check()
        return await self._store.snapshot(prefix)

    async def transact(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> TransactionResult:
        self._check()
        result = await self._store.transact(compares, operations)
        await self._answers.wait()
        if self._loses and operations:
            self._loses = False
            raise OutcomeUnknownError("the answer of the meta store was lost")
        return result

    async def watch(self, prefix: str, after_revision: int) -> AsyncIterator[WatchBatch]:
        changes = self._store.watch(prefix, after_revision)
        while True:
            self._check()
            coming = asyncio.ensure_future(anext(changes))
            shutting = asyncio.ensure_future(self._shut.wait())
            try:
                await asyncio.wait((coming, shutting), return_when=asyncio.FIRST_COMPLETED)
                self._check()
                yield await coming
            finally:
                coming.cancel()
                shutting.cancel()

    async def grant(self, ttl_s: float) -> int:
        self._check()
        return await self._store.grant(ttl_s)

    async def keep_alive(self, lease: int) -> None:
        self._check()
        await self._store.keep_alive(lease)

    async def revoke(self, lease: int) -> None:
        self._check()
        await self._store.revoke(lease)

    async def close(self) -> None:
        """The store is shared: it stays open."""


@dataclass(slots=True)
class Member:
    """A process and what is its own."""

    name: str
    doors: Doors
    tasks: LoopTasks
    meta: GatedMeta
    log: RecordingLog
    process: ClusterProcess


class ClusterWorld:
    """See the module's head. Processes are called `streaming 1`, `query 2`, `proxy 1` and so on."""

    def __init__(self, options: ClusterOptions, seed: int, make: Callable[[Footing], Roles]) -> None:
        self.options = options
        self.clock = VirtualClock()
        self.members: dict[str, Member] = {}
        self.network = Network()
        self.log_history = LogHistory()
        self.object_history = ObjectHistory()
        self.failures: list[tuple[str, BaseException]] = []
        self.died = asyncio.Event()
        self._make = make
        self._seed = seed
        self._count = 0
        self.tasks = LoopTasks(self._on_failure)
        self._ground = self._doors(self.tasks)
        self.meta: MetaStore = LocalMetaStore(self._ground, State(), None)
        self.objects = RecordingObjects(MemoryObjectStore(), self.object_history)
        self._log = MemoryLog(self.tasks)

    def _on_failure(self, name: str, error: BaseException) -> None:
        self.failures.append((name, error))
        self.died.set()

    def _doors(self, tasks: LoopTasks) -> Doors:
        self._count += 1
        seed = self._seed * 1000 + self._count
        return Doors(self.clock, SeededRandom(seed), tasks, InlineCompute(seed), ForgettingDisk())

    # --- life -------------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Every process of the options."""
        options = self.options
        counts = {"coordinator": options.coordinators, "streaming": options.streaming, "query": options.query}
        for role, count in {**counts, "data": options.data, "proxy": options.proxies}.items():
            for _ in range(count):
                await self.join(role)
        while not self.has_leader:
            await self.sleep(0.1)

    async def join(self, role: str) -> Member:
        """One more process of the role."""
        number = 1
        while f"{role} {number}" in self.members:
            number += 1
        name = f"{role} {number}"
        tasks = LoopTasks(self._on_failure)
        doors = self._doors(tasks)
        meta = GatedMeta(self.meta)
        log = RecordingLog(self._log, self.log_history)
        events = Events(doors.clock.now_ms, level=Level.ERROR, sink=discard)
        footing = Footing(doors, meta, self.objects, log, events, self.options.settings(), lambda: 1 << 40)
        transport = self.network.transport(tasks, name, codec=self.options.codec)
        process = await ClusterProcess.start(self._make(footing), transport, role)
        self.members[name] = Member(name, doors, tasks, meta, log, process)
        return self.members[name]

    async def kill(self, name: str) -> None:
        """End a process as SIGKILL does; its lease goes on till its end."""
        member = self.members.pop(name)
        self.network.vanish(name)
        await member.tasks.cancel_all()

    async def leave(self, name: str, patience_s: float = 60.0) -> None:
        """End a process as SIGTERM does: it hands over what it holds and goes."""
        member = self.members[name]
        assert await member.process.drain(patience_s), f"{name} could not hand over all it holds"
        await member.process.stop()
        await member.tasks.cancel_all()
        del self.members[name]

    async def stop(self) -> None:
        """End everything."""
        for name in sorted(self.members):
            await self.kill(name)
        await self.meta.close()
        await self.tasks.cancel_all()

    def cut(self, name: str, *others: str) -> None:
        """Cut a process from these others; one of them may be `meta`."""
        for other in others:
            if other == "meta":
                self.members[name].meta.shut()
            else:
                self.network.cut(name, other)

    def mend(self, name: str, *others: str) -> None:
        """Undo `cut`."""
        for other in others:
            if other == "meta":
                self.members[name].meta.open()
            else:
                self.network.mend(name, other)

    # --- for scenarios ----------------------------------------------------------------------------------------------
    @property
    def running(self) -> bool:
        """Whether there is a proxy to ask."""
        return any(member.process.proxy is not None for member in self.members.values())

    @property
    def proxy(self) -> Frontend:
        """What clients talk to: the first proxy."""
        return next(member.process.proxy for member in self.members.values() if member.process.proxy is not None)

    @property
    def has_leader(self) -> bool:
        """Whether a coordinator leads, with all it starts with done."""
        found = [one.process.coordinator for one in self.members.values() if one.process.coordinator is not None]
        return any(one.is_started for one in found)

    @property
    def active(self) -> str:
        """Name of the coordinator that leads."""
        for name, member in self.members.items():
            role = member.process.coordinator
            if role is not None and role.is_started:
                return name
        raise AssertionError("no coordinator leads")

    def owner(self, pchannel: str) -> str:
        """Name of the process that takes writes for the channel."""
        for name, member in self.members.items():
            if member.process.streaming is not None and member.process.streaming.is_open(pchannel):
                return name
        raise AssertionError(f"nobody owns {pchannel}")

    def holders(self) -> dict[str, set[int]]:
        """Segments held by each query node."""
        return {
            name: set(member.process.query.held)
            for name, member in self.members.items()
            if member.process.query is not None
        }

    async def sleep(self, seconds: float) -> None:
        """By the world's clock."""
        await self.clock.sleep(seconds)

    @property
    def process(self) -> Whole:
        """The cluster as `testing.invariants` sees a process."""
        return Whole(self)


class Whole:
    """The roles of all processes as one: reads go to owners."""

    def __init__(self, world: ClusterWorld) -> None:
        self._world = world
        self.doors = next(iter(world.members.values())).doors
        self.meta = world.meta
        self.objects = world.objects
        self.log = next(iter(world.members.values())).log
        self.streaming = self

    @property
    def leader(self) -> Leader:
        """What leads now."""
        return cast("Any", self._world.members[self._world.active].process.coordinator).leader  # type: ignore[no-any-return]

    def _owner(self, vchannel: str) -> StreamingNode:
        name = self._world.owner(pchannel_of(vchannel))
        return cast("StreamingNode", self._world.members[name].process.streaming)

    async def query(self, read: ShardRead) -> Found:
        """At the shard's owner."""
        return await self._owner(read.vchannel).query(read)

    async def status(self, vchannel: str) -> ShardStatus:
        """Of the shard's owner."""
        return await self._owner(vchannel).status(vchannel)


ClusterScenario = Callable[[ClusterWorld], Awaitable[None]]


def play_cluster(
    scenario: ClusterScenario,
    options: ClusterOptions | None = None,
    *,
    seed: int = 0,
    make: Callable[[Footing], Roles] = Roles,
    check: Callable[[Any], Awaitable[None]] | None = None,
) -> None:
    """Run a scenario in virtual time on a new cluster, then `check`; a task that dies unexpectedly fails it."""

    async def main() -> None:
        world = ClusterWorld(options or ClusterOptions(), seed, make)

        async def steps() -> None:
            async with asyncio.timeout(LASTS_S_MAX):
                await world.start()
                await scenario(world)
                if check is not None:
                    await world.sleep(CALM_S)
                    await check(world)

        running = asyncio.ensure_future(steps())
        dying = asyncio.ensure_future(world.died.wait())
        await asyncio.wait((running, dying), return_when=asyncio.FIRST_COMPLETED)
        if world.failures:
            running.cancel()
            name, error = world.failures[0]
            raise AssertionError(f"task {name} died") from error
        dying.cancel()
        await running
        await world.stop()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())
