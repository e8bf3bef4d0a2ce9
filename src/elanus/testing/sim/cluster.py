"""The cluster in a simulation: every process of every role on a machine of its own, by the production composition.

Two of each role. Shared are a meta store and a bucket, which also holds the log; both have faults of their own towards
each machine. A process that ends, in whatever way, is started again by its machine, with a new node id and a new
address, as a supervisor does. The client-facing calls of a proxy are offered at a fixed address of its machine.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, cast

from elanus.app.cluster import ClusterProcess
from elanus.app.roles import Footing, Roles
from elanus.app.settings import ClusterSettings, CompactionSettings, LogSettings, SegmentSettings, Settings
from elanus.base.errors import Action, ElanusError, UnavailableError
from elanus.base.events import Event, Events, Level
from elanus.meta.records import ELECTION, PCHANNELS, Pchannel, decode, node_key, owner_key
from elanus.meta.store import WatchBatch
from elanus.model.channel import Position, pchannel_name, pchannel_of
from elanus.model.reads import Found, ShardRead
from elanus.nodes.contracts import Frontend, ShardStatus
from elanus.nodes.streaming.node import StreamingNode
from elanus.testing.composition import World
from elanus.testing.history import LogHistory, ObjectHistory, RecordingLog
from elanus.testing.invariants import check_all
from elanus.testing.sim.bucket import Bucket, BucketClient
from elanus.testing.sim.hosts import Host
from elanus.testing.sim.meta import MetaClient, MetaServer
from elanus.testing.sim.network import Network, SimTransport
from elanus.testing.sim.onlooker import Onlooker
from elanus.testing.sim.plan import CLUSTER_MACHINES, Plan
from elanus.testing.sim.trace import Trace
from elanus.wal.log import Log
from elanus.wal.objects import ObjectLog

DOWN_S_MAX: Final = 0.5
LEAVE_S_MAX: Final = 3.0
REPLY_BYTES_MAX: Final = 1024
"""So small that reads of many rows are spilled."""
EXPECTED: Final = (Action.RETRY, Action.ELSEWHERE, Action.FENCED, Action.UNKNOWN)

MakeRoles = Callable[[Footing], Roles]


class Cluster:
    """See the module's head; what `faults.Machines` and `run` ask of a shape."""

    def __init__(self, plan: Plan, trace: Trace, network: Network, make: MakeRoles = Roles) -> None:
        self.plan = plan
        self.trace = trace
        self.network = network
        self.log_history = LogHistory()
        self.object_history = ObjectHistory()
        self.bucket = Bucket(random.Random(f"{plan.seed} bucket"), trace, self.object_history)
        self.meta_server = MetaServer(random.Random(f"{plan.seed} meta"), trace)
        self.hosts = {name: Host(name, role, plan.seed, trace) for name, role in CLUSTER_MACHINES.items()}
        self.processes: dict[str, ClusterProcess] = {}
        self._logs: dict[str, Log] = {}
        self.broken: list[BaseException] = []
        self.exits = 0
        self.moves = 0
        self._owners: dict[str, int] = {}
        onlooker = Onlooker(self.meta_server.state.items, self.bucket, self.broken.append)
        self.meta_server.seen += [self._count_moves, onlooker.changed]
        self.bucket.seen_deletes.append(onlooker.deleted)
        self._make = make
        self._chance = random.Random(f"{plan.seed} shape")
        self._settings = Settings(
            log=LogSettings(pchannel_count=plan.pchannel_count),
            segment=SegmentSettings(
                flush_bytes_max=plan.growing_bytes_max,
                flush_idle_s=plan.growing_idle_s,
            ),
            compaction=CompactionSettings(retention_ms=60_000, deleted_ratio_min=plan.deleted_ratio_min),
            cluster=ClusterSettings(lease_s=plan.lease_s, reply_bytes_max=REPLY_BYTES_MAX),
        )

    # --- life -------------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Begin every process."""
        for host in self.hosts.values():
            self._begin(host)

    def _begin(self, host: Host) -> None:
        if not host.is_up:
            host.begin().start(self._run(host), host.name)

    async def _run(self, host: Host) -> None:
        doors = host.doors(self._exit)
        meta, objects = MetaClient(self.meta_server, host), BucketClient(self.bucket, host)
        log = RecordingLog(ObjectLog(doors, objects), self.log_history)
        events = Events(doors.clock.now_ms, level=Level.INFO, sink=self._noting(host))
        footing = Footing(doors, meta, objects, log, events, self._settings, lambda: 1 << 40)
        transport = SimTransport(self.network, host)
        try:
            process = await ClusterProcess.start(self._make(footing), transport, host.role)
        except ElanusError as error:
            self._exit(host, "start", error)
            return
        self.processes[host.name], self._logs[host.name] = process, log
        if process.proxy is not None:
            self.network.serve(host, {Frontend: process.proxy}, host.name)
        self.trace.note(host.name, "serves", f"node {process.node_id}")

    def _noting(self, host: Host) -> Callable[[Event], None]:
        def note(event: Event) -> None:
            fields = " ".join(f"{name}={value}" for name, value in event.fields.items())
            self.trace.note(host.name, event.name, fields)

        return note

    def _exit(self, host: Host, task: str, error: BaseException) -> None:
        """A task of the process has died, and the process with it."""
        self.trace.note(host.name, "exit", f"{task}: {type(error).__name__}: {error}")
        self.exits += 1
        if not isinstance(error, ElanusError) or error.action not in EXPECTED:
            self.broken.append(error)
        self.crash(host)

    def crash(self, host: Host, *, power_seed: int | None = None) -> None:
        """See `faults.Machines`."""
        self.processes.pop(host.name, None)
        host.end(power_seed=power_seed)
        self.network.later(self._chance.random() * DOWN_S_MAX, lambda: self._begin(host))

    def lease_keys(self, host: Host) -> Sequence[str]:
        """Keys that name the host's process."""
        process = self.processes.get(host.name)
        if process is None:
            return ()
        leads = process.coordinator is not None and process.coordinator.is_started
        return (node_key(host.role, process.node_id), *((ELECTION,) if leads else ()))

    def checking(self, *, comes_to_rest: bool = True) -> list[asyncio.Task[Any]]:
        """See `run.Shape`."""
        inspector = Inspector(self)
        checks = check_all(cast("World", inspector), comes_to_rest=comes_to_rest)
        return [inspector.life.start(checks, "check")]

    def owner(self, pchannel: str) -> tuple[StreamingNode, Log]:
        """The node that owns the channel, as the meta store says, and its log. UnavailableError while there is none."""
        item = self.meta_server.state.items.get(owner_key(pchannel))
        record = None if item is None else decode(Pchannel, item.value, item.key)
        for name, process in self.processes.items():
            if record is not None and process.node_id == record.owner and process.streaming is not None:
                return process.streaming, self._logs[name]
        raise UnavailableError(f"nobody owns {pchannel}")

    # --- for clients ------------------------------------------------------------------------------------------------
    def addresses(self) -> list[str]:
        """Of proxies."""
        return [name for name, host in self.hosts.items() if host.role == "proxy"]

    def balance(self) -> bool:
        """Let a streaming node leave as SIGTERM makes it: what it owns moves to others, and it comes back empty."""
        names = [name for name, process in self.processes.items() if process.streaming is not None]
        if len(names) < 2:
            return False
        host = self.hosts[self._chance.choice(names)]
        life = host.life
        assert life is not None
        life.start(self._leave(host, self.processes[host.name]), "leave")
        return True

    async def _leave(self, host: Host, process: ClusterProcess) -> None:
        self.trace.note(host.name, "leaves", f"node {process.node_id}")
        await process.drain(LEAVE_S_MAX)
        await process.stop()
        self.trace.note(host.name, "left", "")
        self.crash(host)

    def _count_moves(self, change: WatchBatch, _: str) -> None:
        """A channel that is given to another node than before has moved."""
        for event in change.events:
            if event.item is not None and event.key.startswith(PCHANNELS) and event.key.endswith("/owner"):
                record = decode(Pchannel, event.item.value, event.key)
                before = self._owners.get(event.key)
                self.moves += before not in (None, record.owner)
                self._owners[event.key] = record.owner


