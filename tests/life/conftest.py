"""One server for this folder, and a client of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pymilvus import MilvusClient

from servers import BUSY, DrillServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DrillServer]:
    """A server with small segments."""
    folder: Path = tmp_path_factory.mktemp("life") / "data"
    running = DrillServer(folder, *BUSY).wait_ready()
    yield running
    running.kill()


@pytest.fixture
def client(server: DrillServer) -> Iterator[MilvusClient]:
    """A connection of the test's own."""
    connected = MilvusClient(server.uri)
    yield connected
    connected.close()
