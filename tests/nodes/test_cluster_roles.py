"""A cluster of processes, one role each, in virtual time: what survives whose death."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from node_calls import Client, refused, row, rows

from elanus.app.roles import Footing, Roles
from elanus.base.errors import Action, ElanusError, FencedError, UnavailableError
from elanus.base.events import Event, Events, Level
from elanus.meta.catalog import Stored, assign, fetch_channel, stored
from elanus.meta.catalog import run as run_transaction
from elanus.meta.records import COLLECTIONS, PCHANNELS, SHARDS, CatalogSnapshot, Pchannel, decode
from elanus.meta.store import Put, Transaction
from elanus.model.channel import pchannel_of
from elanus.model.columns import Column
from elanus.model.errors import ChannelNotAvailableError
from elanus.model.reads import ShardRead
from elanus.model.requests import Consistency, LoadRequest
from elanus.model.segment import IndexFile
from elanus.model.types import ConsistencyLevel
from elanus.nodes.contracts import BuildTask, SegmentLoad, ShardWrite
from elanus.nodes.coordinator.channels import RETRY_S_MAX
from elanus.nodes.coordinator.leader import TIDY_S
from elanus.nodes.coordinator.placement import LOAD_BATCH_MAX
from elanus.nodes.coordinator.reach import PROBE_S
from elanus.nodes.coordinator.snapshots import KEPT
from elanus.nodes.data.node import DataNode
from elanus.nodes.query.node import QueryNode
from elanus.nodes.streaming.node import StreamingNode
from elanus.objects import paths
from elanus.testing.cluster import ClusterOptions, ClusterWorld, Member, play_cluster
from elanus.testing.invariants import check_all

pytestmark = pytest.mark.slow


@pytest.fixture(params=["direct", "codec"])
def clustered(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Plays a scenario, then checks all invariants; keywords are `ClusterOptions`."""

    def start(scenario: Callable[[ClusterWorld], Any], *, seed: int = 0, **options: Any) -> None:
        play_cluster(scenario, ClusterOptions(codec=request.param == "codec", **options), seed=seed, check=check_all)

    return start


def client_of(world: ClusterWorld, name: str = "c") -> Client:
    return Client(cast("Any", world), name)


def test_a_cluster_serves(clustered: Callable[..., None]) -> None:
    async def scenario(world: ClusterWorld) -> None:
        client = client_of(world)
        await client.create(shard_count=2)
        await client.insert(rows(range(20)))
        await client.flush()
        await client.insert(rows(range(20, 30)))
        await client.delete_ids([3, 25])
        assert await client.ids() == [one for one in range(30) if one not in (3, 25)]
        assert (await client.search([7.0, 0.0], 1))[0][0] == 7

    clustered(scenario)


# --- query nodes without what they should hold ----------------------------------------------------------------------
def test_a_query_node_fetches_what_it_lacks_when_it_is_first_asked(clustered: Callable[..., None]) -> None:
    """No coordinator is there to notice; deletes of after the flush are seen all the same."""

    async def scenario(world: ClusterWorld) -> None:
        client = client_of(world)
        await client.create(shard_count=2)
        await client.insert(rows(range(40)))
        await client.flush()
        await client.delete_ids([3, 25])
        await client.insert(rows(range(40, 50)))
        wanted = [one for one in range(50) if one not in (3, 25)]
        assert await client.ids() == wanted
        held = world.holders()
        assert sum(map(len, held.values())) >= 2
        term = world.process.leader.term
        await world.kill(world.active)
        for name, segments in held.items():
            node = world.members[name].process.query
            assert node is not None
            await node.release(tuple(segments), term)
        assert not any(world.holders().values())
        assert (await client.search([3.0, 0.0], 1))[0][0] in (2, 4)
        assert await client.ids() == wanted
        assert world.holders() == held
        await world.join("coordinator")
        while not world.has_leader:
            await world.sleep(0.1)

    clustered(scenario)


