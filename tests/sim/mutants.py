"""Rules of the design, each switched off by breaking one component in one way.

`MUTANTS` names for each the shape it is tried in and how to make it; the test says within how many seeds it is found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import test_nodes_mutants as broken

from elanus.app.roles import Footing, Roles
from elanus.nodes.coordinator.collector import Collector, files_of
from elanus.nodes.coordinator.leader import Leader
from elanus.nodes.streaming.node import StreamingNode
from elanus.nodes.streaming.stamps import Stamps
from elanus.objects import paths
from elanus.testing.sim.run import MakeShape, make_cluster, make_standalone


@dataclass(frozen=True)
class Mutant:
    """`rule`: of design §5. `seeds`: within how many it must be found."""

    rule: str
    shape: str
    make: Callable[[], MakeShape]
    seeds: int


def alone(rule: str, parts: Callable[[], Any], seeds: int) -> Mutant:
    """In the standalone server, of such parts."""
    return Mutant(rule, "standalone", lambda: make_standalone(parts()), seeds)


def many(rule: str, kind: Callable[[Footing], Roles], seeds: int) -> Mutant:
    """In a cluster of such roles."""
    return Mutant(rule, "cluster", lambda: make_cluster(kind), seeds)


# --- broken components of a cluster ---------------------------------------------------------------------------------
class Aging(Collector):
    """Deletes what the newest manifest does not name, whoever may still commit it."""

    async def _collect_shard(self, vchannel: str, placement: Any) -> bool:
        head = await self._manifests.read(vchannel)
        if head is None:
            return True
        live = files_of(head.manifest) | {head.pointer.record.file.key}
        collection_id = head.manifest.collection_id
        for key in await self._objects.list(paths.collection_prefix(collection_id)):
            if f"/{vchannel}/" in key and key not in live:
                await self._objects.delete(key)
        return True


class AgingRoles(Roles):
    def leader(self, office: Any, peers: Any, limits: Any) -> Leader:
        leader = super().leader(office, peers, limits)
        leader.collector.__class__ = Aging
        return leader


class Sinking(Stamps):
    """Does not stamp above what it has seen."""

    def raise_floor(self, timestamp: int) -> None:
        return

    async def reserve(self, count: int) -> None:
        await super().reserve(count)
        self._clock_limit = 0

    def _soonest(self, at_least: int) -> int:
        return max(self._last + 1, at_least, self._window.first - (5000 << 18))


class SinkingNode(StreamingNode):
    def _new_channel(self, pchannel: str) -> Any:
        owned = super()._new_channel(pchannel)
        owned.channel.stamps = Sinking(self._storage.doors.clock, self._coordinator)
        return owned


class SinkingRoles(Roles):
    def streaming(self, node_id: int) -> StreamingNode:
        node = super().streaming(node_id)
        node.__class__ = SinkingNode
        return node


# --- the table ------------------------------------------------------------------------------------------------------
MUTANTS: dict[str, Mutant] = {
    "acknowledged-before-the-sync": alone("22", broken.Unsynced, 4),
    "growing-released-before-the-swap": alone("11", lambda: broken.ShardsBy(broken.HastyShard), 8),
    "delete-lost-at-segment-load": alone("16", lambda: broken.Making(query_kind=broken.Forgetful), 8),
    "checkpoint-ahead-of-the-data": alone("3", lambda: broken.Making(broken.RunningAhead), 8),
    "duplicate-replay": alone("11", lambda: broken.Making(broken.Repeating), 6),
    "collected-while-still-named": alone("20", broken.Sweeping, 4),
    "one-timestamp-per-batch": alone("6", lambda: broken.Making(broken.Stamping), 4),
    "delete-without-its-scope": alone("15", lambda: broken.ShardsBy(broken.UnscopedShard), 8),
    "deletes-claimed-and-not-applied": alone("16", lambda: broken.Making(query_kind=broken.Deaf), 4),
    "read-before-its-deletes": alone("16", lambda: broken.Making(query_kind=broken.Blind), 4),
    "read-at-another-time": alone("9", lambda: broken.Making(query_kind=broken.Timeless), 4),
    "compaction-claims-later-deletes": alone("13", lambda: broken.Making(data_kind=broken.Boastful), 4),
    "purge-within-the-retention": alone("15", lambda: broken.Making(data_kind=broken.Purging), 4),
    "compaction-of-more-than-its-inputs": alone("12", lambda: broken.Making(data_kind=broken.Doubling), 4),
    "collected-by-age-alone": many("20", AgingRoles, 2),
    "stamps-below-the-floor": many("6", SinkingRoles, 4),
}
