"""Structured logs on standard error: one event, one line, quiet by default.

Modules log with `logging.getLogger(__name__)` and name their facts in `extra`:

    log.info("segment flushed", extra={"segment": 7, "rows": 120_000})

The text form is for people, `key=value` behind the message; the JSON form carries the same fields for machines.
Library loggers stay at warning whatever our own level is.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec

from elanus.app.settings import LoggingSettings

# What `logging` itself puts on a record; the rest came from `extra`.
STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(settings: LoggingSettings, stream: TextIO | None = None) -> None:
    """Send Elanus's events of `settings.level` and above to `stream` (standard error). Replaces earlier handlers."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if settings.format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("elanus").setLevel(settings.level.upper())


class TextFormatter(logging.Formatter):
    """`2026-11-23T06:24:00.123Z WARNING elanus.wal.file torn tail: file=… bytes=12`."""

    def format(self, record: logging.LogRecord) -> str:
        facts = " ".join(f"{name}={quoted(value)}" for name, value in fields_of(record).items())
        message = " ".join(record.getMessage().splitlines())
        line = f"{timestamp(record)} {record.levelname} {record.name} {message}"
        line = f"{line}: {facts}" if facts else line
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object: time, level, logger, message, then the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, Any] = {
            "time": timestamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        event |= {name: value for name, value in fields_of(record).items() if name not in event}
        if record.exc_info:
            event["trace"] = self.formatException(record.exc_info)
        return msgspec.json.encode(event, enc_hook=str).decode()


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """The facts that the caller gave in `extra`."""
    return {name: value for name, value in vars(record).items() if name not in STANDARD_FIELDS}


def timestamp(record: logging.LogRecord) -> str:
    """The event's time, UTC, milliseconds."""
    moment = datetime.fromtimestamp(record.created, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{int(record.msecs):03d}Z"


def quoted(value: object) -> str:
    """A value that stays one word on the line."""
    text = str(value)
    if text and not any(character in ' "=\n\r\t' for character in text):
        return text
    return msgspec.json.encode(text).decode()