# --- owners ---------------------------------------------------------------------------------------------------------
class Load:
    """Clients that insert one row after another and check that each is there, and stays."""

    def __init__(self, world: ClusterWorld, client: Client) -> None:
        self._world = world
        self._client = client
        self._next = 1000
        self.acknowledged: set[int] = set()
        self.unknown: set[int] = set()
        self.waited_s = 0.0
        self.running = True

    async def run(self) -> None:
        while self.running:
            number, self._next = self._next, self._next + 1
            begun_s = self._world.clock.monotonic_s()
            while True:
                try:
                    await self._client.insert([row(number)])
                    self.acknowledged.add(number)
                    break
                except ElanusError as error:
                    if error.action is Action.UNKNOWN:
                        self.unknown.add(number)
                        break
                    assert error.action in (Action.RETRY, Action.ELSEWHERE), repr(error)
                await self._world.sleep(0.05)
            self.waited_s = max(self.waited_s, self._world.clock.monotonic_s() - begun_s)
            await self._world.sleep(0.02)

    async def check(self) -> None:
        """Exactly what was acknowledged is there, and perhaps what is unknown."""
        found = {one for one in await self._client.ids() if one >= 1000}
        assert self.acknowledged <= found <= self.acknowledged | self.unknown


async def under_load(world: ClusterWorld, client: Client, disturb: Callable[[], Awaitable[None]]) -> Load:
    """Two clients write and one reads what is acknowledged while `disturb` runs."""
    load = Load(world, client)
    running = [asyncio.ensure_future(load.run()) for _ in range(2)]
    await world.sleep(0.5)
    await disturb()
    await world.sleep(1.0)
    load.running = False
    await asyncio.gather(*running)
    await load.check()
    return load


def test_the_death_of_an_owner_loses_nothing_and_is_mended_soon(clustered: Callable[..., None]) -> None:
    async def scenario(world: ClusterWorld) -> None:
        client = client_of(world)
        await client.create(shard_count=2)
        await client.insert(rows(range(20)))
        await client.flush()
        await client.delete_ids([3])

        async def disturb() -> None:
            await world.kill(world.owner("elanus-dml_0"))
            await world.sleep(6)

        load = await under_load(world, client, disturb)
        assert load.waited_s < 2 + 3, "take-over took longer than the lease and 3 s"
        assert [one for one in await client.ids() if one < 1000] == [one for one in range(20) if one != 3]

    clustered(scenario)


def test_a_sleeper_that_wakes_has_lost_its_channels(clustered: Callable[..., None]) -> None:
    async def scenario(world: ClusterWorld) -> None:
        client = client_of(world)
        await client.create()
        await client.insert(rows(range(5)))
        (vchannel,) = await shards_of(world)
        old = world.owner(pchannel_of(vchannel))
        node = world.members[old].process.streaming
        assert node is not None
        others = [name for name in world.members if name != old]
        world.cut(old, "meta", *others)
        await world.sleep(6)
        assert world.members[old].process.streaming is node
        await client.insert(rows(range(5, 8)))
        # Nobody has told it: it still takes itself for the owner, and can neither read nor write.
        assert node.is_open(pchannel_of(vchannel))
        await refused(node.query(count_of(vchannel)), UnavailableError)
        world.mend(old, "meta", *others)
        await refused(node.query(count_of(vchannel)), UnavailableError, "no longer current")
        write = ShardWrite(vchannel=vchannel, schema_version=0, delete_keys=Column(np.array([1])))
        await refused(node.write(write), ElanusError)
        await world.sleep(2)
        assert not node.is_open(pchannel_of(vchannel))
        await refused(node.query(count_of(vchannel)), ChannelNotAvailableError)
        assert await client.ids() == list(range(8))

    clustered(scenario, pchannel_count=1)


