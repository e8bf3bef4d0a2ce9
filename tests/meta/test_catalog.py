"""Records, their bytes, and the transactions built of them."""

from __future__ import annotations

import msgspec
import pytest

from elanus.base.doors import Doors
from elanus.base.errors import CorruptedError, FencedError, InvariantError
from elanus.meta.catalog import (
    ConflictError,
    alter_schema,
    assign,
    create,
    create_collection,
    create_or_replace,
    elected,
    fetch,
    fetch_all,
    fetch_channel,
    owns,
    read_snapshot,
    remove,
    remove_all,
    replace,
    run,
    write_snapshot,
)
from elanus.meta.manifests import Manifests
from elanus.meta.memory import open_memory
from elanus.meta.records import (
    COLLECTIONS,
    INTENTS,
    Alias,
    CatalogRecord,
    Cluster,
    Collection,
    Database,
    Election,
    IdBound,
    Intent,
    LoadRecord,
    NewerFormatError,
    NodeIdBound,
    NodeRecord,
    Pchannel,
    ReplayFrom,
    SchemaVersion,
    ShardPointer,
    TimestampBound,
    collection_key,
    decode,
    encode,
    schemas_prefix,
    shard_key,
)
from elanus.meta.store import Delete, Put
from elanus.model.channel import Position
from elanus.model.index import IndexDefinition
from elanus.model.requests import PartitionInfo
from elanus.model.schema import CollectionSchema, FieldSchema
from elanus.model.segment import FileRef, Manifest
from elanus.model.types import ConsistencyLevel, DataType
from elanus.objects.memory import MemoryObjectStore
from elanus.testing import clock


def schema(version: int = 0) -> CollectionSchema:
    key = FieldSchema(100, "id", DataType.INT64, is_primary=True)
    blob = FieldSchema(101, "blob", DataType.VARCHAR, default=b"\x00\xff", nullable=True)
    vector = FieldSchema(102, "vector", DataType.FLOAT_VECTOR, type_params={"dim": "8"})
    return CollectionSchema("things", (key, blob, vector), version=version)


def collection(collection_id: int = 7) -> Collection:
    return Collection(
        collection_id=collection_id,
        database_id=1,
        name="things",
        schema=schema(),
        vchannels=(f"p_0_{collection_id}v0", f"p_1_{collection_id}v1"),
        partitions=(PartitionInfo(8, "_default", 3),),
        consistency_level=ConsistencyLevel.SESSION,
        created_timestamp=2**63,
        updated_timestamp=2**63 + 1,
        properties={"collection.ttl.seconds": "5"},
        indexes=(IndexDefinition(9, "i", 102, "vector", {"index_type": "HNSW"}),),
    )


