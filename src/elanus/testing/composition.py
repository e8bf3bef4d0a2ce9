"""The whole of Elanus in one process for tests: every role, wired as in the standalone shape, on doors of the test's
choice, by direct calls or with each role behind the contracts' codec.

A `World` is what outlives a process (disk, catalog, chance) and the process now running in it. It can be stopped,
killed and cut off from power, and started again. `Parts` makes the components; a test that wants one of them broken
overrides the method that makes it.

    async def scenario(world: World) -> None:
        await world.proxy.create_collection(...)

    play(scenario, Options(codec=True), seed=7)
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol, TypeVar, cast

import msgspec

from elanus.base.doors import Doors
from elanus.base.errors import ElanusError, StorageError
from elanus.base.events import Events, Level, discard
from elanus.base.real import RealDoors, real_doors
from elanus.base.tasks import LoopTasks
from elanus.meta.local import LocalMetaStore
from elanus.meta.sqlite import open_sqlite
from elanus.meta.state import State
from elanus.meta.store import NO_LEASE, MetaStore
from elanus.nodes.codec import through_codec
from elanus.nodes.contracts import Coordinator, Data, Frontend, ProxyCache, Query, Streaming
from elanus.nodes.coordinator.background import BackgroundLimits
from elanus.nodes.coordinator.coordinator import Coordinator as CoordinatorRole
from elanus.nodes.coordinator.election import Candidate, Office
from elanus.nodes.coordinator.ground import Surroundings
from elanus.nodes.coordinator.leader import Leader, LeaderLimits
from elanus.nodes.data.node import DataNode
from elanus.nodes.membership import Peers
from elanus.nodes.proxy.proxy import Proxy
from elanus.nodes.query.node import QueryNode
from elanus.nodes.streaming.flush import Storage
from elanus.nodes.streaming.node import StreamingLimits, StreamingNode
from elanus.objects.posix import open_posix
from elanus.objects.store import ObjectStore
from elanus.search.execute import Execution
from elanus.testing.clock import InlineCompute, SeededRandom, VirtualClock, VirtualLoop
from elanus.testing.disk import ForgettingDisk, PowerCut
from elanus.testing.history import LogHistory, ObjectHistory, RecordingLog, RecordingObjects
from elanus.wal.file import FileLog
from elanus.wal.log import Log

T = TypeVar("T")
R = TypeVar("R")

LASTS_S_MAX: Final = 900.0
"""Longest a scenario may take by its own clock; with a virtual one, waiting for what never comes ends here."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """`codec`: every role behind the codec. The rest are the settings of the same names."""

    codec: bool = False
    query_nodes: int = 1
    pchannel_count: int = 2
    growing_bytes_max: int = 64 * 1024 * 1024
    growing_idle_s: float = 600.0
    segment_bytes_max: int = 1024 * 1024 * 1024
    retention_ms: int = 300_000
    log_file_bytes_max: int = 64 * 1024


# --- grounds --------------------------------------------------------------------------------------------------------
class Ground(Protocol):
    """What outlives a process."""

    folder: str

    def doors(self, on_failure: Callable[[str, BaseException], None]) -> Doors:
        """Doors for the next process."""
        ...

    async def meta(self, doors: Doors) -> LocalMetaStore:
        """The catalog, opened by the next process."""
        ...

    def ended(self, doors: Doors) -> None:
        """That process is gone."""
        ...


class VirtualGround:
    """A forgetting disk, a catalog in memory that forgets nothing, a clock that jumps, chance from one seed."""

    folder = "/store"

    def __init__(self, seed: int = 0, disk: ForgettingDisk | None = None) -> None:
        self.seed = seed
        self.disk = disk if disk is not None else ForgettingDisk()
        self.clock = VirtualClock()
        self._state = State()
        self._lives = 0

    def doors(self, on_failure: Callable[[str, BaseException], None]) -> Doors:
        self._lives += 1
        seed = self.seed * 1000 + self._lives
        self.disk.make_directory(self.folder)
        return Doors(self.clock, SeededRandom(seed), LoopTasks(on_failure), InlineCompute(seed), self.disk)

    async def meta(self, doors: Doors) -> LocalMetaStore:
        kept = [item for item in self._state.items.values() if item.lease == NO_LEASE]
        self._state = State(kept, self._state.revision + 1)
        return LocalMetaStore(doors, self._state, None)

    def ended(self, doors: Doors) -> None:
        self.disk.restart()

    def cut_power(self, seed: int) -> None:
        """What was not synced is lost, or not; after the process has ended."""
        self.disk = self.disk.crash(seed)


class RealGround:
    """A real folder with sqlite, the machine's clock and threads."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def doors(self, on_failure: Callable[[str, BaseException], None]) -> RealDoors:
        return real_doors(on_failure, cores=2)

    async def meta(self, doors: Doors) -> LocalMetaStore:
        return await open_sqlite(doors, f"{self.folder}/meta.db")

    def ended(self, doors: Doors) -> None:
        cast("RealDoors", doors).close()


