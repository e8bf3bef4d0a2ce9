"""`elanus rebuild`: a cluster's metadata store that was lost is made again from what its object store holds.

What there is: the newest snapshot of the catalog, which every definition leaves behind (`nodes.coordinator.snapshots`);
the manifests of every shard; the log. The snapshot's counters and pointers are old. In this order:

1. Nothing runs, and the metadata store holds no complete catalog.
2. Every log is opened under a term above all that it names, which fences whoever may still write, and is read from
   where it was last truncated: all below is covered by manifests that were committed (rule 21). Definitions that the
   snapshot does not know are taken from its records.
3. Every shard gets the newest of its manifests whose files are all there. That one may never have been committed. But
   it was built on the last one that was, and its writer could have committed it a moment later: what it says is true,
   and the log still holds what its predecessor did not cover. Of several that followed one manifest, any is as true.
4. Ids and timestamps go on above the clock, from which the first of them were drawn and which they never outrun, and
   above every name and record.
5. The cluster gets a new id, so that nothing starts on the old metadata store, should it come back.

Rows are as they were. Definitions made after the snapshot (it is a second behind, or as much as writing it took) that
leave no record in the log are lost: aliases, databases, loads, indexes, properties. What is known to be lost is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import msgspec

from elanus.app.host import Host
from elanus.app.settings import Settings
from elanus.app.stores import open_log, open_meta, open_objects
from elanus.app.transfer import IDS_AHEAD, TIMESTAMPS_AHEAD_MS, Say, TransferError, write_catalog
from elanus.base.doors import Doors
from elanus.base.errors import CorruptedError, FencedError
from elanus.meta.catalog import fetch
from elanus.meta.records import (
    CLUSTER,
    COLLECTIONS,
    ELECTION,
    ID_BOUND,
    NODE_ID_BOUND,
    NODES,
    PCHANNELS,
    TIMESTAMP_BOUND,
    CatalogRecord,
    CatalogSnapshot,
    Cluster,
    Collection,
    CollectionState,
    IdBound,
    Intent,
    NodeIdBound,
    Pchannel,
    ReplayFrom,
    SchemaVersion,
    ShardPointer,
    TimestampBound,
    collection_key,
    decode,
    encode,
    load_key,
    replay_key,
    shard_key,
)
from elanus.meta.store import MetaStore
from elanus.model.channel import ORIGIN, Position, pchannel_of
from elanus.model.records import ChangeRecord, ShardChange
from elanus.model.requests import PartitionInfo
from elanus.model.segment import FileRef, Manifest
from elanus.model.timestamp import compose
from elanus.objects import paths
from elanus.objects.checksums import checksum
from elanus.objects.store import ObjectNotFoundError, ObjectStore
from elanus.wal.log import Log
from elanus.wal.records import decode_record

NODE_IDS_AHEAD: Final = 1_000_000
"""More processes than were ever started after a snapshot."""
TERMS_TRIED_MAX: Final = 64
"""Terms whose opener died before it left anything but a fence."""

R = TypeVar("R", bound=CatalogRecord)


@dataclass(frozen=True)
class Rebuilt:
    """What was made. `lost`: what is known to be missing, for people."""

    cluster_id: str
    snapshot: str
    shards: int
    records: int
    lost: tuple[str, ...]


async def rebuild(settings: Settings, environment: Mapping[str, str], say: Say) -> Rebuilt:
    """Make `cluster.meta` again from `cluster.store`. TransferError; CorruptedError naming what is damaged."""
    host, cluster = Host(settings), settings.cluster
    try:
        objects = await open_objects(host.doors, cluster.store, environment)
        meta = await open_meta(host.doors, cluster.meta, environment)
        try:
            return await rebuild_meta(host.doors, meta, objects, open_log(host.doors, cluster.wal, objects), say)
        finally:
            await meta.close()
    finally:
        await host.close()


async def rebuild_meta(doors: Doors, meta: MetaStore, objects: ObjectStore, log: Log, say: Say) -> Rebuilt:
    """As the module's head says."""
    await _check_lost(meta)
    name, values = await _newest_snapshot(objects)
    say(f"catalog as of {name}")
    old = Cluster(cluster_id="") if CLUSTER not in values else decode(Cluster, values[CLUSTER], name)
    draft = Draft({key: value for key, value in values.items() if key not in (CLUSTER, ELECTION)}, name)
    names = await objects.list("")
    for pchannel in draft.pchannels():
        await _read_log(objects, log, pchannel, draft)
        say(f"{pchannel}: {draft.records} records read so far")
    draft.take_changes()
    shards = await _place_shards(objects, names, draft)
    say(f"{shards} shards")
    draft.raise_bounds(compose(doors.clock.now_ms()), names)
    cluster_id = await _new_id(doors, objects, old.cluster_id)
    await write_catalog(meta, objects, draft.values, cluster_id)
    return Rebuilt(cluster_id, name, shards, draft.records, tuple(draft.lost))