def test_an_owner_cut_off_from_the_coordinator_only_loses_its_channels(clustered: Callable[..., None]) -> None:
    """Its lease lives on, clients reach it, and it gets no timestamps: without a move nothing would ever be written."""

    async def scenario(world: ClusterWorld) -> None:
        client = client_of(world)
        await client.create()
        await client.insert(rows(range(5)))
        (vchannel,) = await shards_of(world)
        old = world.owner(pchannel_of(vchannel))
        node = world.members[old].process.streaming
        assert node is not None
        world.cut(old, "coordinator 1")
        await world.sleep(15)
        await client.insert(rows(range(5, 8)))
        assert await client.ids() == list(range(8))
        await refused(node.query(count_of(vchannel)), ElanusError)
        world.mend(old, "coordinator 1")
        await world.sleep(10)
        assert not node.is_open(pchannel_of(vchannel))
        assert await client.ids() == list(range(8))

    clustered(scenario, pchannel_count=1)


def test_an_owner_waits_for_timestamps_while_its_log_is_opened_again(clustered: Callable[..., None]) -> None:
    """A write that was taken under one handle of the log is appended under the next: the one before is fenced."""

    async def scenario(world: ClusterWorld) -> None:
        client = client_of(world)
        await client.create()
        await client.insert(rows(range(5)))
        name, node = await owned(world)
        coordinator = world.members["coordinator 1"].meta
        await world.sleep(60)
        coordinator.withhold()
        writing = asyncio.ensure_future(client.insert(rows(range(5, 8))))
        await world.sleep(0.5)
        channel = await fetch_channel(world.meta, name)
        transaction, term = assign(channel, name, node.node_id)
        await run_transaction(world.meta, transaction)
        await node.assign(name, term)
        coordinator.answer()
        await writing
        await world.sleep(1)
        assert node.is_open(name)
        assert await client.ids() == list(range(8))

    clustered(scenario, pchannel_count=1)


def test_an_owner_that_let_go_of_its_channel_gets_it_back(clustered: Callable[..., None]) -> None:
    """Whatever the reason: as long as its lease lives nobody else would be given the channel."""

    async def scenario(world: ClusterWorld) -> None:
        client = client_of(world)
        await client.create()
        await client.insert(rows(range(5)))
        name, node = await owned(world)
        await node.resign(name, 1 << 40)
        assert not node.is_open(name)
        await world.sleep(PROBE_S + 1)
        assert node.is_open(name)
        await client.insert(rows(range(5, 8)))
        assert await client.ids() == list(range(8))

    clustered(scenario, pchannel_count=1)


def test_a_channel_that_may_have_been_given_away_gets_a_new_term(clustered: Callable[..., None]) -> None:
    """The record that gives it to a node that just came is written, the answer lost, and the node leaves again."""

    async def scenario(world: ClusterWorld) -> None:
        client = client_of(world)
        await client.create(shard_count=2)
        before = await owners_of(world)
        world.members["coordinator 1"].meta.lose()
        await world.join("streaming")
        while await owners_of(world) == before:
            await world.sleep(0.01)
        await world.leave("streaming 2")
        await world.sleep(RETRY_S_MAX)
        await client.insert(rows(range(20)))
        assert await client.ids() == list(range(20))

    clustered(scenario, streaming=1, pchannel_count=2)


def test_a_node_follows_a_channel_that_it_takes_itself_to_own(clustered: Callable[..., None]) -> None:
    async def scenario(world: ClusterWorld) -> None:
        client = client_of(world)
        await client.create()
        name, old = await owned(world)
        (new,) = [one.process.streaming for one in world.members.values() if one.process.streaming not in (None, old)]
        role = world.members["coordinator 1"].process.coordinator
        assert new is not None
        assert role is not None
        await refused(old.follow(name, role.leader.term), UnavailableError, "this node's own")
        channel = await fetch_channel(world.meta, name)
        transaction, term = assign(channel, name, new.node_id)
        await run_transaction(world.meta, transaction)
        await new.assign(name, term)
        assert old.is_open(name), "nobody has told it"
        await old.follow(name, role.leader.term)
        assert old.is_following(name)

    clustered(scenario, pchannel_count=1)


