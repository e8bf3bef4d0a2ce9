"""The planner's promise: min(k, passing) rows whatever the mask, recall whatever its correlation, ranges exactly."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elanus.base.errors import InvariantError
from elanus.index import registry
from elanus.index.contract import Bools, Floats, Found, ResolvedIndex, RowMask, SearchParams, VectorIndex
from elanus.index.exact import search_exact
from elanus.index.parameters import Setting
from elanus.index.plan import NEARLY_ALL, WIDENING_MAX, SearchRequest, estimate_us, in_range, search_planned
from elanus.index.sparse import packed_queries
from elanus.index.vectors import Vectors
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType, Metric
from elanus.testing.conformance_data import (
    Data,
    SparseData,
    assert_well_formed,
    entries_of,
    recall_by_score,
    twin_best,
    twin_scores,
)
from elanus.testing.conformance_filtered import FreeIndex, Subject, check_correlated

ROWS = 2000
K = 10
METRICS = (Metric.L2, Metric.IP, Metric.COSINE)


class PerfectIndex:
    """Finds everything and claims to cost nothing, so that the planner always asks it first."""

    index_type = "PERFECT"
    scores_exactly = True
    size_bytes = 0

    def __init__(self, vectors: Floats, metric: Metric) -> None:
        self.vectors = Vectors(vectors)
        self.metric = metric
        self.row_count, self.dimension = vectors.shape
        self.asked: list[int] = []

    def search(self, queries: Floats, k: int, mask: RowMask | None, params: SearchParams) -> Found:
        self.asked.append(k)
        return search_exact(self.vectors, queries, k, self.metric, mask)

    def params_for(self, k: int, rank: int, params: SearchParams) -> SearchParams:
        return {**params, "rank": rank}

    def candidates(self, k: int, params: SearchParams) -> int:
        return k

    def cost_us(self, k: int, params: SearchParams) -> float:
        return 0.0


class ForgetfulIndex(PerfectIndex):
    """Loses every second place of its answers."""

    def search(self, queries: Floats, k: int, mask: RowMask | None, params: SearchParams) -> Found:
        found = super().search(queries, k, mask, params)
        found.rows[:, k // 2 :] = -1
        found.scores[:, k // 2 :] = -np.inf if self.metric.larger_is_better else np.inf
        return found


@cache
def data() -> tuple[Floats, Floats]:
    """Clusters along a line, and queries near them."""
    random = np.random.default_rng(11)
    centres = random.normal(size=(40, 16))
    vectors = centres[random.integers(0, 40, ROWS)] + 0.5 * random.normal(size=(ROWS, 16))
    queries = centres[random.integers(0, 40, 20)] + 0.5 * random.normal(size=(20, 16))
    return vectors.astype(np.float32), queries.astype(np.float32)


BUILT: dict[str, dict[str, Setting]] = {
    "HNSW": {"M": 16, "efConstruction": 100},
    "HNSW_SQ": {"M": 16, "efConstruction": 100, "sq_type": "SQ8"},
    "HNSW_PQ": {"M": 16, "efConstruction": 100, "m": 8, "nbits": 5},
    "HNSW_PRQ": {"M": 16, "efConstruction": 100, "m": 4, "nbits": 5, "nrq": 2},
    "IVF_FLAT": {"nlist": 64},
    "IVF_SQ8": {"nlist": 64},
    "IVF_PQ": {"nlist": 64, "m": 8, "nbits": 5},
    "IVF_RABITQ": {"nlist": 64},
    "SCANN": {"nlist": 64},
    "DISKANN": {
        "max_degree": 24,
        "search_list_size": 60,
        "pq_code_budget_gb_ratio": 0.125,
        "search_cache_budget_gb_ratio": 0.1,
    },
}


@cache
def real_index(kind: str, metric: Metric) -> VectorIndex:
    parts = registry.build(ResolvedIndex(kind, metric, BUILT[kind], True), data()[0], 1)
    return registry.load(memoryview(b"".join(parts)))


@cache
def mask_for(kind: str, share: float, metric: Metric) -> Bools:
    """Random rows, or the rows nearest to, or farthest from, the first query."""
    count = round(share * ROWS)
    keep = np.zeros(ROWS, np.bool_)
    if kind == "random":
        keep[np.random.default_rng(count).permutation(ROWS)[:count]] = True
    else:
        order = twin_best(twin_scores(data()[0], data()[1][:1], metric), ROWS, metric)[0]
        keep[order[:count] if kind == "near" else order[::-1][:count]] = True
    return keep


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["random", "near", "far"]),
    share=st.sampled_from([0.0, 0.0005, 0.002, 0.01, 0.1, 0.5, 0.9, 0.995, 1.0]),
    metric=st.sampled_from(METRICS),
    query_count=st.sampled_from([1, 3, 20]),
    k=st.sampled_from([1, 10, 100]),
    forgetful=st.booleans(),
)
def test_a_perfect_or_forgetful_index_never_costs_a_row(
    kind: str, share: float, metric: Metric, query_count: int, k: int, forgetful: bool
) -> None:
    vectors, queries = data()[0], data()[1][:query_count]
    keep = mask_for(kind, share, metric)
    index = (ForgetfulIndex if forgetful else PerfectIndex)(vectors, metric)
    column = Vectors(vectors)
    found = search_planned(index, column, SearchRequest(queries, k, metric), RowMask.of(keep))
    exact = search_exact(column, queries, k, metric, RowMask.of(keep))
    assert found.rows.tobytes() == exact.rows.tobytes()
    assert found.scores.tobytes() == exact.scores.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("index_type", BUILT)
def test_neighbourhoods_of_real_indexes_keep_the_promise(index_type: str, metric: Metric) -> None:
    vectors, queries = data()
    index, column = FreeIndex(real_index(index_type, metric)), Vectors(vectors)
    scores = twin_scores(vectors, queries, metric)
    for kind in ("random", "near", "far"):
        for share in (0.005, 0.05, 0.2, 0.5, 0.9):
            keep = mask_for(kind, share, metric)
            found = search_planned(index, column, SearchRequest(queries, K, metric), RowMask.of(keep))
            assert_well_formed(found, scores, K, metric, keep)
            assert ((found.rows >= 0).sum(axis=1) == K).all()
            truth = twin_best(scores, K, metric, keep)
            assert recall_by_score(found, scores, truth, metric) >= 0.95, (kind, share)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    index_type=st.sampled_from(sorted(BUILT)),
    metric=st.sampled_from(METRICS),
    kind=st.sampled_from(["random", "near", "far"]),
    count=st.integers(1, ROWS),
    k=st.integers(1, 60),
    query_count=st.sampled_from([1, 20]),
)
def test_any_index_under_any_filter_gives_k_rows_and_nearly_the_right_ones(
    index_type: str, metric: Metric, kind: str, count: int, k: int, query_count: int
) -> None:
    vectors, queries = data()[0], data()[1][:query_count]
    keep = mask_for(kind, count / ROWS, metric)
    mask, index = RowMask.of(keep), FreeIndex(real_index(index_type, metric))
    found = search_planned(index, Vectors(vectors), SearchRequest(queries, k, metric), mask)
    scores = twin_scores(vectors, queries, metric)
    assert_well_formed(found, scores, k, metric, keep)
    assert ((found.rows >= 0).sum(axis=1) == min(k, mask.count)).all()
    # Above NEARLY_ALL the user's own effort decides; one query of a few rows may miss one of them.
    if mask.count <= NEARLY_ALL * ROWS and query_count * k >= 100:
        assert recall_by_score(found, scores, twin_best(scores, k, metric, keep), metric) >= 0.95


def test_few_deletes_do_not_widen_the_search_and_anticorrelated_ones_do() -> None:
    vectors, queries = data()
    index = PerfectIndex(vectors, Metric.L2)
    keep = np.ones(ROWS, np.bool_)
    keep[np.random.default_rng(0).permutation(ROWS)[:20]] = False
    search_planned(index, Vectors(vectors), SearchRequest(queries[:1], K, Metric.L2), RowMask.of(keep))
    assert index.asked == [16]
    near = mask_for("near", 0.005, Metric.L2)
    search_planned(index, Vectors(vectors), SearchRequest(queries[:1], K, Metric.L2), RowMask.of(~near))
    assert index.asked[1] == 16
    assert len(index.asked) > 2


@settings(max_examples=40, deadline=None)
@given(kind=st.sampled_from(["near", "far"]), share=st.floats(0.01, 0.95), query_count=st.sampled_from([1, 20]))
def test_attempts_widen_step_by_step(kind: str, share: float, query_count: int) -> None:
    vectors, queries = data()
    index = PerfectIndex(vectors, Metric.L2)
    mask = RowMask.of(mask_for(kind, round(share, 2), Metric.L2))
    search_planned(index, Vectors(vectors), SearchRequest(queries[:query_count], K, Metric.L2), mask)
    assert all(2 * narrow <= wide <= WIDENING_MAX * narrow for narrow, wide in pairwise(index.asked))


def test_a_search_without_index_is_exact_and_a_foreign_index_is_refused() -> None:
    vectors, queries = data()
    found = search_planned(None, Vectors(vectors), SearchRequest(queries, K, Metric.L2))
    assert (found.rows == search_exact(Vectors(vectors), queries, K, Metric.L2).rows).all()
    with pytest.raises(InvariantError):
        search_planned(PerfectIndex(vectors, Metric.IP), Vectors(vectors), SearchRequest(queries, K, Metric.L2))
    with pytest.raises(InvariantError):
        search_planned(PerfectIndex(vectors[:9], Metric.L2), Vectors(vectors), SearchRequest(queries, K, Metric.L2))


def test_many_wide_searches_are_cut_into_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elanus.index.plan.WIDTH_ENTRIES_MAX", 100)
    vectors, queries = data()
    index = PerfectIndex(vectors, Metric.IP)
    mask = RowMask.of(mask_for("random", 0.5, Metric.IP))
    found = search_planned(index, Vectors(vectors), SearchRequest(queries, K, Metric.IP), mask)
    assert len(index.asked) >= 5
    assert (found.rows == search_exact(Vectors(vectors), queries, K, Metric.IP, mask).rows).all()


@settings(max_examples=40, deadline=None)
@given(
    metric=st.sampled_from(METRICS),
    low=st.floats(0, 0.2),
    width=st.floats(0.0005, 0.5),
    one_sided=st.booleans(),
    share=st.sampled_from([0.01, 0.5, 1.0]),
    with_index=st.booleans(),
    query_count=st.sampled_from([1, 8]),
)
def test_ranges_hold_what_the_definition_says(
    metric: Metric, low: float, width: float, one_sided: bool, share: float, with_index: bool, query_count: int
) -> None:
    vectors, queries = data()[0], data()[1][:query_count]
    keep = mask_for("random", share, metric)
    scores = twin_scores(vectors, queries, metric).astype(np.float32)
    places = np.array([min(1.0, low + width), low])
    radius, inner = np.quantile(scores, 1 - places if metric.larger_is_better else places)
    params: dict[str, object] = {"radius": float(radius)}
    if not one_sided:
        params["range_filter"] = float(inner)
    index = PerfectIndex(vectors, metric) if with_index else None
    request = SearchRequest(queries, 50, metric, params)
    found = search_planned(index, Vectors(vectors), request, RowMask.of(keep))
    assert_well_formed(found, twin_scores(vectors, queries, metric), 50, metric, keep)
    assert in_range(found.scores[found.rows >= 0], metric, params).all()
    # Rows within rounding of a bound may fall on either side of it.
    margin = np.float32(1e-4) * (1 + np.abs(scores))
    below, above = (np.asarray(moved, np.float32) for moved in (scores - margin, scores + margin))
    surely = in_range(below, metric, params) & in_range(above, metric, params) & keep
    maybe = (in_range(below, metric, params) | in_range(above, metric, params)) & keep
    counts = (found.rows >= 0).sum(axis=1)
    assert (counts >= np.minimum(50, surely.sum(axis=1))).all()
    assert (counts <= maybe.sum(axis=1)).all()
    if one_sided:
        return
    unbounded = search_planned(None, Vectors(vectors), request, RowMask.of(keep))
    assert unbounded.rows.tobytes() == found.rows.tobytes()


def test_estimates_fall_with_the_work() -> None:
    vectors, queries = data()
    column, index = Vectors(vectors), real_index("HNSW", Metric.L2)
    one, many = SearchRequest(queries[:1], K, Metric.L2), SearchRequest(queries, K, Metric.L2)
    few = RowMask.of(mask_for("random", 0.01, Metric.L2))
    assert estimate_us(None, column, one, few) < estimate_us(None, column, one)
    assert estimate_us(index, column, one) <= estimate_us(None, column, one)
    assert estimate_us(None, column, one) < estimate_us(None, column, many)


DRILLED_ROWS = 100_000
DRILLED = {
    "HNSW": {"M": "16", "efConstruction": "60"},
    "HNSW_SQ": {"M": "16", "efConstruction": "60"},
    "HNSW_PQ": {"M": "16", "efConstruction": "60", "m": "8"},
    "HNSW_PRQ": {"M": "16", "efConstruction": "60", "m": "4", "nrq": "2"},
    "IVF_FLAT": {"nlist": "256"},
    "IVF_SQ8": {"nlist": "256"},
    "IVF_PQ": {"nlist": "256", "m": "8"},
    "IVF_RABITQ": {"nlist": "256"},
    "SCANN": {"nlist": "256"},
    "DISKANN": {"max_degree": "24", "search_list_size": "50"},
    "BIN_IVF_FLAT": {"nlist": "256"},
    "SPARSE_INVERTED_INDEX": {},
}
"""Definitions of every type that takes filters."""


def drilled_data(index_type: str) -> Data:
    """Rows of which ten pass at 0.01 %."""
    random = np.random.default_rng(17)
    if index_type == "BIN_IVF_FLAT":
        centres = random.integers(0, 256, (200, 16), np.uint8)
        flipped = np.packbits(random.random((DRILLED_ROWS + 8, 128)) < 0.15, axis=1)
        bits = centres[random.integers(0, 200, len(flipped))] ^ flipped
        return Data(bits[:DRILLED_ROWS], bits[DRILLED_ROWS:])
    if index_type == "SPARSE_INVERTED_INDEX":
        has = random.random((DRILLED_ROWS + 4, 40)) < 0.3
        dense = np.where(has, random.gamma(2.0, 1.0, has.shape), 0).astype(np.float32)
        dense[:, 0] += np.float32(0.01)
        return SparseData(dense[:DRILLED_ROWS], packed_queries([entries_of(row) for row in dense[DRILLED_ROWS:]]))
    centres = random.normal(size=(200, 16))
    values = centres[random.integers(0, 200, DRILLED_ROWS + 8)] + 0.6 * random.normal(size=(DRILLED_ROWS + 8, 16))
    return Data(values[:DRILLED_ROWS].astype(np.float32), values[DRILLED_ROWS:].astype(np.float32))


@pytest.mark.drill
@pytest.mark.parametrize("index_type", DRILLED)
def test_the_promise_holds_where_ten_of_many_rows_pass(index_type: str) -> None:
    data = drilled_data(index_type)
    data_type, metric = DataType.FLOAT_VECTOR, Metric.L2
    weak: dict[str, object] = {"nprobe": 1}
    if index_type.startswith("HNSW"):
        weak = {"ef": K}
    if index_type == "DISKANN":
        weak = {"search_list": K}
    if index_type == "BIN_IVF_FLAT":
        data_type, metric = DataType.BINARY_VECTOR, Metric.HAMMING
    if index_type == "SPARSE_INVERTED_INDEX":
        data_type, metric, weak = DataType.SPARSE_FLOAT_VECTOR, Metric.IP, {}
    field = FieldSchema(100, "v", data_type, type_params={"dim": str(data.shape[1])})
    given = {"index_type": index_type, "metric_type": metric.value, **DRILLED[index_type]}
    resolved = registry.resolve(registry.validate_definition(given, field), field)
    index = registry.load(memoryview(b"".join(registry.build(resolved, data.buildable, 2))))
    check_correlated(Subject(index, data, data.column, weak, weak))
