"""One process of a cluster: one role behind a transport, announced in the meta store.

Start: who is there is read, an id is drawn, the role is made and offered at an address, and only then announced, so
that nobody asks a node that does not answer yet. A coordinator is announced like all others and stands for election for
as long as it lives. Stop: the node says that it wants to leave, what it holds is moved away, and it goes; one that is
killed is missed when its lease has ended.
"""

from __future__ import annotations

from typing import Final

from elanus.app.roles import Roles
from elanus.base.errors import ElanusError
from elanus.meta.records import NodeRecord
from elanus.nodes.active import PATIENCE_S, active_coordinator
from elanus.nodes.contracts import Coordinator, Data, ProxyCache, Query, Streaming
from elanus.nodes.coordinator.coordinator import Coordinator as CoordinatorRole
from elanus.nodes.coordinator.election import Candidate, stand_for_ever
from elanus.nodes.data.node import DataNode
from elanus.nodes.membership import Membership, Registration, draw_node_id
from elanus.nodes.proxy.proxy import Proxy
from elanus.nodes.query.node import QueryNode
from elanus.nodes.spill import SpillingTransport
from elanus.nodes.streaming.node import StreamingNode
from elanus.nodes.transport import Transport

ROLE_NAMES: Final = ("coordinator", "streaming", "query", "data", "proxy")
DRAIN_POLL_S: Final = 0.1
TAKE_OVER_S_MAX: Final = 10.0
"""After a lease has ended, its holder's shards are served again within this."""


class ClusterProcess:
    """See the module's head. Exactly one of the roles is there."""

    def __init__(self, roles: Roles, transport: Transport, role_name: str) -> None:
        footing = roles.footing
        self.role_name = role_name
        self.node_id = 0
        self.address = ""
        self.proxy: Proxy | None = None
        self.streaming: StreamingNode | None = None
        self.query: QueryNode | None = None
        self.data: DataNode | None = None
        self.coordinator: CoordinatorRole | None = None
        self.membership = Membership(footing.doors, footing.meta, transport)
        self._roles = roles
        self._footing = footing
        self._transport = transport
        self._registration: Registration | None = None

    @classmethod
    async def start(cls, roles: Roles, transport: Transport, role_name: str) -> ClusterProcess:
        """A process that serves its role, or, as a coordinator, stands for election."""
        transport = SpillingTransport(transport, roles.spills())
        process = cls(roles, transport, role_name)
        await process.membership.start()
        process.node_id = await draw_node_id(process._footing.doors, process._footing.meta)
        process.address = await transport.serve(process._offered())
        await process._announce()
        return process

    def _active(self, patience_s: float) -> Coordinator:
        return active_coordinator(self._footing.doors.clock, self._footing.meta, self._transport, patience_s)

    def _offered(self) -> dict[type, object]:
        peers = self.membership.peers
        match self.role_name:
            case "coordinator":
                self.coordinator = self._roles.coordinator(peers, adopts=True)
                return {Coordinator: self.coordinator}
            case "streaming":
                self.streaming = self._roles.streaming(self.node_id)
                self.streaming.connect(self._active(PATIENCE_S), peers.query)
                return {Streaming: self.streaming}
            case "query":
                self.query = self._roles.query()
                return {Query: self.query}
            case "data":
                self.data = self._roles.data()
                return {Data: self.data}
        cluster = self._footing.settings.cluster
        patience_s = cluster.patience_s or cluster.lease_s + TAKE_OVER_S_MAX
        self.proxy = self._roles.proxy(self._active(patience_s), peers.streaming, patience_s)
        return {ProxyCache: self.proxy}

    async def _announce(self) -> None:
        doors, lease_s = self._footing.doors, self._footing.settings.cluster.lease_s
        record = NodeRecord(role=self.role_name, node_id=self.node_id, address=self.address)
        self._registration = Registration(doors, self._footing.meta, record, lease_s)
        await self._registration.start()
        if self.coordinator is not None:
            candidate = Candidate(self._roles.surroundings(self.node_id), self.address, lease_s)
            doors.tasks.spawn(stand_for_ever(candidate, self.coordinator, self._lead_ended), name="candidacy")

    def _lead_ended(self, reason: str) -> None:
        self._footing.events.warning("coordinator.lead_ended", reason=reason)

    # --- the end ----------------------------------------------------------------------------------------------------
    async def drain(self, patience_s: float) -> bool:
        """Say that this node wants to leave and wait until it holds nothing; whether that came to be in time."""
        clock = self._footing.doors.clock
        if self._registration is not None:
            await self._registration.drain()
        end_s = clock.monotonic_s() + patience_s
        while await self._holds():
            if clock.monotonic_s() >= end_s:
                return False
            await clock.sleep(DRAIN_POLL_S)
        return True

    async def _holds(self) -> bool:
        """Whether something is here that others can take over. With nobody else there, all of it stays."""
        peers = self.membership.peers
        if self.streaming is not None:
            return bool(self.streaming.owned) and bool(peers.lasting(peers.streaming))
        if self.query is not None:
            return bool((await self.query.status()).segments) and bool(peers.lasting(peers.query))
        return False

    async def stop(self) -> None:
        """Leave: finish what is under way and release everything. Nobody is told to take over; see `drain`."""
        if self._registration is not None:
            await self._registration.end()
        if self.streaming is not None:
            await self.streaming.close()
        try:
            await self._transport.close()
        except ElanusError as error:
            self._footing.events.warning("transport.close_failed", error=error.message)
