"""A real cluster on this machine: every role a process, each on a host of its own, behind nginx."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from balancers import nginx
from hosts import Hosts
from pymilvus import MilvusClient

from services import Radosgw, Service, s3_environment, start_etcd, start_moto

LEASE_S = 2.0
READY_S_MAX = 60.0
FAULT_MARKS = ("Traceback", "task.failed", "call.failed")
STOP_S_MAX = 30.0
CLIENT_PORT = 19530
PEER_PORT = 19531
COUNTS = {"coordinator": 2, "streaming": 2, "query": 2, "data": 2, "proxy": 2}

# Small sizes, so that flushes, index builds, merges and moves go on all the time.
BUSY = {
    "segment.flush_bytes_max": "65536",
    "segment.segment_bytes_max": "1048576",
    "segment.flush_idle_s": "0.5",
    "compaction.retention_ms": "0",
    "log.pchannel_count": "4",
    "cluster.cache_bytes_max": "2097152",
    "compute.serving_threads": "1",
    "index.build_threads": "1",
}


class RoleProcess:
    """One `elanus run`, started as often as a test likes."""

    def __init__(self, name: str, command: list[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.role = name.partition("-")[0]
        self._command = command
        self._environment = {**os.environ, **environment}
        self._log = log
        self.process: subprocess.Popen[str] | None = None
        self.node_id = 0
        self.address = ""
        self.heard = 0

    def start(self) -> None:
        """Start it; `wait_ready` waits."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
                env=self._environment,
            )

    def wait_ready(self) -> None:
        """Until it has said where it is; its node id is then known."""
        assert self.process is not None and self.process.stdout is not None
        line = self.process.stdout.readline()
        assert f" {self.role} " in line, f"{self.name} said {line!r}; {self.said()[-2000:]}"
        self.address = line.partition(" on ")[2].split(",")[0].strip()
        self.node_id = int(line.partition(f" {self.role} ")[2].split()[0])

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None

    def said(self) -> str:
        """What it and its predecessors wrote to standard error."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def signal(self, number: int) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(STOP_S_MAX)

    def restart(self) -> None:
        """Start again, and wait."""
        self.kill()
        self.start()
        self.wait_ready()


@dataclass
class Cluster:
    """Services, hosts and processes of one cluster."""

    folder: Path
    etcd: Service
    store: Service
    hosts: Hosts
    meta_url: str
    store_url: str
    environment: dict[str, str]
    addresses: dict[str, str]
    processes: dict[str, RoleProcess] = field(default_factory=dict)
    balancer: Service | None = None

    @property
    def uri(self) -> str:
        """For MilvusClient: nginx in front of the proxies."""
        assert self.balancer is not None
        return f"http://127.0.0.1:{self.balancer.port}"

    def add(self, name: str, **settings: str) -> RoleProcess:
        """A further process, on a further host; not yet started."""
        address = self.hosts.add(name)
        cache = self.folder / "cache" / name
        cache.mkdir(parents=True)
        command = [*self.hosts.prefix(name), sys.executable, "-m", "elanus", "run", name.partition("-")[0]]
        command += ["--meta", self.meta_url, "--store", self.store_url, "--cache", str(cache)]
        command += ["--host", address, "--port", str(CLIENT_PORT), "--metrics-port", "9091"]
        command += ["--peer-host", address, "--peer-port", str(PEER_PORT), "--lease", str(LEASE_S)]
        command += ["--log-level", "info"]
        for setting, value in {**BUSY, **settings}.items():
            command += ["--set", f"{setting}={value}"]
        made = RoleProcess(name, command, self.environment, self.folder / f"{name}.log")
        self.processes[name] = made
        return made

    def of(self, role: str) -> list[RoleProcess]:
        """The processes of a role."""
        return [process for process in self.processes.values() if process.role == role]

    def status(self) -> Any:
        """`elanus status --json`."""
        words = ["status", "--json", "--meta", f"etcd://127.0.0.1:{self.etcd.port}/{self.meta_url.rpartition('/')[2]}"]
        done = subprocess.run(
            [sys.executable, "-m", "elanus", *words], capture_output=True, text=True, timeout=60, env=os.environ
        )
        assert done.returncode == 0, done.stderr
        return msgspec.json.decode(done.stdout)

    def active_coordinator(self) -> RoleProcess:
        """The one that leads."""
        return self._named(next(node["record"]["node_id"] for node in self.status()["nodes"] if node["leads"]))

    def owners(self) -> dict[str, RoleProcess]:
        """Owner by pchannel, of those whose owner is known here."""
        known = {process.node_id: process for process in self.processes.values()}
        channels = self.status()["channels"]
        return {one["name"]: known[one["owner"]] for one in channels if one.get("owner", 0) in known}

    def _named(self, node_id: int) -> RoleProcess:
        return next(process for process in self.processes.values() if process.node_id == node_id)

    def revive(self) -> None:
        """Start every process that is dead, and wait until all are ready."""
        dead = [process for process in self.processes.values() if not process.is_alive]
        for process in dead:
            process.kill()
            process.start()
        for process in dead:
            process.wait_ready()

    def faults(self) -> list[str]:
        """Failures that no process may have, since the last time: what nobody foresaw."""
        found = []
        for process in self.processes.values():
            said = process.said()
            new, process.heard = said[process.heard :], len(said)
            marks = [line for line in new.splitlines() if any(mark in line for mark in FAULT_MARKS)]
            found += [f"{process.name}: {line}" for line in marks]
        return found


@contextmanager
def real_cluster(folder: Path, make_store: Callable[[Path], Service], bucket: str) -> Iterator[Cluster]:
    """Two of each role behind nginx, on etcd and an S3-compatible store; everything is ended afterwards."""
    with ExitStack() as stack:
        etcd = start_etcd(folder, "--unsafe-no-fsync")
        stack.callback(etcd.kill)
        (folder / "store").mkdir()
        store = make_store(folder / "store")
        stack.callback(store.kill)
        hosts = Hosts()
        stack.callback(hosts.close)
        addresses = {"etcd": hosts.publish(etcd.port), "store": hosts.publish(store.port)}
        environment = s3_environment(store.port) | {"AWS_ENDPOINT_URL": f"http://{addresses['store']}"}
        cluster = Cluster(
            folder,
            etcd,
            store,
            hosts,
            f"etcd://{addresses['etcd']}/cluster",
            f"s3://{bucket}/cluster",
            environment,
            addresses,
        )
        stack.callback(lambda: [process.kill() for process in cluster.processes.values()])
        for role, count in COUNTS.items():
            for number in range(1, count + 1):
                cluster.add(f"{role}-{number}")
        cluster.revive()
        upstreams = [f"{hosts.address(process.name)}:{CLIENT_PORT}" for process in cluster.of("proxy")]
        cluster.balancer = stack.enter_context(nginx(upstreams, folder / "nginx"))
        wait_serving(cluster.uri)
        yield cluster


def start_store(folder: Path) -> Service:
    """Radosgw, or moto where ELANUS_TEST_STORE says so."""
    return start_moto(folder) if os.environ.get("ELANUS_TEST_STORE") == "moto" else Radosgw(folder)


def wait_serving(uri: str) -> None:
    """Until a definition goes through."""
    end_s = time.monotonic() + READY_S_MAX
    while True:
        client = None
        try:
            client = MilvusClient(uri, timeout=5, dedicated=True)
            client.list_collections(timeout=5)
            return
        except Exception:
            assert time.monotonic() < end_s, "the cluster does not serve"
            time.sleep(0.2)
        finally:
            if client is not None:
                client.close()


def stop_for(process: RoleProcess, seconds: float) -> None:
    """SIGSTOP, and SIGCONT after a while."""
    process.signal(signal.SIGSTOP)
    time.sleep(seconds)
    process.signal(signal.SIGCONT)
