"""A metric from another package: found by its entry point, judged by the published suite, driven by pymilvus."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pymilvus import AnnSearchRequest, DataType, MilvusClient, WeightedRanker

from elanus.base.errors import ElanusError
from elanus.index import registry
from elanus.index.compared import as_compared
from elanus.index.errors import MetricError
from elanus.index.plan import SearchRequest, search_planned
from elanus.index.vectors import Vectors
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType as FieldType
from elanus.model.types import Metric
from elanus.testing.conformance_index import IndexCase, check_index
from elanus.testing.conformance_metric import check_metric
from filled import normal_vectors
from packages import example, install, on_path, python_path
from servers import DrillServer

OTHERS = """
import numpy as np
from elanus.index.contract import Found, ResolvedIndex
from elanus.index.declaration import FLOAT_TYPES, Declaration
from elanus.index.file import Trailer, read_array, read_trailer, write_arrays
from elanus.index.parameters import IntegerParameter
from elanus.model.types import Metric
from elanus_manhattan import Manhattan


class Upside(Manhattan):
    name = "UPSIDE"
    larger_is_better = True


class Faulty(Manhattan):
    name = "FAULTY"
    def scores(self, query, vectors):
        return vectors @ query[:-1]


class Centred(Manhattan):
    name = "CENTRED"
    def scores(self, query, vectors):
        return super().scores(query, vectors - vectors.mean(axis=0))


class Hollow:
    name = "HOLLOW"


class CoarseIndex:
    # Vectors rounded to halves.
    scores_exactly = False

    def __init__(self, data):
        trailer = read_trailer(data)
        self._values = read_array(data, trailer, "values")
        self.index_type, self.metric = trailer.index_type, trailer.metric
        self.row_count, self.dimension, self.size_bytes = trailer.row_count, trailer.dimension, len(data)

    def search(self, queries, k, mask, params):
        scores = np.full((len(queries), k), np.inf, np.float32)
        rows = np.full((len(queries), k), -1, np.int64)
        kept = np.arange(self.row_count) if mask is None else mask.rows
        for place, query in enumerate(queries):
            own = Manhattan().scores(query, self._values[kept].astype(np.float32))
            best = np.argsort(own, kind="stable")[:k]
            rows[place, : len(best)], scores[place, : len(best)] = kept[best], own[best]
        return Found(scores, rows)

    def candidates(self, k, params):
        return k * int(params.get("spare", 2))

    def params_for(self, k, rank, params):
        return {**params, "spare": 4}

    def cost_us(self, k, params):
        return self.row_count * self.dimension * 0.0001 + 0.001 * k


class Coarse(Declaration):
    name = "COARSE"
    data_types = FLOAT_TYPES
    metrics = frozenset({Metric("MANHATTAN")})
    search_parameters = (IntegerParameter("spare", 1, 100, 2),)

    def resolve(self, params, field):
        return ResolvedIndex(self.name, Metric(params["metric_type"]), {}, needs_file=True)

    def build(self, resolved, vectors, threads):
        trailer = Trailer(self.name, resolved.metric, len(vectors), vectors.shape[1], {})
        return write_arrays({"values": vectors.astype(np.float16)}, trailer)

    def load(self, data):
        return CoarseIndex(data)
"""
NAMES = {
    "MANHATTAN": "elanus_manhattan:Manhattan",
    "UPSIDE": "others:Upside",
    "FAULTY": "others:Faulty",
    "CENTRED": "others:Centred",
    "HOLLOW": "others:Hollow",
    "COSINE": "others:Faulty",
    "MISSING": "nowhere:Nothing",
}
FIELD = FieldSchema(100, "v", FieldType.FLOAT_VECTOR, type_params={"dim": "24"})
BITS = FieldSchema(100, "v", FieldType.BINARY_VECTOR, type_params={"dim": "24"})


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The example, and others that should not all be accepted."""
    folder = tmp_path_factory.mktemp("installed")
    modules = {"elanus_manhattan": example("manhattan"), "others": OTHERS}
    install(folder, modules, {"elanus.metrics": NAMES, "elanus.indexes": {"COARSE": "others:Coarse"}})
    with on_path(folder):
        yield folder


def test_the_suite_accepts_the_example(installed: Path) -> None:
    check_metric("MANHATTAN", lambda query, vector: float(abs(query - vector).sum()))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("FAULTY", "matmul"),
        ("CENTRED", "Not equal to tolerance"),
        ("ABSENT", "no installed package"),
        ("COSINE", "cannot be replaced"),
    ],
)
def test_the_suite_rejects(installed: Path, name: str, message: str) -> None:
    with pytest.raises((AssertionError, ValueError, ElanusError), match=message):
        check_metric(name, lambda query, vector: float(abs(query - vector).sum()))


