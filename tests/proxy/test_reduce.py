"""Reduction against one sort of everything."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elanus.model.columns import Column
from elanus.model.reads import Found, Hits, ShardRead, VectorQuery
from elanus.model.types import ConsistencyLevel
from elanus.nodes.proxy.reduce import cut_found, merge_parts, page_of, reduce_hits, rounded

from .twin import python_values

KEYS = st.integers(-9, 9)
SCORES = st.sampled_from([-1.5, 0.0, 0.25, 1.0, 3.0])


def keys_column(keys: list[int], text: bool) -> Column:
    return Column(pa.array([f"{key + 50:03}" for key in keys], pa.large_string()) if text else np.array(keys, np.int64))


def shard_hits(answers: list[dict[int, float]], larger: bool, text: bool) -> Hits:
    """What a shard answers: each query's hits best first, keys once."""
    flat: list[tuple[int, float]] = []
    for answer in answers:
        flat += sorted(answer.items(), key=lambda hit: (-hit[1] if larger else hit[1], hit[0]))
    return Hits(
        counts=np.array([len(answer) for answer in answers], np.int64),
        keys=keys_column([key for key, _ in flat], text),
        scores=np.array([score for _, score in flat], np.float32),
        fields={7: Column(np.array([key * 10 for key, _ in flat], np.int64))},
        read_timestamp=5,
        searched_row_count=len(flat),
    )


def asked(queries: int, k: int, larger: bool) -> VectorQuery:
    return VectorQuery(field_id=1, metric="IP" if larger else "L2", k=k, queries=np.zeros((queries, 2), np.float32))


@pytest.mark.slow
@given(st.data(), st.integers(1, 3), st.integers(1, 4), st.booleans(), st.booleans())
def test_hits(data: Any, shards: int, queries: int, larger: bool, text: bool) -> None:
    answer = st.dictionaries(KEYS, SCORES, max_size=8)
    answers = [[data.draw(answer) for _ in range(queries)] for _ in range(shards)]
    limit, offset = data.draw(st.integers(1, 6)), data.draw(st.integers(0, 4))
    parts = [shard_hits(one, larger, text) for one in answers]
    if shards == 1:  # A shard never answers more than it was asked for.
        limit = max(limit, 8)
    reduced = page_of(reduce_hits(parts, asked(queries, limit + offset, larger)), limit, offset)

    expected, counts = [], []
    for query in range(queries):
        best: dict[int, float] = {}
        for shard in answers:
            for key, score in shard[query].items():
                better = max if larger else min
                best[key] = better(best.get(key, score), score)
        order = sorted(best.items(), key=lambda hit: (-hit[1] if larger else hit[1], hit[0]))[offset : offset + limit]
        expected += order
        counts.append(len(order))
    assert reduced.counts.tolist() == counts
    assert python_values(reduced.keys) == python_values(keys_column([key for key, _ in expected], text))
    assert reduced.scores.tolist() == [score for _, score in expected]
    assert reduced.fields[7].values.tolist() == [key * 10 for key, _ in expected]
    assert reduced.read_timestamp == 5
    assert reduced.searched_row_count == sum(part.searched_row_count for part in parts)


def test_one_answer_passes_untouched() -> None:
    hits = shard_hits([{1: 0.5, 2: 1.0}], False, False)
    assert reduce_hits([hits], asked(1, 10, False)) is hits
    assert page_of(hits, 10, 0) is hits


@given(st.data(), st.integers(1, 3), st.booleans())
def test_found(data: Any, shards: int, text: bool) -> None:
    rows = [data.draw(st.dictionaries(KEYS, st.integers(1, 99), max_size=8)) for _ in range(shards)]
    limit, offset = data.draw(st.integers(-1, 6)), data.draw(st.integers(0, 4))
    limit = -1 if limit == 0 else limit
    parts = [
        Found(
            row_count=len(one),
            keys=keys_column(sorted(one), text),
            timestamps=np.array([one[key] for key in sorted(one)], np.uint64),
            fields={7: Column(np.array([one[key] for key in sorted(one)], np.int64))},
        )
        for one in rows
    ]
    window = limit + offset if limit >= 0 else -1
    read = ShardRead(vchannel="v", level=ConsistencyLevel.STRONG, limit=window)
    reduced = cut_found(merge_parts(parts, read), limit, offset)
    newest: dict[int, int] = {}
    for one in rows:
        for key, timestamp in one.items():
            newest[key] = max(newest.get(key, 0), timestamp)
    order = sorted(newest.items())
    order = order if limit < 0 else order[offset : offset + limit]
    assert reduced.row_count == len(order)
    if order:
        assert reduced.keys is not None
        assert python_values(reduced.keys) == python_values(keys_column([key for key, _ in order], text))
        assert reduced.fields[7].values.tolist() == [timestamp for _, timestamp in order]


def test_rounding() -> None:
    scores = np.array([0.12345, -1.5, 2.0], np.float32)
    assert rounded(scores, -1) is scores
    assert rounded(scores, 2).tolist() == np.array([0.12, -1.5, 2.0], np.float32).tolist()
    assert rounded(scores, 0).tolist() == [0.0, -2.0, 2.0]
