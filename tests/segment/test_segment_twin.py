"""Growing and sealed segments against the rule itself: whatever is written and deleted, sealed and merged, at every
timestamp exactly the rows that must be seen are seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from segment_worlds import Twin, TwinDelete, TwinRow, batch_of, deletes_of, position, schema_of, sealed_of

from elanus.model.timestamp import TIMESTAMP_MAX
from elanus.segment.deletes import DeleteLog, concatenate_deletes, decode_deletes, encode_deletes
from elanus.segment.growing import GrowingSegment
from elanus.segment.merge import merged_rows, sealed_rows
from elanus.segment.reader import Reader, Visibility

KEYS = st.lists(st.integers(0, 9), min_size=1, max_size=6)
PARTITIONS = st.sampled_from([1, 2])
RECORDS = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), KEYS, PARTITIONS),
        st.tuples(st.just("delete"), KEYS, st.sampled_from([0, 1, 2])),
        st.tuples(st.just("upsert"), KEYS, PARTITIONS),
    ),
    min_size=1,
    max_size=12,
)


class Written:
    """One growing segment, its twin, and the deletes by position; timestamps are 10, 20, 30 …"""

    def __init__(self, records: list[Any], strings: bool) -> None:
        self.strings = strings
        self.schema = schema_of(strings)
        self.segment = GrowingSegment(1, self.schema)
        self.twin = Twin()
        self.log = DeleteLog()
        self.end = 0
        for record in records:
            self.write(*record)

    def write(self, kind: str, keys: list[int], partition_id: int) -> None:
        self.end += 10
        at = position(self.end)
        if kind != "insert":
            deletes = deletes_of(keys, self.end, partition_id, self.strings)
            self.segment.apply_deletes(deletes)
            self.log.add(at, deletes)
            self.twin.deletes += [TwinDelete(key, self.end, partition_id) for key in keys]
        if kind != "delete":
            partitions = np.full(len(keys), partition_id)
            self.segment.append(batch_of(keys, self.strings), partitions, self.end, at)
            self.twin.rows += [TwinRow(key, self.end, partition_id) for key in keys]


def seen(reader: Reader, at: int, partition_id: int | None = None, *, of: int | None = None) -> list[TwinRow]:
    """What a read at `at` sees; `of` is the partition of a sealed segment."""
    if reader.row_count == 0:
        return []
    chosen = None if partition_id is None else (partition_id,)
    mask = reader.visible(Visibility(at, None if of is not None else chosen))
    rows = np.arange(reader.row_count) if mask is None else np.flatnonzero(mask)
    raw: Any = reader.keys
    keys = raw.tolist() if isinstance(raw, np.ndarray) else [int(key[1:]) for key in raw.to_pylist()]
    growing: Any = reader
    partitions = [of] * reader.row_count if of is not None else growing.segment.partition_ids(reader.row_count)
    found = [TwinRow(keys[row], int(reader.timestamps[row]), int(partitions[row])) for row in rows]
    if of is not None and partition_id not in (None, of):
        return []
    return sorted(found)


@pytest.mark.slow
@given(RECORDS, st.booleans())
def test_a_growing_segment_sees_what_the_rule_says(records: list[Any], strings: bool) -> None:
    written = Written(records, strings)
    reader = written.segment.reader()
    for at in range(0, written.end + 11, 5):
        assert seen(reader, at) == written.twin.alive(at)
        assert seen(reader, at, 1) == written.twin.alive(at, 1)


@pytest.mark.slow
@given(RECORDS, RECORDS, st.booleans())
def test_a_reader_is_not_changed_by_what_comes_later(before: list[Any], after: list[Any], strings: bool) -> None:
    written = Written(before, strings)
    reader, end = written.segment.reader(), written.end
    expected = [written.twin.alive(at) for at in range(0, end + 1, 5)]
    for record in after:
        written.write(*record)
    assert [seen(reader, at) for at in range(0, end + 1, 5)] == expected


@pytest.mark.slow
@given(RECORDS, RECORDS, st.booleans())
def test_sealed_rows_with_later_deletes_see_what_the_rule_says(
    records: list[Any], later: list[Any], strings: bool
) -> None:
    written = Written(records, strings)
    reader, through = written.segment.reader(), written.end
    written.write("delete", [0, 1], 0)  # arrives while the files are made
    data = {part: sealed_rows([reader], part, written.schema, through, 0) for part in (1, 2)}
    for one in data.values():
        assert (
            one is None
            or one.deleted_at is None
            or not ((one.deleted_at > through) & (one.deleted_at < TIMESTAMP_MAX)).any()
        )
    segments = {part: sealed_of(one, written.schema, part, part) for part, one in data.items() if one is not None}
    rows = list(written.twin.rows)
    for record in later:
        written.write(*record)
    written.twin.rows = rows
    deletes = written.log.between(position(through), position(written.end))
    for segment in segments.values():
        if deletes is not None:
            stored = decode_deletes(memoryview(encode_deletes(deletes)), "d")
            segment.apply_deletes(stored, position(written.end))
            segment.apply_deletes(stored, position(written.end))
        assert segment.deletes_through == position(written.end)
    for at in range(0, written.end + 11, 5):
        found = sorted(row for part, one in segments.items() for row in seen(one, at, of=part))
        assert found == written.twin.alive(at)


@pytest.mark.slow
@given(RECORDS, RECORDS, st.booleans(), st.integers(0, 130))
def test_merged_segments_see_what_the_rule_says_from_the_purge_on(
    first: list[Any], second: list[Any], strings: bool, purge_before: int
) -> None:
    written = Written(first, strings)
    one = sealed_rows([written.segment.reader()], 1, written.schema, written.end, 0)
    written.segment = GrowingSegment(2, written.schema)
    through = written.end
    for record in second:
        written.write(*record)
    two = sealed_rows([written.segment.reader()], 1, written.schema, written.end, 0)
    parts = [sealed_of(data, written.schema, n, 1) for n, data in enumerate((one, two)) if data is not None]
    deletes = written.log.between(position(through), position(written.end))
    if one is not None and deletes is not None:
        parts[0].apply_deletes(deletes, position(written.end))
    merged = merged_rows(parts, written.schema, purge_before, 0) if parts else None
    found = [] if merged is None else [sealed_of(merged, written.schema, 9, 1)]
    for at in range(purge_before, written.end + 11, 5):
        assert [row for segment in found for row in seen(segment, at, of=1)] == written.twin.alive(at, 1)


@pytest.mark.slow
@given(RECORDS, st.booleans(), st.integers(0, 130))
def test_rows_that_outlived_their_time_are_left_out(records: list[Any], strings: bool, expire_before: int) -> None:
    written = Written(records, strings)
    data = sealed_rows([written.segment.reader()], 1, written.schema, written.end, 0)
    if data is None:
        return
    merged = merged_rows([sealed_of(data, written.schema, 1, 1)], written.schema, 0, expire_before)
    stamps = [] if merged is None else merged.timestamps.tolist()
    assert sorted(stamps) == sorted(
        row.timestamp for row in written.twin.rows if row.partition_id == 1 and row.timestamp >= expire_before
    )


@given(RECORDS, st.integers(0, 130), st.integers(0, 130))
def test_the_delete_log_gives_ranges_of_positions(records: list[Any], after: int, through: int) -> None:
    written = Written(records, False)
    found = written.log.between(position(after), position(through))
    expected = [one.timestamp for one in written.twin.deletes if after < one.timestamp <= through]
    assert ([] if found is None else found.timestamps.tolist()) == expected
    written.log.drop_through(position(after))
    assert written.log.count == sum(one.timestamp > after for one in written.twin.deletes)


def test_deletes_are_joined_in_order() -> None:
    joined = concatenate_deletes([deletes_of([1], 5, 0, True), deletes_of([2, 3], 6, 1, True)])
    assert joined.keys.values.to_pylist() == ["k001", "k002", "k003"]
    assert joined.timestamps.tolist() == [5, 6, 6]


@pytest.mark.parametrize("strings", [False, True])
def test_columns_survive_sealing(strings: bool) -> None:
    written = Written([("insert", [5, 2, 9, 4], 1)], strings)
    data = sealed_rows([written.segment.reader()], 1, written.schema, written.end, 0)
    assert data is not None
    segment = sealed_of(data, written.schema, 1, 1)
    assert segment.column(101).values.tolist() == [[2, 1], [4, 1], [5, 1], [9, 1]]
    names = segment.column(102)
    assert names.valid is not None
    assert names.valid.tolist() == [True, True, False, False]
    assert names.values.to_pylist()[:2] == ["n2", "n4"]
