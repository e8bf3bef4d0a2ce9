"""Which rows of a segment a read may see and its filter keeps, with caches of what cannot change any more.

The outcome of a filter over a sealed segment depends on data that never changes, so it is kept per (segment, filter);
over a growing segment it is kept for the rows that were there, and made longer (see `segment.growing.PrefixMasks`).
Deletes and time to live are no part of either. The union of a sealed segment's mask with its deletes is kept too, under
the segment's delete version, as long as the read's timestamp lies above everything the segment holds. What sealed
segments need lives in one bounded cache, oldest use out first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from elanus.base.doors import Random
from elanus.expr import Filter, effort, element_mask, evaluate, primary_key_values
from elanus.index.contract import RowMask
from elanus.model.columns import Column, Mask, Rows
from elanus.model.schema import CollectionSchema
from elanus.segment.growing import GrowingReader
from elanus.segment.reader import Reader, Visibility
from elanus.segment.sealed import SealedSegment

CACHE_BYTES_MAX: Final = 64 * 1024 * 1024
CACHE_ENTRIES_MAX: Final = 4096
_COMPARISON_US: Final = 0.001
"""A row's share of one numeric comparison over a column."""


class MaskCache:
    """Row masks by key, bounded in bytes and entries."""

    def __init__(self) -> None:
        self._masks: OrderedDict[tuple[object, ...], RowMask] = OrderedDict()
        self._bytes = 0

    def get(self, key: tuple[object, ...]) -> RowMask | None:
        """The mask kept under `key`."""
        mask = self._masks.get(key)
        if mask is not None:
            self._masks.move_to_end(key)
        return mask

    def put(self, key: tuple[object, ...], mask: RowMask) -> None:
        """Keep a mask, dropping the least recently used ones when there is no room."""
        if key in self._masks or mask.keep.nbytes > CACHE_BYTES_MAX:
            return
        self._masks[key] = mask
        self._bytes += mask.keep.nbytes
        while self._bytes > CACHE_BYTES_MAX or len(self._masks) > CACHE_ENTRIES_MAX:
            _, dropped = self._masks.popitem(last=False)
            self._bytes -= dropped.keep.nbytes

    @property
    def entry_count(self) -> int:
        """Masks kept."""
        return len(self._masks)

    @property
    def nbytes(self) -> int:
        """Their size."""
        return self._bytes

    def forget_segment(self, segment_id: int) -> None:
        """Drop all masks of a released segment."""
        for key in [key for key in self._masks if key[0] == segment_id]:
            self._bytes -= self._masks.pop(key).keep.nbytes


@dataclass(frozen=True, slots=True)
class Masking:
    """What masks are made with: a cache for sealed segments, and chance for `random_sample`."""

    cache: MaskCache
    chance: Random


def row_mask(reader: Reader, filter_: Filter, visibility: Visibility, masking: Masking) -> RowMask | None:
    """The rows that are visible and pass; None when all do."""
    if isinstance(reader, SealedSegment) and filter_.cache_key is not None:
        return _sealed_mask(reader, filter_, visibility, masking.cache)
    mask = reader.visible(visibility)
    if filter_.sample is not None:
        # Sampled are the rows that can be seen, so that a deleted one takes nobody's place.
        mask = evaluate(filter_, reader, chance=masking.chance, among=mask)
    elif filter_.root is not None:
        kept = _growing_mask(reader, filter_) if isinstance(reader, GrowingReader) else evaluate(filter_, reader)
        mask = kept if mask is None else mask & kept
    return None if mask is None else RowMask.of(mask)


class _Tail:
    """The rows of a reader from one on, as a source."""

    def __init__(self, reader: Reader, start: int) -> None:
        self._reader = reader
        self._start = start
        self.row_count = reader.row_count - start

    def column(self, field_id: int) -> Column:
        """All values of one field."""
        return self._reader.column(field_id).slice(self._start, self._reader.row_count)


def _growing_mask(reader: GrowingReader, filter_: Filter) -> Mask:
    if filter_.cache_key is None:
        return evaluate(filter_, reader)
    return reader.segment.masks.of(
        filter_.cache_key, reader.row_count, lambda start: evaluate(filter_, _Tail(reader, start))
    )


