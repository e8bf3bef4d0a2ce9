"""What the catalog stores: one frozen struct per kind of key, its key, and its bytes.

A value is MessagePack of [format version, kind, fields by name]. Unknown fields are skipped and missing ones take their
default, so that a field can be added without a new format; a value of a higher format version is refused.

The record of a pchannel is kept as two keys, read together: who owns it under which term, which only the coordinator
writes, and where replay starts, which only the owner moves. So an owner's compare of its term is one unchanging compare
of the first key's revision, and moving the second never makes a commit of the same owner lose.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from typing import Final, TypeVar, cast

import msgspec

from elanus.base.errors import Action, CorruptedError, ElanusError
from elanus.base.limits import KIB
from elanus.model.channel import ORIGIN, Position
from elanus.model.index import IndexDefinition
from elanus.model.requests import PartitionInfo
from elanus.model.schema import CollectionSchema
from elanus.model.segment import FileRef, Manifest
from elanus.model.types import ConsistencyLevel

R = TypeVar("R", bound=msgspec.Struct)

FORMAT_VERSION: Final = 1
KEPT_BYTES_MAX: Final = 8 * KIB
KEPT_RECORDS_MAX: Final = 1024
"""Decoded records that are kept, each of at most so many bytes."""

CLUSTER: Final = "cluster"
PROMOTED: Final = "promoted"
ELECTION: Final = "coordinator/election"
TIMESTAMP_BOUND: Final = "coordinator/timestamp_bound"
ID_BOUND: Final = "coordinator/id_bound"
NODE_ID_BOUND: Final = "coordinator/node_id_bound"
DATABASES: Final = "database/"
COLLECTIONS: Final = "collection/"
SCHEMAS: Final = "schema/"
ALIASES: Final = "alias/"
LOADS: Final = "load/"
INTENTS: Final = "intent/"
DROPPED: Final = "dropped/"
PCHANNELS: Final = "pchannel/"
SHARDS: Final = "shard/"
NODES: Final = "node/"


class NewerFormatError(ElanusError):
    """Stored by a newer Elanus than this one."""

    code = 10
    action = Action.UNSUPPORTED


class CatalogRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all records of the catalog."""

    @property
    def key(self) -> str:
        """Where the record stands in the meta store."""
        raise NotImplementedError


# --- the cluster ----------------------------------------------------------------------------------------------------
class Cluster(CatalogRecord, frozen=True, kw_only=True):
    """Identity, also written into the object store: nothing starts when the two differ."""

    cluster_id: str

    @property
    def key(self) -> str:
        return CLUSTER


class Promoted(CatalogRecord, frozen=True, kw_only=True):
    """The store was moved to another place, where it lives under a new cluster id; here it starts no more."""

    target: str
    cluster_id: str

    @property
    def key(self) -> str:
        return PROMOTED


class Election(CatalogRecord, frozen=True, kw_only=True):
    """The active coordinator, under its lease. The key's create revision is its term."""

    node_id: int
    address: str = ""

    @property
    def key(self) -> str:
        return ELECTION


class NodeRecord(CatalogRecord, frozen=True, kw_only=True):
    """A live node of one role, under its lease. Ids are drawn per start and never used again. `address` names the
    process's life. `capacity`: what the role counts (a data node: slots; a query node: bytes), 0 where it does not say.
    A node that is `draining` wants to leave: it is given nothing new, and what it holds is moved away."""

    role: str
    node_id: int
    address: str = ""
    capacity: int = 0
    draining: bool = False

    @property
    def key(self) -> str:
        return node_key(self.role, self.node_id)


class NodeIdBound(CatalogRecord, frozen=True, kw_only=True):
    """The highest node id ever drawn."""

    value: int

    @property
    def key(self) -> str:
        return NODE_ID_BOUND


class TimestampBound(CatalogRecord, frozen=True, kw_only=True):
    """No timestamp at or above `value` has ever been handed out."""

    value: int

    @property
    def key(self) -> str:
        return TIMESTAMP_BOUND


class IdBound(CatalogRecord, frozen=True, kw_only=True):
    """No id at or above `value` has ever been handed out."""

    value: int

    @property
    def key(self) -> str:
        return ID_BOUND


