"""Sealed segments: rows of one partition in files, sorted by key, with the deletes applied since.

Data never changes; two things beside it do. `deleted_at` is lowered in place (see `segment.deletes` for why that is
safe), and `deletes_through` follows: every delete of the shard up to it has been applied. The set of built indexes is
replaced in one assignment when one is added.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from elanus.base.errors import CorruptedError, check
from elanus.expr import Lookup, ShredCache
from elanus.expr.tree import ColumnCompare, RowLeaf
from elanus.index.contract import VectorIndex
from elanus.index.scalars.contract import ScalarIndex
from elanus.index.scored import ScoredVectors
from elanus.index.vectors import Vectors
from elanus.model.channel import Position
from elanus.model.columns import Column, Mask, Rows, Values
from elanus.model.schema import CollectionSchema
from elanus.model.segment import IndexFile, SegmentEntry
from elanus.segment.deletes import Deletes, Timestamps, hide, never
from elanus.segment.files import ScalarFile
from elanus.segment.keys import find_rows, has_duplicates
from elanus.segment.reader import Visibility, missing_column, visible_rows
from elanus.segment.searchable import searchable


class BuiltScalar(NamedTuple):
    """A scalar index and the file it was mapped from."""

    file: IndexFile
    built: ScalarIndex


class SealedSegment:
    """A loaded segment; also its own `Reader`."""

    def __init__(
        self, entry: SegmentEntry, schema: CollectionSchema, scalars: ScalarFile, vectors: Mapping[int, Column]
    ) -> None:
        if scalars.row_count != entry.row_count:
            raise CorruptedError(f"{entry.scalars.key}: {scalars.row_count} rows, the manifest says {entry.row_count}")
        self.entry = entry
        self.schema = schema
        self.deletes_through = entry.deletes_through
        self.delete_version = 0
        self.delete_timestamp_max = 0
        self.indexes: Mapping[int, VectorIndex] = {}
        self.scalar_indexes: tuple[BuiltScalar, ...] = ()
        self.shreds = ShredCache()
        self.sorted_field_id = schema.primary.field_id
        self.index_ids: tuple[int, ...] = ()
        self._scalars = scalars
        self._vectors = vectors
        self._missing: dict[int, Column] = {}
        self._searchable: dict[int, Vectors | ScoredVectors] = {}
        self._deleted_at = scalars.deleted_at()
        if self._deleted_at is not None:
            marked = self._deleted_at[self._deleted_at != np.iinfo(np.uint64).max]
            self.delete_timestamp_max = int(marked.max(initial=0))
        self._may_repeat_keys = has_duplicates(self.keys)

    @property
    def row_count(self) -> int:
        return self.entry.row_count

    @property
    def keys(self) -> Values:
        return self._scalars.column(self.schema.primary.field_id).values

    @property
    def timestamps(self) -> Timestamps:
        return self._scalars.timestamps()

    @property
    def deleted_at(self) -> Timestamps | None:
        """Delete timestamps by row; None when no row was ever deleted."""
        return self._deleted_at

    @property
    def may_repeat_keys(self) -> bool:
        return self._may_repeat_keys

    def column(self, field_id: int) -> Column:
        if field_id in self._vectors:
            return self._vectors[field_id]
        if self._scalars.has(field_id):
            return self._scalars.column(field_id)
        if field_id not in self._missing:
            field = self.schema.field_by_id(field_id)
            check(field is not None, f"segment {self.entry.segment_id}: no field {field_id}")
            assert field is not None
            self._missing[field_id] = missing_column(field, self.row_count)
        return self._missing[field_id]

    def extend_schema(self, schema: CollectionSchema) -> None:
        """Go over to a newer schema; rows read the default or null in its further fields."""
        if schema.version > self.schema.version:
            self.schema = schema

    def vectors(self, field_id: int) -> Vectors | ScoredVectors:
        known = self._searchable.get(field_id)
        if known is None:
            field = self.schema.field_by_id(field_id)
            check(field is not None, f"segment {self.entry.segment_id}: no field {field_id}")
            assert field is not None
            known = searchable(self.column(field_id).values, field)
            self._searchable[field_id] = known
        return known

    def index(self, field_id: int) -> VectorIndex | None:
        return self.indexes.get(field_id)

    def lookup(self, leaf: RowLeaf) -> Lookup | None:
        """The cheapest answer of a scalar index; see `expr.indexed.IndexedSource`."""
        if isinstance(leaf, ColumnCompare):
            return None
        field_id = leaf.operand.field_id
        indexes = [one.built for one in self.scalar_indexes if one.file.field_id == field_id]
        found = [lookup for index in indexes if (lookup := index.lookup(leaf)) is not None]
        return min(found, key=lambda lookup: lookup.cost, default=None)

    def apply_deletes(self, deletes: Deletes, through: Position) -> None:
        """Apply a run of deletes that follows directly on `deletes_through`."""
        found = find_rows(self.keys, deletes.keys.values) if len(deletes) else None
        if found is not None and len(found[1]):
            deleted_at = never(self.row_count) if self._deleted_at is None else self._deleted_at
            if hide(deletes, found, self.timestamps, deleted_at, self.entry.partition_id):
                self._deleted_at = deleted_at
                self.delete_version += 1
                self.delete_timestamp_max = max(self.delete_timestamp_max, int(deletes.timestamps.max()))
        self.deletes_through = max(self.deletes_through, through)

    def find(self, keys: Values) -> tuple[Rows, Rows]:
        return find_rows(self.keys, keys)

    def visible(self, visibility: Visibility, rows: Rows | None = None) -> Mask | None:
        if (
            self._deleted_at is None
            and self.entry.timestamp_max <= visibility.timestamp
            and not visibility.expire_before
        ):
            return None  # without reading the timestamps
        chosen = slice(None) if rows is None else rows
        deleted_at = None if self._deleted_at is None else self._deleted_at[chosen]
        return visible_rows(self.timestamps[chosen], deleted_at, visibility, self.entry.timestamp_max)

    def covers(self, visibility: Visibility) -> bool:
        """Whether the read asks for this segment's partition at all."""
        partition_id = self.entry.partition_id
        chosen = visibility.partition_ids is None or partition_id in visibility.partition_ids
        return chosen and partition_id not in visibility.dropped_partitions