def test_a_flush_is_told_of_its_commit_after_it_serves_a_later_manifest(clustered: Callable[..., None]) -> None:
    """The coordinator may see a commit, merge what came of it, and have the owner serve that, all before the owner is
    answered."""

    async def scenario(world: ClusterWorld) -> None:
        client = client_of(world)
        await client.create()
        for first in (0, 5):
            await client.insert(rows(range(first, first + 5)))
            await client.flush()
        (vchannel,) = await shards_of(world)
        owner = world.members[world.owner(pchannel_of(vchannel))]
        await client.insert(rows(range(10, 15)))
        owner.meta.withhold()
        flushing = asyncio.ensure_future(client.flush())
        await world.sleep(5)
        await client.compact()
        assert await client.segment_count() == 1, "all three are merged"
        await world.sleep(5)
        owner.meta.answer()
        await flushing
        assert await client.ids() == list(range(15))

    clustered(scenario)


def test_channels_are_balanced_over_nodes_that_come_and_go(clustered: Callable[..., None]) -> None:
    async def scenario(world: ClusterWorld) -> None:
        client = client_of(world)
        await client.create(shard_count=4)
        await client.insert(rows(range(40)))

        async def disturb() -> None:
            assert counts(world) == [4]
            await world.join("streaming")
            await world.sleep(2)
            assert counts(world) == [2, 2]
            await world.join("streaming")
            await world.join("streaming")
            await world.sleep(2)
            assert counts(world) == [1, 1, 1, 1]
            await world.leave("streaming 1")
            assert counts(world) == [1, 1, 2]
            await world.leave("streaming 2")
            assert counts(world) == [2, 2]

        load = await under_load(world, client, disturb)
        assert not load.unknown
        assert load.waited_s < 1
        assert [one for one in await client.ids() if one < 1000] == list(range(40))

    clustered(scenario, streaming=1, pchannel_count=4)


def counts(world: ClusterWorld) -> list[int]:
    nodes = [one.process.streaming for one in world.members.values() if one.process.streaming is not None]
    return sorted(len(node.owned) for node in nodes)


async def owned(world: ClusterWorld) -> tuple[str, StreamingNode]:
    """The channel of the only shard, and the node that owns it."""
    (vchannel,) = await shards_of(world)
    name = pchannel_of(vchannel)
    node = world.members[world.owner(name)].process.streaming
    assert node is not None
    return name, node


async def shards_of(world: ClusterWorld) -> list[str]:
    return [item.key.removeprefix(SHARDS) for item in await world.meta.range(SHARDS)]


def count_of(vchannel: str) -> ShardRead:
    return ShardRead(vchannel=vchannel, level=ConsistencyLevel.STRONG, count_only=True)


# --- coordinators ---------------------------------------------------------------------------------------------------
def test_a_standby_takes_over_and_owners_stay(clustered: Callable[..., None]) -> None:
    async def scenario(world: ClusterWorld) -> None:
        client = client_of(world)
        await client.create(shard_count=2)
        await client.insert(rows(range(10)))
        terms = await terms_of(world)
        first = world.active

        async def disturb() -> None:
            await world.kill(first)
            for _ in range(20):
                assert len(await client.ids("id < 100")) == 10
                await world.sleep(0.3)
            while not world.has_leader:
                await world.sleep(0.1)

        load = await under_load(world, client, disturb)
        assert not load.unknown
        assert world.active != first
        assert await terms_of(world) == terms
        await client.flush()
        other = client_of(world, "d")
        await other.create()
        await other.insert(rows(range(3)))
        assert await other.ids() == [0, 1, 2]

    clustered(scenario, coordinators=2)


