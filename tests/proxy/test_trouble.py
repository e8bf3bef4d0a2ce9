"""Shards that move, refuse or vanish; caches that are outdated; what the client is told then."""

from __future__ import annotations

import asyncio

import pytest

from elanus.base.errors import (
    ElanusError,
    FencedError,
    OutcomeUnknownError,
    OverloadedError,
    StorageError,
    UnavailableError,
)
from elanus.model.errors import (
    ChannelNotAvailableError,
    CollectionNotFoundError,
    SchemaMismatchError,
    SegmentNotFoundError,
)
from elanus.model.requests import (
    AliasRequest,
    CollectionRequest,
    Consistency,
    DeleteRequest,
    FlushRequest,
    FlushStateRequest,
    PartitionRequest,
)
from elanus.model.types import ConsistencyLevel, DataType
from elanus.nodes.contracts import CollectionView
from elanus.nodes.proxy.cache import CollectionCache

from .requests import ID, NAME, VECTOR, collection, found_ids, ids, insert, query, schema, search, sent, table, vectors
from .twin import Bench, TwinCoordinator

TEN = (ids(range(10)), vectors([[n, 0] for n in range(10)]))


def vchannels(bench: Bench) -> list[str]:
    return list(bench.node.shards)


@pytest.mark.parametrize("error", [ChannelNotAvailableError("v"), UnavailableError("starting")])
def test_a_write_is_sent_again_when_it_was_not_stamped(error: ElanusError) -> None:
    async def main() -> None:
        bench = Bench()
        await collection(bench, schema(ID, VECTOR), shard_count=2)
        bench.node.refusals[vchannels(bench)[1]] = [error, error, error]
        await bench.proxy.insert(insert(*TEN))
        assert bench.rows() == 10
        assert len(bench.node.arrivals) == 5

    asyncio.run(main())


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("error", [OutcomeUnknownError("?"), StorageError("disk"), FencedError("term")])
def test_a_write_of_unknown_outcome_is_never_sent_again(shards: int, error: ElanusError) -> None:
    async def main() -> None:
        bench = Bench()
        await collection(bench, schema(ID, VECTOR), shard_count=shards)
        bench.node.accidents[vchannels(bench)[0]] = [error]
        with pytest.raises(OutcomeUnknownError):
            await bench.proxy.insert(insert(*TEN))
        assert bench.rows() == 10
        assert len(bench.node.arrivals) == shards

    asyncio.run(main())


def test_a_refusal_of_one_shard_after_another_wrote_is_an_unknown_outcome() -> None:
    async def main() -> None:
        bench = Bench()
        await collection(bench, schema(ID, VECTOR), shard_count=2)
        bench.node.refusals[vchannels(bench)[1]] = [OverloadedError("full")]
        with pytest.raises(OutcomeUnknownError, match="1 of 2 parts of the write are done, another failed with: full"):
            await bench.proxy.insert(insert(*TEN))

    asyncio.run(main())


def test_a_refusal_of_all_shards_is_passed_on() -> None:
    async def main() -> None:
        bench = Bench()
        await collection(bench, schema(ID, VECTOR), shard_count=2)
        for vchannel in vchannels(bench):
            bench.node.refusals[vchannel] = [OverloadedError("full")]
        with pytest.raises(OverloadedError):
            await bench.proxy.insert(insert(*TEN))
        assert bench.rows() == 0

    asyncio.run(main())


def test_patience_ends() -> None:
    async def main() -> None:
        bench = Bench()
        await collection(bench, schema(ID, VECTOR))
        bench.coordinator.node_id = 0
        await bench.proxy.invalidate(0)
        began = bench.clock.ms
        with pytest.raises(ChannelNotAvailableError):
            await bench.proxy.insert(insert(*TEN))
        with pytest.raises(ChannelNotAvailableError):
            await bench.proxy.search(search([[0, 0]]))
        assert 15_000 < bench.clock.ms - began <= 20_000

    asyncio.run(main())


@pytest.mark.parametrize(
    "error", [ChannelNotAvailableError("v"), SegmentNotFoundError(1), UnavailableError("moving"), FencedError("term")]
)
def test_a_read_is_repeated_while_shards_move(error: ElanusError) -> None:
    async def main() -> None:
        bench = Bench()
        await collection(bench, schema(ID, VECTOR), shard_count=2)
        await bench.proxy.insert(insert(*TEN))
        bench.node.read_refusals = [error] * 3
        assert found_ids(await bench.proxy.search(search([[0, 0]], 3))) == [[0, 1, 2]]
        bench.node.read_refusals = [error] * 3
        assert table(await bench.proxy.query(query("id < 2")))["id"] == [0, 1]

    asyncio.run(main())


