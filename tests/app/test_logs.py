"""One event is one line, with its facts."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from elanus.app import logs
from elanus.app.settings import LoggingSettings


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root, house = logging.getLogger(), logging.getLogger("elanus")
    before = root.handlers[:], root.level, house.level
    yield
    root.handlers[:], root.level, house.level = before[0], before[1], before[2]


def written(settings: LoggingSettings) -> list[str]:
    stream = io.StringIO()
    logs.configure(settings, stream)
    log = logging.getLogger("elanus.wal")
    log.info("opened", extra={"term": 3})
    log.warning("torn\ntail", extra={"file": "a b", "bytes": 12})
    logging.getLogger("library").info("chatter")
    return stream.getvalue().splitlines()


def test_text() -> None:
    (line,) = written(LoggingSettings())
    assert line.endswith('WARNING elanus.wal torn tail: file="a b" bytes=12')


def test_json() -> None:
    first, second = (json.loads(line) for line in written(LoggingSettings(level="info", format="json")))
    assert (first["level"], first["message"], first["term"]) == ("info", "opened", 3)
    assert (second["logger"], second["bytes"]) == ("elanus.wal", 12)