async def _check_lost(meta: MetaStore) -> None:
    alive = await meta.range(NODES)
    if alive:
        raise TransferError(f"{len(alive)} processes are running on this metadata store: stop them first")
    if await fetch(meta, Cluster, CLUSTER) is not None:
        raise TransferError("the metadata store is complete: there is nothing to rebuild")


async def _newest_snapshot(objects: ObjectStore) -> tuple[str, dict[str, bytes]]:
    """The newest that can be read."""
    damaged = ""
    for name in sorted(await objects.list(paths.CATALOG_PREFIX), reverse=True):
        try:
            return name, dict(decode(CatalogSnapshot, await objects.get(name), name).values)
        except CorruptedError as error:
            damaged = error.message
    raise TransferError(damaged or "the object store holds no snapshot of a catalog: no cluster was ever defined there")


async def _new_id(doors: Doors, objects: ObjectStore, old_id: str) -> str:
    """A new id for the cluster, or the one that an earlier attempt gave it. Its record here is gone afterwards."""
    try:
        kept = (await objects.get(paths.CLUSTER)).decode()
    except ObjectNotFoundError:
        return doors.random.token()
    if kept != old_id:
        return kept
    await objects.delete(paths.CLUSTER)
    return doors.random.token()


# --- the catalog ----------------------------------------------------------------------------------------------------
@dataclass
class Draft:
    """The catalog to be: keys and values of the snapshot `name`, and what was learned since."""

    values: dict[str, bytes]
    name: str
    records: int = 0
    timestamp_max: int = 0
    id_max: int = 0
    lost: list[str] = field(default_factory=list)
    _changes: dict[int, ShardChange] = field(default_factory=dict)

    def get(self, kind: type[R], key: str) -> R | None:
        """The record under a key."""
        value = self.values.get(key)
        return None if value is None else decode(kind, value, f"{self.name}, {key}")

    def put(self, record: CatalogRecord) -> None:
        """Store a record in place of what is there."""
        self.values[record.key] = encode(record)

    def pchannels(self) -> list[str]:
        """Names of all channels."""
        return sorted(
            {key.removeprefix(PCHANNELS).partition("/")[0] for key in self.values if key.startswith(PCHANNELS)}
        )

    def collections(self) -> list[Collection]:
        """All collections, those that are going included."""
        found = (self.get(Collection, key) for key in list(self.values) if key.startswith(COLLECTIONS))
        return [one for one in found if one is not None]

    def saw(self, timestamp: int, change: ShardChange | None) -> None:
        """A record of the log."""
        self.records += 1
        self.timestamp_max = max(self.timestamp_max, timestamp)
        if change is not None:
            self.id_max = max(self.id_max, change.intent_id, change.collection_id)
            self._changes[change.intent_id] = change

    def take_changes(self) -> None:
        """Let the catalog know of definitions that only the log tells; those whose intent is open are carried to their
        ends by the next coordinator."""
        for intent_id in sorted(self._changes):
            if Intent(intent_id=intent_id, kind="").key not in self.values:
                change = self._changes[intent_id]
                self._take(change, self.get(Collection, collection_key(change.collection_id)))

    def _take(self, change: ShardChange, collection: Collection | None) -> None:
        number, name = change.collection_id, "" if change.schema is None else change.schema.name
        if collection is None:
            told = f"collection {number} ({name}) was created after the snapshot: its files are kept, and not served"
            if change.kind == "create":
                self.lost.append(told)
            elif change.kind == "drop":
                self.lost = [one for one in self.lost if not one.startswith(f"collection {number} ")]
            return
        partitions = collection.partitions
        match change.kind:
            case "drop":
                self.values.pop(load_key(number), None)
                self._drop(collection)
                return
            case "create_partition":
                known = {one.partition_id for one in partitions}
                for partition_id in set(change.partition_ids) - known:
                    partitions += (PartitionInfo(partition_id, f"recovered_{partition_id}", 0),)
                    self.lost.append(f"collection {collection.name}: the name of partition recovered_{partition_id}")
            case "drop_partition":
                partitions = tuple(one for one in partitions if one.partition_id not in change.partition_ids)
            case "replace_partitions":
                new_ids = dict(zip(change.dropped_partition_ids, change.partition_ids, strict=True))
                partitions = tuple(
                    msgspec.structs.replace(one, partition_id=new_ids.get(one.partition_id, one.partition_id))
                    for one in partitions
                )
            case "alter_schema" if change.schema is not None and change.schema.version > collection.schema.version:
                self.put(SchemaVersion(collection_id=number, schema=change.schema))
                collection = msgspec.structs.replace(collection, schema=change.schema)
        self.put(msgspec.structs.replace(collection, partitions=partitions))

    def _drop(self, collection: Collection) -> None:
        """As the definition does it: hidden and without commits; the next coordinator takes the files away."""
        self.put(msgspec.structs.replace(collection, state=CollectionState.DROPPING))
        for vchannel in collection.vchannels:
            pointer = self.get(ShardPointer, shard_key(vchannel))
            if pointer is not None:
                self.put(msgspec.structs.replace(pointer, dropped=True))

    def raise_bounds(self, now: int, names: Iterable[str]) -> None:
        """Let ids and timestamps go on above everything that was ever given out."""
        rights = (paths.right_of(paths.token_of(name) or "") for name in names)
        leads = [right.number for right in rights if right is not None and right.kind == paths.LEAD]
        timestamps, ids = self.get(TimestampBound, TIMESTAMP_BOUND), self.get(IdBound, ID_BOUND)
        nodes = self.get(NodeIdBound, NODE_ID_BOUND)
        timestamp = max(now, self.timestamp_max, 0 if timestamps is None else timestamps.value)
        highest = max(now, self.id_max, 0 if ids is None else ids.value, *leads)
        self.put(TimestampBound(value=timestamp + compose(TIMESTAMPS_AHEAD_MS)))
        self.put(IdBound(value=highest + IDS_AHEAD))
        self.put(NodeIdBound(value=(0 if nodes is None else nodes.value) + NODE_IDS_AHEAD))


