"""Catalog transactions as values, and the few calls that read and run them.

A builder says in one place what a change needs (compares) and does (operations); nothing here knows why. Every change
of a coordinator is guarded by `elected`, every change of an owner by `owns`, so that a deposed one changes nothing. A
guard that no longer holds means that somebody newer acts: FencedError, for good. Any other compare that fails means
that the records were changed since they were read: ConflictError, read them again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeVar

import msgspec

from elanus.base.doors import Doors
from elanus.base.errors import Action, ElanusError, FencedError, check
from elanus.meta.records import (
    ELECTION,
    CatalogRecord,
    CatalogSnapshot,
    Collection,
    Intent,
    Pchannel,
    ReplayFrom,
    SchemaVersion,
    ShardPointer,
    decode,
    encode,
    owner_key,
    pchannel_prefix,
    replay_key,
)
from elanus.meta.store import (
    NO_LEASE,
    Compare,
    Delete,
    Item,
    MetaStore,
    Operation,
    Put,
    Transaction,
    absent,
    created_at,
    unchanged,
)
from elanus.model.channel import ORIGIN, Position
from elanus.model.segment import FileRef
from elanus.objects import paths
from elanus.objects.checksums import read_verified, write_file
from elanus.objects.store import ObjectStore

R = TypeVar("R", bound=CatalogRecord)

REMOVALS_MAX: Final = 64
"""Records removed in one transaction; leaves room for guards and other operations."""


class ConflictError(ElanusError):
    """What a change was based on has changed; nothing was done. Read again and decide again."""

    code = 5
    action = Action.RETRY


@dataclass(frozen=True)
class Stored(Generic[R]):
    """A record with the revisions of its key."""

    record: R
    create_revision: int
    mod_revision: int


# --- reading --------------------------------------------------------------------------------------------------------
def stored(kind: type[R], item: Item) -> Stored[R]:
    """The record in an item. CorruptedError, NewerFormatError."""
    return Stored(decode(kind, item.value, f"meta key {item.key}"), item.create_revision, item.mod_revision)


async def fetch(store: MetaStore, kind: type[R], key: str) -> Stored[R] | None:
    """The record under a key; linearizable."""
    item = await store.get(key)
    return None if item is None else stored(kind, item)


async def fetch_all(store: MetaStore, kind: type[R], prefix: str) -> list[Stored[R]]:
    """All records under a prefix, in key order, as they were at one revision; linearizable."""
    return [stored(kind, item) for item in await store.range(prefix)]


class Channel(NamedTuple):
    """Both halves of a pchannel's record, read at one revision."""

    owner: Stored[Pchannel]
    replay_from: Stored[ReplayFrom]


async def fetch_channel(store: MetaStore, name: str) -> Channel | None:
    """The pchannel's record; None before its first assignment. Linearizable."""
    items = {item.key: item for item in await store.range(pchannel_prefix(name))}
    if owner_key(name) not in items:
        return None
    return Channel(stored(Pchannel, items[owner_key(name)]), stored(ReplayFrom, items[replay_key(name)]))


# --- guards ---------------------------------------------------------------------------------------------------------
def elected(term: int) -> Compare:
    """The coordinator of that term (the create revision of its election key) is still the active one."""
    return created_at(ELECTION, term)


def owns(owner: Stored[Pchannel]) -> Compare:
    """The pchannel still belongs to the owner and term of this record."""
    return unchanged(owner.record.key, owner.mod_revision)


# --- one record -----------------------------------------------------------------------------------------------------
def create(record: CatalogRecord, lease: int = NO_LEASE) -> Transaction:
    """Store a record whose key is free."""
    return Transaction((absent(record.key),), (Put(record.key, encode(record), lease),))


def replace(old: Stored[R], new: R) -> Transaction:
    """Store `new` in place of `old`, if it has not changed since it was read."""
    check(old.record.key == new.key, f"{new.key} cannot replace {old.record.key}")
    return Transaction((unchanged(new.key, old.mod_revision),), (Put(new.key, encode(new)),))


def create_or_replace(old: Stored[R] | None, new: R) -> Transaction:
    """`create` or `replace`."""
    return create(new) if old is None else replace(old, new)


def remove(old: Stored[R]) -> Transaction:
    """Delete a record, if it has not changed since it was read."""
    return Transaction((unchanged(old.record.key, old.mod_revision),), (Delete(old.record.key),))


