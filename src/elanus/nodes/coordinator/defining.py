"""What all calls of the coordinator stand on: who leads, one definition at a time, and how one becomes the catalog."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec

from elanus.base.doors import Tasks
from elanus.base.errors import ElanusError, OutcomeUnknownError
from elanus.meta.catalog import replace, run
from elanus.meta.store import Transaction
from elanus.nodes.coordinator import describe
from elanus.nodes.coordinator.calls import refusals_confirmed
from elanus.nodes.coordinator.election import Office
from elanus.nodes.coordinator.leader import Leader


class Defining:
    """See the module's head."""

    def __init__(self, make: Callable[[Office], Leader]) -> None:
        self._make = make
        self._leading: Leader | None = None
        self._ddl = asyncio.Lock()
        self.is_started = False

    async def take_over(self, office: Office) -> None:
        """Lead: questions are answered once the catalog is known; what changes something waits for the start's end."""
        async with self._ddl:
            leader = self._make(office)
            await leader.prepare()
            self._leading = leader
            await leader.start()
            self.is_started = True

    def step_down(self) -> None:
        """Answer nothing any more."""
        if self._leading is not None:
            self._leading.stop()
        self._leading = None
        self.is_started = False

    @property
    def leader(self) -> Leader:
        """What leads now. UnavailableError at a standby."""
        if self._leading is None:
            raise describe.not_leading()
        return self._leading

    @property
    def tasks(self) -> Tasks:
        """Where calls that change something run."""
        return self.leader.ground.doors.tasks

    @asynccontextmanager
    async def defining(self) -> AsyncIterator[None]:
        """One definition at a time; the catalog has changed afterwards."""
        async with self._ddl, refusals_confirmed(self.leader):
            yield
            if self._leading is not None:
                self._leading.snapshots.mark()

    async def replace(self, collection_id: int, **changes: object) -> None:
        """Store a changed collection record."""
        leader = self.leader
        stored = leader.catalog.collections[collection_id]
        changes.setdefault("updated_timestamp", await leader.oracle.next())
        changed = msgspec.structs.replace(stored.record, **changes)
        await self.commit(replace(stored, changed), collection_id)
        await self.changed(collection_id)

    async def commit(self, transaction: Transaction, collection_id: int | None = None) -> None:
        """Commit, and read back what it changed: the collection, or all. OutcomeUnknownError: what the catalog is now
        is not known here, so that another term has to go on."""
        leader = self.leader
        try:
            await run(leader.ground.meta, transaction, (leader.guard,))
        except OutcomeUnknownError:
            leader.ddl.doubt()
            raise
        try:
            if collection_id is None:
                await leader.catalog.refresh()
            else:
                await leader.catalog.refresh_collection(collection_id)
        except ElanusError as error:
            leader.ddl.doubt()
            raise OutcomeUnknownError(f"done, and not read back: {error.message}") from error

    async def changed(self, collection_id: int) -> None:
        """Tell whoever follows the collection, before the call is answered."""
        self.leader.mark(collection_id)
        await self.leader.invalidate(collection_id)
