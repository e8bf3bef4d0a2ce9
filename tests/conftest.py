"""Shared by all tests: Hypothesis without clocks, a fresh place for embedded helpers, real server processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from servers import DrillServer

# The machines that run these tests are shared: a slow example is not a fault. A failure prints how to repeat it.
hypothesis.settings.register_profile("house", deadline=None, print_blob=True)
hypothesis.settings.load_profile("house")


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own ELANUS_* variables change no test."""
    for name in [name for name in os.environ if name.startswith("ELANUS_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., DrillServer]]:
    """Starts servers, by default on a folder of the test's own; ends them after the test."""
    started: list[DrillServer] = []

    def start(*flags: str, folder: Path | None = None) -> DrillServer:
        started.append(DrillServer(folder or tmp_path / "data", *flags))
        return started[-1].wait_ready()

    yield start
    for server in started:
        server.kill()
