"""A metadata store that was lost is made again from the object store, with every row."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from pymilvus import MilvusClient

from elanus.app.rebuild import Draft, rebuild_meta
from elanus.app.transfer import TransferError
from elanus.base.doors import Doors
from elanus.base.errors import CorruptedError, UnavailableError
from elanus.meta.catalog import fetch, fetch_all, fetch_channel
from elanus.meta.local import LocalMetaStore
from elanus.meta.memory import open_memory
from elanus.meta.records import (
    CLUSTER,
    COLLECTIONS,
    ID_BOUND,
    TIMESTAMP_BOUND,
    CatalogRecord,
    CatalogSnapshot,
    Cluster,
    Collection,
    CollectionState,
    IdBound,
    Intent,
    LoadRecord,
    Manifest,
    NodeRecord,
    Pchannel,
    ReplayFrom,
    ShardPointer,
    TimestampBound,
    decode,
    encode,
    load_key,
    shard_key,
)
from elanus.meta.state import State
from elanus.meta.store import Put, TransactionResult
from elanus.model.channel import ORIGIN, Position, pchannel_name, vchannel_name
from elanus.model.records import ChangeRecord, ShardChange, WriteRecord
from elanus.model.requests import PartitionInfo
from elanus.model.schema import CollectionSchema, FieldSchema
from elanus.model.segment import FileRef, SegmentEntry
from elanus.model.types import ConsistencyLevel, DataType
from elanus.objects import paths
from elanus.objects.memory import MemoryObjectStore
from elanus.testing.clock import run
from elanus.wal.objects import ObjectLog
from elanus.wal.records import encode_record
from filled import create, stored_words, worded_rows
from servers import elanus, wait_for_address
from services import start_etcd

PCHANNEL = pchannel_name(0)
SCHEMA = CollectionSchema("films", (FieldSchema(100, "id", DataType.INT64, is_primary=True),))
NEWER = msgspec.structs.replace(SCHEMA, version=1, description="newer")


def collection(number: int) -> Collection:
    return Collection(
        collection_id=number,
        database_id=1,
        name=f"films{number}",
        schema=SCHEMA,
        vchannels=(vchannel_name(PCHANNEL, number, 0),),
        partitions=(PartitionInfo(1, "_default", 0), PartitionInfo(2, "p", 0)),
        consistency_level=ConsistencyLevel.STRONG,
        created_timestamp=0,
        updated_timestamp=0,
    )


def pointer(number: int, version: int = 0) -> ShardPointer:
    shard = vchannel_name(PCHANNEL, number, 0)
    return ShardPointer(vchannel=shard, collection_id=number, version=version, token="ab", file=FileRef("gone", 1, 2))


# --- definitions that only the log tells ----------------------------------------------------------------------------
def draft(*more: CatalogRecord) -> Draft:
    records = [collection(7), pointer(7), LoadRecord(collection_id=7), *more]
    return Draft({record.key: encode(record) for record in records}, "catalog/1")


def changed(kind: str, intent_id: int, number: int = 7, **more: Any) -> ShardChange:
    return ShardChange(vchannel="", collection_id=number, kind=kind, intent_id=intent_id, **more)


def after(changes: list[ShardChange], *more: CatalogRecord) -> Draft:
    made = draft(*more)
    for change in changes:
        for _ in range(2):  # every shard's log tells of it
            made.saw(change.intent_id, change)
    made.take_changes()
    return made


def partitions_of(made: Draft) -> dict[int, str]:
    (found,) = made.collections()
    return {one.partition_id: one.name for one in found.partitions}


def test_definitions_after_the_snapshot_are_taken_from_the_log() -> None:
    made = after([changed("drop_partition", 9, partition_ids=(2,)), changed("create_partition", 8, partition_ids=(3,))])
    assert partitions_of(made) == {1: "_default", 3: "recovered_3"}
    assert made.lost == ["collection films7: the name of partition recovered_3"]
    made = after([changed("replace_partitions", 8, partition_ids=(5,), dropped_partition_ids=(1,))])
    assert partitions_of(made) == {5: "_default", 2: "p"}
    made = after([changed("alter_schema", 8, schema=NEWER), changed("alter_schema", 7, schema=SCHEMA)])
    assert made.collections()[0].schema == NEWER
    made = after([changed("drop", 8)])
    assert made.collections()[0].state is CollectionState.DROPPING
    dropped = made.get(ShardPointer, pointer(7).key)
    assert dropped is not None and dropped.dropped and load_key(7) not in made.values


def test_what_the_snapshot_knows_is_not_changed_again() -> None:
    known = [
        changed("create", 3, schema=SCHEMA, partition_ids=(1,)),
        changed("create_partition", 4, partition_ids=(2,)),
    ]
    assert after(known).values == draft().values
    # Created and dropped before the snapshot: no trace of it.
    gone = [changed("create", 3, 5, schema=SCHEMA), changed("drop", 4, 5)]
    assert after(gone).values == draft().values and not after(gone).lost
    # Its intent is open: the coordinator carries it on, names included.
    opened = after([changed("create_partition", 8, partition_ids=(3,))], Intent(intent_id=8, kind="CreatePartition"))
    assert partitions_of(opened) == {1: "_default", 2: "p"} and not opened.lost


def test_a_collection_that_only_the_log_knows_is_told() -> None:
    made = after([changed("create", 8, 9, schema=SCHEMA)])
    assert len(made.lost) == 1 and "collection 9 (films)" in made.lost[0]


# --- stores in memory -----------------------------------------------------------------------------------------------
class Fragile(LocalMetaStore):
    """Takes so many transactions, then none."""

    left = 1 << 30

    async def transact(self, compares: Any, operations: Any) -> TransactionResult:
        if not self.left:
            raise UnavailableError("gone")
        self.left -= 1
        return await super().transact(compares, operations)


async def manifest(store: MemoryObjectStore, number: int, version: int, token: str, **more: Any) -> str:
    shard = vchannel_name(PCHANNEL, number, 0)
    made = Manifest(vchannel=shard, collection_id=number, version=version, token=token, term=3, **more)
    key = paths.manifest(number, shard, version, token)
    await store.put(key, encode(made))
    return key


def entry(file: FileRef) -> SegmentEntry:
    return SegmentEntry(9, 1, 1, 0, ORIGIN, 1, 2, file)


async def store_of_a_lost_cluster(doors: Doors) -> MemoryObjectStore:
    """Term 3 wrote 40 records, of which the first 20 are truncated; the snapshot is of before."""
    store = MemoryObjectStore()
    log = ObjectLog(doors, store)
    writer = await log.open(PCHANNEL, 3, ORIGIN, confirmed)
    shard = vchannel_name(PCHANNEL, 7, 0)
    for number in range(40):
        await writer.append([encode_record(WriteRecord(shard, 1000 + number, 0))])
    await writer.append([encode_record(ChangeRecord(shard, 1040, changed("drop_partition", 99, partition_ids=(2,))))])
    await log.truncate(PCHANNEL, Position(3, 19, 0))
    await writer.close()
    await store.put(paths.CLUSTER, b"old")
    records = [Cluster(cluster_id="old"), collection(7), pointer(7), collection(8), pointer(8)]
    records += [Pchannel(name=PCHANNEL, term=2, owner=5), ReplayFrom(name=PCHANNEL), IdBound(value=50)]
    values = tuple((record.key, encode(record)) for record in records)
    await store.put(paths.catalog_snapshot(1, "ab"), encode(CatalogSnapshot(9, values)))
    await store.put(paths.catalog_snapshot(2, "ab"), b"\x93damaged")
    there, gone = FileRef("collection/7/there", 1, 0), FileRef("collection/7/gone", 1, 0)
    await store.put(there.key, b"x")
    await manifest(store, 7, 4, "o3_aa", flushed_through=Position(3, 19, 0))
    await manifest(store, 7, 5, "o3_bb", flushed_through=Position(3, 30, 0), segments=(entry(there),), timestamp_max=30)
    await manifest(store, 7, 5, "l60_cc", flushed_through=Position(3, 19, 0), segments=(entry(there),))
    await manifest(store, 7, 6, "l60_dd", flushed_through=Position(3, 30, 0), segments=(entry(gone),))
    return store


async def confirmed() -> None: ...


def test_a_catalog_is_made_again_however_often_that_is_interrupted() -> None:
    async def main(doors: Doors) -> None:
        store = await store_of_a_lost_cluster(doors)
        meta = Fragile(doors, State(), None)
        said: list[str] = []
        for left in range(20):
            meta.left = left
            try:
                made = await rebuild_meta(doors, meta, store, ObjectLog(doors, store), said.append)
                break
            except UnavailableError:
                assert await fetch(meta, Cluster, CLUSTER) is None
        assert (
            0 < left < 20 and made.cluster_id != "old" and (await store.get(paths.CLUSTER)).decode() == made.cluster_id
        )
        assert (made.snapshot, made.shards, made.records) == (paths.catalog_snapshot(1, "ab"), 1, 21)
        head = await fetch(meta, ShardPointer, shard_key(vchannel_name(PCHANNEL, 7, 0)))
        assert head is not None and (head.record.version, head.record.token) == (5, "o3_bb")
        assert decode(Manifest, await store.get(head.record.file.key), "").token == "o3_bb"
        channel = await fetch_channel(meta, PCHANNEL)
        assert channel is not None and channel.owner.record.term > 3 and not channel.owner.record.owner
        assert channel.replay_from.record.position == Position(3, 19, 0)
        records = {one.record.collection_id: one.record for one in await fetch_all(meta, Collection, COLLECTIONS)}
        assert [one.name for one in records[7].partitions] == ["_default"]
        assert records[8].state is CollectionState.DROPPING, "its files are gone: it was dropped since"
        ids = await fetch(meta, IdBound, ID_BOUND)
        bound = await fetch(meta, TimestampBound, TIMESTAMP_BOUND)
        assert ids is not None and ids.record.value > 99 and bound is not None and bound.record.value > 1040
        # The next owner opens as after any other.
        after_that = ObjectLog(doors, store)
        await after_that.open(PCHANNEL, channel.owner.record.term + 1, Position(3, 19, 0), confirmed)
        assert len([one async for one in after_that.read(PCHANNEL, Position(3, 19, 0))]) == 21
        with pytest.raises(TransferError, match="complete"):
            await rebuild_meta(doors, meta, store, ObjectLog(doors, store), said.append)

    run(main)


def test_it_is_refused_where_something_runs_or_nothing_is_left() -> None:
    async def main(doors: Doors) -> None:
        meta, store = open_memory(doors), MemoryObjectStore()
        with pytest.raises(TransferError, match="no snapshot"):
            await rebuild_meta(doors, meta, store, ObjectLog(doors, store), print)
        store = await store_of_a_lost_cluster(doors)
        for name in await store.list("collection/"):
            if name.endswith("there") or "bb" in name or "aa" in name:
                await store.delete(name)
        with pytest.raises(CorruptedError, match="no manifest whose files are all there"):
            await rebuild_meta(doors, meta, store, ObjectLog(doors, store), print)
        record = NodeRecord(role="query", node_id=1)
        await meta.transact((), (Put(record.key, encode(record)),))
        with pytest.raises(TransferError, match="running"):
            await rebuild_meta(doors, meta, store, ObjectLog(doors, store), print)

    run(main)


# --- a real cluster -------------------------------------------------------------------------------------------------
COUNTS = ("--coordinators", "1", "--streaming", "2", "--query", "1", "--data", "1", "--proxies", "1")
DIM = 16
SMALL = ("--set", "segment.flush_bytes_max=65536", "--set", "log.pchannel_count=3", "--set", "cluster.lease_s=2")


@contextmanager
def cluster(folder: Path, urls: tuple[str, ...]) -> Iterator[MilvusClient]:
    """`elanus up` and a client of it; killed with all its processes in the end."""
    command = [sys.executable, "-m", "elanus", "up", *urls, "--folder", str(folder), "--port", "0", *COUNTS, *SMALL]
    up = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        client = MilvusClient(f"http://{wait_for_address(up)}", timeout=60, dedicated=True)
        yield client
        client.close()
    finally:
        family = psutil.Process(up.pid).children(recursive=True)
        for process in family:
            process.kill()
        up.kill()
        psutil.wait_procs(family, timeout=30)
        up.wait(30)


def wait_for_snapshot(objects: Path, key: str) -> None:
    """Until the newest snapshot of the catalog knows a key."""
    end_s = time.monotonic() + 30
    while True:
        newest = max(objects.glob("catalog/*.snapshot*"), key=lambda path: path.name, default=None)
        if newest is not None:
            taken = decode(CatalogSnapshot, newest.read_bytes(), newest.name)
            if any(name.startswith(key) for name, _ in taken.values):
                return
        assert time.monotonic() < end_s, f"no snapshot has {key}"
        time.sleep(0.1)


@pytest.mark.drill
def test_etcd_is_wiped_and_every_row_is_there(tmp_path: Path) -> None:
    objects = tmp_path / "shared"
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    etcd = start_etcd(first)
    store = ("--store", f"file://{objects}")
    with cluster(tmp_path / "up", ("--meta", f"etcd://127.0.0.1:{etcd.port}/elanus", *store)) as client:
        index = {"index_type": "HNSW", "metric_type": "L2"}
        create(client, "things", DIM, index, vector="vector", text="word", num_shards=3)
        client.create_collection("gone", dimension=4)
        client.insert("gone", [{"id": 1, "vector": [0.0] * 4}])
        client.drop_collection("gone")
        client.create_partition("things", "p")
        client.create_alias("things", "other")
        wait_for_snapshot(objects, "alias/")
        # From here on the snapshot is old: pointers move, the log is truncated, rows are deleted and moved.
        expected = {}
        for turn in range(6):
            some = worded_rows(500 * turn, 500 * turn + 500, DIM)
            client.insert("things", some, partition_name="p" if turn == 2 else "_default")
            expected |= {row["id"]: row["word"] for row in some}
            client.delete("things", ids=list(range(500 * turn, 500 * turn + 500, 7)))
            if turn < 5:
                client.flush("things")
        expected = {number: word for number, word in expected.items() if number % 500 % 7}
        assert stored_words(client, "other") == expected
    etcd.kill()

    etcd = start_etcd(second)
    try:
        urls = ("--meta", f"etcd://127.0.0.1:{etcd.port}/elanus", *store)
        refused = elanus("run", "query", *urls, "--metrics-port", "-1")
        assert refused.returncode != 0 and "elanus rebuild" in refused.stderr, refused.stderr
        made = elanus("rebuild", *urls)
        assert made.returncode == 0 and "rebuilt: 3 shards" in made.stdout, made.stdout + made.stderr
        assert "lost" not in made.stderr, made.stderr
        assert "complete" in elanus("rebuild", *urls).stderr
        with cluster(tmp_path / "up", urls) as client:
            assert client.list_collections() == ["things"]
            assert stored_words(client, "other") == expected
            assert stored_words(client, "other", partition_names=["p"]) == {
                n: w for n, w in expected.items() if 1000 <= n < 1500
            }
            client.insert("things", worded_rows(3000, 3100, DIM))
            client.flush("things")
            client.delete("things", ids=[3000])
            assert len(stored_words(client, "other")) == len(expected) + 99
            probe = worded_rows(0, 4, DIM)[3]
            (hits,) = client.search("things", [probe["vector"]], limit=1, consistency_level="Strong")
            assert hits[0]["id"] == 3
    finally:
        etcd.kill()
