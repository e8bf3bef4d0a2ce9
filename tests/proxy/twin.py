"""A second, dumb implementation of `Coordinator` and `Streaming`: plain lists of rows, one loop for everything.

Honest about what the contracts promise (order, visibility, refusals), careless about speed. Filters are evaluated as
Python, whose comparisons, `and`, `or`, `not` and `in` mean the same for the forms that the tests use.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from elanus.base.doors import Doors
from elanus.base.errors import ElanusError
from elanus.model.channel import Position, pchannel_name, vchannel_name
from elanus.model.columns import NUMPY_DTYPES, Batch, Column, arrow_type
from elanus.model.errors import (
    AliasNotFoundError,
    ChannelNotAvailableError,
    CollectionNotFoundError,
    DatabaseNotFoundError,
    PartitionNotFoundError,
    SchemaMismatchError,
    WriteConflictError,
)
from elanus.model.index import IndexDefinition
from elanus.model.reads import Found, Hits, ShardRead
from elanus.model.requests import (
    AliasReply,
    AliasRequest,
    AlterPropertiesRequest,
    CollectionReply,
    CollectionRequest,
    CompactionState,
    CompactReply,
    CompactRequest,
    CreateCollectionRequest,
    CreateIndexRequest,
    DatabaseReply,
    DatabaseRequest,
    IndexReply,
    IndexRequest,
    ListCollectionsRequest,
    LoadRequest,
    LoadState,
    PartitionInfo,
    PartitionRequest,
    PartitionsRequest,
    RenameCollectionRequest,
    SegmentInfo,
)
from elanus.model.schema import CollectionSchema, FieldSchema
from elanus.model.timestamp import compose
from elanus.model.types import CompactionStatus, DataType, IndexStatus, LoadStatus
from elanus.nodes.contracts import (
    CollectionView,
    FlushReply,
    Range,
    Shard,
    ShardChange,
    ShardStatus,
    ShardTarget,
    ShardWrite,
    WriteReply,
)
from elanus.nodes.proxy.proxy import Proxy


class StillClock:
    """Time that moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.ms = 1_700_000_000_000

    def now_ms(self) -> int:
        return self.ms

    def monotonic_s(self) -> float:
        return self.ms / 1000

    async def sleep(self, seconds: float) -> None:
        self.ms += max(int(seconds * 1000), 1)


class CountingRandom:
    """Names in order."""

    def __init__(self) -> None:
        self.count = 0

    def token(self) -> str:
        self.count += 1
        return f"{self.count:016x}"

    def uniform(self) -> float:
        return 0.5

    def below(self, bound: int) -> int:
        return 0


class Oracle:
    """Strictly rising timestamps on the clock's time."""

    def __init__(self, clock: StillClock) -> None:
        self._clock = clock
        self._last = 0

    def draw(self) -> int:
        self._last = max(self._last + 1, compose(self._clock.now_ms()))
        return self._last


@dataclass
class Row:
    """One version of one row; values by field id, None for null."""

    key: Any
    partition_id: int
    timestamp: int
    values: dict[int, Any]
    deleted_at: int = 1 << 64


@dataclass
class TwinShard:
    """The rows of a shard, every version ever written."""

    schema: CollectionSchema
    rows: list[Row] = field(default_factory=list)
    written: dict[Any, int] = field(default_factory=dict)
    last_timestamp: int = 0
    flushed_timestamp: int = 0
    sequence: int = 0


def python_values(column: Column) -> list[Any]:
    """The column as Python values, None for nulls; dense vectors stay NumPy rows."""
    values = column.values
    plain = (
        values.to_pylist() if isinstance(values, pa.Array) else list(values) if values.ndim == 2 else values.tolist()
    )
    if column.valid is None:
        return plain
    return [value if valid else None for value, valid in zip(plain, column.valid.tolist(), strict=True)]


