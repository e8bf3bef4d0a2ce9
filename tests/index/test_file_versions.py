"""Index files of another version of their type's format: built again, not refused, and never taken for damage."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from pymilvus import MilvusClient, MilvusException

from elanus.index.calibrate import POINTS_VERSION
from elanus.index.registry import file_version, is_readable
from elanus.meta.manifests import Refused
from elanus.model.channel import ORIGIN
from elanus.model.index import IndexDefinition
from elanus.model.schema import CollectionSchema, FieldSchema
from elanus.model.segment import FileRef, IndexFile, Manifest, SegmentEntry
from elanus.model.types import DataType as FieldType
from elanus.nodes.coordinator.maintenance import add_index, needs_index
from elanus.segment.footprint import footprint
from filled import create, create_index, fill, normal_vectors
from packages import example, install, python_path
from servers import DrillServer

FIELD = FieldSchema(101, "v", FieldType.FLOAT_VECTOR, type_params={"dim": "8"})
SCHEMA = CollectionSchema("c", (FieldSchema(100, "id", FieldType.INT64, is_primary=True), FIELD))
DEFINITION = IndexDefinition(7, "v", 101, "v", {"index_type": "HNSW", "metric_type": "L2"})
CURRENT = IndexFile(7, 101, "HNSW", "L2", FileRef("new", 1000, 0), version=file_version("HNSW"))
OUTDATED = msgspec.structs.replace(CURRENT, version=0, file=FileRef("old", 1000, 0))
OTHERS = (
    OUTDATED,
    msgspec.structs.replace(CURRENT, version=99),
    msgspec.structs.replace(CURRENT, resolved_type="GONE"),
    msgspec.structs.replace(CURRENT, resolved_type="SPARSE_INVERTED_INDEX", version=1),
)


def segment(*indexes: IndexFile) -> SegmentEntry:
    ref = FileRef("k", 4096, 0)
    return SegmentEntry(1, 1, 5000, 1, ORIGIN, 0, 1, ref, vectors={101: ref}, indexes=indexes, scalar_bytes=10)


@pytest.mark.parametrize("file", OTHERS)
def test_a_segment_with_a_file_that_nobody_reads_lacks_its_index(file: IndexFile) -> None:
    assert not is_readable(file)
    assert needs_index(segment(file), DEFINITION, SCHEMA)
    assert footprint(segment(file)) == footprint(segment())


def test_the_new_file_takes_its_place_once() -> None:
    assert is_readable(CURRENT)
    assert not needs_index(segment(CURRENT), DEFINITION, SCHEMA)
    manifest = Manifest("v", 1, 1, "t", 1, segments=(segment(OUTDATED),))
    changed = add_index(1, CURRENT, (DEFINITION,))(manifest)
    assert not isinstance(changed, Refused)
    assert changed.segments[0].indexes == (CURRENT,)
    late = msgspec.structs.replace(CURRENT, file=FileRef("late", 1000, 0))
    assert add_index(1, late, (DEFINITION,))(changed) == changed


@pytest.mark.parametrize(
    "index_type",
    [
        *("HNSW", "HNSW_SQ", "HNSW_PQ", "HNSW_PRQ", "IVF_FLAT", "IVF_SQ8", "IVF_PQ", "IVF_RABITQ", "SCANN", "DISKANN"),
        "BIN_IVF_FLAT",
    ],
)
def test_files_whose_effort_was_measured_with_easier_queries_are_built_again(index_type: str) -> None:
    """Version 1 holds points measured with stored rows alone: by them a filtered search finds less than is promised."""
    file = IndexFile(7, 101, index_type, "L2", FileRef("first", 1000, 0))
    assert file.version == 1
    assert not is_readable(file)
    definition = msgspec.structs.replace(DEFINITION, params={"index_type": index_type, "metric_type": "L2"})
    assert needs_index(segment(file), definition, SCHEMA)
    assert not needs_index(segment(msgspec.structs.replace(file, version=POINTS_VERSION)), definition, SCHEMA)


@pytest.mark.slow
def test_a_server_of_another_release_builds_the_file_again_and_refuses_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = example("hyperplanes")
    second = first.replace('"signatures"', '"signs"').replace("    metrics =", "    file_version = 2\n    metrics =")
    assert second.count('"signs"') == 2
    assert second.count("file_version = 2") == 1
    package, data = tmp_path / "package", tmp_path / "data"
    package.mkdir()
    names = {"elanus.indexes": {"HYPERPLANES": "elanus_hyperplanes:Hyperplanes"}}
    monkeypatch.setenv("PYTHONPATH", python_path(package))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    values = normal_vectors(1500, 16)
    keys = []
    for text in (first, second, second):
        install(package, {"elanus_hyperplanes": text}, names)
        server = DrillServer(data).wait_ready()
        client = MilvusClient(server.uri)
        try:
            if not keys:
                create(client, "c", 16)
                fill(client, "c", values)
                create_index(
                    client, "c", {"index_type": "HYPERPLANES", "metric_type": "COSINE", "params": {"bits": 256}}
                )
            client.load_collection("c")
            assert _nearest(client, values[7]) == 7
            until = time.monotonic() + 20
            while client.describe_index("c", "v")["state"] != "Finished":
                assert time.monotonic() < until, client.describe_index("c", "v")
                assert _nearest(client, values[7]) == 7
                time.sleep(0.05)
            assert _nearest(client, values[7]) == 7
            assert server.is_alive
        finally:
            client.close()
            server.stop()
        keys.append(max(data.rglob("index-*.hyperplanes*"), key=lambda path: path.stat().st_mtime))
    assert keys[0] != keys[1]
    assert keys[1] == keys[2]
    _without_the_package(package, data)
    install(package, {"elanus_hyperplanes": second}, names)
    flipped = bytearray(keys[1].read_bytes())
    flipped[len(flipped) // 2] ^= 1
    keys[1].write_bytes(flipped)
    server = DrillServer(data)
    try:
        said = f"{keys[1].name.removesuffix('.object')} is damaged"
        until = time.monotonic() + 20
        while said not in server.errors():
            assert time.monotonic() < until, server.errors()
            time.sleep(0.05)
    finally:
        server.kill()


def _without_the_package(package: Path, data: Path) -> None:
    """Rows are served on; a search by the index that nobody knows is refused, and ends nothing."""
    install(package, {}, {})
    server = DrillServer(data).wait_ready()
    client = MilvusClient(server.uri)
    try:
        assert client.query("c", "id == 7", output_fields=["id"], consistency_level="Strong") == [{"id": 7}]
        with pytest.raises(MilvusException, match="invalid index type: HYPERPLANES"):
            client.search("c", [[0.5] * 16], limit=1)
        assert server.is_alive
    finally:
        client.close()
        server.stop()


def _nearest(client: MilvusClient, query: np.ndarray) -> int:
    return int(client.search("c", [query.tolist()], limit=1)[0][0]["id"])
