"""Which coordinator is active: an election key under a lease, won by whoever creates it.

The key's create revision is the winner's term. Every meta transaction of a coordinator compares it, so a deposed one
changes nothing; every call it makes carries it, and receivers keep the highest. The lease only says when the others may
try. A leader that loses its lease, or meets the sign of another's election, ends all it does and stands again.

A store that one process owns needs no lease: whoever opens it has won.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from elanus.base.errors import Action, ElanusError, UnavailableError
from elanus.base.scope import Scope
from elanus.meta.catalog import create, elected
from elanus.meta.manifests import RecentHeads
from elanus.meta.records import ELECTION, Election
from elanus.meta.store import NO_LEASE, Delete, LeaseGoneError
from elanus.nodes.coordinator.ground import Surroundings
from elanus.nodes.coordinator.oracle import IdAllocator
from elanus.objects.paths import coordinator_of_lead

RETRY_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Candidate:
    """Who stands for election. `lease_s` 0: nobody else can."""

    ground: Surroundings
    address: str = ""
    lease_s: float = 0.0


class Office:
    """The lead of one elected coordinator, as long as it lasts."""

    def __init__(self, candidate: Candidate) -> None:
        self._candidate = candidate
        self._lease = NO_LEASE
        self._lost = asyncio.Event()
        self._scope = Scope(candidate.ground.doors.tasks, self.lose)
        self.term = 0
        self.ground = replace(candidate.ground, doors=replace(candidate.ground.doors, tasks=self._scope))
        """What the leader works with: its tasks end with its lead, whose number is in the names of its files."""

    async def win(self) -> None:
        """Wait while another leads, then lead."""
        ground = self._candidate.ground
        if not self._candidate.lease_s:
            await ground.meta.transact((), (Delete(ELECTION),))
        while not self.term:
            try:
                term = await self._try()
                if term:
                    await self._take(term)
            except ElanusError as error:
                if error.action not in (Action.RETRY, Action.UNKNOWN, Action.FENCED):
                    raise
                self._lease = NO_LEASE
            if not self.term:
                await ground.doors.clock.sleep(min(RETRY_S, self._candidate.lease_s / 4))
        if self._lease:
            self._scope.spawn(self._keep(), name="election lease")

    async def _try(self) -> int:
        """One attempt: the term, or 0 while another leads."""
        candidate = self._candidate
        meta = candidate.ground.meta
        if candidate.lease_s and not self._lease:
            self._lease = await meta.grant(candidate.lease_s)
        elif self._lease:
            await meta.keep_alive(self._lease)
        candidacy = create(Election(node_id=candidate.ground.node_id, address=candidate.address), self._lease)
        outcome = await meta.transact(candidacy.compares, candidacy.operations)
        return outcome.revision if outcome.succeeded else 0

    async def _take(self, term: int) -> None:
        """Number the lead. Numbers rise over all leads of a store, also where it was moved; election terms do not."""
        ground = self.ground
        lead = (await IdAllocator(ground.meta, ground.doors.clock, elected(term)).allocate(1)).first
        self.ground = replace(ground, right=coordinator_of_lead(lead), recent_heads=RecentHeads())
        self.term = term

    async def _keep(self) -> None:
        while True:
            await self._candidate.ground.doors.clock.sleep(self._candidate.lease_s / 3)
            try:
                await self._candidate.ground.meta.keep_alive(self._lease)
            except LeaseGoneError:
                self.lose()
                return
            except UnavailableError:
                continue

    def lose(self) -> None:
        """Another may lead."""
        self._lost.set()

    async def wait_lost(self) -> None:
        """Until the lead is lost."""
        await self._lost.wait()

    async def leave(self) -> None:
        """End everything done in office; let another be elected at once, if the meta store can be told."""
        await self._scope.end()
        if self._lease:
            try:
                await self._candidate.ground.meta.revoke(self._lease)
            except UnavailableError:
                return


class Led(Protocol):
    """What stands and falls with an office."""

    async def take_over(self, office: Office) -> None:
        """Do what a coordinator does from now on."""
        ...

    def step_down(self) -> None:
        """Answer nothing any more."""
        ...


async def stand_for_ever(candidate: Candidate, led: Led, ended: Callable[[str], None]) -> None:
    """Win, lead until the lead is lost, and stand again; `ended` is told why each lead ended."""
    while True:
        office = Office(candidate)
        await office.win()
        reasons = ["another may lead"]

        async def lead(office: Office = office, reasons: list[str] = reasons) -> None:
            try:
                await led.take_over(office)
            except ElanusError as error:
                if error.action in (Action.CORRUPTED, Action.UNSUPPORTED):
                    raise
                reasons.insert(0, error.message)
                office.lose()

        try:
            office.ground.doors.tasks.spawn(lead(), name="take over")
            await office.wait_lost()
        finally:
            led.step_down()
            await office.leave()
        ended(reasons[0])
        await candidate.ground.doors.clock.sleep(RETRY_S)
