"""A client in plain Python for worlds and simulations: rows are dicts, answers are dicts.

client = Client(world)
await client.create()
await client.insert([row(1), row(2)])
assert await client.ids() == [1, 2]
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, Protocol

import msgspec
import numpy as np
import pyarrow as pa

from elanus.model.columns import NUMPY_DTYPES, Column, arrow_type
from elanus.model.requests import (
    CollectionRequest,
    CompactRequest,
    Consistency,
    CreateCollectionRequest,
    CreateIndexRequest,
    DeleteRequest,
    FlushRequest,
    FlushStateRequest,
    IncomingField,
    IndexRequest,
    InsertRequest,
    LoadRequest,
    MutationReply,
    PartitionRequest,
    PartitionsRequest,
    QueryReply,
    QueryRequest,
    SearchReply,
    SearchRequest,
)
from elanus.model.schema import CollectionSchema, FieldSchema
from elanus.model.types import CompactionStatus, ConsistencyLevel, DataType, IndexStatus, LoadStatus
from elanus.nodes.contracts import Frontend

ID: Final = FieldSchema(0, "id", DataType.INT64, is_primary=True)
TEXT_ID: Final = FieldSchema(0, "id", DataType.VARCHAR, is_primary=True, type_params={"max_length": "64"})
VECTOR: Final = FieldSchema(0, "vector", DataType.FLOAT_VECTOR, type_params={"dim": "2"})
VALUE: Final = FieldSchema(0, "value", DataType.INT64)
NAME: Final = FieldSchema(0, "name", DataType.VARCHAR, nullable=True, type_params={"max_length": "32"})
FIELDS: Final = (ID, VECTOR, VALUE, NAME)

POLL_S: Final = 0.1
POLL_S_MAX: Final = 1.0
STRONG: Final = Consistency(level=ConsistencyLevel.STRONG)
Row = dict[str, Any]


def row(number: int, value: int = 0, **more: Any) -> Row:
    """A row of FIELDS whose vector stands at (number, 0)."""
    return {"id": number, "vector": [float(number), 0.0], "value": value, "name": f"n{number}", **more}


def rows(numbers: Iterable[int], value: int = 0) -> list[Row]:
    return [row(number, value) for number in numbers]


def python_values(column: Column) -> list[Any]:
    values: list[Any] = column.values.tolist() if isinstance(column.values, np.ndarray) else column.values.to_pylist()
    if column.valid is None:
        return values
    return [value if valid else None for value, valid in zip(values, column.valid.tolist(), strict=True)]


def sent(field: FieldSchema, values: Sequence[Any]) -> IncomingField:
    """A column as clients send it."""
    valid = np.array([value is not None for value in values])
    filler: Any = 0
    if field.data_type.is_string:
        filler = ""
    elif field.data_type is DataType.ARRAY:
        filler = []
    elif field.data_type is DataType.JSON:
        filler = b"null"
        values = [None if value is None else msgspec.json.encode(value) for value in values]
    filled = [filler if value is None else value for value in values]
    if field.data_type in NUMPY_DTYPES:
        made: Any = np.array(filled, NUMPY_DTYPES[field.data_type])
    else:
        made = pa.array(filled, arrow_type(field.data_type, field.element_type))
    return IncomingField(
        name=field.name,
        data_type=field.data_type,
        column=Column(made, None if valid.all() else valid),
        element_type=field.element_type,
        dimension=field.dimension,
        is_dynamic=field.is_dynamic,
    )


class Place(Protocol):
    """Where a client is: a proxy to talk to, and a clock."""

    @property
    def proxy(self) -> Frontend:
        """What clients talk to now."""
        ...

    async def sleep(self, seconds: float) -> None:
        """By the place's clock."""
        ...


