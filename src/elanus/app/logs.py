"""How events look on standard error: one event, one line, quiet by default.

Roles emit `base.events`; the composition root gives them the sink made here. The text form is for people, `key=value`
behind the event's name; the JSON form carries the same fields for machines.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TextIO

import msgspec

from elanus.app.settings import LoggingSettings
from elanus.base.events import Event, Level, Sink


def sink(settings: LoggingSettings, stream: TextIO | None = None) -> Sink:
    """Writes events to `stream` (standard error) in the form that the settings ask for."""
    form = Event.line if settings.format == "json" else text_line
    target = stream or sys.stderr

    def write(event: Event) -> None:
        target.write(form(event) + "\n")
        target.flush()

    return write


def text_line(event: Event) -> str:
    """`2026-11-23T06:24:00.123Z WARNING wal.torn_tail file=… bytes=12`."""
    moment = datetime.fromtimestamp(event.at_ms / 1000, UTC)
    time = f"{moment:%Y-%m-%dT%H:%M:%S}.{event.at_ms % 1000:03d}Z"
    fields = "".join(f" {name}={quoted(value)}" for name, value in event.fields.items())
    return f"{time} {Level(event.level).name} {event.name}{fields}"


def quoted(value: object) -> str:
    """A value that stays one word on the line."""
    text = str(value)
    if text and not any(character in ' "=\n\r\t' for character in text):
        return text
    return msgspec.json.encode(text).decode()
