"""One real server for all of this folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from pymilvus import MilvusClient

from servers import DrillServer


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusClient]:
    """Connected to it."""
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL + 1)
    server = DrillServer(tmp_path_factory.mktemp("vectors") / "data").wait_ready()
    connected = MilvusClient(server.uri)
    try:
        yield connected
    finally:
        connected.close()
        server.kill()
