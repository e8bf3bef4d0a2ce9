"""Rules of the design, each switched off by breaking one component in one way.

`MUTANTS` names for each the shape it is tried in and how to make it; the test says within how many seeds it is found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import test_nodes_mutants as broken

from elanus.app.roles import Footing, Roles
from elanus.base.errors import ElanusError, OutcomeUnknownError
from elanus.meta.store import absent
from elanus.model.channel import Position
from elanus.nodes.coordinator import leader as leader_module
from elanus.nodes.coordinator.collector import Collector, files_of
from elanus.nodes.coordinator.leader import Leader
from elanus.nodes.proxy import routes
from elanus.nodes.streaming import flush
from elanus.nodes.streaming.node import StreamingNode
from elanus.nodes.streaming.stamps import Stamps
from elanus.objects import paths
from elanus.testing.sim.run import MakeShape, make_cluster, make_standalone
from elanus.wal.objects import ObjectLog


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
class Believing(StreamingNode):
    """Takes a Strong read's evidence from its own memory."""

    async def _current_term(self, pchannel: str) -> int:
        return self._channels[pchannel].channel.term


class BelievingRoles(Roles):
    def streaming(self, node_id: int) -> StreamingNode:
        node = super().streaming(node_id)
        node.__class__ = Believing
        return node


class Unfenced(ObjectLog):
    """Opens at the end of the log without a fence there."""

    async def _claim(self, slots: Any, key: Any, opened: Any) -> bool:
        raise _NoFence

    async def _walk_to_own_fence(self, slots: Any, walk: Any, opened: Any, replay_from: Position) -> Any:
        last = None
        try:
            last = await super()._walk_to_own_fence(slots, walk, opened, replay_from)
        except _NoFence:
            return last
        return last


class _NoFence(Exception):
    pass


class UnfencedRoles(Roles):
    def __init__(self, footing: Footing) -> None:
        log: Any = footing.log
        log._log = Unfenced(footing.doors, footing.objects)
        super().__init__(footing)


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


# --- broken functions -----------------------------------------------------------------------------------------------
@contextmanager
def replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """Another function under a module's name, for as long as the mutant is tried."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def _resends(write: Any, error: ElanusError) -> bool:
    return isinstance(error, (*routes.NOT_STAMPED, OutcomeUnknownError))


def _blind_edit(work: Any, entries: Any, delete_file: Any, term: int) -> Any:
    """A flush that adds its segments wherever the manifest stands."""

    def edit(manifest: Any) -> Any:
        return msgspec.structs.replace(
            manifest,
            term=max(term, manifest.term),
            flushed_through=max(work.through, manifest.flushed_through),
            timestamp_max=max(manifest.timestamp_max, work.timestamp),
            segments=manifest.segments + tuple(entries),
            deletes=manifest.deletes if delete_file is None else (*manifest.deletes, delete_file),
        )

    return edit


REPLACED: dict[str, tuple[Any, str, Any]] = {
    "write-sent-again-after-unknown": (routes, "_may_resend", _resends),
    "coordinator-without-guard": (leader_module, "elected", lambda term: absent("nobody/has/this/key")),
    "flush-without-precondition": (flush, "_flush_edit", _blind_edit),
}

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
    "strong-read-without-evidence": many("10", BelievingRoles, 25),
    "fence-that-does-not-fence": many("1", UnfencedRoles, 6),
    "collected-by-age-alone": many("20", AgingRoles, 6),
    "stamps-below-the-floor": many("6", SinkingRoles, 8),
    "write-sent-again-after-unknown": many("8", Roles, 25),
    "coordinator-without-guard": many("18", Roles, 25),
    "flush-without-precondition": many("12", Roles, 25),
}
