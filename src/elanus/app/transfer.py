"""Moving a stopped store to other stores by copying files and writing metadata: promotion to a cluster, and back.

Order, so that there is never more than one living store and an interruption loses nothing:

1. Every log of the source is taken over under a new term, which fences whoever may still write, and read: each record
   must be covered by its shard's committed manifest. Else the source is not flushed, and nothing is moved.
2. The target is empty, or holds an unfinished transfer of this very source (the object `transfer` says so, with the new
   cluster id). Every file that a manifest names is copied and read back, against the checksum in the manifest.
3. The target's logs are begun under a higher term, above every position of the source.
4. The source is marked: from here on it starts nowhere.
5. The catalog is written, the cluster's own record last: without it nothing starts on the target. Terms, ids and
   timestamps go on above the source's.

Killed anywhere, the same command goes on where it stopped: files that are there and whole are not copied again.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from elanus.base.doors import Doors
from elanus.base.errors import Action, CorruptedError, ElanusError
from elanus.meta.catalog import assign, fetch, fetch_all, fetch_channel, owns, run
from elanus.meta.records import (
    CLUSTER,
    ELECTION,
    ID_BOUND,
    INTENTS,
    NODES,
    PCHANNELS,
    PROMOTED,
    SHARDS,
    TIMESTAMP_BOUND,
    CatalogRecord,
    Cluster,
    IdBound,
    Intent,
    Pchannel,
    Promoted,
    ReplayFrom,
    ShardPointer,
    TimestampBound,
    decode,
    encode,
    owner_key,
    replay_key,
)
from elanus.meta.store import NO_LEASE, Delete, Item, MetaStore, Operation, Put, Transaction, absent
from elanus.model.channel import ORIGIN, Position
from elanus.model.segment import FileRef, Manifest
from elanus.model.timestamp import compose
from elanus.objects import paths
from elanus.objects.checksums import READ_BYTES, map_verified, read_verified
from elanus.objects.store import ObjectNotFoundError, ObjectStore
from elanus.wal.log import Log
from elanus.wal.records import decode_record

FILES_AT_ONCE: Final = 4
RECORDS_PER_TRANSACTION: Final = 16
"""Catalog records are small, but a schema may take up to 64 KiB."""
TERMS_AHEAD: Final = 1
IDS_AHEAD: Final = 1_000_000
TIMESTAMPS_AHEAD_MS: Final = 60_000

Say = Callable[[str], object]


class TransferError(ElanusError):
    """The source or the target is not in a state to be moved; the message says what to do. Nothing is lost."""

    code = 5
    action = Action.FIX_REQUEST


@dataclass(frozen=True)
class Stores:
    """One side. `name` is what people call it."""

    name: str
    meta: MetaStore
    objects: ObjectStore
    log: Log


class TransferMark(msgspec.Struct, frozen=True):
    """What the object `transfer` of an unfinished target says."""

    source_id: str
    cluster_id: str


@dataclass(frozen=True)
class Report:
    """What was moved; `copied` files of all `files` were not there yet."""

    cluster_id: str
    files: int
    copied: int
    bytes: int


async def transfer(doors: Doors, source: Stores, target: Stores, say: Say) -> Report:
    """Move the source to the target as the module's head says. TransferError; CorruptedError naming a file."""
    cluster = await fetch(source.meta, Cluster, CLUSTER)
    if cluster is None:
        raise TransferError(f"{source.name} holds no store")
    terms = await _quiesce(source)
    mark = await _begin(doors, source, target, cluster.record.cluster_id)
    files = await _named_files(doors, source)
    say(f"{len(files)} files, {sum(file.size_bytes for file in files)} bytes")
    copied = await _copy_all(doors, source, target, files, say)
    for name, term in terms.items():
        await target.log.open(name, term + TERMS_AHEAD, ORIGIN, _confirmed)
    await _close_source(source, target.name, mark.cluster_id)
    await _write_catalog(source, target, mark.cluster_id, terms)
    return Report(mark.cluster_id, len(files), copied, sum(file.size_bytes for file in files))


