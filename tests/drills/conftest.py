"""The drills in one process speak with the composition as the tests of the nodes do; the SDK keeps quiet about servers
that are killed."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "nodes"))


@pytest.fixture(autouse=True)
def quiet_sdk() -> None:
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL + 1)
