"""Upsert: a delete and an insert of the same keys in one record per shard.

Rules
1. Keys in a batch are distinct, so that "the row" of a key is one.
2. With automatic ids the given key selects the victim and a new id is drawn that hashes to the victim's shard: the two
   halves are one record, and no crash can fall between them.
3. A partial upsert reads the current rows (Strong), lays the given columns over them and writes whole rows, guarded by
   the timestamp it read at. Story: two clients each set another field of one row; both read, one writes, the other's
   write would bring the first one's field back to what it was. The shard refuses it (`WriteConflictError`), and the
   reader looks again. Each shard is read and written on its own; what is written there is never repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from operator import or_
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from elanus.base.doors import Clock
from elanus.base.errors import ElanusError
from elanus.model.columns import Batch, Column, Rows, concatenate
from elanus.model.errors import BadParameterError, WriteConflictError
from elanus.model.reads import Found, ShardRead
from elanus.model.requests import FieldOperation, InsertRequest, MutationReply
from elanus.model.schema import FieldSchema
from elanus.model.types import ConsistencyLevel
from elanus.nodes.contracts import Shard, ShardWrite, WriteReply
from elanus.nodes.proxy.array_operations import checked_operations, operated
from elanus.nodes.proxy.entry import CollectionEntry
from elanus.nodes.proxy.ids import IdAllocator
from elanus.nodes.proxy.reads import Reader
from elanus.nodes.proxy.routes import NOT_STAMPED, Routes, verdict
from elanus.nodes.proxy.routing import rows_by_shard, shards_of
from elanus.nodes.proxy.rows import absent, complete, filler, sent_columns
from elanus.nodes.proxy.values import json_objects
from elanus.nodes.proxy.writes import check_schema_timestamp, newest, partition_to_write, row_partitions

KEYS_TEMPLATE: Final = "elanus_keys"
_ENCODER: Final = msgspec.json.Encoder()


class Upserter:
    """Full and partial upserts."""

    def __init__(self, clock: Clock, routes: Routes, ids: IdAllocator, reader: Reader) -> None:
        self._clock = clock
        self._routes = routes
        self._ids = ids
        self._reader = reader

    async def upsert(self, request: InsertRequest) -> MutationReply:
        """Replace rows by primary key; what was not there is inserted."""
        return await self._routes.with_entry(
            request, lambda entry: self._upsert(entry, request), kind="writing", repeats=False
        )

    async def _upsert(self, entry: CollectionEntry, request: InsertRequest) -> MutationReply:
        check_schema_timestamp(entry, request)
        partition_id = partition_to_write(entry, request.partition)
        operations = checked_operations(entry, request)
        sent = sent_columns(entry, request, is_upsert=True)
        victims = sent[entry.primary.name]
        if has_repeats(victims):
            raise BadParameterError("duplicate primary keys are not allowed in the same batch")
        if request.partial_update:
            entry.require_loaded("query")
            columns = {}
        else:
            columns = complete(entry, sent, request.row_count)
        shards = shards_of(victims, len(entry.shards))
        keys = victims
        if entry.primary.auto_id:
            keys = await self._ids.draw_for_shards(entry.primary, shards, len(entry.shards))
        if request.partial_update:
            patch = _Patch(entry, sent, keys, partition_id, operations)
            replies = await self._write_partial(request, entry, patch)
        else:
            batch = Batch(request.row_count, {**columns, entry.primary.field_id: keys})
            replies = await self._routes.write_all(request, entry, _records(entry, batch, victims, partition_id))
        count = request.row_count
        return MutationReply(
            keys=keys, insert_count=count, delete_count=count, upsert_count=count, timestamp=newest(replies)
        )

    async def _write_partial(self, request: InsertRequest, entry: CollectionEntry, patch: _Patch) -> list[WriteReply]:
        parts = rows_by_shard(shards_of(patch.victims, len(entry.shards)), len(entry.shards))
        if patch.operations and len(parts) > 1:
            # An array that grows too long is found out before any shard is written.
            await asyncio.gather(*[self._try_out(entry.shards[shard], patch.rows(rows)) for shard, rows in parts])
        outcomes = await asyncio.gather(
            *[self._patch_shard(request, entry, shard, patch.rows(rows)) for shard, rows in parts],
            return_exceptions=True,
        )
        replies = [outcome for outcome in outcomes if isinstance(outcome, WriteReply)]
        errors = [outcome for outcome in outcomes if isinstance(outcome, ElanusError)]
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, ElanusError):
                raise outcome
        if errors:
            raise verdict(errors, len(parts))
        return replies

    async def _try_out(self, place: Shard, patch: _Patch) -> None:
        patch.applied(await self._current(place, patch))

    async def _patch_shard(
        self, request: InsertRequest, entry: CollectionEntry, shard: int, patch: _Patch
    ) -> WriteReply:
        """Read, overlay, write one shard's rows, again while others get in between or the shard moves."""
        patience = self._routes.patience()
        while True:
            place = entry.shards[shard]
            try:
                found = await self._current(place, patch)
                write = msgspec.structs.replace(
                    _record(entry, place, patch.applied(found), patch.victims, patch.partition_id),
                    guard_timestamp=found.read_timestamp,
                )
                return await self._routes.node(place).write(write)
            except (WriteConflictError, *NOT_STAMPED):
                if not await patience.pause():
                    raise
            entry = await self._routes.renewed(request, entry)

    async def _current(self, shard: Shard, patch: _Patch) -> Found:
        """The rows with the victims' keys as they are now, all fields."""
        entry = patch.entry
        read = ShardRead(
            vchannel=shard.vchannel,
            level=ConsistencyLevel.STRONG,
            partition_ids=(patch.partition_id,) if patch.partition_id else None,
            filter=f"{entry.primary.name} in {{{KEYS_TEMPLATE}}}",
            templates={KEYS_TEMPLATE: patch.victims.values.tolist()},
            output_field_ids=tuple(field.field_id for field in entry.schema.fields),
            expire_before=entry.expire_before(self._clock.now_ms()),
        )
        return (await self._reader.query_shards([shard], read))[0]


