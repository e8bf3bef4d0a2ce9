"""The composition root of the standalone shape: every role in one process, by direct calls, on one folder.

Built bottom-up and taken down in the opposite order. The folder's layout: `LOCK` (held while the process lives),
`meta.db` (catalog), `wal/` (log files), `objects/` (sealed data).
"""

from __future__ import annotations

import asyncio
import os
from functools import partial

import pyarrow as pa
from threadpoolctl import threadpool_limits

from elanus.app import logs
from elanus.app.metrics import ServerMetrics
from elanus.app.settings import Settings
from elanus.base.errors import Action, CorruptedError, ElanusError, InvariantError
from elanus.base.events import Events, Level
from elanus.base.lock import FolderLock
from elanus.base.memory import keep_heap_small
from elanus.base.real import RealDoors, available_cores, real_doors
from elanus.index.kernels import initialize_thread
from elanus.meta.catalog import create, fetch, run
from elanus.meta.local import LocalMetaStore
from elanus.meta.records import CLUSTER, Cluster
from elanus.meta.sqlite import open_sqlite
from elanus.model.arrow import leave_pandas_out
from elanus.nodes.contracts import Data, ProxyCache, Query, Streaming
from elanus.nodes.coordinator.background import BackgroundLimits
from elanus.nodes.coordinator.coordinator import Coordinator
from elanus.nodes.coordinator.ground import Peers, Surroundings
from elanus.nodes.coordinator.leader import Leader, elect
from elanus.nodes.data.node import DataNode
from elanus.nodes.proxy.proxy import Proxy
from elanus.nodes.query.node import QueryNode
from elanus.nodes.streaming.flush import Storage
from elanus.nodes.streaming.node import StreamingLimits, StreamingNode
from elanus.objects import paths
from elanus.objects.posix import PosixObjectStore, open_posix
from elanus.objects.store import ObjectNotFoundError
from elanus.search.execute import Execution
from elanus.wal.file import FileLog
from elanus.wire.server import GrpcServer

NODE_ID = 1