def test_a_deposed_coordinator_changes_nothing_and_stands_again(clustered: Callable[..., None]) -> None:
    async def scenario(world: ClusterWorld) -> None:
        client = client_of(world)
        await client.create()
        await client.insert(rows(range(10)))
        first = world.active
        role = world.members[first].process.coordinator
        assert role is not None
        old = role.leader
        world.cut(first, "meta")
        await world.sleep(5)
        assert world.active != first or len([1 for one in world.members.values() if is_leading(one)]) == 2
        world.mend(first, "meta")
        await refused(run_transaction(world.meta, Transaction((), (Put("x", b""),)), (old.guard,)), FencedError)
        await world.sleep(5)
        assert [is_leading(one) for one in world.members.values()].count(True) == 1
        await client.insert(rows(range(10, 20)))
        await client.flush()
        assert await client.ids() == list(range(20))
        await world.kill(world.active)
        await world.sleep(5)
        assert world.active == first
        other = client_of(world, "d")
        await other.create()

    clustered(scenario, coordinators=2)


def is_leading(member: Member) -> bool:
    return member.process.coordinator is not None and member.process.coordinator.is_started


async def terms_of(world: ClusterWorld) -> dict[str, int]:
    return {one.record.name: one.record.term for one in await owners_of(world)}


async def owners_of(world: ClusterWorld) -> list[Stored[Pchannel]]:
    items = await world.meta.range(PCHANNELS)
    return [stored(Pchannel, item) for item in items if item.key.endswith("/owner")]


def test_without_a_coordinator_reads_go_on_and_writes_until_the_window_ends(clustered: Callable[..., None]) -> None:
    async def scenario(world: ClusterWorld) -> None:
        client = client_of(world)
        await client.create()
        await client.insert(rows(range(10)))
        await client.flush()
        await client.insert(rows([10]))
        assert await client.ids() == list(range(11))
        await world.kill(world.active)
        await client.insert(rows([11]))
        await world.sleep(10)
        for level in ConsistencyLevel:
            if level is not ConsistencyLevel.CUSTOMIZED:
                assert await client.ids(consistency=Consistency(level=level)) == list(range(12))
        await refused(client.insert(rows([12])), UnavailableError, "no timestamps")
        await world.join("coordinator")
        await world.sleep(4)
        await client.insert(rows([13]))
        assert await client.ids() == [*range(12), 13]

    clustered(scenario)


# --- query nodes ----------------------------------------------------------------------------------------------------
async def sealed(client: Client, segments: int) -> None:
    """A collection of 10 rows for each segment, some deleted."""
    await client.create(load=False)
    for number in range(segments):
        await client.insert(rows(range(10 * number, 10 * number + 10)))
        await client.flush()
    await client.delete_ids([0, 11])


def spread(world: ClusterWorld) -> list[int]:
    return sorted(len(segments) for segments in world.holders().values())


class Reads:
    """A client that reads all the time and counts what went wrong."""

    def __init__(self, world: ClusterWorld, client: Client, expected: list[int]) -> None:
        self._world = world
        self._client = client
        self._expected = expected
        self.count = 0
        self.slowest_s = 0.0
        self.running = True

    async def run(self) -> None:
        while self.running:
            begun_s = self._world.clock.monotonic_s()
            assert await self._client.ids() == self._expected
            (best, _), *_ = await self._client.search([15.0, 0.0], 3)
            assert best == 15
            self.count += 1
            self.slowest_s = max(self.slowest_s, self._world.clock.monotonic_s() - begun_s)
            await self._world.sleep(0.01)


async def read_during(world: ClusterWorld, client: Client, disturb: Callable[[], Awaitable[None]]) -> Reads:
    reads = Reads(world, client, await client.ids())
    running = asyncio.ensure_future(reads.run())
    await world.sleep(0.2)
    await disturb()
    await world.sleep(0.2)
    reads.running = False
    await running
    assert reads.count > 5
    return reads


def test_with_two_replicas_the_death_of_a_query_node_delays_no_read(clustered: Callable[..., None]) -> None:
    async def scenario(world: ClusterWorld) -> None:
        client = client_of(world)
        await sealed(client, 4)
        await client.load(replicas=2)
        assert spread(world) == [2, 2, 2, 2]

        async def disturb() -> None:
            await world.kill("query 2")
            await world.sleep(5)

        reads = await read_during(world, client, disturb)
        assert reads.slowest_s < 0.3
        assert sum(spread(world)) == 8
        holders = list(world.holders().values())
        everything = set[int]().union(*holders)
        assert all(sum(one in held for held in holders) == 2 for one in everything)

    clustered(scenario, query=4, compacts=False)