class _Patch:
    """Columns to be laid over current rows, or, by `operations`, to be joined with what is there. `keys` are the rows'
    keys afterwards, `victims` before."""

    def __init__(
        self,
        entry: CollectionEntry,
        sent: Mapping[str, Column],
        keys: Column,
        partition_id: int,
        operations: Mapping[str, FieldOperation],
    ) -> None:
        self.entry = entry
        self.operations = operations
        self.sent = sent
        self.keys = keys
        self.partition_id = partition_id
        self.victims = sent[entry.primary.name]

    def rows(self, rows: Rows) -> _Patch:
        """The patch of these rows only."""
        sent = {name: column.take(rows) for name, column in self.sent.items()}
        return _Patch(self.entry, sent, self.keys.take(rows), self.partition_id, self.operations)

    def applied(self, found: Found) -> Batch:
        """Whole rows: current values, the sent columns over them; new rows where nothing was found."""
        count = len(self.keys)
        places = places_of(self.victims, found)
        columns: dict[int, Column] = {}
        for field in self.entry.schema.fields:
            if field.is_primary:
                columns[field.field_id] = self.keys
            elif field.is_dynamic and field.name in self.sent:
                columns[field.field_id] = _merged(self.sent[field.name], found.fields.get(field.field_id), places)
            elif field.name in self.operations:
                current = _arrays(field, found.fields.get(field.field_id), places)
                columns[field.field_id] = operated(field, self.operations[field.name], current, self.sent[field.name])
            elif field.name in self.sent:
                columns[field.field_id] = self.sent[field.name]
            elif not field.is_function_output:
                columns[field.field_id] = _kept(field, found.fields.get(field.field_id), places, count)
        return Batch(count, columns)


def places_of(keys: Column, found: Found) -> Rows:
    """For each key its row in `found`, -1 where it is not there."""
    if found.keys is None or not found.row_count:
        return np.full(len(keys), -1, np.int64)
    if isinstance(keys.values, np.ndarray):
        at = np.minimum(np.searchsorted(found.keys.values, keys.values), found.row_count - 1)
        return np.where(found.keys.values[at] == keys.values, at, -1)
    places = pc.index_in(keys.values, value_set=found.keys.values)
    return np.asarray(places.fill_null(-1)).astype(np.int64)


def has_repeats(keys: Column) -> bool:
    """Whether a key stands twice in the column."""
    if isinstance(keys.values, np.ndarray):
        return len(np.unique(keys.values)) < len(keys)
    return int(pc.count_distinct(keys.values).as_py()) < len(keys)


def _kept(field: FieldSchema, current: Column | None, places: Rows, count: int) -> Column:
    """Current values where the row is known; default or null where it is new, or a refusal if it must be given."""
    new = places < 0
    if current is None or new.all():
        return absent(field, count)
    if not new.any():
        return current.take(places)
    order = places.copy()
    order[new] = len(current) + np.arange(np.count_nonzero(new))
    return concatenate([current, absent(field, int(np.count_nonzero(new)))]).take(order)


def _arrays(field: FieldSchema, current: Column | None, places: Rows) -> Column:
    """Current arrays; empty ones where the row is new."""
    new = places < 0
    empty = Column(filler(field, 1), None if not field.nullable else np.zeros(1, np.bool_))
    known = empty if current is None else concatenate([current, empty])
    return known.take(np.where(new, len(known) - 1, places))


def _merged(sent: Column, current: Column | None, places: Rows) -> Column:
    """Dynamic objects key by key, the sent ones winning; whole-column calls only."""
    known = np.flatnonzero(places >= 0)
    if current is None or not len(known):
        return sent
    old = json_objects(current.take(places[known]).values)
    new = json_objects(sent.take(known).values)
    merged = pa.array(list(map(_ENCODER.encode, map(or_, old, new))), pa.large_binary())
    order = np.arange(len(sent))
    order[known] = len(sent) + np.arange(len(known))
    return concatenate([sent, Column(merged)]).take(order)


def _records(entry: CollectionEntry, batch: Batch, victims: Column, partition_id: int) -> list[ShardWrite]:
    """One record per shard, by the shard of the victims."""
    if len(entry.shards) == 1:
        return [_record(entry, entry.shards[0], batch, victims, partition_id)]
    return [
        _record(entry, entry.shards[shard], batch.take(rows), victims.take(rows), partition_id)
        for shard, rows in rows_by_shard(shards_of(victims, len(entry.shards)), len(entry.shards))
    ]


def _record(entry: CollectionEntry, shard: Shard, batch: Batch, victims: Column, partition_id: int) -> ShardWrite:
    """Both halves for one shard; the delete covers the named partition, or all under a partition key (0)."""
    return ShardWrite(
        vchannel=shard.vchannel,
        schema_version=entry.schema.version,
        batch=batch,
        partition_ids=row_partitions(entry, batch, partition_id),
        delete_keys=victims,
        delete_partition_id=partition_id,
    )