def _sealed_mask(segment: SealedSegment, filter_: Filter, visibility: Visibility, cache: MaskCache) -> RowMask | None:
    settled = (
        visibility.timestamp >= max(segment.entry.timestamp_max, segment.delete_timestamp_max)
        and not visibility.expire_before
    )
    if settled and segment.deleted_at is None and filter_.root is None:
        return None
    segment_id = segment.entry.segment_id
    version = segment.delete_version
    key = (segment_id, filter_.cache_key, version)
    known = cache.get(key) if settled else None
    if known is not None:
        return known
    mask = segment.visible(visibility)
    if filter_.root is not None:
        kept = _filter_mask(segment, filter_, cache)
        mask = kept if mask is None else mask & kept
    if mask is None:
        return None
    combined = RowMask.of(mask)
    if settled:
        cache.put(key, combined)
    return combined


def _filter_mask(segment: SealedSegment, filter_: Filter, cache: MaskCache) -> Mask:
    known = cache.get(_key(segment, filter_))
    if known is None:
        known = filter_mask(segment, filter_)
        cache.put(_key(segment, filter_), known)
    return known.keep


def _key(segment: SealedSegment, filter_: Filter) -> tuple[object, ...]:
    return (segment.entry.segment_id, filter_.cache_key)


def filter_mask(segment: SealedSegment, filter_: Filter) -> RowMask:
    """The rows that the filter keeps, seen or not. Touches nothing that changes, so that any thread may run it."""
    return RowMask.of(evaluate(filter_, segment))


def unknown_masks(readers: Sequence[Reader], filter_: Filter, cache: MaskCache, us_max: float) -> list[SealedSegment]:
    """The sealed segments whose mask is not kept and takes more than `us_max` to make."""
    if filter_.root is None or filter_.cache_key is None:
        return []
    return [
        reader
        for reader in readers
        if isinstance(reader, SealedSegment)
        and cache.get(_key(reader, filter_)) is None
        and effort(filter_, reader) * _COMPARISON_US > us_max
    ]


def keep_mask(segment: SealedSegment, filter_: Filter, mask: RowMask, cache: MaskCache) -> None:
    """Remember what `filter_mask` gave."""
    cache.put(_key(segment, filter_), mask)


def among_elements(reader: Reader, filter_: Filter, mask: RowMask | None, cache: MaskCache) -> RowMask | None:
    """Of the elements in `mask` (None: all of the reader's) those that an `element_filter` means."""
    if filter_.elements is None:
        return mask
    key = (reader.entry.segment_id, filter_.cache_key, "elements") if isinstance(reader, SealedSegment) else None
    passing = None if key is None else cache.get(key)
    if passing is None:
        passing = RowMask.of(element_mask(filter_.elements, reader))
        if key is not None:
            cache.put(key, passing)
    return passing if mask is None else RowMask.of(mask.keep & passing.keep)


def counted_rows(
    reader: Reader, filter_: Filter, visibility: Visibility, schema: CollectionSchema, masking: Masking
) -> int:
    """How many rows `matching_rows` names."""
    if primary_key_values(filter_, schema) is not None:
        return len(matching_rows(reader, filter_, visibility, schema, masking))
    mask = row_mask(reader, filter_, visibility, masking)
    return reader.row_count if mask is None else mask.count


def matching_rows(
    reader: Reader, filter_: Filter, visibility: Visibility, schema: CollectionSchema, masking: Masking
) -> Rows:
    """The rows that are visible and pass, ascending; by key lookup where the filter names its keys."""
    keys = primary_key_values(filter_, schema)
    if keys is None:
        mask = row_mask(reader, filter_, visibility, masking)
        return np.arange(reader.row_count) if mask is None else mask.rows
    rows = np.unique(reader.find(pa.array(keys, pa.large_string()) if isinstance(keys, list) else keys)[1])
    if len(rows) == 0:
        return rows
    return rows[evaluate(filter_, reader, rows, masking.chance, reader.visible(visibility, rows))]