@pytest.mark.parametrize(
    ("index_type", "metric", "field", "message"),
    [
        ("HNSW", "MANHATTAN", FIELD, "metric type MANHATTAN comes from another package, and index type HNSW does not"),
        ("AUTOINDEX", "MANHATTAN", FIELD, "index type AUTOINDEX does not know it: use FLAT or an index type of that"),
        ("COARSE", "UPSIDE", FIELD, "index type COARSE does not know it"),
        ("BIN_FLAT", "MANHATTAN", BITS, "metric type MANHATTAN compares dense vectors, not BinaryVector"),
        ("FLAT", "MISSING", FIELD, "metric type MISSING: nowhere:Nothing cannot be loaded: No module named 'nowhere'"),
        ("FLAT", "HOLLOW", FIELD, "metric type HOLLOW: Hollow is no metric of that name"),
        ("FLAT", "ABSENT", FIELD, "float vector index does not support metric type: ABSENT"),
    ],
)
def test_refused(installed: Path, index_type: str, metric: str, field: FieldSchema, message: str) -> None:
    with pytest.raises(ElanusError) as caught:
        registry.validate_definition({"index_type": index_type, "metric_type": metric}, field)
    assert message in caught.value.message
    assert caught.value.code == 1100


@pytest.mark.parametrize("index_type", ["FLAT", "COARSE"])
def test_taken_by_exact_search_and_by_the_index_that_declares_it(installed: Path, index_type: str) -> None:
    stored = registry.validate_definition({"index_type": index_type, "metric_type": "manhattan"}, FIELD)
    resolved = registry.resolve(stored, FIELD)
    assert resolved.metric is Metric("MANHATTAN")
    assert not resolved.metric.larger_is_better
    assert Metric("UPSIDE").larger_is_better


def test_the_suite_accepts_an_index_for_it(installed: Path) -> None:
    check_index(IndexCase("COARSE", Metric("MANHATTAN"), {}, weak={"spare": 1}, strong={"spare": 8}))


def test_a_fault_in_a_metric_is_told_as_its_own(installed: Path) -> None:
    column = as_compared(Vectors(np.ones((5, 4), np.float32)), Metric("FAULTY"))
    with pytest.raises(MetricError, match="metric type FAULTY: ValueError"):
        search_planned(None, column, SearchRequest(np.ones((1, 4), np.float32), 2, Metric("FAULTY")))


def test_a_metric_that_nobody_brings_is_refused() -> None:
    with pytest.raises(ElanusError, match="metric type GONE is not known, and no installed package brings it"):
        Metric("GONE")


@pytest.mark.slow
def test_pymilvus_searches_by_it(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", python_path(installed))
    server = DrillServer(tmp_path / "data").wait_ready()
    client = MilvusClient(server.uri)
    try:
        values = normal_vectors(1500, 16)
        distances = np.abs(values - values[7]).sum(axis=1)
        for name, metric, best in (("near", "MANHATTAN", distances), ("far", "UPSIDE", -distances)):
            schema = client.create_schema()
            schema.add_field("id", DataType.INT64, is_primary=True)
            schema.add_field("v", DataType.FLOAT_VECTOR, dim=16)
            schema.add_field("half", DataType.INT64)
            indexes = client.prepare_index_params()
            indexes.add_index("v", index_type="FLAT", metric_type=metric)
            client.create_collection(name, schema=schema, index_params=indexes, consistency_level="Strong")
            rows = [{"id": place, "v": row.tolist(), "half": place % 2} for place, row in enumerate(values)]
            client.insert(name, rows[:1000])
            client.flush(name)
            client.insert(name, rows[1000:])
            assert client.describe_index(name, "v")["metric_type"] == metric
            found = client.search(name, [values[7].tolist()], limit=20, search_params={"metric_type": metric})[0]
            assert [hit["id"] for hit in found] == np.argsort(best)[:20].tolist()
            np.testing.assert_allclose([hit["distance"] for hit in found], distances[np.argsort(best)[:20]], rtol=1e-5)
            odd = client.search(name, [values[7].tolist()], limit=5, filter="id % 2 == 1")[0]
            assert [hit["id"] for hit in odd] == [row for row in np.argsort(best) if row % 2][:5]
        _check_other_reads(client, values, distances)
        with pytest.raises(Exception, match="metric type not match"):
            client.search("near", [values[7].tolist()], limit=5, search_params={"metric_type": "L2"})
        with pytest.raises(Exception, match="comes from another package"):
            client.drop_index("far", "v") if client.release_collection("far") else None
            hnsw = client.prepare_index_params()
            hnsw.add_index("v", index_type="HNSW", metric_type="MANHATTAN")
            client.create_index("far", hnsw)
    finally:
        client.close()
        server.kill()


def _check_other_reads(client: MilvusClient, values: np.ndarray, distances: np.ndarray) -> None:
    """Ranges, groups, iterators and hybrid searches by the metric."""
    order, query = np.argsort(distances), [values[7].tolist()]
    ring = {"radius": float(distances[order[30]]), "range_filter": float(distances[order[10]])}
    ranged = client.search("near", query, limit=50, search_params={"params": ring})[0]
    assert [hit["id"] for hit in ranged] == order[10:30].tolist()
    grouped = client.search("near", query, limit=8, group_by_field="half", output_fields=["half"])[0]
    assert sorted(hit["entity"]["half"] for hit in grouped) == [0, 1]
    assert grouped[0]["id"] == 7
    pages = client.search_iterator("near", query, batch_size=40, limit=100)
    met = [hit["id"] for _ in range(3) for hit in pages.next()]
    pages.close()
    assert met == order[:100].tolist()
    asked = [AnnSearchRequest(query, "v", {"metric_type": "MANHATTAN"}, limit=10) for _ in range(2)]
    fused = client.hybrid_search("near", asked, WeightedRanker(0.5, 0.5), limit=10)[0]
    assert [hit["id"] for hit in fused] == order[:10].tolist()