# --- parts ----------------------------------------------------------------------------------------------------------
class Parts:
    """Makes the components of a process; tests override one to break it."""

    async def objects(self, doors: Doors, folder: str, on_failure: Callable[[StorageError], None]) -> ObjectStore:
        """The object store."""
        return await open_posix(doors, f"{folder}/objects", on_failure)

    def log(self, doors: Doors, folder: str, options: Options) -> Log:
        """The log."""
        return FileLog(doors, f"{folder}/wal", file_bytes_max=options.log_file_bytes_max)

    def streaming(self, *arguments: Any) -> StreamingNode:
        """The streaming node."""
        return StreamingNode(*arguments)

    def query(self, doors: Doors, objects: ObjectStore, execution: Execution) -> QueryNode:
        """A query node."""
        return QueryNode(doors, objects, execution)

    def data(self, doors: Doors, objects: ObjectStore) -> DataNode:
        """The data node."""
        return DataNode(doors, objects, 1)

    def leader(self, leader: Leader) -> Leader:
        """The elected coordinator, before it starts."""
        return leader


@dataclass(frozen=True, slots=True)
class Process:
    """The roles of one life."""

    doors: Doors
    meta: LocalMetaStore
    objects: ObjectStore
    log: Log
    events: Events
    proxy: Frontend
    streaming: StreamingNode
    query: Mapping[int, QueryNode]
    data: DataNode
    coordinator: CoordinatorRole

    @property
    def leader(self) -> Leader:
        """What leads now."""
        return self.coordinator.leader


