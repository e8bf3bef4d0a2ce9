"""What a DDL intent says, enough to carry it to its end after any crash.

An intent is written before the first log record and removed by the transaction that commits its outcome. Its id is on
every record it logs; a shard ignores ids not above the last it applied, so that replaying an intent is harmless.
"""

from __future__ import annotations

import msgspec

from elanus.meta.records import Collection, Intent
from elanus.model.requests import PartitionInfo
from elanus.model.schema import CollectionSchema


class CreateCollection(msgspec.Struct, frozen=True, tag="create_collection"):
    """Create these shards, then store the record."""

    collection: Collection


class DropCollection(msgspec.Struct, frozen=True, tag="drop_collection"):
    """Drop all shards, then hide the record."""

    collection_id: int


class CreatePartition(msgspec.Struct, frozen=True, tag="create_partition"):
    """Add a partition to all shards, then to the record."""

    collection_id: int
    partition: PartitionInfo


class DropPartition(msgspec.Struct, frozen=True, tag="drop_partition"):
    """Drop a partition from all shards, then its segments and its entry."""

    collection_id: int
    partition_id: int


class AlterSchema(msgspec.Struct, frozen=True, tag="alter_schema"):
    """Let all shards know the new schema, then the record; `timestamp` becomes the time of its last change."""

    collection_id: int
    schema: CollectionSchema
    timestamp: int


class TruncateCollection(msgspec.Struct, frozen=True, tag="truncate_collection"):
    """Replace every partition by an empty one of the same name, in all shards, then in the record.

    `partitions` are the new ones, in the order of those they replace."""

    collection_id: int
    partitions: tuple[PartitionInfo, ...]


Body = CreateCollection | DropCollection | CreatePartition | DropPartition | AlterSchema | TruncateCollection
_DECODER = msgspec.msgpack.Decoder(Body)


def encode_body(body: Body) -> bytes:
    """Bytes for `Intent.body`."""
    return msgspec.msgpack.encode(body)


def decode_body(intent: Intent) -> Body:
    """The inverse."""
    body: Body = _DECODER.decode(intent.body)
    return body


def collection_of(body: Body) -> int:
    """The collection an intent is about."""
    return body.collection.collection_id if isinstance(body, CreateCollection) else body.collection_id
