"""A pytest plugin: `elanus_server` gives each test a server of its own with an empty store.

    def test_it(elanus_server):
        client = MilvusClient(elanus_server.uri)

The servers live in one helper process per session, started with the first; after that a fresh store answers in well
under 0.3 s. Its faults are real ones, for code that uses any SDK:

        elanus_server.meet(delayed=0.1, reply_lost=0.05, restart_every_s=2.0, seed=7)
        elanus_server.restart()
        elanus_server.calm()
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, Final

import pytest

_COMMAND: Final = (sys.executable, "-m", "elanus.testing.servers")


class ServerProcess:
    """The helper process; made by the session's first test that asks for a server."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(_COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, do: str, **more: Any) -> str:
        """Send a command and wait for it; the server's address."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **more}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of the test servers ended with code {self._process.wait()}")
        answer = json.loads(line)
        if answer.get("error"):
            raise RuntimeError(f"{do}: {answer['error']}")
        return str(answer["address"])

    def close(self) -> None:
        """End it with all its servers."""
        self._process.communicate()


class ElanusServer:
    """A running server with a store of its own."""

    def __init__(self, process: ServerProcess, folder: str) -> None:
        self._process = process
        self.folder = folder
        self.address = process.ask("start", folder=folder)

    @property
    def uri(self) -> str:
        """For `MilvusClient` and every other SDK."""
        return f"http://{self.address}"

    def restart(self) -> None:
        """Stop and start again on the same store and address."""
        self._process.ask("restart", address=self.address)

    def meet(self, **outage: float) -> None:
        """Let clients meet faults from now on: `delayed`, `refused`, `reply_lost` (how likely, 0..1), `delay_s`,
        `restart_every_s`, `seed`; see `testing.outage`."""
        self._process.ask("meet", address=self.address, outage=outage)

    def calm(self) -> None:
        """No faults any more."""
        self._process.ask("meet", address=self.address, outage={})

    def close(self) -> None:
        """End it."""
        self._process.ask("stop", address=self.address)


@pytest.fixture(scope="session")
def elanus_server_process() -> Iterator[ServerProcess]:
    """The process behind `elanus_server`."""
    process = ServerProcess()
    yield process
    process.close()


@pytest.fixture
def elanus_server(elanus_server_process: ServerProcess) -> Iterator[ElanusServer]:
    """A server with an empty store, for one test."""
    folder = tempfile.mkdtemp(prefix="elanus-test-")
    server = ElanusServer(elanus_server_process, folder)
    yield server
    server.close()
    shutil.rmtree(folder, ignore_errors=True)