# --- what users define ----------------------------------------------------------------------------------------------
class Database(CatalogRecord, frozen=True, kw_only=True):
    """A namespace of collections."""

    database_id: int
    name: str
    created_timestamp: int
    properties: dict[str, str] = {}

    @property
    def key(self) -> str:
        return f"{DATABASES}{self.database_id:020d}"


class CollectionState(StrEnum):
    """CREATED: served. DROPPING: no longer visible; its shards are tombstoned, its files and records are going."""

    CREATED = "created"
    DROPPING = "dropping"


class Collection(CatalogRecord, frozen=True, kw_only=True):
    """A collection with its newest schema; all versions also stand as `SchemaVersion`s."""

    collection_id: int
    database_id: int
    name: str
    schema: CollectionSchema
    vchannels: tuple[str, ...]
    partitions: tuple[PartitionInfo, ...]
    consistency_level: ConsistencyLevel
    created_timestamp: int
    updated_timestamp: int
    properties: dict[str, str] = {}
    indexes: tuple[IndexDefinition, ...] = ()
    state: CollectionState = CollectionState.CREATED

    @property
    def key(self) -> str:
        return collection_key(self.collection_id)


class SchemaVersion(CatalogRecord, frozen=True, kw_only=True):
    """A version of a collection's schema, kept as long as the collection: log records and segments name it."""

    collection_id: int
    schema: CollectionSchema

    @property
    def key(self) -> str:
        return f"{schemas_prefix(self.collection_id)}{self.schema.version:010d}"


class Alias(CatalogRecord, frozen=True, kw_only=True):
    """A second name of a collection, unique among aliases and collections of its database."""

    database_id: int
    name: str
    collection_id: int

    @property
    def key(self) -> str:
        return f"{aliases_prefix(self.database_id)}{self.name}"


class LoadRecord(CatalogRecord, frozen=True, kw_only=True):
    """That a collection shall be served, and how. `partition_ids` None: all, later ones too. `field_ids` (): all."""

    collection_id: int
    replica_count: int = 1
    partition_ids: tuple[int, ...] | None = None
    field_ids: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        return load_key(self.collection_id)


class Dropped(CatalogRecord, frozen=True, kw_only=True):
    """A collection that was dropped, with its records and files: whatever its folder still gets is garbage."""

    collection_id: int

    @property
    def key(self) -> str:
        return f"{DROPPED}{self.collection_id:020d}"


class Intent(CatalogRecord, frozen=True, kw_only=True):
    """A DDL under way, carried to its end by whoever is coordinator. `body` is the coordinator's own encoding."""

    intent_id: int
    kind: str
    collection_id: int = 0
    body: bytes = b""

    @property
    def key(self) -> str:
        return f"{INTENTS}{self.intent_id:020d}"


# --- logs and shards ------------------------------------------------------------------------------------------------
class Pchannel(CatalogRecord, frozen=True, kw_only=True):
    """Who may append to a log. Written by the coordinator before it acts; the term only grows. `owner` 0: nobody."""

    name: str
    term: int
    owner: int = 0

    @property
    def key(self) -> str:
        return owner_key(self.name)


class ReplayFrom(CatalogRecord, frozen=True, kw_only=True):
    """Where replay of a log starts. Moved by the owner, under a compare of its term, over covered records only.

    `timestamp`: no record below has a higher one. Manifests do not say so for all: that of a dropped shard is gone."""

    name: str
    position: Position = ORIGIN
    timestamp: int = 0

    @property
    def key(self) -> str:
        return replay_key(self.name)


class ShardPointer(CatalogRecord, frozen=True, kw_only=True):
    """The one key of a shard: its committed manifest.

    `previous` is the manifest before it, whose `flushed_through` alone lets replay start later. `lineage` holds the
    tokens of the versions before this one, newest last: by it a writer learns whether an attempt of unknown outcome
    landed. A `dropped` shard takes no more commits.
    """

    vchannel: str
    collection_id: int
    version: int
    token: str
    file: FileRef
    flushed_through: Position = ORIGIN
    previous: FileRef | None = None
    previous_flushed_through: Position = ORIGIN
    lineage: tuple[str, ...] = ()
    dropped: bool = False

    @property
    def key(self) -> str:
        return shard_key(self.vchannel)