def test_segments_of_a_dead_query_node_are_loaded_by_others(clustered: Callable[..., None]) -> None:
    async def scenario(world: ClusterWorld) -> None:
        client = client_of(world)
        await sealed(client, 4)
        await client.load()
        assert spread(world) == [2, 2]

        async def disturb() -> None:
            await world.kill("query 1")
            await world.sleep(5)

        reads = await read_during(world, client, disturb)
        assert reads.slowest_s < 2 + 1
        assert spread(world) == [4]

    clustered(scenario, compacts=False)


def test_segments_are_balanced_over_query_nodes_that_come_and_go(clustered: Callable[..., None]) -> None:
    async def scenario(world: ClusterWorld) -> None:
        client = client_of(world)
        await sealed(client, 6)
        await client.load()
        assert spread(world) == [6]

        async def disturb() -> None:
            await world.join("query")
            await world.sleep(2)
            assert spread(world) == [3, 3]
            await world.join("query")
            await world.sleep(2)
            assert spread(world) == [2, 2, 2]
            await world.leave("query 1")
            assert spread(world) == [3, 3]

        reads = await read_during(world, client, disturb)
        assert reads.slowest_s < 0.3

    clustered(scenario, query=1, compacts=False)


def test_a_new_coordinator_leaves_segments_where_they_lie(clustered: Callable[..., None]) -> None:
    async def scenario(world: ClusterWorld) -> None:
        client = client_of(world)
        await sealed(client, 4)
        await client.load(replicas=2)
        other = client_of(world, "d")
        await sealed(other, 2)
        await other.load()
        before = world.holders()

        async def disturb() -> None:
            await world.kill(world.active)
            while not world.has_leader:
                await world.sleep(0.1)
            await world.sleep(2)

        await read_during(world, client, disturb)
        assert world.holders() == before
        await client.flush()
        await client.compact()
        await world.sleep(5)
        assert await client.ids() == [one for one in range(40) if one not in (0, 11)]
        await client.release()
        await other.release()
        await world.sleep(1)
        assert not any(world.holders().values())

    clustered(scenario, query=3, coordinators=2, compacts=False)


def test_more_replicas_than_nodes_are_refused(clustered: Callable[..., None]) -> None:
    async def scenario(world: ClusterWorld) -> None:
        client = client_of(world)
        await client.create(load=False)
        await refused(client.load(replicas=3), ElanusError, "service resource insufficient[currentStreamingNode=2]")

    clustered(scenario)


# --- data nodes -----------------------------------------------------------------------------------------------------
class SlowData(DataNode):
    """Takes five seconds for everything."""

    begun = 0

    async def build(self, task: BuildTask) -> IndexFile:
        SlowData.begun += 1
        await self._doors.clock.sleep(5)
        return await super().build(task)


class SlowRoles(Roles):
    """With such data nodes."""

    def data(self) -> DataNode:
        return SlowData(self.footing.doors, self.footing.objects, 1)


def test_builds_run_side_by_side_and_again_when_their_node_dies() -> None:
    async def scenario(world: ClusterWorld) -> None:
        SlowData.begun = 0
        client = client_of(world)
        await client.create(shard_count=1, index_type="HNSW", load=False)
        for number in range(2):
            await client.insert(rows(range(2000 * number, 2000 * number + 2000)))
            await client.flush()
        while SlowData.begun < 2:
            await world.sleep(0.1)
        begun_s = world.clock.monotonic_s()
        await world.kill("data 1")
        await client.wait_indexed()
        # The other one was building; the dead one's lease ends, then its task takes five seconds more.
        assert world.clock.monotonic_s() - begun_s < 5 + 5 + 3
        assert SlowData.begun == 3
        await client.load()
        assert await client.count() == 4000

    options = ClusterOptions(data=2, compacts=False)
    play_cluster(scenario, options, make=SlowRoles, check=check_all)


