"""SPARSE_INVERTED_INDEX and SPARSE_WAND: the same rows and the same bits of scores as a plain product, whatever the
algorithm, the mask and the range; each kernel against its twin."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from elanus.base.errors import CorruptedError
from elanus.index import registry
from elanus.index.compiled.postings import WINDOW, best_rows
from elanus.index.contract import RowMask, VectorIndex
from elanus.index.plan import SearchRequest, search_planned
from elanus.index.sparse import SparseVectors, packed_queries
from elanus.index.sparse_index import ALGORITHMS
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType, Metric

FIELD = FieldSchema(100, "vec", DataType.SPARSE_FLOAT_VECTOR)
SETTINGS = settings(max_examples=60, deadline=None)

Row = dict[int, float]


def encoded(row: Row) -> bytes:
    pairs = np.empty((len(row), 2), "<u4")
    pairs[:, 0] = sorted(row)
    pairs[:, 1] = np.array([row[one] for one in sorted(row)], "<f4").view("<u4")
    return pairs.tobytes()


def built(column: pa.Array, algorithm: str = ALGORITHMS[0]) -> bytes:
    definition = {"metric_type": "IP", "index_type": "SPARSE_INVERTED_INDEX", "inverted_index_algo": algorithm}
    resolved = registry.resolve(definition, FIELD)
    return b"".join(registry.build(resolved, column, 1))


def opened(column: pa.Array, algorithm: str = ALGORITHMS[0]) -> VectorIndex:
    return registry.load(memoryview(built(column, algorithm)))


@cache
def zipf_column(rows: int, seed: int, sizes: tuple[int, int] = (0, 40)) -> tuple[pa.Array, np.ndarray]:
    """Rows of up to 40 of 500 dimensions, low ones far more often, and the same as a dense array."""
    random = np.random.default_rng(seed)
    share = 1 / np.arange(1, 501)
    dense = np.zeros((rows, 500), np.float32)
    for row, count in enumerate(random.integers(*sizes, rows)):
        places = random.choice(500, count, replace=False, p=share / share.sum())
        dense[row, places] = random.gamma(2.0, 1.0, count) / (1 + 20 * share[places])
    sparse = [encoded({int(d): float(row[d]) for d in np.flatnonzero(row)}) for row in dense]
    return pa.array(sparse, pa.large_binary()), dense


def zipf_queries(count: int, terms: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    dense = np.zeros((count, 500), np.float32)
    for query in dense:
        query[random.choice(500, terms, replace=False)] = random.random(terms) + 0.1
    packed = packed_queries([encoded({int(d): float(row[d]) for d in np.flatnonzero(row)}) for row in dense])
    return packed, dense


weights = st.floats(0, 4, width=16)
rows_of = st.dictionaries(st.integers(0, 12) | st.sampled_from([65536, 65541, 2**32 - 2]), weights, max_size=6)
signed_rows = st.dictionaries(st.integers(0, 6), st.floats(-4, 4, width=16), max_size=4)


@pytest.mark.slow
@SETTINGS
@given(
    st.lists(rows_of, min_size=1, max_size=30) | st.lists(signed_rows, min_size=1, max_size=30),
    st.lists(rows_of, min_size=1, max_size=3) | st.lists(signed_rows, min_size=1, max_size=3),
    st.integers(1, 12),
    st.sampled_from(ALGORITHMS),
    st.none() | st.floats(-3, 3, width=16),
)
@example([{1: 0.0}, {2: 0.0}, {1: 0.0}], [{1: 0.0, 2: 0.0}], 2, "DAAT_MAXSCORE", None)
@example([{1: 1.0}, {2: 1.0}, {1: 1.0}], [{1: 1.0, 2: 1.0}], 2, "DAAT_MAXSCORE", None)
def test_every_algorithm_is_a_plain_product(
    rows: list[Row], queries: list[Row], k: int, algorithm: str, radius: float | None
) -> None:
    column = pa.array([b"skipped!", *map(encoded, rows)], pa.large_binary())[1:]
    index = opened(column, algorithm)
    keep = np.arange(len(rows)) % 4 != 3
    params = {} if radius is None else {"radius": radius, "range_filter": radius + 5.0}
    request = SearchRequest(packed_queries(list(map(encoded, queries))), k, Metric.IP, params)
    for mask in (None, RowMask.of(keep)):
        found = search_planned(index, SparseVectors(column), request, mask)
        plain = search_planned(None, SparseVectors(column), request, mask)
        for place, query in enumerate(queries):
            scores = {
                at: float(np.float32(math.fsum(row[one] * query[one] for one in row.keys() & query.keys())))
                for at, row in enumerate(rows)
                if (mask is None or keep[at]) and row.keys() & query.keys()
            }
            inside = {r: s for r, s in scores.items() if radius is None or radius < s <= radius + 5}
            wanted = sorted(inside.items(), key=lambda one: (-one[1], one[0]))[:k]
            got = [(int(r), float(s)) for r, s in zip(found.rows[place], found.scores[place], strict=True) if r >= 0]
            assert got == wanted
        assert found.rows.tobytes() == plain.rows.tobytes()
        assert found.scores.tobytes() == plain.scores.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_windows_masks_and_many_terms(algorithm: str) -> None:
    """More rows than a window holds: bounds, skipped windows and the race within each."""
    column, dense = zipf_column(WINDOW + 777, 3, (1, 12))
    index = opened(column, algorithm)
    random = np.random.default_rng(4)
    for terms in (1, 5, 60):
        packed, asked = zipf_queries(3, terms, terms)
        products = asked.astype(np.float64) @ dense.T.astype(np.float64)
        for share in (0.0005, 0.5, 1.0):
            keep = random.random(len(column)) < share
            for k in (1, 50):
                found = index.search(packed, k, RowMask.of(keep), {})
                for place in range(3):
                    wanted = np.where(keep & ((dense[:, asked[place] > 0] != 0).any(axis=1)), products[place], -np.inf)
                    best = np.sort(wanted[wanted > -np.inf])[::-1][:k]
                    count = len(best)
                    np.testing.assert_allclose(found.scores[place][:count], best, rtol=1e-6)
                    assert (found.rows[place][count:] == -1).all()
                    assert keep[found.rows[place][:count]].all()


@SETTINGS
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 30), st.sampled_from(ALGORITHMS))
def test_the_kernel_is_its_twin(seed: int, terms: int, k: int, algorithm: str) -> None:
    pytest.importorskip("numba", reason="numba is not installed: kernels run as their NumPy twins")
    column, _ = zipf_column(60, seed % 7)
    index = opened(column, algorithm)
    packed, _ = zipf_queries(1, terms, seed)
    calls: list[tuple[object, ...]] = []
    keep = np.random.default_rng(seed).random(60) < 0.8

    def recorded(*arguments: object) -> object:
        calls.append(arguments)
        return best_rows.twin(*arguments)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("elanus.index.sparse_index.best_rows", recorded)
        index.search(packed, k, RowMask.of(keep), {"radius": 0.5})
        index.search(packed, k, None, {})
    for arguments in calls:
        scores, rows = best_rows.compiled(*arguments)  # type: ignore[arg-type]
        order = np.lexsort((rows, -scores))
        twin_scores, twin_rows = best_rows.twin(*arguments)  # type: ignore[arg-type]
        assert rows[order].tolist() == twin_rows.tolist()
        assert scores[order].tobytes() == twin_scores.tobytes()


def test_dropping_changes_time_and_little_else() -> None:
    column, dense = zipf_column(2000, 5)
    index = opened(column)
    packed, asked = zipf_queries(20, 20, 6)
    whole = index.search(packed, 10, None, {})
    for params in ({"drop_ratio_search": 0.3}, {"dim_max_score_ratio": 0.7}):
        found = index.search(packed, 10, None, params)
        share = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.rows, whole.rows, strict=True)])
        assert share > 0.8
        own = np.take_along_axis(asked @ dense.T, np.maximum(found.rows, 0), axis=1)
        np.testing.assert_allclose(found.scores, own, rtol=1e-5)
    same = index.search(packed, 10, None, {"dim_max_score_ratio": 1.2, "drop_ratio_search": 0.0})
    assert same.rows.tobytes() == whole.rows.tobytes()


def test_the_file_is_mapped_and_damage_is_refused() -> None:
    column, _ = zipf_column(200, 7)
    data = built(column)
    packed, _ = zipf_queries(4, 5, 8)
    first, second = registry.load(memoryview(data)), registry.load(memoryview(data))
    assert first.size_bytes == len(data)
    assert (first.index_type, first.metric, first.row_count) == ("SPARSE_INVERTED_INDEX", Metric.IP, 200)
    assert first.search(packed, 9, None, {}).scores.tobytes() == second.search(packed, 9, None, {}).scores.tobytes()
    for damaged in (b"", data[:-1], data[len(data) // 2 :]):
        with pytest.raises(CorruptedError):
            registry.load(memoryview(damaged))


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_empty_columns_and_empty_rows(rows: int) -> None:
    column = pa.array([b""] * rows, pa.large_binary())
    found = opened(column).search(zipf_queries(2, 3, 1)[0], 4, None, {})
    assert (found.rows == -1).all()


def test_wand_is_the_same_by_an_older_name() -> None:
    resolved = registry.resolve({"metric_type": "IP", "index_type": "SPARSE_WAND", "drop_ratio_build": "0.2"}, FIELD)
    assert (resolved.index_type, resolved.needs_file) == ("SPARSE_WAND", True)
    assert resolved.params == {"inverted_index_algo": "DAAT_WAND"}
    auto = registry.resolve({"metric_type": "IP", "index_type": "AUTOINDEX"}, FIELD)
    assert (auto.index_type, auto.needs_file) == ("SPARSE_INVERTED_INDEX", True)
