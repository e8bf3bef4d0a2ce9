"""The composition root of the standalone shape: every role in one process, by direct calls, on one folder.

Built bottom-up and taken down in the opposite order. The folder's layout: `LOCK` (held while the process lives),
`meta.db` (catalog), `wal/` (log files), `objects/` (sealed data).
"""

from __future__ import annotations

import os
from functools import partial

from elanus.app.host import Host
from elanus.app.identity import settle_cluster_id
from elanus.app.roles import Footing, Roles
from elanus.app.settings import Settings
from elanus.base.lock import FolderLock
from elanus.meta.local import LocalMetaStore
from elanus.meta.sqlite import open_sqlite
from elanus.nodes.contracts import ProxyCache, Streaming
from elanus.nodes.coordinator.election import Candidate, Office
from elanus.nodes.membership import Peers
from elanus.objects.posix import PosixObjectStore, open_posix
from elanus.wal.file import FileLog
from elanus.wire.server import GrpcServer

NODE_ID = 1


class Standalone:
    """A running server. `start` makes one, `stop` ends it."""

    def __init__(self, settings: Settings, lock: FolderLock) -> None:
        self._settings = settings
        self._lock = lock
        self._host = Host(settings)
        self._host.fault = self.fault
        self.doors = self._host.doors
        self.events = self._host.events
        self.address = ""

    @classmethod
    async def start(cls, settings: Settings) -> Standalone:
        """Open the folder, recover, and serve. InUseError; CorruptedError naming the file; DiskFullError."""
        folder = os.path.abspath(settings.storage.data)  # noqa: ASYNC240 - nobody is served yet
        os.makedirs(folder, exist_ok=True)
        lock = FolderLock.acquire(folder)
        try:
            server = cls(settings, lock)
            await server._host.unless_failed(server._open(folder))
        except BaseException:
            lock.release()
            raise
        return server

    # --- building ---------------------------------------------------------------------------------------------------
    async def _open(self, folder: str) -> None:
        self.meta: LocalMetaStore = await open_sqlite(self.doors, f"{folder}/meta.db")
        self.objects: PosixObjectStore = await open_posix(
            self.doors, f"{folder}/objects", partial(self._host.on_failure, "object store")
        )
        await settle_cluster_id(self.doors, self.meta, self.objects, meta_name="meta.db")
        self._host.prepare_libraries()
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
            serving_threads=self._host.serving_threads,
            building_threads=self._host.building_threads,
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

    async def _listen(self) -> None:
        server = self._settings.server
        self._wire = GrpcServer(
            self.proxy,
            self.doors,
            report=self._host.on_unexpected,
            observe=self._host.metrics.observe,
            connection_age_s_max=server.connection_age_s_max,
        )
        if server.unix_path:
            self.address = f"unix:{server.unix_path}"
            await self._wire.start((self.address,))
        else:
            ports = await self._wire.start((f"{server.host}:{server.port}",))
            self.address = f"{server.host}:{ports[0]}"

    # --- while it runs ----------------------------------------------------------------------------------------------
    def fault(self) -> str:
        """Why the server cannot serve; empty when it can."""
        if self._host.failure():
            return self._host.failure()
        closed = [name for name in self.coordinator.leader.pchannels if not self.streaming.is_open(name)]
        return f"channels without a log: {', '.join(closed)}" if closed else ""

    def metrics(self) -> bytes:
        """Prometheus text."""
        return self._host.metrics.render()

    async def wait_failed(self) -> None:
        """Wait for a failure that ends the server, and raise it."""
        await self._host.wait_failed()

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, let those under way end, close every file. Everything acknowledged is in the log."""
        await self._wire.stop(grace_s)
        await self.streaming.close()
        await self.doors.stop_tasks()
        await self.meta.close()
        await self._host.close()
        self._lock.release()
