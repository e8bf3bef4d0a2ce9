"""Rules of the design, each switched off by breaking one component in one way.

`MUTANTS` names for each the shape it is tried in and how to make it; the test says within how many seeds it is found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import test_nodes_mutants as broken

from elanus.app.roles import Footing, Roles
from elanus.base.errors import ElanusError, OutcomeUnknownError, ReplyLostError, UnavailableError
from elanus.meta.store import absent
from elanus.model.channel import ORIGIN
from elanus.model.errors import ChannelNotAvailableError
from elanus.nodes.contracts import WriteReply
from elanus.nodes.coordinator.collector import Collector, files_of
from elanus.nodes.coordinator.leader import Leader
from elanus.nodes.proxy.proxy import Proxy
from elanus.nodes.proxy.routes import Routes
from elanus.nodes.streaming.delegate import Evidence
from elanus.nodes.streaming.flush import Flusher
from elanus.nodes.streaming.node import StreamingNode
from elanus.nodes.streaming.shard import Shard
from elanus.nodes.streaming.stamps import Stamps
from elanus.objects import paths
from elanus.objects.store import ObjectExistsError
from elanus.testing.sim.faults import Fault
from elanus.testing.sim.plan import CLUSTER_MACHINES, LASTS_S, Plan, plan_of
from elanus.testing.sim.run import MakeShape, make_cluster, make_standalone


@dataclass(frozen=True)
class Mutant:
    """`rule`: of design §5. `seeds`: within how many it must be found. `harder`: what is changed in each seed's plan,
    so that what the rule is for comes up often."""

    rule: str
    shape: str
    make: Callable[[], MakeShape]
    seeds: int
    harder: Callable[[Plan], Plan] = lambda plan: plan

    def plan(self, seed: int) -> Plan:
        """What is played with it."""
        return self.harder(plan_of(seed, self.shape))


def alone(
    rule: str, parts: Callable[[], Any], seeds: int, harder: Callable[[Plan], Plan] = lambda plan: plan
) -> Mutant:
    """In the standalone server, of such parts."""
    return Mutant(rule, "standalone", lambda: make_standalone(parts()), seeds, harder)


def many(
    rule: str, kind: Callable[[Footing], Roles], seeds: int, harder: Callable[[Plan], Plan] = lambda plan: plan
) -> Mutant:
    """In a cluster of such roles."""
    return Mutant(rule, "cluster", lambda: make_cluster(kind), seeds, harder)


def with_more(emphasis: str, *kinds: str, roles: Sequence[str]) -> Callable[[Plan], Plan]:
    """Plans with more of an operation, and with these faults on all machines of some roles most of the time."""

    def harder(plan: Plan) -> Plan:
        more = _everywhere(kinds, roles, [(at_s, 0.7, 0.6) for at_s in (0.3, 1.3, 2.3, 3.3)])
        return _with(plan, emphasis, (*plan.faults, *more))

    return harder


def with_little(emphasis: str, kind: str, role: str) -> Callable[[Plan], Plan]:
    """Plans with more of an operation, and with no fault but this one, which lasts and is so weak that work goes on."""
    faults = _everywhere([kind], [role], [(0.0, LASTS_S, 0.2)])
    return lambda plan: _with(plan, emphasis, faults)


def _everywhere(
    kinds: Sequence[str], roles: Sequence[str], spans: Sequence[tuple[float, float, float]]
) -> Sequence[Fault]:
    hosts = [name for name, role in CLUSTER_MACHINES.items() if role in roles]
    return [Fault(kind, host, *span) for kind in kinds for host in hosts for span in spans]


def _with(plan: Plan, emphasis: str, faults: Sequence[Fault]) -> Plan:
    load = msgspec.structs.replace(plan.load, emphasis=emphasis)
    return msgspec.structs.replace(plan, load=load, faults=tuple(sorted(faults, key=_moment)))


def _moment(fault: Fault) -> float:
    return fault.at_s


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


class Hasty(Collector):
    """Keeps what the newest manifest names, and not what the one before it does."""

    async def _named_before(self, pointer: Any) -> set[str]:
        return set()


def collectors(kind: type[Collector]) -> type[Roles]:
    """Roles with such a collector."""

    class Collecting(Roles):
        def leader(self, *arguments: Any) -> Leader:
            leader = super().leader(*arguments)
            leader.collector.__class__ = kind
            return leader

    return Collecting


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


class NodeRoles(Roles):
    """With streaming nodes of another kind."""

    kind: type[StreamingNode]

    def streaming(self, node_id: int) -> StreamingNode:
        node = super().streaming(node_id)
        node.__class__ = self.kind
        return node


def nodes(node_kind: type[StreamingNode]) -> type[Roles]:
    """Roles with such streaming nodes."""
    return type(f"{node_kind.__name__}Roles", (NodeRoles,), {"kind": node_kind})


class Heedless:
    """A store that says "stored" of a slot of the log whose name is taken: no fence stops a writer."""

    def __init__(self, store: Any) -> None:
        self._store = store

    async def put(self, key: str, data: Any) -> None:
        try:
            await self._store.put(key, data)
        except ObjectExistsError:
            if isinstance(data, bytes):  # a fence
                raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class UnfencedRoles(Roles):
    def __init__(self, footing: Footing) -> None:
        super().__init__(footing)
        log: Any = footing.log
        log._log._store = Heedless(log._log._store)


class OwnWord(Evidence):
    """Asks nobody."""

    async def begun_after_now(self, term: int) -> None:
        return


class Trusting(StreamingNode):
    """Takes its own word for being the owner, or for having read to the end of the log."""

    def _new_channel(self, pchannel: str) -> Any:
        owned = super()._new_channel(pchannel)
        owned.delegator._evidence.__class__ = OwnWord
        return owned


class Careless(StreamingNode):
    """Its shards know of no conflict."""

    def new_shard(self, change: Any, before: Any) -> Any:
        shard = super().new_shard(change, before)
        shard.__class__ = broken.CarelessShard
        return shard

    async def _load_shards(self, channel: Any) -> None:
        await super()._load_shards(channel)
        for shard in channel.shards.values():
            shard.__class__ = broken.CarelessShard


class Confident:
    """A way to the catalog that takes an unknown outcome for none."""

    def __init__(self, meta: Any) -> None:
        self._meta = meta

    async def transact(self, compares: Any, operations: Any) -> Any:
        try:
            return await self._meta.transact(compares, operations)
        except OutcomeUnknownError as error:
            raise UnavailableError(error.message) from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._meta, name)


class Unconditional(Flusher):
    """Commits whatever has been flushed since it began, and again when it is not sure: its precondition would refuse
    the second time."""

    async def _commit(self, shard: Any, guard: Any, edit: Any, right: Any) -> Any:
        began = shard.manifest.flushed_through

        def careless(manifest: Any) -> Any:
            new = edit(msgspec.structs.replace(manifest, flushed_through=began))
            return msgspec.structs.replace(new, flushed_through=max(new.flushed_through, manifest.flushed_through))

        while True:
            try:
                return await super()._commit(shard, guard, careless, right)
            except UnavailableError:
                continue


class Unconditioned(StreamingNode):
    """Flushes so."""

    def connect(self, *arguments: Any) -> None:
        super().connect(*arguments)
        self._flusher.__class__ = Unconditional
        storage = self._flusher._storage
        self._flusher._storage = replace(storage, meta=Confident(storage.meta))


class Disowned(Flusher):
    """Commits whoever owns the channel now."""

    async def _commit(self, shard: Any, guard: Any, edit: Any, right: Any) -> Any:
        return await super()._commit(shard, ALWAYS, edit, right)


class Unowned(StreamingNode):
    """Flushes so."""

    def connect(self, *arguments: Any) -> None:
        super().connect(*arguments)
        self._flusher.__class__ = Disowned


class Uncut(Shard):
    """Keeps growing rows whatever a manifest holds."""

    def _cut(self, manifest: Any) -> None:
        return


class Replaying(StreamingNode):
    """Takes in again what its shards' manifests hold."""

    async def _load_shards(self, channel: Any) -> None:
        await super()._load_shards(channel)
        for shard in channel.shards.values():
            shard.__class__ = Uncut
            shard.manifest = msgspec.structs.replace(shard.manifest, flushed_through=ORIGIN, timestamp_max=0)
            shard.last_timestamp, shard.last_position = 0, ORIGIN


