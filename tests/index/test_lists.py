"""Indexes over lists of vectors beside the exact scan: rows by MAX_SIM, and elements by a plain metric."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from elanus.base.files import PosixFiles
from elanus.index import registry
from elanus.index.contract import Found, ResolvedIndex, RowMask, VectorIndex
from elanus.index.multi import MultiVectors, padded_lists
from elanus.index.plan import SearchRequest, nearest, search_planned
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType, Metric
from elanus.testing.conformance_data import assert_well_formed

ROWS, DIMENSION, K = 1500, 16, 10
FIELD = FieldSchema(100, "s[v]", DataType.ARRAY_OF_VECTOR, type_params={"dim": str(DIMENSION)})
METRICS = (Metric.MAX_SIM_COSINE, Metric.MAX_SIM_IP, Metric.MAX_SIM_L2, Metric.MAX_SIM)
TYPES = {
    "HNSW": {"M": "16"},
    "HNSW_SQ": {"M": "16"},
    "HNSW_PQ": {"M": "16", "m": "8"},
    "HNSW_PRQ": {"M": "16", "m": "4"},
    "IVF_FLAT": {"nlist": "16"},
    "DISKANN": {"max_degree": "24", "search_list_size": "60"},
}
"""All that take lists."""


@cache
def data() -> tuple[MultiVectors, np.ndarray]:
    """Rows of none to six vectors around a topic each, and queries of one to four about a topic."""
    random = np.random.default_rng(4)
    topics = random.normal(size=(60, DIMENSION))

    def some(count: int) -> bytes:
        vectors = topics[random.integers(60)] + 0.5 * random.normal(size=(count, DIMENSION))
        return bytes(vectors.astype("<f4").tobytes())

    rows = [some(int(random.integers(0, 7))) for _ in range(ROWS)]
    return MultiVectors(pa.array(rows, pa.large_binary()), DIMENSION), padded_lists(
        [some(1 + n % 4) for n in range(30)]
    )


@cache
def index_of(index_type: str, metric: Metric) -> tuple[VectorIndex, bytes]:
    params = {"index_type": index_type, "metric_type": metric.value, **TYPES[index_type]}
    resolved = registry.resolve(registry.validate_definition(params, FIELD), FIELD)
    assert resolved.needs_file
    file = b"".join(registry.build(resolved, data()[0], 1))
    return registry.load(memoryview(file)), file


def share(found: Found, truth: Found) -> float:
    hits = [np.isin(found.rows[n], truth.rows[n][truth.rows[n] >= 0]).sum() for n in range(len(truth.rows))]
    return float(np.sum(hits) / (truth.rows >= 0).sum())


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("index_type", TYPES)
def test_rows_are_found_with_their_own_scores(index_type: str, metric: Metric) -> None:
    column, queries = data()
    index, file = index_of(index_type, metric)
    assert (index.row_count, index.dimension, index.metric) == (ROWS, DIMENSION, metric)
    request = SearchRequest(queries, K, metric, {"nprobe": 16})
    truth = search_planned(None, column, request)
    found = nearest(index, column, request, K, request.params)
    assert_well_formed(found, None, K, metric)
    assert share(found, truth) >= 0.95
    same = found.rows == truth.rows
    np.testing.assert_allclose(found.scores[same], truth.scores[same], rtol=1e-6)
    again = registry.load(memoryview(file)).search(queries, K, None, {"nprobe": 16})
    assert again.rows.tobytes() == index.search(queries, K, None, {"nprobe": 16}).rows.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("in_memory", [False, True])
def test_a_type_that_lives_on_disk_reads_pieces_of_its_file(tmp_path: Path, in_memory: bool) -> None:
    _, queries = data()
    index, file = index_of("DISKANN", Metric.MAX_SIM_IP)
    (tmp_path / "index").write_bytes(file)
    files, path = PosixFiles(), str(tmp_path / "index")
    opened = files.open(path)
    stored = registry.load(files.map(path), opened, in_memory)
    found = stored.search(queries, K, None, {})
    assert opened.piece_count > 0
    assert found.rows.tobytes() == index.search(queries, K, None, {}).rows.tobytes()


@pytest.mark.parametrize("metric", METRICS[:3])
@pytest.mark.parametrize("passing", [0.0, 0.01, 0.5, 1.0])
def test_filters_give_every_row_there_is(metric: Metric, passing: float) -> None:
    column, queries = data()
    index, _ = index_of("HNSW", metric)
    keep = np.random.default_rng(1).random(ROWS) < passing
    mask = RowMask.of(keep)
    request = SearchRequest(queries, K, metric)
    truth = search_planned(None, column, request, mask)
    found = search_planned(index, column, request, mask)
    assert_well_formed(found, None, K, metric, keep)
    assert ((found.rows >= 0).sum(axis=1) == (truth.rows >= 0).sum(axis=1)).all()
    assert not mask.count or share(found, truth) >= 0.95
    direct = index.search(queries, K, mask, {})
    assert_well_formed(direct, None, K, metric, keep)


@pytest.mark.slow
def test_a_plain_metric_indexes_the_elements() -> None:
    column, _ = data()
    resolved = registry.resolve({"index_type": "HNSW", "metric_type": "L2"}, FIELD)
    index = registry.load(memoryview(b"".join(registry.build(resolved, column, 1))))
    assert index.row_count == len(column.elements)
    request = SearchRequest(column.flat[:20] + np.float32(0.01), K, Metric.L2, {"ef": 100})
    truth, found = search_planned(None, column.elements, request), search_planned(index, column.elements, request)
    assert share(found, truth) >= 0.95


def test_empty_lists_and_queries_are_no_hits() -> None:
    column = MultiVectors(pa.array([b""] * 5, pa.large_binary()), DIMENSION)
    resolved = ResolvedIndex("IVF_FLAT", Metric.MAX_SIM_IP, {"nlist": 4}, True)
    index = registry.load(memoryview(b"".join(registry.build(resolved, column, 1))))
    assert (index.search(padded_lists([bytes(4 * DIMENSION)]), 3, None, {}).rows == -1).all()
    full, _ = index_of("HNSW", Metric.MAX_SIM_IP)
    assert (full.search(np.full((1, DIMENSION), np.nan, np.float32), 3, None, {}).rows == -1).all()


def test_every_type_that_takes_lists_is_tried() -> None:
    assert set(TYPES) == {
        kind.name
        for kind in registry.INDEX_TYPES.values()
        if hasattr(kind, "load") and DataType.ARRAY_OF_VECTOR in kind.data_types
    }