# --- followers ------------------------------------------------------------------------------------------------------
def following(world: ClusterWorld, pchannel: str) -> list[str]:
    nodes = [(name, one.process.streaming) for name, one in world.members.items()]
    return [name for name, node in nodes if node is not None and node.is_following(pchannel)]


def test_a_follower_serves_what_the_owner_does(clustered: Callable[..., None]) -> None:
    async def scenario(world: ClusterWorld) -> None:
        client = client_of(world)
        await client.create(load=False)
        await client.insert(rows(range(10)))
        await client.flush()
        await client.load(replicas=2)
        (vchannel,) = await shards_of(world)
        await world.sleep(1)
        (name,) = following(world, pchannel_of(vchannel))
        node = world.members[name].process.streaming
        assert node is not None

        async def at_follower() -> int:
            return (await node.query(count_of(vchannel))).row_count

        for turn in range(20):
            await client.insert(rows(range(100 + 10 * turn, 110 + 10 * turn)))
            assert await at_follower() == 20 + 9 * turn
            await client.delete_ids([100 + 10 * turn])
            assert await at_follower() == 10 + 9 * (turn + 1)
            if turn % 5 == 4:
                await client.flush()
                assert await at_follower() == 10 + 9 * (turn + 1)
        await client.compact()
        await world.sleep(3)
        assert await at_follower() == 190
        write = ShardWrite(vchannel=vchannel, schema_version=0, delete_keys=Column(np.array([1])))
        await refused(node.write(write), ChannelNotAvailableError)
        await refused(node.flush(vchannel), ChannelNotAvailableError)
        await client.release()
        await client.load()
        await world.sleep(2)
        assert not following(world, pchannel_of(vchannel))
        assert await client.count() == 190

    clustered(scenario, pchannel_count=1)


def test_with_two_replicas_the_death_of_an_owner_delays_no_read(clustered: Callable[..., None]) -> None:
    async def scenario(world: ClusterWorld) -> None:
        client = client_of(world)
        await sealed(client, 2)
        await client.load(replicas=2)
        await client.insert(rows(range(50, 60)))
        await client.delete_ids([51])
        (vchannel,) = await shards_of(world)
        await world.sleep(1)
        pchannel = pchannel_of(vchannel)
        (standby,) = following(world, pchannel)

        async def disturb() -> None:
            await world.kill(world.owner(pchannel))
            await world.sleep(5)

        reads = await read_during(world, client, disturb)
        assert reads.slowest_s < 0.3
        assert world.owner(pchannel) == standby
        await client.insert(rows([70]))
        await client.flush()
        await client.delete_ids([70])
        assert 70 not in await client.ids()
        assert following(world, pchannel)

    clustered(scenario, streaming=3, pchannel_count=1, compacts=False)


def test_writes_under_load_survive_the_promotion_of_a_follower(clustered: Callable[..., None]) -> None:
    async def scenario(world: ClusterWorld) -> None:
        client = client_of(world)
        await client.create(shard_count=2, load=False)
        await client.load(replicas=2)

        async def disturb() -> None:
            for _ in range(2):
                await world.sleep(1)
                await client.flush()
                await world.kill(world.owner("elanus-dml_0"))
                await world.sleep(5)

        load = await under_load(world, client, disturb)
        assert load.waited_s < 2 + 3

    clustered(scenario, streaming=4, growing_bytes_max=64 * 1024)


