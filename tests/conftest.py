"""Shared by all tests: Hypothesis without clocks, a fresh place for embedded helpers, real server processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

# The machines that run these tests are shared: a slow example is not a fault. A failure prints how to repeat it.
hypothesis.settings.register_profile("house", deadline=None, print_blob=True)
hypothesis.settings.load_profile("house")

STOP_S_MAX = 12.0


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own ELANUS_* variables change no test."""
    for name in [name for name in os.environ if name.startswith("ELANUS_")]:
        monkeypatch.delenv(name)


class ServerRefusedError(Exception):
    """The server ended before it answered: exit code, standard error."""


class ServerProcess:
    """A real `elanus serve` on a free port."""

    def __init__(self, folder: Path, *flags: str, interpreter_flags: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - it lives as long as the server
        command = [sys.executable, *interpreter_flags, "-m", "elanus", "serve", "--data", str(folder)]
        for flag, value in (("--port", "0"), ("--metrics-port", "-1")):
            command += [] if flag in flags else [flag, value]
        self.process = subprocess.Popen(
            [*command, *flags], stdout=subprocess.PIPE, stderr=self.said, text=True, start_new_session=True
        )
        assert self.process.stdout is not None
        self.announcement = self.process.stdout.readline().strip()
        if " on " not in self.announcement:
            self.process.wait(STOP_S_MAX)
            raise ServerRefusedError(self.process.returncode, self.errors())
        self.address = self.announcement.partition(" on ")[2].split(",")[0]

    def errors(self) -> str:
        """What it wrote to standard error so far."""
        self.said.seek(0)
        return self.said.read()

    @property
    def uri(self) -> str:
        """For MilvusClient."""
        return f"http://{self.address}"

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.process.kill()
        self.process.communicate()

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.terminate()
        try:
            self.process.communicate(timeout=STOP_S_MAX)
        finally:
            self.process.kill()
        return self.process.returncode


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Starts servers, by default on a folder of the test's own; ends them after the test."""
    started: list[ServerProcess] = []

    def start(*flags: str, folder: Path | None = None, interpreter_flags: tuple[str, ...] = ()) -> ServerProcess:
        started.append(ServerProcess(folder or tmp_path / "data", *flags, interpreter_flags=interpreter_flags))
        return started[-1]

    yield start
    for server in started:
        with contextlib.suppress(ProcessLookupError):
            server.kill()