RECORDS: list[CatalogRecord] = [
    Cluster(cluster_id="c"),
    Election(node_id=3, address="h:1"),
    NodeRecord(role="proxy", node_id=3),
    NodeIdBound(value=3),
    TimestampBound(value=2**64 - 1),
    IdBound(value=5),
    Database(database_id=1, name="default", created_timestamp=2),
    collection(),
    SchemaVersion(collection_id=7, schema=schema(3)),
    Alias(database_id=1, name="other", collection_id=7),
    LoadRecord(collection_id=7, replica_count=2, partition_ids=(), field_ids=(1, 2)),
    Intent(intent_id=4, kind="drop", body=b"\x00\x01"),
    Pchannel(name="p_0", term=2, owner=3),
    ReplayFrom(name="p_0", position=Position(1, 2, 3)),
    ShardPointer(
        vchannel="p_0_7v0",
        collection_id=7,
        version=2,
        token="t",
        file=FileRef("k", 1, 2),
        lineage=("a", "b"),
        dropped=True,
    ),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_records_come_back(record: CatalogRecord) -> None:
    data = encode(record)
    assert decode(type(record), data, "here") == record
    for bad in (b"", data[:-1], data + b"\x00", b"\xff" * 9):
        with pytest.raises(CorruptedError, match="here"):
            decode(type(record), bad, "here")
    with pytest.raises(CorruptedError, match="here"):
        decode(Manifest, data, "here")
    version, kind, fields = msgspec.msgpack.decode(data)
    newer = msgspec.msgpack.encode((version + 1, kind, fields))
    with pytest.raises(NewerFormatError, match="here"):
        decode(type(record), newer, "here")
    wider = msgspec.msgpack.encode((version, kind, {**fields, "unknown": 1}))
    assert decode(type(record), wider, "here") == record


def test_keys_are_apart() -> None:
    assert len({record.key for record in RECORDS}) == len(RECORDS)


def test_a_collection_comes_and_changes_whole() -> None:
    async def scenario(doors: Doors) -> None:
        meta, objects = open_memory(doors), MemoryObjectStore()
        manifests = Manifests(doors, meta, objects)
        await run(meta, create(Election(node_id=1)))
        election = await fetch(meta, Election, Election(node_id=1).key)
        assert election is not None
        guard = elected(election.create_revision)
        new = collection()
        await run(meta, create(Intent(intent_id=4, kind="create", collection_id=7)), [guard])
        (intent,) = await fetch_all(meta, Intent, INTENTS)
        blank = [Manifest(vchannel=name, collection_id=7, version=0, token="", term=0) for name in new.vchannels]
        pointers = [(await manifests.write(manifest))[1] for manifest in blank]
        with pytest.raises(InvariantError):
            create_collection(new, pointers[:1], intent)
        whole = create_collection(new, pointers, intent)
        await run(meta, whole, [guard])
        assert await fetch_all(meta, Intent, INTENTS) == []
        assert [one.record for one in await fetch_all(meta, Collection, COLLECTIONS)] == [new]
        assert await fetch(meta, ShardPointer, shard_key(new.vchannels[1])) is not None
        with pytest.raises(ConflictError):
            await run(meta, whole, [guard])

        old = await fetch(meta, Collection, collection_key(7))
        assert old is not None
        altered = msgspec.structs.replace(new, schema=schema(1))
        await run(meta, alter_schema(old, altered, None), [guard])
        versions = await fetch_all(meta, SchemaVersion, schemas_prefix(7))
        assert [version.record.schema.version for version in versions] == [0, 1]
        with pytest.raises(ConflictError):
            await run(meta, replace(old, new), [guard])
        with pytest.raises(InvariantError):
            alter_schema(old, new, None)

        await run(meta, replace(election, Election(node_id=1, address="same term")), [guard])
        await meta.transact((), (Delete(election.record.key),))
        await run(meta, create(Election(node_id=2)))
        before = await meta.snapshot("")
        with pytest.raises(FencedError):
            await run(meta, create(Alias(database_id=1, name="a", collection_id=7)), [guard])
        assert await meta.snapshot("") == before

    clock.run(scenario)


def test_terms_only_grow() -> None:
    async def scenario(doors: Doors) -> None:
        meta = open_memory(doors)
        assert await fetch_channel(meta, "p_0") is None
        first, term = assign(None, "p_0", owner=3)
        await run(meta, first)
        assert term == 1
        channel = await fetch_channel(meta, "p_0")
        assert channel is not None and channel.replay_from.record.position == Position(0, 0, 0)
        with pytest.raises(ConflictError):
            await run(meta, first)
        second, term = assign(channel, "p_0", owner=4)
        rival, _ = assign(channel, "p_0", owner=5)
        await run(meta, second)
        assert term == 2
        with pytest.raises(ConflictError):
            await run(meta, rival)
        with pytest.raises(FencedError):
            await run(meta, create(IdBound(value=1)), [owns(channel.owner)])

    clock.run(scenario)


def test_bounds_and_removals() -> None:
    async def scenario(doors: Doors) -> None:
        meta = open_memory(doors)
        await run(meta, create_or_replace(None, IdBound(value=1)))
        old = await fetch(meta, IdBound, IdBound(value=1).key)
        await run(meta, create_or_replace(old, IdBound(value=9)))
        with pytest.raises(ConflictError):
            await run(meta, create_or_replace(old, IdBound(value=8)))
        for number in range(200):
            await run(meta, create(SchemaVersion(collection_id=7, schema=schema(number))))
        versions = await fetch_all(meta, SchemaVersion, schemas_prefix(7))
        assert len(versions) == 200
        for transaction in remove_all(versions):
            await run(meta, transaction)
        assert await fetch_all(meta, SchemaVersion, schemas_prefix(7)) == []
        with pytest.raises(ConflictError):
            await run(meta, remove(versions[0]))

    clock.run(scenario)


def test_snapshot_holds_the_catalog_without_leased_keys() -> None:
    async def scenario(doors: Doors) -> None:
        meta, objects = open_memory(doors), MemoryObjectStore()
        lease = await meta.grant(5)
        await run(meta, create(Election(node_id=1), lease))
        for number in range(3):
            await run(meta, create(collection(number)))
        ref = await write_snapshot(doors, meta, objects, intent_id=12)
        taken = await read_snapshot(doors, objects, ref)
        other = open_memory(doors)
        for key, value in taken.values:
            await other.transact((), (Put(key, value),))
        assert [(item.key, item.value) for item in await other.range("")] == [
            (item.key, item.value) for item in await meta.range("collection/")
        ]
        assert taken.revision == (await meta.snapshot("")).revision
        await meta.close()
        await other.close()

    clock.run(scenario)
