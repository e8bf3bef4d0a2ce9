"""The write path: insert, delete and upsert, from request to one record per shard and the reply.

All checks come first, then ids are drawn, then records are sent. `Routes.write_all` says what happens when a shard
refuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from elanus.base.doors import Doors
from elanus.model.columns import Batch, Column, concatenate
from elanus.model.errors import BadParameterError, PartitionNotFoundError, RequestError, SchemaMismatchError
from elanus.model.reads import Found, ShardRead
from elanus.model.requests import Consistency, DeleteRequest, InsertRequest, MutationReply
from elanus.model.schema import DEFAULT_PARTITION
from elanus.nodes.contracts import ShardWrite, WriteReply
from elanus.nodes.proxy.consistency import freshness
from elanus.nodes.proxy.entry import PARTITION_NAMED_TEXT, CollectionEntry
from elanus.nodes.proxy.filters import checked_filter, is_always_true, listed_keys
from elanus.nodes.proxy.ids import IdAllocator
from elanus.nodes.proxy.names import check_partition_name
from elanus.nodes.proxy.reads import Reader
from elanus.nodes.proxy.routes import Routes
from elanus.nodes.proxy.routing import Shards, hashed_partitions, numbered_partitions, rows_by_shard, shards_of
from elanus.nodes.proxy.rows import complete, sent_columns

DELETE_KEYS_MAX: Final = 65_536
"""Keys in one record of a delete by filter."""


class Writer:
    """Inserts and deletes; `upsert.Upserter` does the third."""

    def __init__(self, doors: Doors, routes: Routes, ids: IdAllocator, reader: Reader) -> None:
        self._doors = doors
        self._routes = routes
        self._ids = ids
        self._reader = reader

    async def insert(self, request: InsertRequest) -> MutationReply:
        """Rows without a look at what is there: equal keys give two rows."""
        return await self._routes.with_entry(
            request, lambda entry: self._insert(entry, request), kind="writing", repeats=False
        )

    async def _insert(self, entry: CollectionEntry, request: InsertRequest) -> MutationReply:
        check_schema_timestamp(entry, request)
        partition_id = partition_to_write(entry, request.partition)
        columns = complete(entry, sent_columns(entry, request, is_upsert=False), request.row_count)
        primary = entry.primary
        if primary.field_id not in columns:
            columns[primary.field_id] = await self._ids.draw_keys(primary, request.row_count)
        keys = columns[primary.field_id]
        batch = Batch(request.row_count, columns)
        writes = insert_records(
            entry, batch, row_partitions(entry, batch, partition_id), shards_of(keys, len(entry.shards))
        )
        replies = await self._routes.write_all(request, entry, writes)
        return MutationReply(keys=keys, insert_count=request.row_count, timestamp=newest(replies))

    async def delete(self, request: DeleteRequest) -> MutationReply:
        """Rows by primary key, or by any filter: the keys are then read first."""
        return await self._routes.with_entry(
            request, lambda entry: self._delete(entry, request), kind="writing", repeats=False
        )

    async def _delete(self, entry: CollectionEntry, request: DeleteRequest) -> MutationReply:
        if not request.filter.strip():
            raise BadParameterError(f"delete plan can't be empty or always true : {request.filter}")
        bound = checked_filter(entry, request.filter, request.templates, "delete")
        if is_always_true(bound):
            raise BadParameterError(f"delete plan can't be empty or always true : {request.filter}")
        scope = delete_scope(entry, request.partition)
        listed = listed_keys(entry, bound, exact=True)
        keys = listed if listed is not None else await self._matching_keys(entry, request, scope)
        if not len(keys):
            return MutationReply(keys=listed)
        writes = delete_records(entry, keys, scope)
        replies = await self._routes.write_all(request, entry, writes)
        return MutationReply(keys=listed, delete_count=len(keys), timestamp=newest(replies))

    async def _matching_keys(self, entry: CollectionEntry, request: DeleteRequest, scope: int) -> Column:
        """The keys that pass the filter now, at the consistency level of the request."""
        entry.require_loaded("delete")
        names = (request.partition,) if request.partition else ()
        fresh = freshness(Consistency(level=request.consistency_level), entry)
        read = ShardRead(
            vchannel=entry.shards[0].vchannel,
            level=fresh.level,
            guarantee_timestamp=fresh.guarantee_timestamp,
            partition_ids=entry.partitions_to_read(names, "delete"),
            filter=request.filter,
            templates=request.templates,
            timezone=entry.timezone,
            casts=entry.casts,
            expire_before=entry.expire_before(self._doors.clock.now_ms()),
        )
        parts = await self._reader.query_shards(entry.shards, read)
        return found_keys(parts)


def check_schema_timestamp(entry: CollectionEntry, request: InsertRequest) -> None:
    """Refuse rows made for another version of the schema; 0 means that the client did not say."""
    if request.schema_timestamp not in (0, entry.view.description.updated_timestamp):
        raise SchemaMismatchError(entry.name)


def partition_to_write(entry: CollectionEntry, name: str) -> int:
    """The partition new rows go to; 0 where the partition key decides row by row."""
    if entry.partition_key is not None:
        if name:
            raise RequestError(PARTITION_NAMED_TEXT)
        return 0
    if name:
        check_partition_name(name)
    partition_id = entry.partitions.get(name or DEFAULT_PARTITION)
    if partition_id is None:
        raise PartitionNotFoundError(name or DEFAULT_PARTITION)
    return partition_id


def delete_scope(entry: CollectionEntry, name: str) -> int:
    """The partition a delete is limited to; 0 for all."""
    if not name:
        return 0
    if entry.partition_key is not None:
        raise RequestError(PARTITION_NAMED_TEXT)
    if name not in entry.partitions:
        raise PartitionNotFoundError(name)
    return entry.partitions[name]


def row_partitions(entry: CollectionEntry, batch: Batch, partition_id: int) -> Shards:
    """The partition of each row, shape (rows,) int64."""
    if entry.partition_key is None:
        return np.full(batch.row_count, partition_id, np.int64)
    keys = batch.columns[entry.partition_key.field_id]
    return hashed_partitions(keys, numbered_partitions(entry.partitions))


def insert_records(entry: CollectionEntry, batch: Batch, partitions: Shards, shards: Shards) -> list[ShardWrite]:
    """One record per shard that gets rows; with one shard the batch itself, uncopied."""
    version = entry.schema.version
    if len(entry.shards) == 1:
        whole = entry.shards[0].vchannel
        return [ShardWrite(vchannel=whole, schema_version=version, batch=batch, partition_ids=partitions)]
    return [
        ShardWrite(
            vchannel=entry.shards[shard].vchannel,
            schema_version=version,
            batch=batch.take(rows),
            partition_ids=partitions[rows],
        )
        for shard, rows in rows_by_shard(shards, len(entry.shards))
    ]


def delete_records(entry: CollectionEntry, keys: Column, scope: int) -> list[ShardWrite]:
    """Records of bounded size that delete these keys, each key in its shard."""
    return [
        ShardWrite(
            vchannel=entry.shards[shard].vchannel,
            schema_version=entry.schema.version,
            delete_keys=keys.take(rows[start : start + DELETE_KEYS_MAX]),
            delete_partition_id=scope,
        )
        for shard, rows in rows_by_shard(shards_of(keys, len(entry.shards)), len(entry.shards))
        for start in range(0, len(rows), DELETE_KEYS_MAX)
    ]


def newest(replies: Sequence[WriteReply]) -> int:
    """The timestamp that covers all records, for Session reads."""
    return max(reply.timestamp for reply in replies)


def found_keys(parts: Sequence[Found]) -> Column:
    """The keys of several shards' answers, one after another."""
    columns = [part.keys for part in parts if part.keys is not None and part.row_count]
    return concatenate(columns) if columns else Column(np.empty(0, np.int64))