def remove_all(records: Sequence[Stored[R]]) -> list[Transaction]:
    """Delete any number of records, in as many transactions as that takes."""
    parts = [records[start : start + REMOVALS_MAX] for start in range(0, len(records), REMOVALS_MAX)]
    return [combine(remove(record) for record in part) for part in parts]


def combine(transactions: Iterable[Transaction]) -> Transaction:
    """All of them at once."""
    compares: list[Compare] = []
    operations: list[Operation] = []
    for transaction in transactions:
        compares += [compare for compare in transaction.compares if compare not in compares]
        operations += transaction.operations
    return Transaction(tuple(compares), tuple(operations))


# --- several records ------------------------------------------------------------------------------------------------
def create_collection(
    collection: Collection, pointers: Sequence[ShardPointer], intent: Stored[Intent] | None
) -> Transaction:
    """The collection, its first schema version and its shards' first manifests, with the end of the intent."""
    check(
        tuple(pointer.vchannel for pointer in pointers) == collection.vchannels,
        f"collection {collection.collection_id}: a pointer for each shard",
    )
    version = SchemaVersion(collection_id=collection.collection_id, schema=collection.schema)
    parts = [create(collection), create(version), *(create(pointer) for pointer in pointers)]
    return combine(parts if intent is None else [*parts, remove(intent)])


def alter_schema(old: Stored[Collection], new: Collection, intent: Stored[Intent] | None) -> Transaction:
    """The collection with a new schema version, with the end of the intent."""
    check(new.schema.version > old.record.schema.version, f"{new.name}: schema version {new.schema.version} is not new")
    parts = [replace(old, new), create(SchemaVersion(collection_id=new.collection_id, schema=new.schema))]
    return combine(parts if intent is None else [*parts, remove(intent)])


def tombstone(pointers: Iterable[Stored[ShardPointer]]) -> Transaction:
    """Let these shards take no more commits."""
    return combine(replace(old, msgspec.structs.replace(old.record, dropped=True)) for old in pointers)


def assign(channel: Channel | None, name: str, owner: int) -> tuple[Transaction, int]:
    """Give the pchannel to a node under the next term, which is returned; to be done before anybody acts on it."""
    if channel is None:
        first = Pchannel(name=name, term=1, owner=owner)
        return create(first) + create(ReplayFrom(name=name, position=ORIGIN)), 1
    term = channel.owner.record.term + 1
    return replace(channel.owner, Pchannel(name=name, term=term, owner=owner)), term


def advance_replay(channel: Channel, position: Position, timestamp: int) -> Transaction:
    """Move the start of replay, under the term that was read. The caller has seen to it that committed manifests cover
    every record below, and that none of them has a higher timestamp."""
    old = channel.replay_from
    check(position >= old.record.position, f"{old.record.name}: replay cannot go back to {position}")
    moved = replace(old, ReplayFrom(name=old.record.name, position=position, timestamp=timestamp))
    return Transaction((owns(channel.owner),)) + moved


# --- running --------------------------------------------------------------------------------------------------------
async def run(store: MetaStore, transaction: Transaction, guards: Sequence[Compare] = ()) -> int:
    """Do it, under the guards; returns its revision. FencedError, ConflictError; OutcomeUnknownError."""
    result = await store.transact((*guards, *transaction.compares), transaction.operations)
    if not result.succeeded:
        await check_guards(store, guards)
        raise ConflictError(f"changed meanwhile: {', '.join(compare.key for compare in transaction.compares)}")
    return result.revision


async def check_guards(store: MetaStore, guards: Iterable[Compare]) -> None:
    """FencedError unless all guards hold now; linearizable."""
    for guard in guards:
        if not guard.holds(await store.get(guard.key)):
            raise FencedError(f"{guard.key} has changed hands")


# --- snapshots ------------------------------------------------------------------------------------------------------
async def write_snapshot(doors: Doors, meta: MetaStore, objects: ObjectStore, intent_id: int) -> FileRef:
    """Write the whole catalog as an object, from which the meta store can be rebuilt."""
    taken = await meta.snapshot("")
    values = tuple((item.key, item.value) for item in taken.items if item.lease == NO_LEASE)
    key = paths.catalog_snapshot(intent_id, doors.random.token())
    return await write_file(doors, objects, key, encode(CatalogSnapshot(taken.revision, values)))


async def read_snapshot(doors: Doors, objects: ObjectStore, ref: FileRef) -> CatalogSnapshot:
    """CorruptedError, ObjectNotFoundError, NewerFormatError."""
    return decode(CatalogSnapshot, await read_verified(doors, objects, ref), ref.key)
