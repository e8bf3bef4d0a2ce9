"""Kept filter masks: whatever is inserted, deleted, flushed or outlived between two reads, the second sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_worlds import Twin, TwinDelete, TwinRow, batch_of, deletes_of, position, schema_of, sealed_of

from elanus.expr import evaluate, parse_filter
from elanus.search.masks import CACHE_ENTRIES_MAX, MaskCache, Masking, matching_rows, row_mask
from elanus.segment.growing import PREFIX_MASKS_MAX, GrowingSegment, PrefixMasks
from elanus.segment.merge import sealed_rows
from elanus.segment.reader import Reader, Visibility
from elanus.segment.sealed import SealedSegment
from elanus.testing.clock import SeededRandom

SCHEMA = schema_of(strings=False)
FILTERS: dict[str, Callable[[int], bool]] = {
    "": lambda key: True,
    "id > 4": lambda key: key > 4,
    "id > 2 and name is not null": lambda key: key > 2 and key % 2 == 0,
    "name in ['n2', 'n6', 'n8']": lambda key: key in (2, 6, 8),
    "id in [3, 4, 5]": lambda key: key in (3, 4, 5),
    "not (name like 'n%')": lambda key: False,
}
KEYS = st.lists(st.integers(0, 9), min_size=1, max_size=5)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), KEYS),
        st.tuples(st.just("delete"), KEYS),
        st.tuples(st.just("flush"), st.none()),
        st.tuples(st.just("expire"), st.integers(0, 130)),
        st.tuples(st.just("back"), st.integers(0, 130)),
    ),
    min_size=1,
    max_size=12,
)  # fmt: skip


class World:
    """One growing segment, what was flushed from it, and the twin; timestamps are 10, 20, 30 …"""

    def __init__(self) -> None:
        self.masking = Masking(MaskCache(), SeededRandom(5))
        self.growing = GrowingSegment(1, SCHEMA)
        self.sealed: list[SealedSegment] = []
        self.twin = Twin()
        self.end = 0
        self.expire_before = 0

    def step(self, kind: str, argument: Any) -> None:
        self.end += 10
        at = position(self.end)
        if kind == "insert":
            self.growing.append(batch_of(argument, False), np.full(len(argument), 1), self.end, at)
            self.twin.rows += [TwinRow(key, self.end, 1) for key in argument]
        elif kind == "delete":
            deletes = deletes_of(argument, self.end, 0, False)
            self.growing.apply_deletes(deletes)
            for segment in self.sealed:
                segment.apply_deletes(deletes, at)
            self.twin.deletes += [TwinDelete(key, self.end, 0) for key in argument]
        elif kind == "flush":
            data = sealed_rows([self.growing.reader()], 1, SCHEMA, self.end, 0)
            if data is not None:
                self.sealed.append(sealed_of(data, SCHEMA, self.end, 1))
            self.growing = GrowingSegment(self.end + 1, SCHEMA)
        elif kind == "expire":
            self.expire_before = argument

    def found_once(self, text: str) -> list[int]:
        """Keys by masks alone."""
        filter_ = parse_filter(text, SCHEMA)
        keys: list[int] = []
        for reader in (*self.sealed, self.growing.reader()):
            mask = row_mask(reader, filter_, Visibility(self.end), self.masking)
            assert mask is not None
            keys += np.asarray(reader.keys)[mask.rows].tolist()
        return keys

    def found(self, text: str, at: int) -> list[int]:
        """Keys by both ways that reads take."""
        filter_ = parse_filter(text, SCHEMA)
        visibility = Visibility(at, None, (), self.expire_before)
        readers: list[Reader] = [*self.sealed, *([self.growing.reader()] if self.growing.row_count else [])]
        keys: list[int] = []
        for reader in readers:
            rows = matching_rows(reader, filter_, visibility, SCHEMA, self.masking)
            mask = row_mask(reader, filter_, visibility, self.masking)
            masked = np.arange(reader.row_count) if mask is None else mask.rows
            assert rows.tolist() == masked.tolist()
            keys += np.asarray(reader.keys)[rows].tolist()
        return sorted(keys)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_kept_masks_never_hide_a_change(steps: list[tuple[str, Any]]) -> None:
    """Each filter is asked twice after each step, now and at an earlier time."""
    world = World()
    for kind, argument in steps:
        world.step(kind, argument)
        for at in (world.end + 5, argument if kind == "back" else world.end + 5):
            alive = [row.key for row in world.twin.alive(at) if row.timestamp >= world.expire_before]
            for text, passes in FILTERS.items():
                expected = sorted(key for key in alive if passes(key))
                assert world.found(text, at) == expected
                assert world.found(text, at) == expected


def test_a_sample_is_taken_of_the_rows_that_can_be_seen() -> None:
    """Also where nothing else is asked, and never of deleted rows; each time anew."""
    world = World()
    world.step("insert", list(range(50)))
    world.step("flush", None)
    world.step("insert", list(range(50, 100)))
    world.step("delete", [key for key in range(100) if key % 10])
    for text, kept in (("random_sample(0.4)", 4), ("id >= 0 and random_sample(0.6)", 6)):
        samples = [world.found_once(text) for _ in range(20)]
        assert {len(sample) for sample in samples} == {kept}
        assert all(key % 10 == 0 for sample in samples for key in sample)
        assert len({tuple(sample) for sample in samples}) > 1


def test_masks_of_prefixes_are_evaluated_once_and_bounded() -> None:
    """Only new rows are asked about; the oldest use goes first."""
    masks, asked = PrefixMasks(), []

    def evaluated(total: int) -> Any:
        def of(start: int) -> np.ndarray:
            asked.append((start, total))
            return np.asarray(np.arange(start, total) % 3 == 0)

        return of

    for total in (4, 4, 10, 7):
        assert masks.of("f", total, evaluated(total)).tolist() == [row % 3 == 0 for row in range(total)]
    assert asked == [(0, 4), (4, 10)]
    for number in range(PREFIX_MASKS_MAX):
        masks.of(f"g{number}", 1, evaluated(1))
    masks.of("f", 4, evaluated(4))
    assert asked[-1] == (0, 4)


@pytest.mark.slow
def test_the_cache_is_bounded() -> None:
    """In entries; what a released segment left goes with it."""
    world = World()
    world.step("insert", [1, 2, 3])
    world.step("flush", None)
    segment = world.sealed[0]
    for number in range(CACHE_ENTRIES_MAX + 5):
        filter_ = parse_filter(f"id > {number}", SCHEMA)
        row_mask(segment, filter_, Visibility(world.end), world.masking)
        assert evaluate(filter_, segment).sum() == sum(key > number for key in (1, 2, 3))
    cache = world.masking.cache
    assert cache.entry_count <= CACHE_ENTRIES_MAX
    cache.forget_segment(segment.entry.segment_id)
    assert (cache.entry_count, cache.nbytes) == (0, 0)
