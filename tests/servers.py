"""A real server process: started without waiting, watched, killed, timed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ANNOUNCE_S_MAX = 60.0
STOP_S_MAX = 12.0

# Small sizes, so that flushes, index builds and merges go on all the time.
BUSY = (
    *("--set", "segment.flush_bytes_max=65536"),
    *("--set", "segment.segment_bytes_max=1048576"),
    *("--set", "segment.flush_idle_s=0.5"),
    *("--set", "compaction.retention_ms=0"),
    *("--set", "log.file_bytes_max=65536"),
    *("--log-level", "info"),
)


class StartRefusedError(Exception):
    """The server ended before it answered: exit code, what it said."""


class DrillServer:
    """`elanus serve` on a folder; on port 0 unless the flags say otherwise."""

    def __init__(self, folder: Path, *flags: str, prefix: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.started_s = time.monotonic()
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - it lives as long as the server
        command = [*prefix, sys.executable, "-m", "elanus", "serve", "--data", str(folder)]
        for flag, value in (("--port", "0"), ("--metrics-port", "-1")):
            command += [] if flag in flags else [flag, value]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ELANUS_")}
        self.process = subprocess.Popen(
            [*command, *flags],
            stdout=subprocess.PIPE,
            stderr=self.said,
            text=True,
            start_new_session=True,
            env=environment,
        )
        self.announcement = ""
        self.address = ""

    def wait_ready(self) -> DrillServer:
        """Until it has told its address."""
        assert self.process.stdout is not None
        self.announcement = self.process.stdout.readline().strip()
        if " on " not in self.announcement:
            self.process.wait(ANNOUNCE_S_MAX)
            raise StartRefusedError(self.process.returncode, self.errors())
        self.address = self.announcement.partition(" on ")[2].split(",")[0]
        return self

    @property
    def uri(self) -> str:
        """For MilvusClient."""
        return f"http://{self.address}"

    @property
    def is_alive(self) -> bool:
        """Whether the process still runs."""
        return self.process.poll() is None

    def errors(self) -> str:
        """What it wrote to standard error so far."""
        self.said.seek(0)
        return self.said.read()

    def kill(self) -> None:
        """SIGKILL, and wait for the end; an ended one is let go."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.terminate()
        try:
            return self.process.wait(STOP_S_MAX)
        finally:
            self.kill()


def elanus(*words: str) -> subprocess.CompletedProcess[str]:
    """A command of Elanus that ends by itself."""
    return subprocess.run([sys.executable, "-m", "elanus", *words], capture_output=True, text=True, timeout=120)


def wait_for_address(up: subprocess.Popen[str]) -> str:
    """The proxy's address, which `elanus up` tells when it serves; the other roles must have come before."""
    assert up.stdout is not None
    said = ""
    for line in up.stdout:
        said += line
        proxy = re.search(r"proxy 1: Elanus .* on ([\d.:]+)", said)
        if proxy and all(f"{role} 1: Elanus" in said for role in ("coordinator", "streaming", "query", "data")):
            return proxy[1]
    raise AssertionError(said)
