"""The client of the tests, and scenarios that end with every invariant checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from elanus.base.errors import ElanusError
from elanus.model.requests import Consistency
from elanus.model.types import ConsistencyLevel
from elanus.testing.client import (
    FIELDS,
    ID,
    NAME,
    STRONG,
    TEXT_ID,
    VALUE,
    VECTOR,
    Client,
    Row,
    python_values,
    row,
    rows,
    sent,
)
from elanus.testing.composition import World, play
from elanus.testing.invariants import check_all

__all__ = [
    "FIELDS",
    "ID",
    "NAME",
    "STRONG",
    "TEXT_ID",
    "VALUE",
    "VECTOR",
    "Client",
    "Row",
    "at",
    "python_values",
    "refused",
    "row",
    "rows",
    "run",
    "sent",
]


def at(timestamp: int) -> Consistency:
    """Exactly at a timestamp (with the parameter `iterator`)."""
    return Consistency(level=ConsistencyLevel.CUSTOMIZED, guarantee_timestamp=timestamp)


async def refused(call: Any, kind: type[ElanusError], text: str = "") -> None:
    try:
        await call
    except kind as error:
        assert text in error.message
        return
    raise AssertionError(f"not refused as {kind.__name__}")


def run(scenario: Callable[[World], Any], *arguments: Any, **named: Any) -> World:
    """Play a scenario and check all invariants at its end."""
    return play(scenario, *arguments, check=check_all, **named)
