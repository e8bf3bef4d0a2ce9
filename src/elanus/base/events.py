"""Structured, quiet events: what an operator or a test may want to know, as a name and fields.

Names are `package.what_happened`. By default only warnings and errors reach standard error, as one line each; the last
EVENTS_KEPT_MAX of every level are kept for the console and for tests. No event is written per request or per row.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any, Final, TypeAlias

import msgspec

EVENTS_KEPT_MAX: Final = 1024


class Level(IntEnum):
    """How loud."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40


class Event(msgspec.Struct, frozen=True):
    """Something that happened. `fields` hold plain values."""

    at_ms: int
    level: int
    name: str
    fields: dict[str, Any]

    def line(self) -> str:
        """One line of JSON, without the line end."""
        body = {"at_ms": self.at_ms, "level": Level(self.level).name.lower(), "event": self.name, **self.fields}
        return msgspec.json.encode(body, enc_hook=str).decode()


Sink: TypeAlias = Callable[[Event], None]


def standard_error(event: Event) -> None:
    """The default sink."""
    sys.stderr.write(event.line() + "\n")


def discard(_: Event) -> None:
    """The sink of QUIET."""


class Events:
    """Emits events with some fields already bound. All that descend from one root share its sink and its memory."""

    __slots__ = ("_bound", "_kept", "_level", "_now_ms", "_sink")

    def __init__(
        self,
        now_ms: Callable[[], int],
        *,
        level: Level = Level.WARNING,
        sink: Sink = standard_error,
    ) -> None:
        self._now_ms = now_ms
        self._level = level
        self._sink = sink
        self._bound: Mapping[str, Any] = {}
        self._kept: deque[Event] = deque(maxlen=EVENTS_KEPT_MAX)

    def bind(self, **fields: Any) -> Events:
        """The same events with more fields on each."""
        child = Events(self._now_ms, level=self._level, sink=self._sink)
        child._bound = {**self._bound, **fields}
        child._kept = self._kept
        return child

    def kept(self, name: str | None = None) -> list[Event]:
        """The last events, oldest first; of one name if given."""
        return [event for event in self._kept if name is None or event.name == name]

    def debug(self, name: str, **fields: Any) -> None:
        """For whoever follows one component; kept, not shown."""
        self._emit(Level.DEBUG, name, fields)

    def info(self, name: str, **fields: Any) -> None:
        """Part of normal life: opened, took over, flushed."""
        self._emit(Level.INFO, name, fields)

    def warning(self, name: str, **fields: Any) -> None:
        """Handled, but the operator should know."""
        self._emit(Level.WARNING, name, fields)

    def error(self, name: str, **fields: Any) -> None:
        """A role or task ended by it."""
        self._emit(Level.ERROR, name, fields)

    def _emit(self, level: Level, name: str, fields: dict[str, Any]) -> None:
        event = Event(self._now_ms(), level, name, {**self._bound, **fields})
        self._kept.append(event)
        if level >= self._level:
            self._sink(event)


QUIET: Final = Events(lambda: 0, sink=discard)
"""For components that were given no events: kept in a small shared memory, shown to nobody."""
