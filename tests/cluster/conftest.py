"""The SDK keeps quiet about servers that are killed."""

from __future__ import annotations

import logging

import pytest


@pytest.fixture(autouse=True)
def quiet_sdk() -> None:
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL + 1)
