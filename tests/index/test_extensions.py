"""An index type from another package: found by its entry point, judged by the published suite, driven by pymilvus."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pymilvus import MilvusClient

from elanus.index import registry
from elanus.index.errors import IndexParameterError
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType as FieldType
from elanus.model.types import Metric
from elanus.testing.conformance_index import IndexCase, check_index
from filled import create, create_index, fill, normal_vectors
from packages import example, install, on_path, python_path
from servers import DrillServer

CASE = IndexCase("HYPERPLANES", Metric.COSINE, {"bits": "512"}, weak={"shortlist": 1}, strong={"shortlist": 50})
BROKEN = """
from elanus_hyperplanes import Hyperplanes, HyperplanesIndex


class ForgetfulIndex(HyperplanesIndex):
    def search(self, queries, k, mask, params):
        return super().search(queries, k, None, params)


class Forgetful(Hyperplanes):
    name = "FORGETFUL"
    def load(self, data):
        return ForgetfulIndex(data)


class Faulty(Hyperplanes):
    name = "FAULTY"
    def build(self, resolved, vectors, threads):
        raise ZeroDivisionError("no such plane")
"""
FIELD = FieldSchema(100, "v", FieldType.FLOAT_VECTOR, type_params={"dim": "24"})


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The example, and two types that should not be accepted."""
    folder = tmp_path_factory.mktemp("installed")
    names = {"HYPERPLANES": "elanus_hyperplanes:Hyperplanes", "FORGETFUL": "broken:Forgetful"}
    names |= {"FAULTY": "broken:Faulty", "MISSING": "nowhere:Nothing", "MISNAMED": "broken:Faulty"}
    install(folder, {"elanus_hyperplanes": example("hyperplanes"), "broken": BROKEN}, {"elanus.indexes": names})
    with on_path(folder):
        yield folder


def test_the_suite_accepts_the_example(installed: Path) -> None:
    check_index(CASE)


def test_the_suite_rejects_an_index_that_forgets_the_mask(installed: Path) -> None:
    with pytest.raises(AssertionError, match="does not pass"):
        check_index(IndexCase("FORGETFUL", Metric.COSINE, CASE.params, CASE.weak, CASE.strong))


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("hyperplanes", {"bits": "65"}, "bits (65) should be a multiple of 64"),
        ("HYPERPLANES", {"bits": "1"}, "Out of range in json: param 'bits' (1) should be in range [64, 8192]"),
        ("HYPERPLANES", {"metric_type": "L2"}, "metric type L2 not found or not supported, supported: [COSINE]"),
        ("MISSING", {}, "index type MISSING: nowhere:Nothing cannot be loaded: No module named 'nowhere'"),
        ("MISNAMED", {}, "index type MISNAMED: broken:Faulty calls itself FAULTY"),
        ("ABSENT", {}, "invalid parameter[expected=valid index][actual=invalid index type: ABSENT]"),
    ],
)
def test_refused(installed: Path, name: str, params: dict[str, str], message: str) -> None:
    with pytest.raises(IndexParameterError) as caught:
        registry.validate_definition({"index_type": name, "metric_type": "COSINE"} | params, FIELD)
    assert message in caught.value.message


@pytest.mark.slow
def test_pymilvus_builds_and_searches_it_and_a_fault_in_it_ends_nothing(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", python_path(installed))
    server = DrillServer(tmp_path / "data").wait_ready()
    client = MilvusClient(server.uri)
    try:
        values = normal_vectors(1500, 16)
        for index_type in ("HYPERPLANES", "FAULTY"):
            create(client, index_type, 16)
            fill(client, index_type, values)
            index = {"index_type": index_type, "metric_type": "COSINE", "params": {"bits": 256}}
            try:
                create_index(client, index_type, index)
            except Exception as error:  # pymilvus waits for the build and tells of its failure
                assert "no such plane" in str(error)
            client.load_collection(index_type)
            described = client.describe_index(index_type, "v")
            assert described["state"] == ("Finished" if index_type == "HYPERPLANES" else "Failed"), described
            found = client.search(
                index_type, [values[7].tolist()], limit=5, search_params={"params": {"shortlist": 100}}
            )
            assert found[0][0]["id"] == 7
            assert found[0][0]["distance"] == pytest.approx(1, abs=1e-5)
        with pytest.raises(Exception, match="Out of range in json: param 'shortlist'"):
            client.search("HYPERPLANES", [values[7].tolist()], limit=5, search_params={"params": {"shortlist": 0}})
        assert server.is_alive
    finally:
        client.close()
        server.kill()