ALWAYS = absent("no such key")
"""A guard that always holds."""


class UnguardedRoles(Roles):
    """With a coordinator that goes on when another was elected."""

    def leader(self, *arguments: Any) -> Leader:
        leader: Any = super().leader(*arguments)
        leader.guard = ALWAYS
        for part in (leader.channels, leader.background, leader.oracle, leader.ids, leader.ddl, leader.collector):
            part._guard = ALWAYS
        return leader  # type: ignore[no-any-return]


class Resending(Routes):
    """Takes a lost reply for a write that was not done, and sends it again until one is answered."""

    async def _send_one(self, shard: Any, write: Any) -> WriteReply | ElanusError:
        outcome = await super()._send_one(shard, write)
        return ChannelNotAvailableError(write.vchannel) if isinstance(outcome, ReplyLostError) else outcome


class ResendingRoles(Roles):
    def proxy(self, *arguments: Any, **named: Any) -> Proxy:
        proxy: Any = super().proxy(*arguments, **named)
        proxy._writer._routes.__class__ = Resending
        return proxy  # type: ignore[no-any-return]


# --- the table ------------------------------------------------------------------------------------------------------
MUTANTS: dict[str, Mutant] = {
    "acknowledged-before-the-sync": alone("22", broken.Unsynced, 4),
    "growing-released-before-the-swap": alone(
        "11", lambda: broken.ShardsBy(broken.HastyShard), 32, with_more("flush", roles=())
    ),
    "delete-lost-at-segment-load": alone(
        "16", lambda: broken.Making(query_kind=broken.Forgetful), 16, with_more("flush", roles=())
    ),
    "checkpoint-ahead-of-the-data": alone("3", lambda: broken.Making(broken.RunningAhead), 8),
    "duplicate-replay": alone("11", lambda: broken.Making(Replaying), 6),
    "unguarded-partial-upsert": many("17", nodes(Careless), 8, with_more("patch", "delay", roles=("streaming",))),
    "collected-while-still-named": alone("20", broken.Sweeping, 4),
    "one-timestamp-per-batch": alone("6", lambda: broken.Making(broken.Stamping), 4),
    "delete-without-its-scope": alone("15", lambda: broken.ShardsBy(broken.UnscopedShard), 8),
    "deletes-claimed-and-not-applied": alone("16", lambda: broken.Making(query_kind=broken.Deaf), 4),
    "read-before-its-deletes": alone("16", lambda: broken.Making(query_kind=broken.Blind), 4),
    "read-at-another-time": alone("9", lambda: broken.Making(query_kind=broken.Timeless), 4),
    "compaction-claims-later-deletes": alone("13", lambda: broken.Making(data_kind=broken.Boastful), 4),
    "purge-within-the-retention": alone("15", lambda: broken.Making(data_kind=broken.Purging), 4),
    "compaction-of-more-than-its-inputs": alone("12", lambda: broken.Making(data_kind=broken.Doubling), 4),
    "collected-by-age-alone": many("20", collectors(Aging), 2),
    "collected-while-the-manifest-before-names-it": many("20", collectors(Hasty), 2),
    "stamps-below-the-floor": many("6", nodes(SinkingNode), 4),
    "fence-that-does-not-fence": many("1", UnfencedRoles, 8),
    "strong-read-without-evidence": many("10", nodes(Trusting), 8),
    "flush-without-its-precondition": many(
        "12", nodes(Unconditioned), 8, with_more("flush", "meta_lost", roles=("streaming",))
    ),
    "flush-without-its-term": many("12", nodes(Unowned), 8),
    "coordinator-without-its-guard": many("18", UnguardedRoles, 24),
    "write-sent-again-after-an-unknown-outcome": many("8", ResendingRoles, 16, with_little("insert", "loss", "proxy")),
}