# --- the logs -------------------------------------------------------------------------------------------------------
async def _read_log(objects: ObjectStore, log: Log, pchannel: str, draft: Draft) -> None:
    """Take the log over and read it; the draft gets its records, its term and where replay starts."""
    known = draft.get(ReplayFrom, replay_key(pchannel)) or ReplayFrom(name=pchannel)
    marks = await objects.list(paths.log_truncated_prefix(pchannel))
    truncated = max((Position(*paths.parse_log_truncated(mark)) for mark in marks), default=ORIGIN)
    replay_from = max(known.position, truncated)
    term = max((paths.parse_log_term(key) for key in await objects.list(paths.log_prefix(pchannel))), default=0)
    for _ in range(TERMS_TRIED_MAX):
        term += 1
        try:
            writer = await log.open(pchannel, term, replay_from, _confirmed)
            break
        except FencedError:
            continue
    else:
        raise TransferError(f"{pchannel}: its log is being opened again and again: stop every process of the cluster")
    async for _, data in log.read(pchannel, replay_from):
        record = decode_record(data)
        draft.saw(record.timestamp, record.change if isinstance(record, ChangeRecord) else None)
    await writer.close()
    draft.put(Pchannel(name=pchannel, term=term))
    draft.put(ReplayFrom(name=pchannel, position=replay_from))


async def _confirmed() -> None:
    """The confirmation of a term: there is no metadata store in which it could be another's."""


# --- the shards -----------------------------------------------------------------------------------------------------
async def _place_shards(objects: ObjectStore, names: Sequence[str], draft: Draft) -> int:
    """A pointer for each shard; how many. CorruptedError."""
    there = set(names)
    candidates: dict[str, dict[int, list[str]]] = {}
    for name in names:
        parsed = paths.parse_manifest(name)
        if parsed is not None:
            candidates.setdefault(parsed.vchannel, {}).setdefault(parsed.version, []).append(name)
    count = 0
    for collection in draft.collections():
        if collection.state is CollectionState.DROPPING:
            continue
        if not any(vchannel in candidates for vchannel in collection.vchannels):
            draft.lost.append(f"collection {collection.name} ({collection.collection_id}): it has no files: dropped")
            draft.put(msgspec.structs.replace(collection, state=CollectionState.DROPPING))
            draft.values.pop(load_key(collection.collection_id), None)
            continue
        for vchannel in collection.vchannels:
            draft.put(await _pointer(objects, vchannel, candidates.get(vchannel, {}), there, draft))
            count += 1
    return count


async def _pointer(
    objects: ObjectStore, vchannel: str, versions: Mapping[int, Sequence[str]], there: set[str], draft: Draft
) -> ShardPointer:
    """The pointer to the shard's newest whole manifest."""
    for version in sorted(versions, reverse=True):
        found = [await _read_manifest(objects, name) for name in versions[version]]
        whole = [(manifest, file) for manifest, file in found if {one.key for one in manifest.files} <= there]
        if not whole:
            continue
        manifest, file = max(whole, key=lambda one: newest_first(one[0]))
        draft.timestamp_max = max(draft.timestamp_max, manifest.timestamp_max)
        draft.id_max = max([draft.id_max, *(entry.segment_id for entry in manifest.segments)])
        return ShardPointer(
            vchannel=vchannel,
            collection_id=manifest.collection_id,
            version=version,
            token=manifest.token,
            file=file,
            flushed_through=manifest.flushed_through,
        )
    raise CorruptedError(f"{pchannel_of(vchannel)}: shard {vchannel} has no manifest whose files are all there")


def newest_first(manifest: Manifest) -> tuple[int, int, Position, str]:
    """Of manifests that followed the same one, what prefers the farthest."""
    return len(manifest.dropped_partitions), manifest.intent_id, manifest.flushed_through, manifest.token


async def _read_manifest(objects: ObjectStore, name: str) -> tuple[Manifest, FileRef]:
    data = await objects.get(name)
    return decode(Manifest, data, name), FileRef(name, len(data), checksum(data))
