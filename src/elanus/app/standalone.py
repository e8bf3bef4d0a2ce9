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
from elanus.app.roles import Footing, Roles
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
from elanus.nodes.contracts import ProxyCache, Streaming
from elanus.nodes.coordinator.election import Candidate, Office
from elanus.nodes.membership import Peers
from elanus.objects import paths
from elanus.objects.posix import PosixObjectStore, open_posix
from elanus.objects.store import ObjectNotFoundError
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
        roles = self._build_roles(folder)
        office = Office(Candidate(roles.surroundings(NODE_ID)))
        await office.win()
        await self.coordinator.take_over(office)
        await self._listen()

    def _build_roles(self, folder: str) -> Roles:
        settings, doors = self._settings, self.doors
        log = FileLog(
            doors,
            f"{folder}/wal",
            file_bytes_max=settings.log.file_bytes_max,
            guard=self._lock.check,
            events=self.events,
        )
        footing = Footing(
            doors,
            self.meta,
            self.objects,
            log,
            self.events,
            settings,
            partial(doors.files.free_bytes, folder),
            serving_threads=settings.compute.serving_threads or available_cores(),
            building_threads=settings.index.build_threads or available_cores(),
        )
        roles = Roles(footing)
        self.streaming = roles.streaming(NODE_ID)
        self.query = roles.query()
        streaming: dict[int, Streaming] = {NODE_ID: self.streaming}
        proxies: dict[int, ProxyCache] = {}
        peers = Peers(streaming, {NODE_ID: self.query}, {NODE_ID: roles.data()}, proxies)
        self.coordinator = roles.coordinator(peers, adopts=False)
        self.streaming.connect(self.coordinator, peers.query)
        self.proxy = roles.proxy(self.coordinator, streaming)
        proxies[NODE_ID] = self.proxy
        return roles

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
        closed = [name for name in self.coordinator.leader.pchannels if not self.streaming.is_open(name)]
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
