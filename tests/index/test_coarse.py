"""Codes of two bits: the rows they leave over hold the k best, nearly always, or they say that they cannot tell."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elanus.index.coarse import CoarseCodes, can_be_coarse
from elanus.index.contract import Floats
from elanus.index.exact import cost_us, search_exact
from elanus.index.vectors import Vectors
from elanus.model.types import Metric

METRICS = (Metric.L2, Metric.IP, Metric.COSINE)
KINDS = ("normal", "clustered", "whole", "equal", "one is long", "one number is large", "far", "sparse", "skewed")
QUERIES = 60


def values_of(kind: str, count: int, dimension: int, seed: int) -> Floats:
    random = np.random.default_rng(seed)
    values = random.normal(size=(count, dimension))
    match kind:
        case "clustered":
            centres = np.random.default_rng(0).normal(size=(50, dimension))
            values = centres[random.integers(0, 50, count)] + 0.2 * values
        case "whole":
            values = np.rint(3 * values)
        case "equal":
            values = np.repeat(values[:1], count, axis=0)
        case "one is long":
            values[count // 2] *= 1000
        case "one number is large":
            values[:, 0] += 50
        case "far":
            values += 100
        case "sparse":
            values *= random.random(values.shape) < 0.3
        case "skewed":
            values = np.exp(2 * values)
    return np.asarray(values, np.float32)


def found_share(codes: CoarseCodes, vectors: Vectors, queries: Floats, k: int) -> float:
    """Of the k best rows, as a mean over the queries that the codes answer; equal scores count as found."""
    shares = []
    for query in queries:
        found = codes.candidates(query[None], k)
        if found is not None:
            truth = search_exact(vectors, query[None], k, codes.metric)
            worst = truth.scores[0, -1]
            best = search_exact(Vectors(vectors.values[found[0]]), query[None], k, codes.metric).scores
            at_least = best >= worst if codes.metric.larger_is_better else best <= worst
            shares.append(at_least.mean())
    return float(np.mean(shares)) if shares else 1.0


@settings(max_examples=60, deadline=None)
@given(
    metric=st.sampled_from(METRICS),
    kind=st.sampled_from(KINDS),
    asked=st.sampled_from(KINDS),
    count=st.sampled_from([1, 2, 200, 1025]),
    dimension=st.sampled_from([32, 33, 100]),
    k=st.sampled_from([1, 10, 150]),
    scale=st.sampled_from([1.0, 1e-6, 1e6]),
    seed=st.integers(0, 1 << 30),
)
def test_whatever_the_vectors_candidates_are_rows_and_each_once(
    metric: Metric, kind: str, asked: str, count: int, dimension: int, k: int, scale: float, seed: int
) -> None:
    vectors = Vectors(np.float32(scale) * values_of(kind, count, dimension, seed))
    if can_be_coarse(vectors, metric):
        codes = CoarseCodes(vectors, metric)
        for query in values_of(asked, QUERIES, dimension, seed + 1):
            found = codes.candidates(query[None], min(k, count))
            if found is not None:
                assert len(np.unique(found)) == found.size >= min(k, count)
                assert found.min() >= 0
                assert found.max() < count


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_best_are_among_the_candidates(metric: Metric, kind: str) -> None:
    for dimension in (32, 33, 100):
        vectors = Vectors(values_of(kind, 6000, dimension, 1))
        codes = CoarseCodes(vectors, metric)
        for k in (1, 10, 150):
            assert found_share(codes, vectors, values_of(kind, QUERIES, dimension, 2), k) >= 0.95


@pytest.mark.parametrize("metric", METRICS)
def test_queries_unlike_the_data_find_most(metric: Metric) -> None:
    for kind in ("normal", "clustered", "sparse", "skewed"):
        vectors = Vectors(values_of(kind, 6000, 100, 1))
        codes = CoarseCodes(vectors, metric)
        for asked in ("normal", "clustered", "one number is large", "whole", "sparse"):
            assert found_share(codes, vectors, values_of(asked, QUERIES, 100, 2), 10) >= 0.8


@pytest.mark.parametrize("metric", METRICS)
def test_few_candidates_are_left_of_many_rows(metric: Metric) -> None:
    vectors, queries = Vectors(values_of("clustered", 20_000, 128, 1)), values_of("clustered", QUERIES, 128, 2)
    codes = CoarseCodes(vectors, metric)
    found = [codes.candidates(query[None], 10) for query in queries]
    assert all(rows is not None and rows.size < len(vectors) / 40 for rows in found)
    assert found_share(codes, vectors, queries, 10) >= 0.99
    assert codes.cost_us(vectors, 10) < cost_us(vectors, len(vectors), 1)


def test_where_two_bits_tell_nothing_the_cost_says_so() -> None:
    """All that differs is far beneath the width of a range."""
    values = np.ones((20_000, 32), np.float32)
    values[:10] = 1000
    values[10:] += 1e-3 * values_of("normal", 19_990, 32, 1)
    codes = CoarseCodes(Vectors(values), Metric.L2)
    assert codes.cost_us(Vectors(values), 10) == math.inf
    assert codes.candidates(values[50:51], 10) is None


def test_columns_of_other_kinds_have_codes_too() -> None:
    for dtype in (np.float16, np.int8):
        vectors = Vectors(values_of("whole", 3000, 40, 3).astype(dtype))
        for metric in METRICS:
            codes = CoarseCodes(vectors, metric)
            assert found_share(codes, vectors, values_of("whole", QUERIES, 40, 4), 10) >= 0.95


def test_vectors_at_the_ends_of_float32_have_none_and_short_ones_neither() -> None:
    for scale in (0.0, 1e-20, 1e20):
        assert not can_be_coarse(Vectors(np.full((10, 32), scale, np.float32)), Metric.L2)
    assert can_be_coarse(Vectors(np.ones((10, 32), np.float32)), Metric.L2)
    assert not can_be_coarse(Vectors(np.ones((10, 31), np.float32)), Metric.L2)