def test_a_shard_that_moved_is_found_at_its_new_node() -> None:
    async def main() -> None:
        bench = Bench()
        await collection(bench, schema(ID, VECTOR))
        await bench.proxy.insert(insert(*TEN))
        bench.nodes[2] = bench.nodes.pop(1)
        bench.coordinator.node_id = 2
        assert found_ids(await bench.proxy.search(search([[0, 0]], 2))) == [[0, 1]]
        await bench.proxy.upsert(insert(ids([0]), vectors([[50, 0]])))
        assert found_ids(await bench.proxy.search(search([[0, 0]], 2))) == [[1, 2]]

    asyncio.run(main())


def test_the_coordinator_is_asked_once() -> None:
    async def main() -> None:
        bench = Bench()
        await collection(bench, schema(ID, VECTOR))
        before = bench.coordinator.describes
        for _ in range(5):
            await bench.proxy.insert(insert(*TEN))
            await bench.proxy.search(search([[0, 0]]))
            await bench.proxy.query(query("id < 2"))
        assert bench.coordinator.describes == before + 1

    asyncio.run(main())


def test_a_schema_that_a_shard_finds_old_is_fetched_again() -> None:
    async def main() -> None:
        bench = Bench()
        await collection(bench, schema(ID, VECTOR))
        await bench.proxy.insert(insert(*TEN))
        bench.node.refusals[vchannels(bench)[0]] = [SchemaMismatchError("c")]
        await bench.proxy.insert(insert(*TEN))
        assert bench.rows() == 20
        bench.node.refusals[vchannels(bench)[0]] = [SchemaMismatchError("c"), SchemaMismatchError("c")]
        with pytest.raises(SchemaMismatchError):
            await bench.proxy.insert(insert(*TEN))

    asyncio.run(main())


def test_what_another_proxy_made_is_seen_without_a_push() -> None:
    async def main() -> None:
        bench = Bench()
        await collection(bench, schema(ID, VECTOR))
        await bench.proxy.insert(insert(*TEN))
        bench.coordinator.proxies.clear()
        await bench.proxy.create_partition(PartitionRequest(collection="c", partition="p"))
        await bench.proxy.insert(insert(*TEN, partition="p"))
        assert bench.rows() == 20

    asyncio.run(main())


def test_an_alias_is_as_good_as_the_name() -> None:
    async def main() -> None:
        bench = Bench()
        await collection(bench, schema(ID, VECTOR))
        await bench.proxy.create_alias(AliasRequest(collection="c", alias="a"))
        await bench.proxy.insert(insert(*TEN, collection="a"))
        assert bench.rows() == 10
        await bench.proxy.drop_alias(AliasRequest(alias="a"))
        with pytest.raises(CollectionNotFoundError):
            await bench.proxy.insert(insert(*TEN, collection="a"))

    asyncio.run(main())


