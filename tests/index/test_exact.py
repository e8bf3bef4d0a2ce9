"""Exact search against a float64 twin: the same rows in the same order by every path."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elanus.index.contract import Found, RowMask
from elanus.index.exact import FEW_QUERIES, cost_us, score_all, search_exact, search_rows
from elanus.index.vectors import Vectors, as_float32, normalised
from elanus.model.types import Metric
from elanus.testing.conformance_data import assert_well_formed, recall_by_score, twin_best, twin_scores

METRICS = st.sampled_from([Metric.L2, Metric.IP, Metric.COSINE])
SHARES = st.sampled_from([0.0, 0.02, 0.2, 0.6, 0.99, 1.0])


def integers(rows: int, dimension: int, seed: int) -> npt.NDArray[np.float32]:
    """Small whole numbers: full of ties, and L2 and IP of them are exact in float32."""
    return np.random.default_rng(seed).integers(-2, 3, (rows, dimension)).astype(np.float32)


@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(0, 700),
    dimension=st.integers(1, 20),
    query_count=st.sampled_from([1, 2, FEW_QUERIES, FEW_QUERIES + 1, 40]),
    k=st.integers(1, 900),
    metric=METRICS,
    share=SHARES,
    seed=st.integers(0, 1000),
)
def test_same_rows_as_the_twin(
    rows: int, dimension: int, query_count: int, k: int, metric: Metric, share: float, seed: int
) -> None:
    vectors, queries = integers(rows, dimension, seed), integers(query_count, dimension, seed + 1)
    keep = np.random.default_rng(seed).random(rows) < share
    found = search_exact(Vectors(vectors), queries, k, metric, RowMask.of(keep))
    scores = twin_scores(vectors, queries, metric)
    if rows == 0:
        assert (found.rows == -1).all()
        return
    assert_well_formed(found, scores, k, metric, keep)
    truth = twin_best(scores, k, metric, keep)
    if metric is Metric.COSINE:
        assert ((found.rows >= 0) == (truth >= 0)).all()
        assert recall_by_score(found, scores, truth, metric) == 1.0
    else:
        assert (found.rows == truth).all()


@settings(max_examples=25, deadline=None)
@given(metric=METRICS, share=SHARES, k=st.sampled_from([1, 7, 100]), seed=st.integers(0, 1000))
def test_every_path_gives_the_same_bits(metric: Metric, share: float, k: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(400, 13)).astype(np.float32)
    vectors[::3] = vectors[0]
    queries = random.normal(size=(9, 13)).astype(np.float32)
    mask = RowMask.of(random.random(400) < share)
    column = Vectors(vectors)
    together = search_exact(column, queries, k, metric, mask)
    alone = [search_exact(column, query[None, :], k, metric, mask) for query in queries]
    by_rows = search_rows(column, queries, k, metric, mask.rows)
    for other in (Found(*(np.concatenate(part) for part in zip(*alone, strict=True))), by_rows):
        assert other.rows.tobytes() == together.rows.tobytes()
        assert other.scores.tobytes() == together.scores.tobytes()


@pytest.mark.parametrize("query_count", [1, 50])
def test_l2_far_from_the_origin_keeps_its_precision(query_count: int) -> None:
    random = np.random.default_rng(3)
    vectors = (10_000 + random.normal(size=(2000, 32))).astype(np.float32)
    queries = (10_000 + random.normal(size=(query_count, 32))).astype(np.float32)
    found = search_exact(Vectors(vectors), queries, 10, Metric.L2)
    truth = twin_scores(vectors, queries, Metric.L2)
    assert (found.rows == twin_best(truth, 10, Metric.L2)).all()
    np.testing.assert_allclose(found.scores, np.take_along_axis(truth, found.rows, axis=1), rtol=1e-5)


@pytest.mark.parametrize("query_count", [1, 50])
@pytest.mark.parametrize("metric", [Metric.L2, Metric.IP, Metric.COSINE])
def test_overflowing_rows_come_last_and_none_is_lost(query_count: int, metric: Metric) -> None:
    vectors = integers(300, 4, 5)
    vectors[7] = 3e38
    vectors[8] = -3e38
    with np.errstate(over="ignore", invalid="ignore"):
        found = search_exact(Vectors(vectors), integers(query_count, 4, 6), 300, metric)
    assert (np.sort(found.rows, axis=1) == np.arange(300)).all()
    assert not np.isnan(found.scores).any()


def test_cosine_of_zero_tiny_and_huge_vectors() -> None:
    vectors = np.array([[0, 0], [1e-25, 0], [1e25, 0], [0, 1], [-1e-25, 0]], np.float32)
    found = search_exact(Vectors(vectors), np.array([[2, 0]], np.float32), 5, Metric.COSINE)
    assert found.rows.tolist() == [[1, 2, 0, 3, 4]]
    np.testing.assert_allclose(found.scores, [[1, 1, 0, 0, -1]], atol=1e-5)
    zero = search_exact(Vectors(vectors), np.zeros((1, 2), np.float32), 5, Metric.COSINE)
    assert zero.scores.tolist() == [[0] * 5]
    np.testing.assert_allclose(Vectors(vectors).inverse_norms, [0, 1e25, 1e-25, 1, 1e25], rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(normalised(vectors), axis=1), [0, 1, 1, 1, 1], rtol=1e-6)


def test_known_squares_are_used_and_scores_agree() -> None:
    random = np.random.default_rng(2)
    vectors, query = random.normal(size=(50, 8)).astype(np.float32), random.normal(size=8).astype(np.float32)
    squares = np.einsum("ij,ij->i", vectors, vectors)
    for metric in (Metric.L2, Metric.IP, Metric.COSINE):
        found = search_exact(Vectors(vectors, squares), query[None, :], 50, metric)
        scores = score_all(Vectors(vectors), query, metric, np.arange(50))
        assert (scores[found.rows[0]] == found.scores[0]).all()


def test_cost_grows_with_the_work() -> None:
    column = Vectors(np.zeros((6000, 384), np.float32))
    assert cost_us(column, 60, 1) < cost_us(column, 600, 1) < cost_us(column, 6000, 1)
    assert cost_us(column, 6000, 100) < 100 * cost_us(column, 6000, 1)
    assert cost_us(column, 6000, 1) < cost_us(Vectors(np.zeros((6000, 384), np.float16)), 6000, 1)


def test_every_finite_half_and_bfloat16_is_widened_exactly() -> None:
    patterns = np.arange(1 << 16, dtype=np.uint16)
    halves = patterns.view(np.float16)
    finite = halves[np.isfinite(halves)].reshape(-1, 8)
    assert (as_float32(finite).view(np.uint32) == finite.astype(np.float32).view(np.uint32)).all()
    wide = as_float32(patterns.reshape(-1, 8))
    assert (wide.view(np.uint32) == patterns.reshape(-1, 8).astype(np.uint32) << 16).all()


def narrowed(values: np.ndarray, kind: str) -> np.ndarray:
    if kind == "bfloat16":
        return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return np.clip(values * 20, -128, 127).astype(np.int8) if kind == "int8" else values.astype(np.float16)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["float16", "bfloat16", "int8"]),
    st.sampled_from([Metric.L2, Metric.IP, Metric.COSINE]),
    st.sampled_from([1, 9]),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.05, 0.6, 1.0]),
)
def test_narrow_columns_answer_as_their_widened_copies_do(
    kind: str, metric: Metric, query_count: int, seed: int, share: float
) -> None:
    chance = np.random.default_rng(seed)
    dimension = int(chance.choice([2, 7, 16, 70000]))
    rows = 12 if dimension == 70000 else 200
    stored = narrowed(chance.normal(size=(rows, dimension)).round(1), kind)
    queries = as_float32(narrowed(chance.normal(size=(query_count, dimension)).round(1), kind))
    keep = chance.random(rows) < share
    plain = Vectors(as_float32(stored))
    found = search_exact(Vectors(stored), queries, 10, metric, RowMask.of(keep))
    wanted = search_exact(plain, queries, 10, metric, RowMask.of(keep))
    assert (found.rows == wanted.rows).all()
    assert (found.scores == wanted.scores).all()
