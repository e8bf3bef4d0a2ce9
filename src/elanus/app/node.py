"""One process of a cluster, as `elanus run` starts it: the stores that all share, a way to the others, and one role.

Nothing that must outlive the process is on its disk. The one folder it writes to, `cluster.cache`, holds what a later
process may find useful and nobody misses; the root file system may be read-only.

Stop: a proxy takes no new connections and lets its calls end; any other role first says that it wants to leave and
hands over what it holds, for as long as `server.stop_grace_s` allows. Whoever is killed instead is missed when its
lease ends.
"""

from __future__ import annotations

import os
import ssl

import elanus
from elanus.app.cluster import ClusterProcess
from elanus.app.host import Host
from elanus.app.identity import settle_cluster_id
from elanus.app.metrics import cpu_seconds, resident_bytes
from elanus.app.roles import Footing, Roles
from elanus.app.settings import ClusterSettings, Settings, SettingsError
from elanus.app.stores import open_log, open_meta, open_objects
from elanus.meta.store import MetaStore
from elanus.nodes.contracts import Process, ProcessStatus
from elanus.objects.cache import CacheLimits, open_cache
from elanus.objects.store import ObjectStore
from elanus.wire.internal import Link, StreamTransport, Tls
from elanus.wire.server import GrpcServer

KEEP_ALIVE_S_MIN = 0.25
NO_LIMIT = 1 << 62
CACHING_ROLES = ("query", "data")


class Node:
    """See the module's head; implements `serve.Server`."""

    def __init__(self, role_name: str, settings: Settings) -> None:
        self.role_name = role_name
        self.address = ""
        self.metrics_port = -1
        self._settings = settings
        self._host = Host(settings)
        self._host.fault = self.fault
        self._started_s = self._host.doors.clock.monotonic_s()
        self._leaving = False
        self._wire: GrpcServer | None = None

    @classmethod
    async def start(cls, role_name: str, settings: Settings) -> Node:
        """Reach the stores, join the cluster, serve. UnavailableError, StorageError when a store does not answer."""
        for name in ("meta", "store"):
            if not getattr(settings.cluster, name):
                raise SettingsError(f"cluster.{name} (--{name}) is needed: it says what the processes share")
        node = cls(role_name, settings)
        try:
            await node._open()
        except BaseException:
            await node._host.close()
            raise
        return node

    # --- building ---------------------------------------------------------------------------------------------------
    async def _open(self) -> None:
        host, settings, cluster = self._host, self._settings, self._settings.cluster
        if cluster.cache:
            use_cache(cluster.cache)
        host.prepare_libraries()
        self._meta: MetaStore = await open_meta(host.doors, cluster.meta, os.environ)
        objects = await open_objects(host.doors, cluster.store, os.environ)
        cluster_id = await settle_cluster_id(host.doors, self._meta, objects, meta_name=cluster.meta)
        footing = Footing(
            host.doors,
            self._meta,
            await self._cached(objects),
            open_log(host.doors, cluster.wal, objects),
            host.events,
            settings,
            lambda: NO_LIMIT,
            serving_threads=host.serving_threads,
            building_threads=host.building_threads,
        )
        transport = StreamTransport(
            link_of(cluster, cluster_id, settings.server.stop_grace_s),
            host.doors,
            report=host.on_unexpected,
            observe=host.metrics.observe,
        )
        transport.offer(Process, self)
        self.process = await ClusterProcess.start(Roles(footing), transport, self.role_name)
        self.address = self.process.address.partition("#")[0]
        if self.process.proxy is not None:
            await self._listen()

    async def _cached(self, objects: ObjectStore) -> ObjectStore:
        """The objects behind the cache folder, for roles that read whole files; the log never reads through it."""
        cluster = self._settings.cluster
        if not cluster.cache or self.role_name not in CACHING_ROLES or cluster.store.startswith("file:"):
            return objects
        limits = CacheLimits(disk_bytes_max=cluster.cache_bytes_max)
        return await open_cache(self._host.doors, objects, f"{absolute(cluster.cache)}/objects", limits)

    async def _listen(self) -> None:
        server, host = self._settings.server, self._host
        assert self.process.proxy is not None
        self._wire = GrpcServer(
            self.process.proxy,
            host.doors,
            report=host.on_unexpected,
            observe=host.metrics.observe,
            connection_age_s_max=server.connection_age_s_max,
        )
        ports = await self._wire.start((f"{server.host}:{server.port}",))
        self.address = f"{server.host}:{ports[0]}"

    # --- while it runs ----------------------------------------------------------------------------------------------
    def fault(self) -> str:
        """Why the process cannot serve; empty when it can."""
        return self._host.failure() or ("leaving" if self._leaving else "")

    def metrics(self) -> bytes:
        """Prometheus text."""
        return self._host.metrics.render()

    async def wait_failed(self) -> None:
        """Wait for a failure that ends the process, and raise it."""
        await self._host.wait_failed()

    async def process_status(self) -> ProcessStatus:
        return ProcessStatus(
            role=self.role_name,
            version=elanus.__version__,
            process_id=os.getpid(),
            up_s=self._host.doors.clock.monotonic_s() - self._started_s,
            resident_bytes=int(resident_bytes()),
            cpu_s=cpu_seconds(),
            client_address=self.address if self._wire is not None else "",
            metrics_port=self.metrics_port,
            fault=self.fault(),
        )

    async def stop(self, grace_s: float) -> None:
        """Leave as the module's head says."""
        self._leaving = True
        if self._wire is not None:
            await self._wire.stop(grace_s)
        elif not await self.process.drain(grace_s):
            self._host.events.warning("node.drain_cut", role=self.role_name, grace_s=grace_s)
        await self.process.stop()
        await self._host.doors.stop_tasks()
        await self._meta.close()
        await self._host.close()


def absolute(path: str) -> str:
    """`path` from the root on."""
    return os.path.abspath(path)


def use_cache(folder: str) -> None:
    """Let libraries keep compiled code and temporary files in this folder and nowhere else."""
    for variable, name in (("TMPDIR", "temporary"), ("XDG_CACHE_HOME", "kept")):
        path = os.path.join(absolute(folder), name)
        os.makedirs(path, mode=0o700, exist_ok=True)
        os.environ[variable] = path


def link_of(cluster: ClusterSettings, cluster_id: str, grace_s: float = 0.0) -> Link:
    """How a process with these settings reaches others and is reached."""
    return Link(
        f"{cluster.host}:{cluster.port}",
        cluster_id,
        advertise=cluster.advertise,
        keep_alive_s=max(KEEP_ALIVE_S_MIN, cluster.lease_s / 4),
        grace_s=grace_s,
        tls=tls_of(cluster),
    )


def tls_of(cluster: ClusterSettings) -> Tls | None:
    """What these settings say of TLS between processes; None where they name no certificate. SettingsError."""
    if not cluster.tls_certificate:
        return None
    serving, calling = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    serving.verify_mode = ssl.CERT_REQUIRED
    try:
        for context in (serving, calling):
            context.load_cert_chain(cluster.tls_certificate, cluster.tls_key)
            context.load_verify_locations(cluster.tls_authority)
    except OSError as error:
        raise SettingsError(f"the certificates of cluster.tls_… cannot be used: {error}") from error
    return Tls(serving, calling, cluster.tls_name)
