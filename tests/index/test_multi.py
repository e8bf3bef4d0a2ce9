"""Lists of vectors: the sum of best matches, against a twin in plain loops."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elanus.index.contract import RowMask
from elanus.index.multi import MULTI_METRICS, MultiVectors, padded_lists
from elanus.index.plan import SearchRequest, search_planned
from elanus.model.types import Metric

DIMENSION = 3
vectors = st.lists(st.integers(-4, 4).map(float), min_size=DIMENSION, max_size=DIMENSION)


def match(metric: Metric, a: np.ndarray, b: np.ndarray) -> float:
    if metric is Metric.MAX_SIM_L2:
        return float(((a - b) ** 2).sum())
    product = float(a @ b)
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return product if metric is Metric.MAX_SIM_IP else product / lengths if lengths else 0.0


def score(metric: Metric, row: list[list[float]], query: list[list[float]]) -> float:
    best = min if metric is Metric.MAX_SIM_L2 else max
    return sum(best(match(metric, np.array(one), np.array(asked)) for one in row) for asked in query)


def encoded(row: list[list[float]]) -> bytes:
    return np.array(row, "<f4").tobytes()


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(vectors, max_size=4), min_size=1, max_size=15),
    st.lists(st.lists(vectors, min_size=1, max_size=3), min_size=1, max_size=3),
    st.sampled_from(sorted(MULTI_METRICS)),
)
def test_scores_are_those_of_the_twin(
    rows: list[list[list[float]]], queries: list[list[list[float]]], metric: Metric
) -> None:
    column = pa.array([b"", *map(encoded, rows)], pa.large_binary())[1:]
    keep = np.arange(len(rows)) % 3 != 1
    request = SearchRequest(padded_lists(list(map(encoded, queries))), len(rows), metric)
    found = search_planned(None, MultiVectors(column, DIMENSION), request, RowMask.of(keep))
    for place, query in enumerate(queries):
        wanted = {at: score(metric, row, query) for at, row in enumerate(rows) if row and keep[at]}
        got = {int(r): float(s) for r, s in zip(found.rows[place], found.scores[place], strict=True) if r >= 0}
        assert got.keys() == wanted.keys()
        assert all(abs(got[at] - wanted[at]) < 1e-4 for at in wanted)
        ordered = list(got.values())
        assert ordered == sorted(ordered, reverse=metric.larger_is_better)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(vectors, max_size=4), min_size=1, max_size=15),
    st.lists(vectors, min_size=1, max_size=3),
    st.sampled_from([Metric.L2, Metric.IP, Metric.COSINE]),
)
def test_elements_are_found_as_rows_of_their_own(
    rows: list[list[list[float]]], queries: list[list[float]], metric: Metric
) -> None:
    column = pa.array([encoded([[9.0] * DIMENSION]), *map(encoded, rows)], pa.large_binary())[1:]
    lists = MultiVectors(column, DIMENSION)
    keep = np.arange(len(rows)) % 3 != 1
    asked = np.array(queries, np.float32)
    count = sum(map(len, rows))
    found = search_planned(
        None, lists.elements, SearchRequest(asked, count + 1, metric), lists.elements_in(RowMask.of(keep))
    )
    alike = {Metric.L2: Metric.MAX_SIM_L2, Metric.IP: Metric.MAX_SIM_IP, Metric.COSINE: Metric.MAX_SIM_COSINE}[metric]
    for place, query in enumerate(queries):
        wanted = {
            (at, offset): match(alike, np.array(one), np.array(query))
            for at, row in enumerate(rows)
            for offset, one in enumerate(row)
            if keep[at]
        }
        elements = found.rows[place][found.rows[place] >= 0]
        owners = lists.rows_of(elements)
        got = dict(
            zip(
                zip(owners.tolist(), (elements - lists.bounds[owners]).tolist(), strict=True),
                found.scores[place].tolist(),
                strict=False,
            )
        )
        assert got.keys() == wanted.keys()
        assert all(abs(got[at] - wanted[at]) < 1e-4 for at in wanted)
