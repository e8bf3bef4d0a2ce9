"""Searching by primary keys: the vectors of stored rows become the queries.

Query i is the i-th row in the order of keys, as Milvus has it, whatever the order in which they are named. A row
without a vector is a query without hits.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from elanus.model.columns import Column, Rows
from elanus.model.errors import RequestError
from elanus.model.reads import Found, Hits, ShardRead
from elanus.model.requests import SearchRequest
from elanus.model.schema import FieldSchema
from elanus.nodes.proxy.consistency import Freshness
from elanus.nodes.proxy.entry import CollectionEntry
from elanus.nodes.proxy.plan import SearchPlan
from elanus.search.reduce import empty_hits, key_ranks

_LISTED_MAX = 64
"""Missing keys that a refusal names."""


def read_of_ids(entry: CollectionEntry, ids: Column, plan: SearchPlan, fresh: Freshness) -> ShardRead:
    """The query for the vectors of these rows; keys of the wrong type and repeated keys are refused."""
    is_number = isinstance(ids.values, np.ndarray)
    if is_number is entry.primary.data_type.is_string:
        wanted = "varchar" if entry.primary.data_type.is_string else "int64"
        raise RequestError(f"primary key is {wanted}, but IDs type mismatch")
    if len(np.unique(key_ranks(ids.values))) != len(ids):
        raise RequestError("duplicate IDs found in search request")
    listed = ids.values.tolist() if isinstance(ids.values, np.ndarray) else ids.values.to_pylist()
    return ShardRead(
        vchannel=entry.shards[0].vchannel,
        level=fresh.level,
        guarantee_timestamp=fresh.guarantee_timestamp,
        at_timestamp=fresh.at_timestamp,
        partition_ids=plan.partition_ids,
        filter=f"{entry.primary.name} in {{ids}}",
        templates={"ids": listed},
        output_field_ids=(plan.field.field_id,),
        ignore_growing=plan.ignore_growing,
    )


def with_vectors(request: SearchRequest, field: FieldSchema, found: Found) -> tuple[SearchRequest, Rows]:
    """The request with the rows' vectors as its queries, and which of the rows have one."""
    assert request.ids is not None
    if found.row_count != len(request.ids):
        raise RequestError(
            "some of the provided primary key IDs do not exist: missing IDs = " + _missing(request.ids, found.keys)
        )
    column = found.fields[field.field_id]
    places = np.arange(len(column)) if column.valid is None else np.flatnonzero(column.valid)
    vectors: Any = column.take(places).values
    if not isinstance(vectors, np.ndarray):
        rows = vectors.to_pylist()
        vectors = np.empty(len(rows), object)
        vectors[:] = rows
    return msgspec.structs.replace(request, queries=vectors, query_type=field.data_type), places


def _missing(ids: Column, keys: Column | None) -> str:
    asked = pa.array(ids.values)
    kept = asked if keys is None else asked.filter(pa.compute.invert(pa.compute.is_in(asked, pa.array(keys.values))))
    return "[" + " ".join(map(str, kept[:_LISTED_MAX].to_pylist())) + "]"


def spread(hits: Hits, places: Rows, query_count: int) -> Hits:
    """The hits of some queries as those of all: the others have none."""
    if len(places) == query_count:
        return hits
    counts = np.zeros(query_count, np.int64)
    counts[places] = hits.counts
    return msgspec.structs.replace(hits, counts=counts)


def no_hits(entry: CollectionEntry, query_count: int) -> Hits:
    """The answer when no query has a vector."""
    text = entry.primary.data_type.is_string
    return empty_hits(query_count, pa.array([], pa.large_string()) if text else None)