def column_of(schema_field: FieldSchema, values: list[Any]) -> Column:
    """The inverse of `python_values`."""
    kind = schema_field.data_type
    valid = None if all(value is not None for value in values) else np.array([value is not None for value in values])
    dtype = NUMPY_DTYPES.get(kind)
    if dtype is None:
        empty: Any = [] if kind is DataType.ARRAY else "" if kind.is_string else b""
        filled = [empty if value is None else value for value in values]
        return Column(pa.array(filled, arrow_type(kind, schema_field.element_type)), valid)
    if kind.is_vector:
        width = schema_field.dimension // 8 if kind is DataType.BINARY_VECTOR else schema_field.dimension
        return Column(np.array(values, dtype).reshape(len(values), width), valid)
    return Column(np.array([0 if value is None else value for value in values], dtype), valid)


class TwinStreaming:
    """A streaming node. `refusals` are raised by coming writes before they do anything; `accidents` after the write was
    done; `arrivals` counts writes per shard, done or not."""

    def __init__(self, oracle: Oracle) -> None:
        self.oracle = oracle
        self.shards: dict[str, TwinShard] = {}
        self.refusals: dict[str, list[ElanusError]] = {}
        self.accidents: dict[str, list[ElanusError]] = {}
        self.read_refusals: list[ElanusError] = []
        self.arrivals: list[ShardWrite] = []
        self.reads: list[ShardRead] = []
        self.before_write: list[Any] = []

    def shard(self, vchannel: str) -> TwinShard:
        if vchannel not in self.shards:
            raise ChannelNotAvailableError(vchannel)
        return self.shards[vchannel]

    async def assign(self, pchannel: str, term: int) -> None: ...
    async def resign(self, pchannel: str, term: int) -> None: ...
    async def set_target(self, target: ShardTarget) -> None: ...
    async def ping(self) -> tuple[str, ...]:
        return ()

    async def apply_change(self, change: ShardChange) -> Position:
        return Position(1, 0)

    async def write(self, write: ShardWrite) -> WriteReply:
        self.arrivals.append(write)
        if self.before_write:
            await self.before_write.pop()()
        if self.refusals.get(write.vchannel):
            raise self.refusals[write.vchannel].pop(0)
        shard = self.shard(write.vchannel)
        if write.schema_version != shard.schema.version:
            raise SchemaMismatchError(shard.schema.name)
        deleted = [] if write.delete_keys is None else python_values(write.delete_keys)
        if write.guard_timestamp is not None and any(
            shard.written.get(key, 0) > write.guard_timestamp for key in deleted
        ):
            raise WriteConflictError("a row was written since it was read")
        timestamp = self.oracle.draw()
        for row in shard.rows:
            scope = write.delete_partition_id in (0, row.partition_id)
            if scope and row.deleted_at > timestamp and row.key in deleted:
                row.deleted_at = timestamp
        shard.written.update(dict.fromkeys(deleted, timestamp))
        if write.batch is not None:
            self._append(shard, write, write.batch, timestamp)
        shard.last_timestamp, shard.sequence = timestamp, shard.sequence + 1
        if self.accidents.get(write.vchannel):
            raise self.accidents[write.vchannel].pop(0)
        return WriteReply(timestamp, Position(1, shard.sequence))

    def _append(self, shard: TwinShard, write: ShardWrite, batch: Batch, timestamp: int) -> None:
        assert set(batch.columns) == {one.field_id for one in shard.schema.fields}
        assert write.partition_ids is not None
        columns = {field_id: python_values(column) for field_id, column in batch.columns.items()}
        for index in range(batch.row_count):
            values = {field_id: column[index] for field_id, column in columns.items()}
            key = values[shard.schema.primary.field_id]
            shard.written[key] = timestamp
            shard.rows.append(Row(key, int(write.partition_ids[index]), timestamp, values))

    def _visible(self, shard: TwinShard, read: ShardRead) -> list[Row]:
        at = read.at_timestamp or shard.last_timestamp
        names = {one.name: one.field_id for one in shard.schema.fields}
        text = re.sub(r"\{(\w+)\}", r"\1", read.filter)
        newest: dict[Any, Row] = {}
        for row in shard.rows:
            if not (row.timestamp <= at < row.deleted_at) or row.timestamp < read.expire_before:
                continue
            if read.partition_ids is not None and row.partition_id not in read.partition_ids:
                continue
            values = {name: row.values[field_id] for name, field_id in names.items()}
            if text and not eval(text, {}, {**values, **read.templates}):
                continue
            if row.key not in newest or newest[row.key].timestamp <= row.timestamp:
                newest[row.key] = row
        return sorted(newest.values(), key=lambda row: row.key)

    def _reading(self, read: ShardRead) -> TwinShard:
        self.reads.append(read)
        if self.read_refusals:
            raise self.read_refusals.pop(0)
        return self.shard(read.vchannel)

    async def search(self, read: ShardRead) -> Hits:
        shard = self._reading(read)
        vector = read.vector
        assert vector is not None
        larger = vector.metric in ("IP", "COSINE")
        rows = self._visible(shard, read)
        hits: list[tuple[float, Row]] = []
        counts = []
        for query in vector.queries:
            scored = [
                (float(np.float32(score(vector.metric, query, row.values[vector.field_id]))), row) for row in rows
            ]
            kept = [pair for pair in scored if in_range(pair[0], vector.radius, vector.range_filter, larger)]
            best = sorted(kept, key=lambda pair: (-pair[0] if larger else pair[0], pair[1].key))[: vector.k]
            hits.extend(best)
            counts.append(len(best))
        return Hits(
            counts=np.array(counts, np.int64),
            keys=column_of(shard.schema.primary, [row.key for _, row in hits]),
            scores=np.array([value for value, _ in hits], np.float32),
            fields=self._fields(shard, [row for _, row in hits], read.output_field_ids),
            read_timestamp=read.at_timestamp or shard.last_timestamp,
            searched_row_count=len(rows),
        )

    async def query(self, read: ShardRead) -> Found:
        shard = self._reading(read)
        rows = self._visible(shard, read)
        at = read.at_timestamp or shard.last_timestamp
        if read.count_only:
            return Found(row_count=len(rows), read_timestamp=at)
        rows = rows if read.limit < 0 else rows[: read.limit]
        return Found(
            row_count=len(rows),
            keys=column_of(shard.schema.primary, [row.key for row in rows]),
            timestamps=np.array([row.timestamp for row in rows], np.uint64),
            fields=self._fields(shard, rows, read.output_field_ids),
            read_timestamp=at,
            read_position=Position(1, shard.sequence),
        )

    def _fields(self, shard: TwinShard, rows: list[Row], field_ids: tuple[int, ...]) -> dict[int, Column]:
        found = {field_id: shard.schema.field_by_id(field_id) for field_id in field_ids}
        return {
            field_id: column_of(one, [row.values[field_id] for row in rows])
            for field_id, one in found.items()
            if one is not None
        }

    async def flush(self, vchannel: str) -> FlushReply:
        shard = self.shard(vchannel)
        shard.flushed_timestamp = shard.last_timestamp
        return FlushReply(shard.last_timestamp, Position(1, shard.sequence))

    async def status(self, vchannel: str) -> ShardStatus:
        shard = self.shard(vchannel)
        counts: dict[int, int] = {}
        for row in shard.rows:
            counts[row.partition_id] = counts.get(row.partition_id, 0) + 1
        return ShardStatus(
            vchannel=vchannel,
            manifest_version=0,
            flushed_through=Position(1, 0),
            flushed_timestamp=shard.flushed_timestamp,
            row_counts=counts,
            growing_bytes=0,
            served_version=0,
            pinned_version=0,
            last_timestamp=shard.last_timestamp,
        )


