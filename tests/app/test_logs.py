"""One event is one line, with its fields."""

from __future__ import annotations

import io
import json

from elanus.app import logs
from elanus.app.settings import LoggingSettings
from elanus.base.events import Events, Level


def written(settings: LoggingSettings) -> list[str]:
    stream = io.StringIO()
    level = Level[settings.level.upper()]
    events = Events(lambda: 1_795_400_000_123, level=level, sink=logs.sink(settings, stream))
    events.info("wal.opened", term=3)
    events.warning("wal.torn_tail", file="a b\nc", bytes=12)
    return stream.getvalue().splitlines()


def test_text() -> None:
    (line,) = written(LoggingSettings())
    assert line == '2026-11-23T02:13:20.123Z WARNING wal.torn_tail file="a b\\nc" bytes=12'


def test_json() -> None:
    first, second = (json.loads(line) for line in written(LoggingSettings(level="info", format="json")))
    assert (first["level"], first["event"], first["term"]) == ("info", "wal.opened", 3)
    assert (second["event"], second["bytes"]) == ("wal.torn_tail", 12)
