"""Requests in the words of the tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from elanus.base.errors import ElanusError
from elanus.model.columns import NUMPY_DTYPES, Column, arrow_type
from elanus.model.requests import (
    CreateCollectionRequest,
    CreateIndexRequest,
    IncomingField,
    InsertRequest,
    LoadRequest,
    QueryReply,
    QueryRequest,
    SearchReply,
    SearchRequest,
)
from elanus.model.schema import CollectionSchema, FieldSchema
from elanus.model.types import DataType

from .twin import Bench, python_values

ID = FieldSchema(0, "id", DataType.INT64, is_primary=True)
TEXT_ID = FieldSchema(0, "id", DataType.VARCHAR, is_primary=True, type_params={"max_length": "64"})
AUTO_ID = FieldSchema(0, "id", DataType.INT64, is_primary=True, auto_id=True)
VECTOR = FieldSchema(0, "vector", DataType.FLOAT_VECTOR, type_params={"dim": "2"})
NAME = FieldSchema(0, "name", DataType.VARCHAR, nullable=True, type_params={"max_length": "8"})
RANK = FieldSchema(0, "rank", DataType.INT16, default=7)


def schema(*fields: FieldSchema, name: str = "c", dynamic: bool = False) -> CollectionSchema:
    return CollectionSchema(name=name, fields=fields, enable_dynamic_field=dynamic)


async def collection(
    bench: Bench, made: CollectionSchema, *, metric: str = "L2", load: bool = True, **more: Any
) -> None:
    await bench.proxy.create_collection(CreateCollectionRequest(schema=made, **more))
    if load:
        params = {"index_type": "FLAT", "metric_type": metric}
        for field in made.vector_fields:
            await bench.proxy.create_index(CreateIndexRequest(collection=made.name, field=field.name, params=params))
        await bench.proxy.load(LoadRequest(collection=made.name))


def sent(
    name: str, kind: DataType, values: Any, *, valid: Any = None, element: DataType = DataType.NONE, **more: Any
) -> IncomingField:
    if isinstance(values, np.ndarray | pa.Array):
        made = values
    elif kind in NUMPY_DTYPES:
        made = np.array(values, NUMPY_DTYPES[kind])
    else:
        made = pa.array(values, arrow_type(kind, element))
    mask = None if valid is None else np.array(valid, np.bool_)
    return IncomingField(name=name, data_type=kind, column=Column(made, mask), element_type=element, **more)


def ids(values: Any) -> IncomingField:
    strings = len(values) > 0 and isinstance(values[0], str)
    return sent("id", DataType.VARCHAR if strings else DataType.INT64, values)


def vectors(values: Any) -> IncomingField:
    return sent("vector", DataType.FLOAT_VECTOR, np.array(values, "<f4").reshape(-1, 2))


def insert(*fields: IncomingField, rows: int | None = None, **more: Any) -> InsertRequest:
    count = len(fields[0].column) if rows is None else rows
    return InsertRequest(collection=more.pop("collection", "c"), fields=fields, row_count=count, **more)


def search(queries: Any, limit: int = 10, params: dict[str, str] | None = None, **more: Any) -> SearchRequest:
    made = np.array(queries, "<f4").reshape(-1, 2)
    return SearchRequest(
        collection="c",
        queries=made,
        query_type=DataType.FLOAT_VECTOR,
        params={"topk": str(limit), **(params or {})},
        **more,
    )


def query(
    filter: str = "", fields: tuple[str, ...] = (), params: dict[str, str] | None = None, **more: Any
) -> QueryRequest:
    return QueryRequest(collection="c", filter=filter, output_fields=fields, params=params or {}, **more)


def table(reply: QueryReply | SearchReply) -> dict[str, list[Any]]:
    """Columns of a reply as Python values."""
    return {
        one.field.name: [
            value.tolist() if isinstance(value, np.ndarray) else value for value in python_values(one.column)
        ]
        for one in reply.fields
    }


def found_ids(reply: SearchReply) -> list[list[Any]]:
    """Keys of each query's hits."""
    keys = python_values(reply.keys)
    ends = np.cumsum(reply.counts)
    return [keys[end - count : end] for end, count in zip(ends, reply.counts, strict=True)]


TAGS = FieldSchema(
    0,
    "tags",
    DataType.ARRAY,
    nullable=True,
    element_type=DataType.VARCHAR,
    type_params={"max_capacity": "2", "max_length": "3"},
)
NUMBERS = FieldSchema(
    0, "numbers", DataType.ARRAY, nullable=True, element_type=DataType.INT8, type_params={"max_capacity": "4"}
)
DOC = FieldSchema(0, "doc", DataType.JSON, nullable=True)
WIDE = schema(ID, VECTOR, NAME, RANK, TAGS, NUMBERS, DOC, dynamic=True)


def expect(make: Callable[[Bench], Any], text: str, code: int, *, made: CollectionSchema = WIDE, **how: Any) -> None:
    """The call is refused with this text and code, and no shard saw anything."""

    async def main() -> None:
        bench = Bench()
        await collection(bench, made, **how)
        before = (dict(bench.coordinator.views), bench.rows())
        with pytest.raises(ElanusError) as caught:
            await make(bench)
        assert text in caught.value.message
        assert caught.value.code == code
        assert (dict(bench.coordinator.views), bench.rows()) == before
        assert not bench.node.arrivals

    asyncio.run(main())
