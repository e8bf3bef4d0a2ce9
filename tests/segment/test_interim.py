"""Interim indexes of growing segments: what a search through one sees is what an exact scan sees, and nearly all of it
is found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_worlds import deletes_of, keys_of, position

from elanus.index.coarse import CoarseCodes
from elanus.index.contract import RowMask
from elanus.index.interim import InterimIndex, build_head, is_worth_a_head
from elanus.index.plan import SearchRequest, search_planned
from elanus.index.vectors import Vectors
from elanus.model.columns import Batch, Column
from elanus.model.schema import CollectionSchema, FieldSchema
from elanus.model.types import DataType, Metric
from elanus.segment.growing import GrowingSegment
from elanus.segment.reader import Visibility
from elanus.testing.conformance_data import assert_well_formed, recall_by_score, twin_best, twin_scores

DIMENSION = 32
K = 10
METRICS = (Metric.L2, Metric.IP, Metric.COSINE)
SCHEMA = CollectionSchema(
    "c",
    (
        FieldSchema(100, "id", DataType.INT64, is_primary=True),
        FieldSchema(101, "vector", DataType.FLOAT_VECTOR, type_params={"dim": str(DIMENSION)}),
    ),
)
ALL = SearchRequest


def values_of(count: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(30, DIMENSION))
    return np.asarray(centres[random.integers(0, 30, count)] + 0.5 * random.normal(size=(count, DIMENSION)), np.float32)


class Grown:
    """A segment of records of 250 rows, timestamps 10, 20, 30 …, two partitions in turn."""

    def __init__(self) -> None:
        self.segment = GrowingSegment(1, SCHEMA)
        self.end = 0

    def append(self, records: int) -> None:
        for _ in range(records):
            self.end += 10
            first = self.segment.row_count
            keys = keys_of(list(range(first, first + 250)), strings=False)
            batch = Batch(250, {100: keys, 101: Column(values_of(250, self.end))})
            self.segment.append(batch, np.full(250, 1 + self.end // 10 % 2), self.end, position(self.end))

    def delete(self, keys: list[int]) -> None:
        self.end += 10
        self.segment.apply_deletes(deletes_of(keys, self.end, 0, strings=False))

    def build(self, metric: Metric) -> None:
        self.segment.interim.end(101, CoarseCodes(self.vectors(), metric))

    def vectors(self) -> Vectors:
        found = self.segment.vectors(101, self.segment.row_count)
        assert isinstance(found, Vectors)
        return found


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    metric=st.sampled_from(METRICS),
    before=st.integers(1, 6),
    after=st.integers(0, 4),
    deleted=st.lists(st.integers(0, 2500), max_size=300),
    at=st.integers(0, 130),
    partition=st.sampled_from([None, 1, 2]),
    k=st.sampled_from([1, K, 100]),
)
def test_a_search_sees_through_it_what_a_scan_sees(
    metric: Metric, before: int, after: int, deleted: list[int], at: int, partition: int | None, k: int
) -> None:
    grown = Grown()
    grown.append(before)
    grown.build(metric)
    grown.append(after)
    grown.delete(deleted)
    reader = grown.segment.reader()
    index, vectors = reader.index(101), grown.vectors()
    assert index is not None
    keep = reader.visible(Visibility(at, None if partition is None else (partition,)))
    mask = None if keep is None else RowMask.of(keep)
    queries = values_of(20, 999)
    found = search_planned(index, vectors, SearchRequest(queries, k, metric), mask)
    scores = twin_scores(vectors.values, queries, metric)
    assert_well_formed(found, scores, k, metric, keep)
    passing = len(vectors) if mask is None else mask.count
    assert ((found.rows >= 0).sum(axis=1) == min(k, passing)).all()
    assert recall_by_score(found, scores, twin_best(scores, k, metric, keep), metric) >= 0.95


@pytest.mark.parametrize("metric", METRICS)
def test_itself_finds_old_and_new_rows_for_one_query_and_for_many(metric: Metric) -> None:
    """Not behind the planner, which would rather scan so few rows; filters that leave only one side included."""
    grown = Grown()
    grown.append(8)
    grown.build(metric)
    grown.append(4)
    index, vectors, queries = grown.segment.reader().index(101), grown.vectors(), values_of(30, 5)
    assert isinstance(index, InterimIndex)
    scores = twin_scores(vectors.values, queries, metric)
    rows = np.arange(len(vectors))
    for keep in (None, rows < 2000, rows >= 2000, rows % 7 == 0, rows < 0, rows == 2999):
        mask = None if keep is None else RowMask.of(keep)
        found = index.search(queries, K, mask, {})
        assert_well_formed(found, scores, K, metric, keep)
        assert recall_by_score(found, scores, twin_best(scores, K, metric, keep), metric) >= 0.95


def test_an_older_reader_does_without_a_newer_head() -> None:
    grown = Grown()
    grown.append(5)
    older = grown.segment.reader()
    grown.append(1)
    grown.build(Metric.L2)
    assert older.index(101) is None
    assert grown.segment.reader().index(101) is not None


def test_a_head_is_built_where_it_pays_and_by_one_at_a_time() -> None:
    small, large = (Vectors(np.ones((rows, 384), np.float32)) for rows in (5_000, 60_000))
    grown = Grown()
    heads = grown.segment.interim
    assert not heads.begin(101, small, Metric.L2)
    assert heads.begin(101, large, Metric.L2)
    assert not heads.begin(101, large, Metric.L2)
    head = over(50_000)
    heads.end(101, head)
    assert not heads.begin(101, large, Metric.L2), "the tail is short"
    assert is_worth_a_head(large, head, Metric.COSINE), "of another metric"
    assert is_worth_a_head(large, over(30_000), Metric.L2)
    assert heads.begin(102, large, Metric.L2)
    heads.end(102, None)
    assert not heads.begin(102, large, Metric.L2), "one more would be as useless"
    assert heads.index(102, large) is None


def test_none_is_built_where_codes_tell_nothing() -> None:
    values = np.tile(values_of(20_000, 1), 12)
    assert build_head(Vectors(values), Metric.L2) is not None
    assert build_head(Vectors(np.repeat(values[:1], 20_000, axis=0)), Metric.L2) is None
    assert build_head(Vectors(np.zeros((20_000, 384), np.float32)), Metric.L2) is None


def over(rows: int) -> CoarseCodes:
    """A head over that many rows."""
    return CoarseCodes(Vectors(np.ones((rows, 32), np.float32)), Metric.L2)