async def _confirmed() -> None:
    """The confirmation of a term that nobody else can draw: the target's meta store names no owner yet."""


# --- the source -----------------------------------------------------------------------------------------------------
async def _quiesce(source: Stores) -> dict[str, int]:
    """Take over every log; the term of each. TransferError unless nothing runs and all is flushed."""
    alive = [item.key for item in await source.meta.range(NODES)] + [
        item.key for item in await source.meta.range(ELECTION) if item.lease != NO_LEASE
    ]
    if alive:
        raise TransferError(f"{source.name} is running ({len(alive)} processes hold leases): stop it first")
    if await fetch_all(source.meta, Intent, INTENTS):
        raise TransferError(f"{source.name} has unfinished definitions: start it once, then stop it")
    flushed = {
        stored.record.vchannel: stored.record.flushed_through
        for stored in await fetch_all(source.meta, ShardPointer, SHARDS)
        if not stored.record.dropped
    }
    terms = {}
    for item in await source.meta.range(PCHANNELS):
        name = item.key.removeprefix(PCHANNELS).partition("/")[0]
        if name not in terms:
            terms[name] = await _take_over(source, name, flushed)
    return terms


async def _take_over(source: Stores, name: str, flushed: dict[str, Position]) -> int:
    record = await fetch_channel(source.meta, name)
    assert record is not None
    transaction, term = assign(record, name, owner=0)
    await run(source.meta, transaction)
    channel = await fetch_channel(source.meta, name)
    assert channel is not None

    async def confirm() -> None:
        await run(source.meta, Transaction(), (owns(channel.owner),))

    replay_from = channel.replay_from.record.position
    writer = await source.log.open(name, term, replay_from, confirm)
    behind = 0
    async for position, data in source.log.read(name, replay_from):
        through = flushed.get(decode_record(data).vchannel)
        behind += through is not None and position > through
    await writer.close()
    if behind:
        raise TransferError(f"{source.name}: {behind} records of {name} are not flushed: flush all, then stop it")
    return term


async def _named_files(doors: Doors, source: Stores) -> list[FileRef]:
    """Every file that a committed manifest, or the one before it, names; manifests themselves included."""
    found: dict[str, FileRef] = {}
    for stored in await fetch_all(source.meta, ShardPointer, SHARDS):
        for file in (stored.record.file, stored.record.previous):
            if file is None:
                continue
            manifest = decode(Manifest, await read_verified(doors, source.objects, file), file.key)
            found.update((one.key, one) for one in (file, *manifest.files))
    return [found[key] for key in sorted(found)]


async def _close_source(source: Stores, target: str, cluster_id: str) -> None:
    """Let the source start nowhere again."""
    record = Promoted(target=target, cluster_id=cluster_id)
    await source.meta.transact((), (Put(record.key, encode(record)),))


# --- the target -----------------------------------------------------------------------------------------------------
async def _begin(doors: Doors, source: Stores, target: Stores, source_id: str) -> TransferMark:
    """The mark of this transfer, new or found. TransferError when the target holds anything else."""
    try:
        mark = msgspec.json.decode(await target.objects.get(paths.TRANSFER), type=TransferMark)
    except ObjectNotFoundError:
        if await target.objects.list("") or await target.meta.range(""):
            raise TransferError(f"{target.name} is not empty") from None
        mark = TransferMark(source_id, doors.random.token())
        await target.objects.put(paths.TRANSFER, msgspec.json.encode(mark))
    if mark.source_id != source_id:
        raise TransferError(f"{target.name} holds an unfinished transfer of another store than {source.name}")
    if await fetch(target.meta, Cluster, CLUSTER) is not None:
        raise TransferError(f"{target.name} is complete already: it can be started")
    return mark