class SlowCoordinator(TwinCoordinator):
    """Answers `describe` only when told to."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench.coordinator.oracle, bench.node)
        self.views = bench.coordinator.views
        self.gate = asyncio.Event()

    async def describe(self, request: CollectionRequest) -> CollectionView:
        view = await super().describe(request)
        await self.gate.wait()
        return view


def test_a_description_older_than_an_invalidation_is_not_kept() -> None:
    async def main() -> None:
        bench = Bench()
        await collection(bench, schema(ID, VECTOR))
        slow = SlowCoordinator(bench)
        cache = CollectionCache(slow)
        request = CollectionRequest(collection="c")
        asking = asyncio.ensure_future(cache.get(request))
        await asyncio.sleep(0)
        await cache.invalidate((await bench.proxy.describe_collection(request)).collection_id)
        slow.gate.set()
        assert (await asking).name == "c"
        assert cache.peek(request) is None
        await cache.get(request)
        assert cache.peek(request) is not None

    asyncio.run(main())


@pytest.mark.parametrize("shards", [1, 3])
def test_flush_and_its_state(shards: int) -> None:
    async def main() -> None:
        bench = Bench()
        await collection(bench, schema(ID, VECTOR), shard_count=shards)
        assert (await bench.proxy.flush(FlushRequest()))[0].timestamp == 0
        await bench.proxy.insert(insert(*TEN))
        assert await bench.proxy.collection_row_count(CollectionRequest(collection="c")) == 10
        (flushed,) = await bench.proxy.flush(FlushRequest(collections=("c",)))
        state = FlushStateRequest(collection="c", timestamp=flushed.timestamp)
        assert await bench.proxy.flush_state(state)
        await bench.proxy.insert(insert(*TEN))
        # A shard that answered the flush with an older timestamp lags until it is asked once more.
        assert await bench.proxy.flush_state(state) or shards > 1
        assert await bench.proxy.flush_state(state)
        for shard in bench.node.shards.values():
            shard.flushed_timestamp = 0
        assert not await bench.proxy.flush_state(state)
        assert await bench.proxy.flush_state(state) is (shards > 1)

    asyncio.run(main())


def test_consistency_as_sent() -> None:
    async def main() -> None:
        bench = Bench()
        await collection(bench, schema(ID, VECTOR), consistency_level=ConsistencyLevel.SESSION)
        written = (await bench.proxy.insert(insert(*TEN))).timestamp
        level = ConsistencyLevel
        for sent_level, guarantee, default, wanted in [
            (level.STRONG, 0, False, (level.STRONG, 0, 0)),
            (level.STRONG, 1, False, (level.EVENTUALLY, 0, 0)),
            (level.STRONG, 2, False, (level.BOUNDED, 0, 0)),
            (level.STRONG, written, False, (level.CUSTOMIZED, written, 0)),
            (level.BOUNDED, 2, False, (level.BOUNDED, 0, 0)),
            (level.SESSION, written, False, (level.SESSION, written, 0)),
            (level.SESSION, 1, False, (level.SESSION, 0, 0)),
            (level.STRONG, written, True, (level.SESSION, written, 0)),
        ]:
            await bench.proxy.query(query("id < 3", consistency=Consistency(sent_level, guarantee, default)))
            read = bench.node.reads[-1]
            assert (read.level, read.guarantee_timestamp, read.at_timestamp) == wanted
        pinned = Consistency(level.BOUNDED, written, True)
        await bench.proxy.query(query("id < 3", params={"iterator": "True", "limit": "2"}, consistency=pinned))
        assert bench.node.reads[-1].at_timestamp == written

    asyncio.run(main())


def test_keys_in_a_filter_choose_the_shards() -> None:
    async def main() -> None:
        bench = Bench()
        await collection(bench, schema(ID, VECTOR), shard_count=8)
        await bench.proxy.insert(insert(*TEN))
        bench.node.reads.clear()
        assert table(await bench.proxy.query(query("id == 3")))["id"] == [3]
        assert len(bench.node.reads) == 1
        assert table(await bench.proxy.query(query("id in []")))["id"] == []
        assert table(await bench.proxy.query(query("id in [1, 2] and id > 1")))["id"] == [2]

    asyncio.run(main())


def test_a_delete_by_filter_is_cut_into_records(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        bench = Bench()
        await collection(bench, schema(ID, VECTOR), shard_count=2)
        await bench.proxy.insert(insert(*TEN))
        bench.node.arrivals.clear()
        reply = await bench.proxy.delete(DeleteRequest(collection="c", filter="id >= 0"))
        assert reply.delete_count == 10
        assert max(len(write.delete_keys) for write in bench.node.arrivals) <= 2
        counted = await bench.proxy.query(query("", ("count(*)",)))
        assert table(counted) == {"count(*)": [0]}
        assert (await bench.proxy.delete(DeleteRequest(collection="c", filter="id >= 0"))).delete_count == 0

    monkeypatch.setattr("elanus.nodes.proxy.writes.DELETE_KEYS_MAX", 2)
    asyncio.run(main())


@pytest.mark.parametrize("error", [UnavailableError("moving"), ChannelNotAvailableError("v")])
def test_a_partial_upsert_reads_again_when_its_shard_moves(error: ElanusError) -> None:
    async def main() -> None:
        bench = Bench()
        await collection(bench, schema(ID, VECTOR, NAME), shard_count=2)
        await bench.proxy.insert(insert(*TEN))
        bench.node.refusals[vchannels(bench)[0]] = [error]
        await bench.proxy.upsert(
            insert(ids(range(10)), sent("name", DataType.VARCHAR, ["x"] * 10), partial_update=True)
        )
        assert table(await bench.proxy.query(query("id >= 0", ("name",))))["name"] == ["x"] * 10

    asyncio.run(main())