# --- placement ------------------------------------------------------------------------------------------------------
def test_segments_that_nobody_wants_are_released(clustered: Callable[..., None]) -> None:
    """What a query node held when it was given up, and was let go meanwhile; and what a lead before had loaded."""

    async def scenario(world: ClusterWorld) -> None:
        client, other = client_of(world), client_of(world, "d")
        await sealed(client, 4)
        await client.load()
        await sealed(other, 2)
        await other.load()
        held = sum(map(len, world.holders().values()))
        assert held == 6
        others = [name for name in world.members if name != "query 1"]
        kept = world.holders()["query 1"]
        world.cut("query 1", "meta", *others)
        await world.sleep(5)
        await client.release()
        world.mend("query 1", "meta", *others)
        await world.sleep(3)
        assert world.holders()["query 1"] == kept, "nobody has told it"
        await world.kill(world.active)
        await world.sleep(3 * TIDY_S)
        assert sum(map(len, world.holders().values())) == 2
        assert await other.count() == 18

    clustered(scenario, coordinators=2, compacts=False)


class Counting(QueryNode):
    """Counts its loads."""

    calls = 0

    async def load(self, load: SegmentLoad) -> None:
        Counting.calls += 1
        assert 0 < len(load.manifest.segments) <= LOAD_BATCH_MAX
        await super().load(load)


class CountingRoles(Roles):
    def query(self) -> QueryNode:
        return Counting(self.footing.doors, self.footing.objects, self.execution)


def test_many_segments_are_loaded_in_few_calls() -> None:
    async def scenario(world: ClusterWorld) -> None:
        client = client_of(world)
        await client.create(load=False)
        for number in range(LOAD_BATCH_MAX + 8):
            await client.insert(rows([number]))
            await client.flush()
        Counting.calls = 0
        await client.load()
        await world.sleep(3)
        assert await client.count() == LOAD_BATCH_MAX + 8
        assert Counting.calls == 2

    play_cluster(scenario, ClusterOptions(query=1, compacts=False), make=CountingRoles, check=check_all)


class Unloadable(QueryNode):
    """Fails to load until it is told otherwise."""

    fails = True

    async def load(self, load: SegmentLoad) -> None:
        if Unloadable.fails:
            raise UnavailableError("not now")
        await super().load(load)


class UnloadableRoles(Roles):
    def query(self) -> QueryNode:
        return Unloadable(self.footing.doors, self.footing.objects, self.execution)


def test_trouble_is_told_once_and_others_are_placed_meanwhile() -> None:
    told: list[Event] = []

    class Telling(UnloadableRoles):
        def __init__(self, footing: Footing) -> None:
            events = Events(footing.doors.clock.now_ms, level=Level.INFO, sink=told.append)
            super().__init__(replace(footing, events=events))

    async def scenario(world: ClusterWorld) -> None:
        Unloadable.fails = True
        client, other = client_of(world), client_of(world, "d")
        await sealed(client, 2)
        await world.proxy.load(LoadRequest(collection="c"))
        await other.create()
        await other.insert(rows(range(3)))
        assert await other.count() == 3
        await world.sleep(20)
        failed = [event for event in told if event.name == "placement.failed" and "not now" in str(event.fields)]
        assert len(failed) == 1
        Unloadable.fails = False
        await world.sleep(3)
        assert await client.count() == 18
        assert [event.name for event in told].count("placement.mended") == 1

    play_cluster(scenario, ClusterOptions(compacts=False), make=Telling, check=check_all)


# --- definitions ----------------------------------------------------------------------------------------------------
def test_definitions_leave_few_snapshots_of_the_catalog(clustered: Callable[..., None]) -> None:
    async def scenario(world: ClusterWorld) -> None:
        for number in range(12):
            await client_of(world, f"c{number}").create(load=False)
            await world.sleep(0.4)
        await world.sleep(5)
        names = await world.objects.list(paths.CATALOG_PREFIX)
        assert len(names) == KEPT
        written = [key for key in world.object_history.contents if key.startswith(paths.CATALOG_PREFIX)]
        assert len(written) <= 8
        snapshot = decode(CatalogSnapshot, await world.objects.get(names[-1]), names[-1])
        stored_now = {item.key: item.value for item in await world.meta.range(COLLECTIONS)}
        assert len(stored_now) == 12
        assert {key: value for key, value in snapshot.values if key.startswith(COLLECTIONS)} == stored_now

    clustered(scenario)
