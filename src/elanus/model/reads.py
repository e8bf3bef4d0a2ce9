"""Reads of a shard and their results: what proxy, delegator and query nodes hand one another."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np

from elanus.model.channel import ORIGIN, Position
from elanus.model.columns import Column
from elanus.model.index import CastPath
from elanus.model.segment import FileRef
from elanus.model.types import ConsistencyLevel, DataType

ELEMENT_PLACES_ID: Final = -1


class Grouping(msgspec.Struct, frozen=True, kw_only=True):
    """Hits are put in groups of equal value: at most `size` of each. The value is that of the field, or what its JSON
    holds at `path`, as `data_type`; a value that is not of the type is null, or, with `is_strict_cast`, an error. Null
    is a group of its own. `is_strict`: look on until the groups are full, not only until there are enough of them.
    `among`: only groups of these values count."""

    field_id: int
    data_type: DataType
    path: tuple[str | int, ...] = ()
    is_strict_cast: bool = False
    size: int = 1
    is_strict: bool = False
    among: Column | None = None


class Boost(msgspec.Struct, frozen=True, kw_only=True):
    """Multiplies by `weight` the scores of rows that pass `filter`; with a `random_seed` by a fraction of it that is
    drawn from the seed and the value of `random_field_id` (0: the row's place)."""

    weight: float
    filter: str = ""
    random_seed: int | None = None
    random_field_id: int = 0


class Boosting(msgspec.Struct, frozen=True, kw_only=True):
    """Several boosts are multiplied, or added, and the outcome is multiplied with the score, or added to it."""

    boosts: tuple[Boost, ...]
    adds_boosts: bool = False
    adds_to_score: bool = False


class VectorQuery(msgspec.Struct, frozen=True, kw_only=True):
    """`queries` (n, width); `params` the index's search parameters; bounds for range search or None. With `grouping`,
    `k` counts groups."""

    field_id: int
    metric: str
    k: int
    queries: np.ndarray
    params: dict[str, Any] = {}
    radius: float | None = None
    range_filter: float | None = None
    grouping: Grouping | None = None
    boosting: Boosting | None = None


class OrderKey(msgspec.Struct, frozen=True):
    """One field of an ORDER BY; strings are ordered by their bytes."""

    field_id: int
    descending: bool = False
    nulls_first: bool = False


class Aggregate(msgspec.Struct, frozen=True):
    """`function` is count, sum, avg, min or max; `field_id` 0 counts rows."""

    function: str
    field_id: int = 0


class Aggregation(msgspec.Struct, frozen=True):
    """Aggregates for each combination of values of the grouping fields; without such fields over all rows."""

    group_field_ids: tuple[int, ...]
    aggregates: tuple[Aggregate, ...]


class ShardRead(msgspec.Struct, frozen=True, kw_only=True):
    """A read of one shard. With `vector`: a search; without: a query of at most `limit` rows (-1: all) in key order,
    or in `order`, whose fields are among the output fields; or only the rows' number (`count_only`), or their
    `aggregation`. `partition_ids` None means all. `at_timestamp` 0 means the last applied."""

    vchannel: str
    level: ConsistencyLevel
    guarantee_timestamp: int = 0
    at_timestamp: int = 0
    partition_ids: tuple[int, ...] | None = None
    dropped_partition_ids: tuple[int, ...] = ()
    filter: str = ""
    templates: dict[str, Any] = {}
    timezone: str = "UTC"
    """Of times in the filter that name no offset."""
    casts: tuple[CastPath, ...] = ()
    """At these paths strings are compared as the numbers that they spell."""
    vector: VectorQuery | None = None
    limit: int = -1
    count_only: bool = False
    order: tuple[OrderKey, ...] = ()
    aggregation: Aggregation | None = None
    output_field_ids: tuple[int, ...] = ()
    ignore_growing: bool = False
    expire_before: int = 0
    """Rows with a timestamp below it have outlived the collection's time to live."""


class Hits(msgspec.Struct, frozen=True, kw_only=True):
    """Search results: for each query its hits, best first, one after another. `counts` (n,) int64; `scores` float32.
    Of a grouped search: the groups by their best hit, each group's hits together, and `groups`, what each hit's group
    has in common. Of a search of lists element by element: `elements`, int64, the found one's place in its list; a key
    may then be found several times."""

    counts: np.ndarray
    keys: Column
    scores: np.ndarray
    fields: dict[int, Column] = {}
    groups: Column | None = None
    elements: np.ndarray | None = None
    read_timestamp: int = 0
    searched_row_count: int = 0
    spilled: FileRef | None = None
    """Where all of this is, when it is too large for one reply; then nothing else is said here."""

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        arrays = [self.counts, self.scores, *(() if self.elements is None else (self.elements,))]
        columns = [self.keys, *self.fields.values(), *(() if self.groups is None else (self.groups,))]
        return int(sum(one.nbytes for one in (*arrays, *columns)))


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """Query results: rows in ascending key order, or in the order asked for; `row_count` alone when only the number was
    asked. Of a filter that means elements of a struct array, `fields` holds at `ELEMENT_PLACES_ID` for each row the
    places of its elements that are meant (large_list of int64), and the number is that of elements. Of an aggregation:
    `groups`, a column for each grouping field and then for each state (see `search.aggregate`)."""

    row_count: int
    keys: Column | None = None
    timestamps: np.ndarray | None = None
    fields: dict[int, Column] = {}
    groups: tuple[Column, ...] = ()
    read_timestamp: int = 0
    read_position: Position = ORIGIN
    spilled: FileRef | None = None
    """Where all of this is, when it is too large for one reply; then only `row_count` is said here."""

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        columns = [*self.fields.values(), *self.groups, *(() if self.keys is None else (self.keys,))]
        stamps = 0 if self.timestamps is None else self.timestamps.nbytes
        return int(stamps + sum(column.nbytes for column in columns))
