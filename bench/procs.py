"""Server processes: free ports, start, memory and CPU of the process tree, certain stop.

A server runs in a session of its own and asks the kernel to be killed when the bench dies (`PR_SET_PDEATHSIG`), so
that neither an exception nor a SIGKILL of the bench leaves one behind. Linux only: memory is read from
``/proc/<pid>/smaps_rollup``.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import psutil  # type: ignore[import-untyped]

STOP_S_MAX = 12.0
"""Seconds a server gets to leave after SIGTERM before its whole session is killed."""

PR_SET_PDEATHSIG = 1
MIB = 1024 * 1024

_libc = ctypes.CDLL(None)


class ServerDied(RuntimeError):
    """The server process ended before it answered; the message carries the end of its log."""


def free_ports(count: int) -> list[int]:
    """`count` distinct loopback TCP ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def die_with_parent() -> None:
    """Have the kernel kill the calling process when the one that started it ends, however it ends."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _pss_bytes(pid: int) -> int:
    """Proportional set size of one process, 0 when it is gone."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def own_pss_mib() -> float:
    """Proportional set size of the calling process, MiB."""
    return _pss_bytes(os.getpid()) / MIB


class Server:
    """One running server: a process tree with a log file. Use as a context manager; leaving it stops the tree."""

    def __init__(self, command: Sequence[str], log: Path, env: Mapping[str, str], cwd: Path) -> None:
        self._log = log
        self._log_file = log.open("wb")
        self.started_at_s = time.perf_counter()
        self._program = command[0]
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=self._log_file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **env},
            cwd=cwd,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def check_alive(self) -> None:
        """Raise `ServerDied` with the tail of the log when the process has ended."""
        status = self._process.poll()
        if status is not None:
            tail = self._log.read_text(errors="replace")[-2000:]
            raise ServerDied(f"{self._program} ended with status {status}:\n{tail}")

    def _tree(self) -> list[psutil.Process]:
        try:
            root = psutil.Process(self._process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def pss_mib(self) -> float:
        """Proportional set size of the whole process tree, MiB."""
        return sum(_pss_bytes(each.pid) for each in self._tree()) / MIB

    def cpu_s(self) -> float:
        """CPU seconds (user and system) the tree has used, with children already reaped."""
        total = 0.0
        for each in self._tree():
            try:
                times = each.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system + times.children_user + times.children_system
        return total

    def run_on(self, cores: Collection[int]) -> None:
        """Let every thread of the tree run on these cores only."""
        for each in self._tree():
            for thread in Path(f"/proc/{each.pid}/task").iterdir():
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(int(thread.name), cores)

    def stop(self) -> None:
        """Ask the server to leave, then kill whatever is left of its session. Safe to call twice."""
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=STOP_S_MAX)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log_file.close()
