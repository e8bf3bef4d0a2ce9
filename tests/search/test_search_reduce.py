"""Reduction and execution against twins that sort rows one by one, and the mask cache against no cache."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elanus.expr import parse_filter
from elanus.model.channel import ORIGIN
from elanus.model.columns import Column
from elanus.model.reads import Found, Hits, ShardRead, VectorQuery
from elanus.model.types import ConsistencyLevel
from elanus.search.execute import Execution
from elanus.search.masks import MaskCache, Masking, matching_rows
from elanus.search.reduce import key_ranks, merge_found, merge_hits
from elanus.segment.growing import GrowingSegment
from elanus.segment.merge import sealed_rows
from elanus.segment.reader import Visibility
from elanus.testing.clock import InlineCompute, SeededRandom

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "segment"))
from segment_worlds import batch_of, deletes_of, position, schema_of, sealed_of

SCORES = st.sampled_from([0.0, 0.5, 1.0, 2.0])
HIT = st.tuples(st.integers(0, 8), SCORES)
PARTS = st.lists(st.lists(st.lists(HIT, max_size=5), min_size=2, max_size=2), min_size=1, max_size=4)


def keys_column(keys: list[int], strings: bool) -> Column:
    if strings:
        return Column(pa.array([f"k{key}" for key in keys], pa.large_string()))
    return Column(np.array(keys, np.int64))


def hits_of(queries: list[list[tuple[int, float]]], strings: bool) -> Hits:
    flat = [hit for hits in queries for hit in hits]
    return Hits(
        counts=np.array([len(hits) for hits in queries], np.int64),
        keys=keys_column([key for key, _ in flat], strings),
        scores=np.array([score for _, score in flat], np.float32),
        fields={7: Column(np.array([key * 10 + score for key, score in flat]))},
        read_timestamp=len(flat),
        searched_row_count=3,
    )


@given(PARTS, st.integers(1, 6), st.booleans(), st.booleans())
def test_hits_are_merged_as_if_sorted_one_by_one(parts: Any, limit: int, larger: bool, strings: bool) -> None:
    merged = merge_hits([hits_of(part, strings) for part in parts], 2, limit, larger)
    expected = []
    for query in range(2):
        best: dict[int, float] = {}
        for key, score in (hit for part in parts for hit in part[query]):
            best[key] = score if key not in best else (max if larger else min)(best[key], score)
        ranked = sorted(best.items(), key=lambda one: (-one[1] if larger else one[1], one[0]))
        expected.append(ranked[:limit])
    assert merged.counts.tolist() == [len(hits) for hits in expected]
    flat = [hit for hits in expected for hit in hits]
    assert merged.scores.tolist() == [score for _, score in flat]
    assert merged.fields[7].values.tolist() == [key * 10 + score for key, score in flat]
    assert merged.searched_row_count == 3 * len(parts)
    assert merged.read_timestamp == max(sum(map(len, part)) for part in parts)


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 8), st.integers(1, 50)), max_size=6), min_size=1, max_size=4), st.data()
)
def test_rows_are_merged_newest_first_of_a_key(parts: Any, data: st.DataObject) -> None:
    strings, limit = data.draw(st.booleans()), data.draw(st.integers(-1, 5))
    found = [
        Found(
            row_count=len(part),
            keys=keys_column([key for key, _ in part], strings),
            timestamps=np.array([stamp for _, stamp in part], np.uint64),
            fields={7: Column(np.array([key * 100 + stamp for key, stamp in part], np.int64))},
        )
        for part in parts
    ]
    newest: dict[int, int] = {}
    for key, stamp in (row for part in parts for row in part):
        newest[key] = max(stamp, newest.get(key, 0))
    expected = [key * 100 + stamp for key, stamp in sorted(newest.items())]
    merged = merge_found(found, limit)
    assert merged.fields[7].values.tolist() == (expected if limit < 0 else expected[:limit])
    assert merged.row_count == len(merged.fields[7])


@given(st.lists(st.text(max_size=3), max_size=12))
def test_ranks_of_strings_compare_as_their_bytes(keys: list[str]) -> None:
    ranks = key_ranks(pa.array(keys, pa.large_string())).tolist()
    order = sorted(range(len(keys)), key=lambda n: keys[n].encode())
    assert sorted(range(len(keys)), key=lambda n: ranks[n]) == order
    assert len(set(ranks)) == len(set(keys))


# --- execution ------------------------------------------------------------------------------------------------------
ROWS = st.lists(st.lists(st.integers(0, 15), min_size=1, max_size=8), min_size=1, max_size=5)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("delete"), st.lists(st.integers(0, 15), min_size=1, max_size=4)),
        st.tuples(st.just("read"), st.integers(0, 60)),
    ),
    min_size=1,
    max_size=10,
)


@pytest.mark.slow
@pytest.mark.parametrize("strings", [False, True])
@given(parts=ROWS, steps=STEPS)
def test_cached_masks_give_what_fresh_ones_give(strings: bool, parts: list[list[int]], steps: list[Any]) -> None:
    schema = schema_of(strings)
    growing = GrowingSegment(1, schema)
    for number, part in enumerate(parts, 1):
        growing.append(batch_of(part, strings), np.full(len(part), 1), number, position(number))
    data = sealed_rows([growing.reader()], 1, schema, len(parts), 0)
    assert data is not None
    segment = sealed_of(data, schema, 1, 1)
    cache = Masking(MaskCache(), SeededRandom(0))
    filters = [parse_filter(text, schema, {}) for text in ("", 'name like "n1%"', "name is null")]
    now = len(parts)
    for kind, what in steps:
        if kind == "delete":
            now += 1
            segment.apply_deletes(deletes_of(what, now, 0, strings), position(now))
            continue
        visibility = Visibility(min(what, now))
        for one in filters:
            fresh = Masking(MaskCache(), SeededRandom(0))
            kept = matching_rows(segment, one, visibility, schema, cache)
            assert kept.tolist() == matching_rows(segment, one, visibility, schema, fresh).tolist()


@pytest.mark.slow
@given(parts=ROWS, sealed=st.integers(0, 4), k=st.integers(1, 20), query=st.integers(0, 15))
def test_a_search_finds_the_nearest_distinct_keys(parts: list[list[int]], sealed: int, k: int, query: float) -> None:
    query += 0.25  # No two keys are equally far: which of those a cut leaves out is open.
    schema = schema_of(False)
    readers: list[Any] = []
    for number, part in enumerate(parts, 1):
        growing = GrowingSegment(number, schema)
        growing.append(batch_of(part, False), np.full(len(part), 1), number, position(number))
        growing.apply_deletes(deletes_of([3], 50, 0, False))
        data = sealed_rows([growing.reader()], 1, schema, 100, 0)
        assert data is not None
        readers.append(sealed_of(data, schema, number, 1) if number <= sealed else growing.reader())
    vector = VectorQuery(field_id=101, metric="L2", k=k, queries=np.array([[query, 1]], np.float32))
    read = ShardRead(
        vchannel="v", level=ConsistencyLevel.STRONG, at_timestamp=100, vector=vector, filter="id != 5", limit=k
    )
    execution = Execution(InlineCompute(0), SeededRandom(0), 1)
    hits = asyncio.run(execution.search(readers, read, schema, Visibility(100)))
    alive = {key for part in parts for key in part} - {3, 5}
    nearest = sorted(alive, key=lambda key: ((key - query) ** 2, key))[:k]
    assert hits.keys.values.tolist() == nearest
    assert hits.scores.tolist() == [float((key - query) ** 2) for key in nearest]
    found = asyncio.run(execution.query(readers, read, schema, Visibility(100)))
    assert found.read_position == ORIGIN
    assert ([] if found.keys is None else found.keys.values.tolist()) == sorted(alive)[:k]