async def _copy_all(doors: Doors, source: Stores, target: Stores, files: Sequence[FileRef], say: Say) -> int:
    """Copy what is not there; how many files that were."""
    copied = 0
    for start in range(0, len(files), FILES_AT_ONCE):
        some = files[start : start + FILES_AT_ONCE]
        copied += sum(await asyncio.gather(*(_copy(doors, source.objects, target.objects, file) for file in some)))
        say(f"{min(len(files), start + FILES_AT_ONCE)} of {len(files)} files")
    return copied


async def _copy(doors: Doors, source: ObjectStore, target: ObjectStore, file: FileRef) -> bool:
    """Whether the file was copied; on return it is there and whole. CorruptedError."""
    if await is_whole(doors, target, file):
        return False
    await target.put(file.key, await map_verified(doors, source, file))
    if not await is_whole(doors, target, file):
        raise CorruptedError(f"{file.key} does not read back as it was written")
    return True


async def is_whole(doors: Doors, store: ObjectStore, file: FileRef) -> bool:
    """Whether the object is there with the length and checksum that the manifest says."""
    info = await store.stat(file.key)
    if info is None or info.size_bytes != file.size_bytes:
        return False
    state = 0
    for offset in range(0, file.size_bytes, READ_BYTES):
        piece = await store.get_range(file.key, offset, READ_BYTES)
        state = await doors.compute.run_io(zlib.crc32, piece, state)
    return state == file.checksum


async def _write_catalog(source: Stores, target: Stores, cluster_id: str, terms: dict[str, int]) -> None:
    """Everything but the cluster's record, then that one. Nothing starts before it is there."""
    wanted = {
        item.key: _raised(item, terms)
        for item in await source.meta.range("")
        if item.lease == NO_LEASE and item.key not in (CLUSTER, PROMOTED, ELECTION)
    }
    await write_catalog(target.meta, target.objects, wanted, cluster_id)


async def write_catalog(meta: MetaStore, objects: ObjectStore, wanted: Mapping[str, bytes], cluster_id: str) -> None:
    """Make a meta store that is not complete hold just these keys and values, and complete it at last: the cluster's
    record, without which nothing starts, in both stores. Once more does no harm."""
    stale = [item.key for item in await meta.range("") if item.key not in wanted]
    operations: list[Operation] = [Delete(key) for key in stale]
    operations += [Put(key, value) for key, value in wanted.items()]
    for start in range(0, len(operations), RECORDS_PER_TRANSACTION):
        some = tuple(operations[start : start + RECORDS_PER_TRANSACTION])
        await run(meta, Transaction((absent(CLUSTER),), some))
    await objects.put(paths.CLUSTER, cluster_id.encode())
    record = Cluster(cluster_id=cluster_id)
    await run(meta, Transaction((absent(CLUSTER),), (Put(record.key, encode(record)),)))


def _raised(item: Item, terms: dict[str, int]) -> bytes:
    """A catalog value for the target: bounds and terms above the source's, positions of its new log."""
    where = f"meta key {item.key}"
    record: CatalogRecord
    if item.key == TIMESTAMP_BOUND:
        record = TimestampBound(value=decode(TimestampBound, item.value, where).value + compose(TIMESTAMPS_AHEAD_MS))
    elif item.key == ID_BOUND:
        record = IdBound(value=decode(IdBound, item.value, where).value + IDS_AHEAD)
    elif item.key.startswith(PCHANNELS):
        name = item.key.removeprefix(PCHANNELS).partition("/")[0]
        term = terms[name] + TERMS_AHEAD
        if item.key == owner_key(name):
            record = Pchannel(name=name, term=term)
        elif item.key == replay_key(name):
            record = ReplayFrom(name=name, position=Position(term, 0, 0))
        else:
            raise CorruptedError(f"{where}: not a key of a pchannel")
    else:
        return item.value
    return encode(record)