class Standalone:
    """A running server. `start` makes one, `stop` ends it."""

    def __init__(self, settings: Settings, lock: FolderLock) -> None:
        self._settings = settings
        self._lock = lock
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        level = Level[settings.logging.level.upper()]
        self.doors: RealDoors = real_doors(
            self._on_failure,
            cores=settings.compute.serving_threads or available_cores(),
            initialize_serving=initialize_thread,
        )
        self.events = Events(self.doors.clock.now_ms, level=level, sink=logs.sink(settings.logging))
        self._metrics = ServerMetrics(self.fault)
        self.address = ""

    @classmethod
    async def start(cls, settings: Settings) -> Standalone:
        """Open the folder, recover, and serve. InUseError; CorruptedError naming the file; DiskFullError."""
        leave_pandas_out()
        folder = os.path.abspath(settings.storage.data)  # noqa: ASYNC240 - nobody is served yet
        os.makedirs(folder, exist_ok=True)
        lock = FolderLock.acquire(folder)
        try:
            server = cls(settings, lock)
            await server._open(folder)
        except BaseException:
            lock.release()
            raise
        return server

    # --- building ---------------------------------------------------------------------------------------------------
    async def _open(self, folder: str) -> None:
        self.meta: LocalMetaStore = await open_sqlite(self.doors, f"{folder}/meta.db")
        self.objects: PosixObjectStore = await open_posix(
            self.doors, f"{folder}/objects", partial(self._on_failure, "object store")
        )
        await self._check_cluster_id()
        initialize_thread()
        keep_heap_small()
        threadpool_limits(1, user_api="blas")
        pa.set_memory_pool(pa.system_memory_pool())
        self._build_roles(folder)
        self.leader: Leader = await elect(
            Surroundings(NODE_ID, self.doors, self.meta, self.objects, self.events),
            self._peers,
            self._background_limits(),
            self._settings.log.pchannel_count,
        )
        self.coordinator.lead(self.leader)
        await self.leader.start()
        await self._listen()

    def _background_limits(self) -> BackgroundLimits:
        compaction = self._settings.compaction
        return BackgroundLimits(
            segment_bytes_max=self._settings.segment.segment_bytes_max,
            retention_ms=compaction.retention_ms,
            compacts=compaction.enabled,
            merge_count_min=compaction.segment_count_min,
            deleted_ratio_min=compaction.deleted_ratio_min,
        )

    def _build_roles(self, folder: str) -> None:
        settings, doors = self._settings, self.doors
        threads = settings.compute.serving_threads or available_cores()
        execution = Execution(doors.compute, doors.random, threads)
        log = FileLog(
            doors,
            f"{folder}/wal",
            file_bytes_max=settings.log.file_bytes_max,
            guard=self._lock.check,
            events=self.events,
        )
        storage = Storage(doors, self.meta, self.objects, partial(doors.files.free_bytes, folder))
        limits = StreamingLimits(
            growing_bytes_max=settings.segment.flush_bytes_max,
            growing_bytes_stop=settings.segment.growing_bytes_max,
            growing_idle_s=settings.segment.flush_idle_s,
            free_bytes_min=settings.storage.free_bytes_min,
            retention_ms=settings.compaction.retention_ms,
        )
        self.streaming = StreamingNode(NODE_ID, storage, log, execution, limits, self.events)
        self.query = QueryNode(doors, self.objects, execution)
        self.data = DataNode(doors, self.objects, settings.index.build_threads or available_cores())
        self.coordinator = Coordinator()
        streaming: dict[int, Streaming] = {NODE_ID: self.streaming}
        query: dict[int, Query] = {NODE_ID: self.query}
        data: list[Data] = [self.data]
        self.streaming.connect(self.coordinator, query)
        self.proxy = Proxy(doors, self.coordinator, streaming)
        proxies: list[ProxyCache] = [self.proxy]
        self._peers = Peers(streaming, query, data, proxies)

    async def _check_cluster_id(self) -> None:
        """Store and meta carry one cluster id; a stranger's folder is refused."""
        stored = await fetch(self.meta, Cluster, CLUSTER)
        try:
            on_disk = (await self.objects.get(paths.CLUSTER)).decode(errors="replace")
        except ObjectNotFoundError:
            on_disk = ""
        if stored is None and not on_disk:
            on_disk = self.doors.random.token()
            await self.objects.put(paths.CLUSTER, on_disk.encode())
        if stored is None and not await self.objects.list(paths.COLLECTIONS_PREFIX):
            await run(self.meta, create(Cluster(cluster_id=on_disk)))
        elif stored is None or stored.record.cluster_id != on_disk:
            raise CorruptedError(f"meta.db and objects/{paths.CLUSTER}.object name different stores")

    async def _listen(self) -> None:
        server = self._settings.server
        self._wire = GrpcServer(
            self.proxy,
            self.doors,
            report=self._on_unexpected,
            observe=self._metrics.observe,
            connection_age_s_max=server.connection_age_s_max,
        )
        if server.unix_path:
            self.address = f"unix:{server.unix_path}"
            await self._wire.start((self.address,))
        else:
            ports = await self._wire.start((f"{server.host}:{server.port}",))
            self.address = f"{server.host}:{ports[0]}"

    # --- while it runs ----------------------------------------------------------------------------------------------
    def _on_failure(self, name: str, error: BaseException) -> None:
        self.events.error("task.failed", task=name, error=repr(error))
        if not self._failed.done():
            self._failed.set_exception(error)

    def _on_unexpected(self, error: BaseException) -> None:
        self.events.error("call.failed", error=repr(error))
        broken = isinstance(error, InvariantError) or (
            isinstance(error, ElanusError) and error.action is Action.CORRUPTED
        )
        if broken and not self._failed.done():
            self._failed.set_exception(error)

    def fault(self) -> str:
        """Why the server cannot serve; empty when it can."""
        if self._failed.done():
            return str(self._failed.exception())
        closed = [name for name in self.leader.pchannels if not self.streaming.is_open(name)]
        return f"channels without a log: {', '.join(closed)}" if closed else ""

    def metrics(self) -> bytes:
        """Prometheus text."""
        return self._metrics.render()

    async def wait_failed(self) -> None:
        """Wait for a failure that ends the server, and raise it."""
        await asyncio.shield(self._failed)

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, let those under way end, close every file. Everything acknowledged is in the log."""
        await self._wire.stop(grace_s)
        await self.streaming.close()
        await self.doors.stop_tasks()
        await self.meta.close()
        self.doors.close()
        self._lock.release()
        if self._failed.done():
            self._failed.exception()