class Client:
    """Calls on one collection, by way of its place's proxy, whichever process that now is."""

    def __init__(self, world: Place, name: str = "c", fields: tuple[FieldSchema, ...] = FIELDS) -> None:
        self.world = world
        self.name = name
        self.fields = fields
        self.dynamic = False

    @property
    def proxy(self) -> Frontend:
        """What the calls go to."""
        return self.world.proxy

    # --- collection -------------------------------------------------------------------------------------------------
    async def create(
        self,
        *,
        load: bool = True,
        replicas: int = 1,
        index_type: str = "FLAT",
        metric: str = "L2",
        dynamic: bool = False,
        **more: Any,
    ) -> None:
        self.dynamic = dynamic
        schema = CollectionSchema(name=self.name, fields=self.fields, enable_dynamic_field=dynamic)
        await self.proxy.create_collection(CreateCollectionRequest(schema=schema, **more))
        for field in schema.vector_fields:
            await self.index(field.name, {"index_type": index_type, "metric_type": metric})
        if load:
            await self.load(replicas=replicas)

    async def index(self, field: str, params: dict[str, str]) -> None:
        await self.proxy.create_index(CreateIndexRequest(collection=self.name, field=field, params=params))

    async def load(self, *partitions: str, replicas: int = 1) -> None:
        await self.proxy.load(LoadRequest(collection=self.name, partitions=partitions, replica_count=replicas))
        state = PartitionsRequest(collection=self.name, partitions=partitions)
        while (await self.proxy.load_state(state)).state is not LoadStatus.LOADED:
            await self.world.sleep(0.05)

    async def release(self, *partitions: str) -> None:
        await self.proxy.release(PartitionsRequest(collection=self.name, partitions=partitions))

    async def drop(self) -> None:
        await self.proxy.drop_collection(CollectionRequest(collection=self.name))

    async def create_partition(self, name: str) -> None:
        await self.proxy.create_partition(PartitionRequest(collection=self.name, partition=name))

    async def drop_partition(self, name: str) -> None:
        await self.proxy.drop_partition(PartitionRequest(collection=self.name, partition=name))

    # --- rows -------------------------------------------------------------------------------------------------------
    def _insert_request(self, many: Sequence[Row], **more: Any) -> InsertRequest:
        declared = {field.name for field in self.fields}
        fields = [
            sent(field, [one.get(field.name) for one in many])
            for field in self.fields
            if any(field.name in one for one in many)
        ]
        if self.dynamic:
            meta = FieldSchema(0, "$meta", DataType.JSON, is_dynamic=True)
            extra = [{key: value for key, value in one.items() if key not in declared} for one in many]
            fields.append(sent(meta, extra))
        return InsertRequest(collection=self.name, fields=tuple(fields), row_count=len(many), **more)

    async def insert(self, many: Sequence[Row], **more: Any) -> MutationReply:
        return await self.proxy.insert(self._insert_request(many, **more))

    async def upsert(self, many: Sequence[Row], **more: Any) -> MutationReply:
        return await self.proxy.upsert(self._insert_request(many, **more))

    async def delete(self, filter: str, **more: Any) -> MutationReply:
        return await self.proxy.delete(DeleteRequest(collection=self.name, filter=filter, **more))

    async def delete_ids(self, keys: Sequence[Any], **more: Any) -> MutationReply:
        return await self.delete(f"id in {list(keys)!r}".replace("'", '"'), **more)

    # --- reads ------------------------------------------------------------------------------------------------------
    async def query(
        self, filter: str = "", fields: tuple[str, ...] = ("*",), *, consistency: Consistency = STRONG, **more: Any
    ) -> QueryReply:
        params: dict[str, str] = {key: str(more.pop(key)) for key in ("limit", "offset", "iterator") if key in more}
        return await self.proxy.query(
            QueryRequest(
                collection=self.name,
                filter=filter,
                output_fields=fields,
                params=params,
                consistency=consistency,
                **more,
            )
        )

    async def rows(self, filter: str = "", fields: tuple[str, ...] = ("*",), **more: Any) -> list[Row]:
        """Matching rows in key order."""
        if not filter and "limit" not in more:
            filter = 'id >= ""' if self.fields[0].data_type.is_string else "id > -9000000000000000000"
        reply = await self.query(filter, fields, **more)
        columns = {one.field.name: python_values(one.column) for one in reply.fields}
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    async def ids(self, filter: str = "", **more: Any) -> list[Any]:
        return [one["id"] for one in await self.rows(filter, ("id",), **more)]

    async def values(self, **more: Any) -> dict[Any, int]:
        """`value` by key."""
        return {one["id"]: one["value"] for one in await self.rows("", ("id", "value"), **more)}

    async def count(self, filter: str = "", **more: Any) -> int:
        reply = await self.query(filter, ("count(*)",), **more)
        return int(reply.fields[0].column.values[0])

    async def search(
        self, vector: Sequence[float], k: int = 10, *, consistency: Consistency = STRONG, **more: Any
    ) -> list[tuple[Any, float]]:
        """Key and score of each hit, best first."""
        reply = await self.search_reply(vector, k, consistency=consistency, **more)
        return list(zip(python_values(reply.keys), reply.scores.tolist(), strict=True))

    async def search_rows(self, vector: Sequence[float], k: int = 10, **more: Any) -> list[Row]:
        """The hits with their fields, best first."""
        reply = await self.search_reply(vector, k, **more)
        columns = {one.field.name: python_values(one.column) for one in reply.fields}
        columns[self.fields[0].name] = python_values(reply.keys)
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    async def search_reply(
        self, vector: Sequence[float], k: int = 10, *, consistency: Consistency = STRONG, **more: Any
    ) -> SearchReply:
        params = {"topk": str(k), **more.pop("params", {})}
        return await self.proxy.search(
            SearchRequest(
                collection=self.name,
                queries=np.array([vector], np.float32),
                query_type=DataType.FLOAT_VECTOR,
                params=params,
                consistency=consistency,
                **more,
            )
        )

    # --- upkeep -----------------------------------------------------------------------------------------------------
    async def flush(self) -> None:
        """Seal everything written so far and wait for it."""
        (flushed,) = await self.proxy.flush(FlushRequest(collections=(self.name,)))
        state = FlushStateRequest(collection=self.name, timestamp=flushed.timestamp)
        await self._until(lambda: self.proxy.flush_state(state))

    async def compact(self, *, major: bool = False) -> None:
        """Merge what can be merged and wait for it."""
        reply = await self.proxy.compact(CompactRequest(collection=self.name, major=major))

        async def is_compacted() -> bool:
            return (await self.proxy.compaction_state(reply.compaction_id)).state is CompactionStatus.COMPLETED

        await self._until(is_compacted)

    async def _until(self, is_so: Callable[[], Awaitable[bool]]) -> None:
        """Ask again, ever less often."""
        pause_s = POLL_S
        while not await is_so():
            await self.world.sleep(pause_s)
            pause_s = min(POLL_S_MAX, 2 * pause_s)

    async def wait_indexed(self) -> None:
        while any(
            one.state is not IndexStatus.FINISHED
            for one in await self.proxy.describe_index(IndexRequest(collection=self.name))
        ):
            await self.world.sleep(POLL_S)

    async def segment_count(self) -> int:
        return len(await self.proxy.list_segments(CollectionRequest(collection=self.name)))
