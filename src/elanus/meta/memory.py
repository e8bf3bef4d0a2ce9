"""The MetaStore that forgets everything with its process: for tests, the simulator and throw-away servers."""

from __future__ import annotations

from elanus.base.doors import Doors
from elanus.meta.local import LocalMetaStore
from elanus.meta.state import State


def open_memory(doors: Doors) -> LocalMetaStore:
    """An empty store."""
    return LocalMetaStore(doors, State(), None)
