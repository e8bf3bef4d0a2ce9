"""Binary and sparse vectors: every score and every order against row-by-row twins."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elanus.index.binary import BinaryVectors
from elanus.index.contract import RowMask
from elanus.index.plan import SearchRequest, search_planned
from elanus.index.sparse import SparseVectors, packed_queries
from elanus.index.vectors import as_float32
from elanus.model.types import Metric

SETTINGS = settings(max_examples=60, deadline=None)


def bits(row: bytes) -> set[int]:
    return {8 * place + bit for place, byte in enumerate(row) for bit in range(8) if byte >> bit & 1}


def binary_score(metric: Metric, row: bytes, query: bytes) -> float | None:
    a, b = bits(row), bits(query)
    match metric:
        case Metric.HAMMING:
            return len(a ^ b)
        case Metric.JACCARD:
            return len(a ^ b) / len(a | b) if a | b else 0.0
        case Metric.SUBSTRUCTURE:
            return 0.0 if b <= a else None
        case _:
            return 0.0 if a <= b else None


def best(scores: dict[int, float], k: int, larger: bool) -> list[tuple[int, float]]:
    return sorted(scores.items(), key=lambda one: (-one[1] if larger else one[1], one[0]))[:k]


def answers(found: tuple[np.ndarray, np.ndarray], place: int) -> list[tuple[int, float]]:
    scores, rows = found
    return [(int(r), float(s)) for r, s in zip(rows[place], scores[place], strict=True) if r >= 0]


@SETTINGS
@given(
    st.integers(1, 9).flatmap(
        lambda width: st.tuples(
            st.lists(st.binary(min_size=width, max_size=width), min_size=1, max_size=30),
            st.lists(st.binary(min_size=width, max_size=width), min_size=1, max_size=3),
        )
    ),
    st.sampled_from([Metric.HAMMING, Metric.JACCARD, Metric.SUBSTRUCTURE, Metric.SUPERSTRUCTURE]),
    st.integers(1, 12),
    st.randoms(),
)
def test_binary_search_is_its_twin(
    data: tuple[list[bytes], list[bytes]], metric: Metric, k: int, chance: object
) -> None:
    rows, queries = data
    keep = np.array([chance.random() < 0.7 for _ in rows])  # type: ignore[attr-defined]
    table = np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -1)
    asked = np.frombuffer(b"".join(queries), np.uint8).reshape(len(queries), -1)
    found = search_planned(None, BinaryVectors(table), SearchRequest(asked, k, metric), RowMask.of(keep))
    for place, query in enumerate(queries):
        scores = {row: binary_score(metric, one, query) for row, one in enumerate(rows) if keep[row]}
        wanted = best({row: float(np.float32(s)) for row, s in scores.items() if s is not None}, k, False)
        assert answers(found, place) == wanted


entries = st.dictionaries(
    st.integers(0, 12) | st.sampled_from([65536, 65541, 2**32 - 2]), st.floats(-4, 4, width=16), max_size=6
)


def encoded(row: dict[int, float]) -> bytes:
    dimensions = sorted(row)
    pairs = np.empty((len(row), 2), "<u4")
    pairs[:, 0] = dimensions
    pairs[:, 1] = np.array([row[one] for one in dimensions], "<f4").view("<u4")
    return pairs.tobytes()


@pytest.mark.slow
@SETTINGS
@given(st.lists(entries, min_size=1, max_size=30), st.lists(entries, min_size=1, max_size=3), st.integers(1, 12))
def test_sparse_search_is_its_twin(rows: list[dict[int, float]], queries: list[dict[int, float]], k: int) -> None:
    column = pa.array([b"skipped", *map(encoded, rows)], pa.large_binary())[1:]
    asked = packed_queries(list(map(encoded, queries)))
    keep = np.arange(len(rows)) % 4 != 3
    found = search_planned(None, SparseVectors(column), SearchRequest(asked, k, Metric.IP), RowMask.of(keep))
    for place, query in enumerate(queries):
        scores = {
            at: float(np.float32(math.fsum(row[one] * query[one] for one in row.keys() & query.keys())))
            for at, row in enumerate(rows)
            if keep[at] and row.keys() & query.keys()
        }
        assert answers(found, place) == best(scores, k, True)


def test_a_sparse_column_without_an_index_is_searched_where_it_lies() -> None:
    """What a segment is said to take in memory counts the column once; nothing as large stays behind a search."""
    rows = [encoded(dict.fromkeys(range(row % 7, 2000, 7), 1.0)) for row in range(500)]
    column = pa.array(rows, pa.large_binary())
    vectors, asked = SparseVectors(column), packed_queries(rows[:1])
    tracemalloc.start()
    try:
        search_planned(None, vectors, SearchRequest(asked, 5, Metric.IP))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < column.nbytes / 10


def test_ranges_hold_for_scored_vectors() -> None:
    table = np.arange(16, dtype=np.uint8).reshape(16, 1)
    request = SearchRequest(np.zeros((1, 1), np.uint8), 16, Metric.HAMMING, {"radius": 3.0, "range_filter": 2.0})
    scores, rows = search_planned(None, BinaryVectors(table), request)
    assert rows[0][rows[0] >= 0].tolist() == [3, 5, 6, 9, 10, 12]
    assert set(scores[0][rows[0] >= 0].tolist()) == {2.0}


@pytest.mark.parametrize("count", [0, 5])
def test_widened_vectors_are_exact(count: int) -> None:
    floats = np.linspace(-8, 8, count * 4, dtype=np.float32).reshape(count, 4)
    halves = floats.astype(np.float16)
    assert (as_float32(halves) == halves.astype(np.float32)).all()
    upper = (floats.view(np.uint32) >> 16).astype(np.uint16)
    wide = as_float32(upper)
    assert ((wide.view(np.uint32) >> 16) == upper).all()
    assert wide.dtype == np.float32