class Inspector:
    """Somebody who looks at a whole cluster as if it were one process; for `invariants.check_all`."""

    running = True

    def __init__(self, cluster: Cluster) -> None:
        host = Host("inspector", "client", 0, cluster.trace)
        self.life = host.begin()
        self.log_history = cluster.log_history
        self.doors = host.doors(lambda _, task, error: cluster.broken.append(error))
        self.meta = MetaClient(cluster.meta_server, host)
        self.objects = BucketClient(cluster.bucket, host)
        self.pchannels = tuple(pchannel_name(number) for number in range(cluster.plan.pchannel_count))
        self._cluster = cluster

    @property
    def process(self) -> Inspector:
        """The roles of all processes as one."""
        return self

    @property
    def log(self) -> Inspector:
        """Logs are read by their owners."""
        return self

    async def read(self, pchannel: str, after: Position) -> AsyncIterator[tuple[Position, memoryview]]:
        """By the channel's owner."""
        async for one in self._cluster.owner(pchannel)[1].read(pchannel, after):
            yield one

    @property
    def leader(self) -> Inspector:
        """Knows the channels."""
        return self

    @property
    def streaming(self) -> Inspector:
        """Reads of shards go to their owners."""
        return self

    async def query(self, read: ShardRead) -> Found:
        """At the shard's owner."""
        return await self._cluster.owner(pchannel_of(read.vchannel))[0].query(read)

    async def status(self, vchannel: str) -> ShardStatus:
        """Of the shard's owner."""
        return await self._cluster.owner(pchannel_of(vchannel))[0].status(vchannel)