def score(metric: str, query: Any, vector: Any) -> float:
    """By the book."""
    a, b = np.asarray(query, np.float64), np.asarray(vector, np.float64)
    if metric == "L2":
        return float(((a - b) ** 2).sum())
    product = float((a * b).sum())
    return product if metric == "IP" else product / float(np.sqrt((a * a).sum() * (b * b).sum()))


def in_range(value: float, radius: float | None, near: float | None, larger: bool) -> bool:
    """Milvus's range rules; without a radius there is no range."""
    if radius is None:
        return True
    if larger:
        return value > radius and (near is None or value <= near)
    return value < radius and (near is None or value >= near)


class TwinCoordinator:
    """Catalog, ids and time. Pushes invalidations to `proxies` as the contract says; `describes` counts questions."""

    def __init__(self, oracle: Oracle, node: TwinStreaming) -> None:
        self.oracle = oracle
        self.node = node
        self.node_id = 1
        self.proxies: list[Proxy] = []
        self.databases = {"default": 1}
        self.views: dict[tuple[str, str], CollectionView] = {}
        self.aliases: dict[tuple[str, str], str] = {}
        self.next_id = 1000
        self.describes = 0
        self.calls: list[tuple[str, Any]] = []

    async def _changed(self, collection_id: int) -> None:
        for proxy in self.proxies:
            await proxy.invalidate(collection_id)

    def _key(self, request: CollectionRequest) -> tuple[str, str]:
        if request.database not in self.databases:
            raise DatabaseNotFoundError(request.database)
        name = self.aliases.get((request.database, request.collection), request.collection)
        for key, view in self.views.items():
            if key == (request.database, name) or view.description.collection_id == request.collection_id:
                return key
        raise CollectionNotFoundError(request.database, request.collection)

    def _view(self, request: CollectionRequest) -> CollectionView:
        return self.views[self._key(request)]

    async def _edit(self, request: CollectionRequest, **changes: Any) -> None:
        key = self._key(request)
        self.views[key] = msgspec.structs.replace(self.views[key], **changes)
        await self._changed(self.views[key].description.collection_id)

    async def describe(self, request: CollectionRequest) -> CollectionView:
        self.describes += 1
        view = self._view(request)
        shards = tuple(msgspec.structs.replace(shard, node_id=self.node_id) for shard in view.shards)
        return msgspec.structs.replace(view, shards=shards)

    async def list_collections(self, request: ListCollectionsRequest) -> tuple[CollectionReply, ...]:
        return tuple(view.description for key, view in self.views.items() if key[0] == request.database)

    async def create_collection(self, request: CreateCollectionRequest) -> None:
        if request.database not in self.databases:
            raise DatabaseNotFoundError(request.database)
        self.next_id += 100
        collection_id, now = self.next_id, self.oracle.draw()
        names = ["_default"]
        if request.schema.partition_key is not None:
            names = [f"_default_{number}" for number in range(request.partition_count)]
        partitions = tuple(PartitionInfo(collection_id + 1 + index, name, now) for index, name in enumerate(names))
        pchannels = [pchannel_name(number) for number in range(request.shard_count)]
        vchannels = [vchannel_name(one, collection_id, number) for number, one in enumerate(pchannels)]
        for vchannel in vchannels:
            self.node.shards[vchannel] = TwinShard(request.schema)
        self.views[(request.database, request.schema.name)] = CollectionView(
            description=CollectionReply(
                database=request.database,
                database_id=1,
                collection_id=collection_id,
                name=request.schema.name,
                schema=request.schema,
                shard_count=request.shard_count,
                virtual_channels=tuple(vchannels),
                physical_channels=tuple(pchannels),
                aliases=(),
                consistency_level=request.consistency_level,
                properties=request.properties,
                partitions=partitions,
                created_timestamp=now,
                updated_timestamp=now,
            ),
            shards=tuple(Shard(v, p, 1) for v, p in zip(vchannels, pchannels, strict=True)),
            indexes=(),
        )

    async def drop_collection(self, request: CollectionRequest) -> None:
        key = self._key(request)
        view = self.views.pop(key)
        for shard in view.shards:
            del self.node.shards[shard.vchannel]
        await self._changed(view.description.collection_id)

    async def rename_collection(self, request: RenameCollectionRequest) -> None:
        self.calls.append(("rename_collection", request))

    async def alter_collection(self, request: AlterPropertiesRequest) -> None:
        description = self._view(request).description
        properties = {**description.properties, **request.properties}
        for key in request.delete_keys:
            properties.pop(key, None)
        await self._edit(request, description=msgspec.structs.replace(description, properties=properties))

    async def create_partition(self, request: PartitionRequest) -> None:
        description = self._view(request).description
        self.next_id += 1
        added = PartitionInfo(self.next_id * 1000, request.partition, self.oracle.draw())
        await self._edit(
            request, description=msgspec.structs.replace(description, partitions=(*description.partitions, added))
        )

    async def drop_partition(self, request: PartitionRequest) -> None:
        description = self._view(request).description
        kept = tuple(info for info in description.partitions if info.name != request.partition)
        if len(kept) == len(description.partitions):
            raise PartitionNotFoundError(request.partition)
        await self._edit(request, description=msgspec.structs.replace(description, partitions=kept))

    async def create_alias(self, request: AliasRequest) -> None:
        self._view(request)
        self.aliases[(request.database, request.alias)] = request.collection

    async def alter_alias(self, request: AliasRequest) -> None:
        await self.create_alias(request)
        await self._changed(0)

    async def drop_alias(self, request: AliasRequest) -> None:
        self.aliases.pop((request.database, request.alias), None)
        await self._changed(0)

    async def describe_alias(self, request: AliasRequest) -> AliasReply:
        name = self.aliases.get((request.database, request.alias))
        if name is None:
            raise AliasNotFoundError(request.database, request.alias)
        return AliasReply(request.database, request.alias, name)

    async def list_aliases(self, request: CollectionRequest) -> tuple[AliasReply, ...]:
        return tuple(AliasReply(database, alias, name) for (database, alias), name in self.aliases.items())

    async def create_database(self, request: DatabaseRequest) -> None:
        self.databases[request.database] = len(self.databases) + 1

    async def drop_database(self, request: DatabaseRequest) -> None:
        del self.databases[request.database]

    async def list_databases(self) -> tuple[DatabaseReply, ...]:
        return tuple(DatabaseReply(name, number, 0, {}) for name, number in self.databases.items())

    async def alter_database(self, request: DatabaseRequest) -> None:
        self.calls.append(("alter_database", request))

    async def create_index(self, request: CreateIndexRequest) -> None:
        view = self._view(request)
        found = view.description.schema.field(request.field)
        assert found is not None
        self.next_id += 1
        index = IndexDefinition(self.next_id, request.index_name, found.field_id, found.name, request.params)
        await self._edit(request, indexes=(*view.indexes, index))

    async def describe_index(self, request: IndexRequest) -> tuple[IndexReply, ...]:
        return tuple(
            IndexReply(
                index_id=one.index_id,
                name=one.name,
                field_name=one.field_name,
                params=one.params,
                indexed_rows=0,
                total_rows=0,
                pending_rows=0,
                state=IndexStatus.FINISHED,
            )
            for one in self._view(request).indexes
        )

    async def drop_index(self, request: IndexRequest) -> None:
        await self._edit(request, indexes=())

    async def load(self, request: LoadRequest) -> None:
        partitions = self._view(request).description.partitions
        ids = tuple(
            info.partition_id for info in partitions if not request.partitions or info.name in request.partitions
        )
        await self._edit(request, loaded_partition_ids=ids)

    async def release(self, request: PartitionsRequest) -> None:
        await self._edit(request, loaded_partition_ids=None)

    async def load_state(self, request: PartitionsRequest) -> LoadState:
        return (
            LoadState(LoadStatus.LOADED, 100)
            if self._view(request).loaded_partition_ids is not None
            else LoadState(LoadStatus.NOT_LOADED, 0)
        )

    async def compact(self, request: CompactRequest) -> CompactReply:
        return CompactReply(-1, 0)

    async def compaction_state(self, compaction_id: int) -> CompactionState:
        return CompactionState(CompactionStatus.COMPLETED)

    async def segments(self, collection_id: int) -> tuple[SegmentInfo, ...]:
        return ()

    async def allocate_ids(self, count: int) -> Range:
        self.next_id += count
        return Range(self.next_id - count, self.next_id)

    async def allocate_timestamps(self) -> Range:
        now = self.oracle.draw()
        return Range(now, now + 1)

    async def report_failed(self, pchannel: str, term: int) -> None: ...


class Bench:
    """A proxy over the twin."""

    def __init__(self) -> None:
        self.clock = StillClock()
        self.random = CountingRandom()
        oracle = Oracle(self.clock)
        self.node = TwinStreaming(oracle)
        self.coordinator = TwinCoordinator(oracle, self.node)
        doors = Doors(self.clock, self.random, None, None, None)  # type: ignore[arg-type]
        self.nodes = {1: self.node}
        self.proxy = Proxy(doors, self.coordinator, self.nodes)
        self.coordinator.proxies.append(self.proxy)

    def rows(self) -> int:
        """Row versions in all shards."""
        return sum(len(shard.rows) for shard in self.node.shards.values())
