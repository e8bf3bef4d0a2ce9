"""One real server for all of this folder, and the check that a test left nothing behind."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from bad_world import World

from servers import DrillServer


@pytest.fixture(scope="session")
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL + 1)
    server = DrillServer(tmp_path_factory.mktemp("bad") / "store").wait_ready()
    world = World(server.uri)
    world.fill()
    yield world
    world.close()
    errors = server.errors()
    assert server.stop() == 0
    assert "Traceback" not in errors and "failed" not in errors, errors


@pytest.fixture
def world(shared_world: World) -> Iterator[World]:
    """The server, and proof that the test changed nothing."""
    before = shared_world.fingerprint()
    yield shared_world
    assert shared_world.fingerprint() == before