# --- keys -----------------------------------------------------------------------------------------------------------
def node_key(role: str, node_id: int) -> str:
    """Of a `NodeRecord`."""
    return f"{NODES}{role}/{node_id:020d}"


def collection_key(collection_id: int) -> str:
    """Of a `Collection`."""
    return f"{COLLECTIONS}{collection_id:020d}"


def schemas_prefix(collection_id: int) -> str:
    """Before the `SchemaVersion`s of a collection, oldest first."""
    return f"{SCHEMAS}{collection_id:020d}/"


def aliases_prefix(database_id: int) -> str:
    """Before the `Alias`es of a database, by name."""
    return f"{ALIASES}{database_id:020d}/"


def load_key(collection_id: int) -> str:
    """Of a `LoadRecord`."""
    return f"{LOADS}{collection_id:020d}"


def pchannel_prefix(name: str) -> str:
    """Before both keys of a pchannel."""
    return f"{PCHANNELS}{name}/"


def owner_key(name: str) -> str:
    """Of a `Pchannel`."""
    return f"{pchannel_prefix(name)}owner"


def replay_key(name: str) -> str:
    """Of a `ReplayFrom`."""
    return f"{pchannel_prefix(name)}replay_from"


def shard_key(vchannel: str) -> str:
    """Of a `ShardPointer`."""
    return f"{SHARDS}{vchannel}"


# --- bytes ----------------------------------------------------------------------------------------------------------
class CatalogSnapshot(msgspec.Struct, frozen=True):
    """Keys and values of the whole catalog as they were at `revision`, leased keys left out."""

    revision: int
    values: tuple[tuple[str, bytes], ...]


_KINDS: Final[dict[type[msgspec.Struct], str]] = {
    Cluster: "cluster",
    Promoted: "promoted",
    Election: "election",
    NodeRecord: "node",
    NodeIdBound: "node_id_bound",
    TimestampBound: "timestamp_bound",
    IdBound: "id_bound",
    Database: "database",
    Collection: "collection",
    SchemaVersion: "schema_version",
    Alias: "alias",
    LoadRecord: "load",
    Dropped: "dropped",
    Intent: "intent",
    Pchannel: "pchannel",
    ReplayFrom: "replay_from",
    ShardPointer: "shard_pointer",
    Manifest: "manifest",
    CatalogSnapshot: "catalog_snapshot",
}
_ENVELOPE: Final = msgspec.msgpack.Decoder(tuple[int, str, msgspec.Raw])


def encode(record: msgspec.Struct) -> bytes:
    """Bytes of a record, manifest or snapshot."""
    return msgspec.msgpack.encode((FORMAT_VERSION, _KINDS[type(record)], record))


def decode(kind: type[R], data: bytes | memoryview, where: str) -> R:
    """The record of that kind. CorruptedError or NewerFormatError, which name `where`.

    The same few bytes are read again and again, by whoever asks and by whoever watches: small records are kept."""
    try:
        if type(data) is bytes and len(data) <= KEPT_BYTES_MAX:
            return cast("R", _kept(kind, data))
        return _decoded(kind, data)
    except msgspec.MsgspecError as error:
        raise CorruptedError(f"{where}: {error}") from error
    except (CorruptedError, NewerFormatError) as error:
        raise type(error)(f"{where}: {error.message}") from error


def _decoded(kind: type[R], data: bytes | memoryview) -> R:
    version, name, fields = _ENVELOPE.decode(data)
    if version > FORMAT_VERSION:
        raise NewerFormatError(f"format {version}; this Elanus knows {FORMAT_VERSION}")
    if name != _KINDS[kind]:
        raise CorruptedError(f"holds a {name} instead of a {_KINDS[kind]}")
    return msgspec.msgpack.decode(fields, type=kind)


_kept = lru_cache(maxsize=KEPT_RECORDS_MAX)(_decoded)
