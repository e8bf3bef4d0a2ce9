"""The catalog as an object, written after definitions have changed: with the manifests that its pointers name, all that
is needed to rebuild a meta store that was lost.

A snapshot costs as much as the catalog is large, and definitions may come in thousands: those that come while one is
being written, or in the pause after it, share the next. The pause grows with the cost, so that this never takes more
than a small share of the coordinator's time. A definition is answered without waiting for its snapshot: the meta store
is what makes it last. The newest few are kept.
"""

from __future__ import annotations

import asyncio
from typing import Final

from elanus.base.errors import Action, ElanusError
from elanus.meta.catalog import write_snapshot
from elanus.nodes.coordinator.ground import Surroundings
from elanus.nodes.coordinator.oracle import IdAllocator
from elanus.objects import paths

KEPT: Final = 4
PAUSE_S: Final = 1.0
PAUSE_SHARE: Final = 20
"""A pause is so many times as long as the writing before it."""


class Snapshots:
    """See the module's head."""

    def __init__(self, ground: Surroundings, ids: IdAllocator) -> None:
        self._ground = ground
        self._ids = ids
        self._wake = asyncio.Event()

    def mark(self) -> None:
        """A definition has changed."""
        self._wake.set()

    async def write_for_ever(self) -> None:
        """Write whenever something has changed."""
        clock = self._ground.doors.clock
        while True:
            await self._wake.wait()
            self._wake.clear()
            begun_s = clock.monotonic_s()
            try:
                await self._write()
            except ElanusError as error:
                if error.action not in (Action.RETRY, Action.UNKNOWN, Action.ELSEWHERE):
                    raise
                self._ground.events.warning("catalog.snapshot_failed", error=error.message)
                self._wake.set()
            await clock.sleep(max(PAUSE_S, PAUSE_SHARE * (clock.monotonic_s() - begun_s)))

    async def _write(self) -> None:
        ground = self._ground
        number = (await self._ids.allocate(1)).first
        await write_snapshot(ground.doors, ground.meta, ground.objects, number)
        for key in sorted(await ground.objects.list(paths.CATALOG_PREFIX))[:-KEPT]:
            await ground.objects.delete(key)