@dataclass(slots=True)
class World:
    """See the module's head."""

    ground: VirtualGround | RealGround
    options: Options = field(default_factory=Options)
    parts: Parts = field(default_factory=Parts)
    log_history: LogHistory = field(default_factory=LogHistory)
    object_history: ObjectHistory = field(default_factory=ObjectHistory)
    failures: list[tuple[str, BaseException]] = field(default_factory=list)
    died: asyncio.Event = field(default_factory=asyncio.Event)
    _process: Process | None = None
    _starting: Doors | None = None

    @property
    def process(self) -> Process:
        """The process now running."""
        assert self._process is not None, "the world is not running"
        return self._process

    @property
    def proxy(self) -> Frontend:
        """What clients talk to."""
        return self.process.proxy

    @property
    def running(self) -> bool:
        """Whether a process runs."""
        return self._process is not None

    def _on_failure(self, name: str, error: BaseException) -> None:
        self.failures.append((name, error))
        if not isinstance(error, PowerCut):
            self.died.set()

    # --- life -------------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Open the store and serve, as `app.standalone` does."""
        ground, options = self.ground, self.options
        doors = self._starting = ground.doors(self._on_failure)
        meta = await ground.meta(doors)
        objects: ObjectStore = RecordingObjects(
            await self.parts.objects(doors, ground.folder, partial(self._on_failure, "object store")),
            self.object_history,
        )
        log: Log = RecordingLog(self.parts.log(doors, ground.folder, options), self.log_history)
        events = Events(doors.clock.now_ms, level=Level.ERROR, sink=discard)
        execution = Execution(doors.compute, doors.random, 1)
        limits = StreamingLimits(
            growing_bytes_max=options.growing_bytes_max,
            growing_bytes_stop=1 << 30,
            growing_idle_s=options.growing_idle_s,
            free_bytes_min=0,
            retention_ms=options.retention_ms,
        )
        free_bytes = partial(doors.files.free_bytes, ground.folder)
        storage = Storage(doors, meta, objects, free_bytes)
        streaming = self.parts.streaming(1, storage, log, execution, limits, events)
        query = {number: self.parts.query(doors, objects, execution) for number in range(1, options.query_nodes + 1)}
        data = self.parts.data(doors, objects)
        known_streaming = {1: self._bordered(streaming, Streaming)}
        known_query = {number: self._bordered(node, Query) for number, node in query.items()}
        peers_proxies: dict[int, ProxyCache] = {}
        peers = Peers(known_streaming, known_query, {1: self._bordered(data, Data)}, peers_proxies)
        background = BackgroundLimits(options.segment_bytes_max, options.retention_ms)
        bounds = LeaderLimits(background, options.pchannel_count)
        coordinator = CoordinatorRole(lambda office: self.parts.leader(Leader(office, peers, bounds)))
        known_coordinator = self._bordered(coordinator, Coordinator)
        streaming.connect(known_coordinator, known_query)
        proxy = Proxy(doors, known_coordinator, known_streaming)
        peers_proxies[1] = self._bordered(proxy, ProxyCache)
        frontend = self._bordered(proxy, Frontend)
        self._process = Process(doors, meta, objects, log, events, frontend, streaming, query, data, coordinator)
        office = Office(Candidate(Surroundings(1, doors, meta, objects, events)))
        await office.win()
        await coordinator.take_over(office)

    def _bordered(self, role: Any, protocol: Callable[..., R]) -> R:
        return through_codec(role, cast("type[R]", protocol)) if self.options.codec else cast("R", role)

    async def stop(self) -> None:
        """End the process as SIGTERM does; nothing is flushed."""
        process, self._process = self.process, None
        await process.streaming.close()
        await self._end(process.doors)
        await process.meta.close()
        self.ground.ended(process.doors)

    async def kill(self) -> None:
        """End the process as SIGKILL does: no role does anything more."""
        doors = self._starting
        assert doors is not None
        self._process = None
        await self._end(doors)
        self.ground.ended(doors)

    @staticmethod
    async def _end(doors: Doors) -> None:
        await cast("LoopTasks", doors.tasks).cancel_all()

    async def restart(self) -> None:
        """Stop and start."""
        await self.stop()
        await self.start()

    async def crash(self, power_seed: int | None = None) -> None:
        """Kill, with a power cut if a seed is given, and start again."""
        await self.kill()
        if power_seed is not None and isinstance(self.ground, VirtualGround):
            self.ground.cut_power(power_seed)
        await self.start()

    # --- for scenarios ----------------------------------------------------------------------------------------------
    async def sleep(self, seconds: float) -> None:
        """By the world's clock."""
        await self.process.doors.clock.sleep(seconds)

    async def settle(self, calm_s: float = 5.0) -> None:
        """Let background work come to rest: no shard's manifest moves for a while."""
        while True:
            before = await self._versions()
            await self.sleep(calm_s)
            if before == await self._versions():
                return

    async def _versions(self) -> object:
        items = await self.meta.range("shard/")
        return [(item.key, item.mod_revision) for item in items]

    @property
    def meta(self) -> MetaStore:
        """The catalog's store."""
        return self.process.meta


Scenario = Callable[[World], Awaitable[None]]


def play(
    scenario: Scenario,
    options: Options | None = None,
    *,
    seed: int = 0,
    parts: Parts | None = None,
    check: Callable[[World], Awaitable[None]] | None = None,
) -> World:
    """Run a scenario in virtual time on a new world, then `check`; tasks that died unexpectedly fail it."""
    world = World(VirtualGround(seed), options or Options(), parts or Parts())

    async def main() -> None:
        async with asyncio.timeout(LASTS_S_MAX):
            await world.start()
            await unless_died(world, scenario(world))
            if check is not None:
                await unless_died(world, check(world))
            if world.running:
                await world.stop()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())
    raise_unexpected(world)
    return world


async def unless_died(world: World, steps: Awaitable[None]) -> None:
    """Take the steps, or raise as soon as a task of the world has died: what they wait for may never come."""
    taking = asyncio.ensure_future(steps)
    world.died.clear()
    dying = asyncio.ensure_future(world.died.wait())
    try:
        await asyncio.wait((taking, dying), return_when=asyncio.FIRST_COMPLETED)
        if not taking.done():
            raise_unexpected(world)
        await taking
    finally:
        dying.cancel()
        taking.cancel()


def raise_unexpected(world: World) -> None:
    """The first error that ended a task, but for the power going out."""
    for name, error in world.failures:
        if not isinstance(error, PowerCut):
            raise AssertionError(f"task {name} died") from error


async def outcome(call: Awaitable[T]) -> T | ElanusError:
    """What a call answered or how it was refused."""
    try:
        return await call
    except ElanusError as error:
        return error
