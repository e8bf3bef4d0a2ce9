"""Reads of a shard and their results: what proxy, delegator and query nodes hand one another."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from elanus.model.channel import ORIGIN, Position
from elanus.model.columns import Column
from elanus.model.types import ConsistencyLevel


class VectorQuery(msgspec.Struct, frozen=True, kw_only=True):
    """`queries` (n, width); `params` the index's search parameters; bounds for range search or None."""

    field_id: int
    metric: str
    k: int
    queries: np.ndarray
    params: dict[str, Any] = {}
    radius: float | None = None
    range_filter: float | None = None


class ShardRead(msgspec.Struct, frozen=True, kw_only=True):
    """A read of one shard. With `vector`: a search; without: a query of at most `limit` rows in key order (-1: all),
    or only their number (`count_only`). `partition_ids` None means all. `at_timestamp` 0 means the last applied."""

    vchannel: str
    level: ConsistencyLevel
    guarantee_timestamp: int = 0
    at_timestamp: int = 0
    partition_ids: tuple[int, ...] | None = None
    dropped_partition_ids: tuple[int, ...] = ()
    filter: str = ""
    templates: dict[str, Any] = {}
    vector: VectorQuery | None = None
    limit: int = -1
    count_only: bool = False
    output_field_ids: tuple[int, ...] = ()
    ignore_growing: bool = False
    expire_before: int = 0
    """Rows with a timestamp below it have outlived the collection's time to live."""


class Hits(msgspec.Struct, frozen=True, kw_only=True):
    """Search results: for each query its hits, best first, one after another. `counts` (n,) int64; `scores` float32."""

    counts: np.ndarray
    keys: Column
    scores: np.ndarray
    fields: dict[int, Column] = {}
    read_timestamp: int = 0
    searched_row_count: int = 0


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """Query results: rows in ascending key order; `row_count` alone when only the number was asked."""

    row_count: int
    keys: Column | None = None
    timestamps: np.ndarray | None = None
    fields: dict[int, Column] = {}
    read_timestamp: int = 0
    read_position: Position = ORIGIN
