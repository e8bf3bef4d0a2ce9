"""A tiny second implementation of the `Frontend` port: exact search over rows kept in memory, no durability.

It records every request, so that tests see what the wire made of a client's call.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from elanus.model import requests as r
from elanus.model.columns import Column, concatenate
from elanus.model.errors import (
    AliasNotFoundError,
    CollectionNotFoundError,
    CollectionNotLoadedError,
    DatabaseNotFoundError,
    NoIndexError,
    RequestError,
    UnsupportedError,
)
from elanus.model.schema import DEFAULT_PARTITION, CollectionSchema, FieldSchema
from elanus.model.timestamp import compose
from elanus.model.types import CompactionStatus, DataType, IndexStatus, LoadStatus, SegmentStatus

EPOCH = compose(1_700_000_000_000)


@dataclass
class Table:
    """One collection."""

    reply: r.CollectionReply
    columns: dict[str, Column] = field(default_factory=dict)
    indexes: list[r.IndexReply] = field(default_factory=list)
    loaded: bool = False

    @property
    def row_count(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0


class MemoryFrontend:
    """See the module's head."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.tables: dict[tuple[str, str], Table] = {}
        self.aliases: dict[tuple[str, str], str] = {}
        self.databases: dict[str, r.DatabaseReply] = {"default": r.DatabaseReply("default", 1, EPOCH, {})}
        self.clock = EPOCH
        self.gate: asyncio.Event | None = None
        self.entered = asyncio.Event()
        self.finished: list[str] = []
        self.fault: BaseException | None = None

    def _note(self, request: Any) -> Any:
        self.requests.append(request)
        self.clock += 1
        if self.fault is not None:
            raise self.fault
        return request

    def _table(self, request: Any) -> Table:
        database = request.database or "default"
        if database not in self.databases:
            raise DatabaseNotFoundError(database)
        name = self.aliases.get((database, request.collection), request.collection)
        for (owner, known), table in self.tables.items():
            if owner == database and (
                known == name or (not name and table.reply.collection_id == request.collection_id)
            ):
                return table
        raise CollectionNotFoundError(database, request.collection)

    # --- collections ------------------------------------------------------------------------------------------------
    async def create_collection(self, request: r.CreateCollectionRequest) -> None:
        self._note(request)
        fields = [
            msgspec.structs.replace(entry, field_id=100 + position)
            for position, entry in enumerate(request.schema.fields)
        ]
        if request.schema.enable_dynamic_field:
            fields.append(FieldSchema(100 + len(fields), "$meta", DataType.JSON, is_dynamic=True))
        schema = CollectionSchema(
            request.schema.name,
            tuple(fields),
            request.schema.description,
            request.schema.enable_dynamic_field,
            request.schema.functions,
        )
        database = request.database or "default"
        partition = r.PartitionInfo(self.clock + 1000, DEFAULT_PARTITION, self.clock)
        self.tables[database, schema.name] = Table(
            r.CollectionReply(
                database=database,
                database_id=1,
                collection_id=4_000_000 + len(self.tables),
                name=schema.name,
                schema=schema,
                shard_count=request.shard_count,
                virtual_channels=("by-dev-rootcoord-dml_0_1v0",),
                physical_channels=("by-dev-rootcoord-dml_0",),
                aliases=(),
                consistency_level=request.consistency_level,
                properties=request.properties,
                partitions=(partition,),
                created_timestamp=self.clock,
                updated_timestamp=self.clock,
            )
        )

    async def drop_collection(self, request: r.CollectionRequest) -> None:
        self._note(request)
        self.tables.pop((request.database or "default", request.collection), None)

    async def describe_collection(self, request: r.CollectionRequest) -> r.CollectionReply:
        table = self._table(self._note(request))
        return msgspec.structs.replace(table.reply, loaded_percentage=100 if table.loaded else -1)

    async def list_collections(self, request: r.ListCollectionsRequest) -> tuple[r.CollectionReply, ...]:
        self._note(request)
        return tuple(
            msgspec.structs.replace(table.reply, loaded_percentage=100 if table.loaded else -1)
            for (database, _), table in self.tables.items()
            if database == (request.database or "default") and (table.loaded or not request.only_loaded)
        )

    async def rename_collection(self, request: r.RenameCollectionRequest) -> None:
        table = self._table(self._note(request))
        database = request.database or "default"
        del self.tables[database, request.collection]
        table.reply = msgspec.structs.replace(table.reply, name=request.new_name)
        self.tables[request.new_database or database, request.new_name] = table

    async def alter_collection(self, request: r.AlterPropertiesRequest) -> None:
        table = self._table(self._note(request))
        table.reply = msgspec.structs.replace(table.reply, properties=table.reply.properties | request.properties)

    async def collection_row_count(self, request: r.CollectionRequest) -> int:
        return self._table(self._note(request)).row_count

    async def load(self, request: r.LoadRequest) -> None:
        self._table(self._note(request)).loaded = True

    async def release(self, request: r.PartitionsRequest) -> None:
        self._table(self._note(request)).loaded = False

    async def load_state(self, request: r.PartitionsRequest) -> r.LoadState:
        loaded = self._table(self._note(request)).loaded
        return r.LoadState(LoadStatus.LOADED if loaded else LoadStatus.NOT_LOADED, 100 if loaded else 0)

    # --- partitions, aliases, databases -----------------------------------------------------------------------------
    async def create_partition(self, request: r.PartitionRequest) -> None:
        table = self._table(self._note(request))
        info = r.PartitionInfo(self.clock, request.partition, self.clock)
        table.reply = msgspec.structs.replace(table.reply, partitions=(*table.reply.partitions, info))

    async def drop_partition(self, request: r.PartitionRequest) -> None:
        table = self._table(self._note(request))
        kept = tuple(info for info in table.reply.partitions if info.name != request.partition)
        table.reply = msgspec.structs.replace(table.reply, partitions=kept)

    async def list_partitions(self, request: r.PartitionsRequest) -> tuple[r.PartitionReply, ...]:
        table = self._table(self._note(request))
        return tuple(
            r.PartitionReply(info=info, loaded_percentage=100 if table.loaded else -1)
            for info in table.reply.partitions
        )

    async def partition_row_count(self, request: r.PartitionRequest) -> int:
        return self._table(self._note(request)).row_count

    async def create_alias(self, request: r.AliasRequest) -> None:
        self._table(self._note(request))
        self.aliases[request.database or "default", request.alias] = request.collection

    async def alter_alias(self, request: r.AliasRequest) -> None:
        await self.create_alias(request)

    async def drop_alias(self, request: r.AliasRequest) -> None:
        self._note(request)
        self.aliases.pop((request.database or "default", request.alias), None)

    async def describe_alias(self, request: r.AliasRequest) -> r.AliasReply:
        database = self._note(request).database or "default"
        if (database, request.alias) not in self.aliases:
            raise AliasNotFoundError(database, request.alias)
        return r.AliasReply(database, request.alias, self.aliases[database, request.alias])

    async def list_aliases(self, request: r.CollectionRequest) -> tuple[r.AliasReply, ...]:
        self._note(request)
        return tuple(
            r.AliasReply(database, alias, collection)
            for (database, alias), collection in self.aliases.items()
            if request.collection in ("", collection)
        )

    async def create_database(self, request: r.DatabaseRequest) -> None:
        self._note(request)
        self.databases[request.database] = r.DatabaseReply(request.database, 2, self.clock, request.properties)

    async def drop_database(self, request: r.DatabaseRequest) -> None:
        self._note(request)
        del self.databases[request.database]

    async def list_databases(self) -> tuple[r.DatabaseReply, ...]:
        return tuple(self.databases.values())

    async def describe_database(self, request: r.DatabaseRequest) -> r.DatabaseReply:
        return self.databases[self._note(request).database]

    async def alter_database(self, request: r.DatabaseRequest) -> None:
        reply = self.databases[self._note(request).database]
        self.databases[request.database] = msgspec.structs.replace(reply, properties=request.properties)

    # --- indexes ----------------------------------------------------------------------------------------------------
    async def create_index(self, request: r.CreateIndexRequest) -> None:
        table = self._table(self._note(request))
        table.indexes.append(
            r.IndexReply(
                index_id=7,
                name=request.index_name or request.field,
                field_name=request.field,
                params=request.params,
                indexed_rows=table.row_count,
                total_rows=table.row_count,
                pending_rows=0,
                state=IndexStatus.FINISHED,
            )
        )

    async def describe_index(self, request: r.IndexRequest) -> tuple[r.IndexReply, ...]:
        table = self._table(self._note(request))
        found = tuple(index for index in table.indexes if request.index_name in ("", index.name))
        if not found:
            raise NoIndexError(request.collection)
        return found

    async def drop_index(self, request: r.IndexRequest) -> None:
        table = self._table(self._note(request))
        table.indexes = [index for index in table.indexes if index.name != request.index_name]

    # --- data -------------------------------------------------------------------------------------------------------
    async def insert(self, request: r.InsertRequest) -> r.MutationReply:
        table = self._table(self._note(request))
        self.entered.set()
        if self.gate is not None:
            await self.gate.wait()
        columns = {("$meta" if sent.is_dynamic else sent.name): sent.column for sent in request.fields}
        primary = table.reply.schema.primary
        if primary.auto_id:
            first = table.row_count + 460_000_000_000_000_000
            columns[primary.name] = Column(np.arange(first, first + request.row_count))
        for name, column in columns.items():
            known = [table.columns[name]] if name in table.columns else []
            table.columns[name] = concatenate([*known, column])
        self.finished.append("insert")
        return r.MutationReply(keys=columns[primary.name], insert_count=request.row_count, timestamp=self.clock)

    async def upsert(self, request: r.InsertRequest) -> r.MutationReply:
        reply = await self.insert(request)
        count = request.row_count
        return msgspec.structs.replace(reply, delete_count=count, upsert_count=count)

    async def delete(self, request: r.DeleteRequest) -> r.MutationReply:
        self._table(self._note(request))
        return r.MutationReply(keys=None, delete_count=2, timestamp=self.clock)

    def _outgoing(self, table: Table, names: tuple[str, ...], rows: np.ndarray) -> tuple[r.OutgoingField, ...]:
        wanted = set(table.columns) if "*" in names else set(names)
        return tuple(
            r.OutgoingField(entry, table.columns[entry.name].take(rows))
            for entry in table.reply.schema.fields
            if entry.name in wanted and entry.name in table.columns
        )

    async def hybrid_search(self, request: r.HybridSearchRequest) -> r.SearchReply:
        self._note(request)
        return await self.search(request.requests[0])

    async def search(self, request: r.SearchRequest) -> r.SearchReply:
        table = self._table(self._note(request))
        if not table.loaded:
            raise CollectionNotLoadedError(request.collection, prefix="failed to search")
        if request.query_type is not DataType.FLOAT_VECTOR:
            raise UnsupportedError("a query of this type")
        name = request.params.get("anns_field") or table.reply.schema.vector_fields[0].name
        limit = int(request.params["topk"])
        primary = table.reply.schema.primary.name
        if not table.columns:
            rows, counts, scores = np.empty(0, np.int64), np.zeros(len(request.queries), np.int64), np.empty(0, "f4")
        else:
            vectors = table.columns[name].values
            if vectors.shape[1] != request.queries.shape[1]:
                raise RequestError("vector dimension mismatch")
            all_scores = request.queries @ vectors.T
            order = np.argsort(-all_scores, axis=1, kind="stable")[:, :limit]
            rows, scores = order.reshape(-1), np.take_along_axis(all_scores, order, 1).reshape(-1)
            counts = np.full(len(request.queries), order.shape[1])
        names = table.reply.schema.fields if "*" in request.output_fields else ()
        return r.SearchReply(
            collection=request.collection,
            primary_field=primary,
            counts=counts,
            keys=table.columns[primary].take(rows) if table.columns else Column(np.empty(0, np.int64)),
            scores=scores,
            fields=self._outgoing(table, request.output_fields, rows),
            output_fields=tuple(entry.name for entry in names) or request.output_fields,
            session_timestamp=self.clock,
            searched_row_count=table.row_count,
        )

    async def query(self, request: r.QueryRequest) -> r.QueryReply:
        table = self._table(self._note(request))
        primary = table.reply.schema.primary.name
        rows = np.arange(table.row_count)[: int(request.params.get("limit", -1)) if "limit" in request.params else None]
        if request.output_fields == ("count(*)",):
            made_up = FieldSchema(0, "count(*)", DataType.INT64)
            fields = (r.OutgoingField(made_up, Column(np.array([table.row_count]))),)
        else:
            fields = self._outgoing(table, (primary, *request.output_fields), rows)
        return r.QueryReply(
            collection=request.collection,
            primary_field=primary,
            fields=fields,
            output_fields=tuple(outgoing.field.name for outgoing in fields),
            session_timestamp=self.clock,
        )

    # --- maintenance ------------------------------------------------------------------------------------------------
    async def flush(self, request: r.FlushRequest) -> tuple[r.FlushedCollection, ...]:
        self._note(request)
        names = request.collections or tuple(name for _, name in self.tables)
        return tuple(r.FlushedCollection(name, (11, 12), self.clock, 1_700_000_000) for name in names)

    async def flush_state(self, request: r.FlushStateRequest) -> bool:
        self._note(request)
        return True

    async def compact(self, request: r.CompactRequest) -> r.CompactReply:
        self._note(request)
        return r.CompactReply(77, 1)

    async def compaction_state(self, compaction_id: int) -> r.CompactionState:
        self._note(compaction_id)
        return r.CompactionState(CompactionStatus.COMPLETED, completed=1, merges=(((11, 12), 13),))

    async def list_segments(self, request: r.CollectionRequest) -> tuple[r.SegmentInfo, ...]:
        table = self._table(self._note(request))
        identity = {"collection_id": table.reply.collection_id, "partition_id": 5}
        return (
            r.SegmentInfo(segment_id=11, row_count=100, state=SegmentStatus.FLUSHED, **identity),
            r.SegmentInfo(segment_id=12, row_count=5, state=SegmentStatus.GROWING, **identity),
        )

    async def allocate_timestamp(self) -> int:
        self.clock += 1
        return self.clock

    async def unhealthy_reasons(self) -> tuple[str, ...]:
        return ()
