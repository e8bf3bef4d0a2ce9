"""What a load is estimated to take beside what it takes, and whether an index is mapped where the user said so."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from loaded_memory import KINDS
from pymilvus import DataType, MilvusClient, MilvusException

from elanus.base.limits import MIB
from elanus.testing.conformance_index import index_cases
from filled import create, create_index, fill, normal_vectors
from servers import DrillServer

PROGRAM = Path(__file__).with_name("loaded_memory.py")
FAST = ("IVF_FLAT", "SCANN")
DRILLED = (pytest.mark.drill, pytest.mark.alone)
"""What a process has of pages that it shares changes with who else has them."""
TYPES = [pytest.param(name, marks=pytest.mark.slow if name in FAST else DRILLED) for name in sorted(KINDS)]
MEASURES = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's smaps_rollup")


def start(folder: Path, action: str, index_type: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(PROGRAM), str(folder), action, index_type]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def run(folder: Path, action: str, index_type: str, said: str = "") -> str:
    process = start(folder, action, index_type)
    answer, _ = process.communicate(said, timeout=300)
    assert process.returncode == 0
    return answer


def test_every_type_with_a_file_is_measured() -> None:
    assert set(KINDS) == {case.index_type for case in index_cases()}


@MEASURES
@pytest.mark.parametrize("index_type", TYPES)
def test_the_estimate_is_within_a_fifth_of_what_is_used(tmp_path: Path, index_type: str) -> None:
    entry = run(tmp_path, "write", index_type)
    estimated, used, _ = json.loads(run(tmp_path, "load", index_type, entry))
    print(f"{index_type}: estimated {estimated / MIB:.1f} MiB, used {used / MIB:.1f} MiB")
    assert 0.8 * used < estimated < 1.2 * used, (estimated, used)


@pytest.mark.slow
@MEASURES
def test_two_processes_share_what_they_map(tmp_path: Path) -> None:
    entry = run(tmp_path, "write", "IVF_FLAT")
    both = [start(tmp_path, "hold", "IVF_FLAT") for _ in range(2)]
    for process in both:
        assert process.stdin is not None
        process.stdin.write(entry)
        process.stdin.flush()
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "loaded\n"
    measured = [_measured(process) for process in both]
    for process in both:
        process.communicate("\n", timeout=60)
        assert process.returncode == 0
    mapped = sum(map(int, re.findall(r'"key":"[^"]*(?:vector-|index)[^"]*","size_bytes":(\d+)', entry)))
    assert mapped > 20 * MIB
    for _, proportional, resident in measured:
        assert resident > 0.8 * mapped
        assert proportional < resident - 0.4 * mapped, "mapped files are not shared"


def _measured(process: subprocess.Popen[str]) -> tuple[int, int, int]:
    """What the process has while it holds what it loaded."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    estimated, proportional, resident = json.loads(process.stdout.readline())
    return estimated, proportional, resident


KEPT_AS = {
    "lists": ({"index_type": "IVF_SQ8", "metric_type": "L2", "params": {"nlist": 8}}, ".ivf_sq8"),
    "scan": ({"index_type": "FLAT", "metric_type": "L2"}, "/vector-102"),
    "disk": ({"index_type": "DISKANN", "metric_type": "L2"}, ".diskann"),
    "bits": ({"index_type": "BIN_FLAT", "metric_type": "HAMMING"}, "/vector-104"),
}
"""Fields, how each is indexed, and what its file's name contains."""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc/<pid>/maps")
def test_an_index_is_mapped_unless_the_user_says_otherwise(tmp_path: Path) -> None:
    server = DrillServer(tmp_path / "data").wait_ready()
    client = MilvusClient(server.uri)
    try:
        values = normal_vectors(1500, 16)
        bits = np.packbits(values > 0, axis=1)
        schema = client.create_schema()
        schema.add_field("id", DataType.INT64, is_primary=True)
        for name in KEPT_AS:
            kind = DataType.BINARY_VECTOR if name == "bits" else DataType.FLOAT_VECTOR
            schema.add_field(name, kind, dim=16)
        client.create_collection("c", schema=schema, consistency_level="Strong")
        fields = ("lists", "scan", "disk")
        rows = [{"id": place, "bits": bits[place].tobytes()} for place in range(len(values))]
        client.insert("c", [row | dict.fromkeys(fields, values[row["id"]].tolist()) for row in rows])
        client.flush("c")
        indexes = client.prepare_index_params()
        for name, (index, _) in KEPT_AS.items():
            indexes.add_index(name, **index)
        client.create_index("c", indexes)
        with pytest.raises(MilvusException, match="index type DISKANN does not support mmap"):
            client.alter_index_properties("c", "disk", {"mmap.enabled": "true"})
        for value, is_mapped in (("", True), ("false", False), ("true", True)):
            for name in KEPT_AS:
                if value and (name, value) != ("disk", "true"):
                    client.alter_index_properties("c", name, {"mmap.enabled": value})
            client.load_collection("c")
            for name in fields:
                assert client.search("c", [values[3].tolist()], limit=1, anns_field=name)[0][0]["id"] == 3
            assert client.search("c", [bits[3].tobytes()], limit=1, anns_field="bits")[0][0]["distance"] == 0
            wanted = {name: is_mapped and (name, value) != ("disk", "true") for name in KEPT_AS}
            until = time.monotonic() + 10
            while _mapped(server.process.pid) != wanted:
                assert time.monotonic() < until, (value, _mapped(server.process.pid))
                time.sleep(0.1)
            client.release_collection("c")
    finally:
        client.close()
        server.kill()


def _mapped(process_id: int) -> dict[str, bool]:
    maps = Path(f"/proc/{process_id}/maps").read_text()
    return {name: part in maps for name, (_, part) in KEPT_AS.items()}


@pytest.mark.slow
def test_a_load_beyond_the_memory_there_is_is_refused_and_ends_nothing(tmp_path: Path) -> None:
    server = DrillServer(tmp_path / "data", "--set", "segment.loaded_bytes_max=500000").wait_ready()
    client = MilvusClient(server.uri)
    try:
        values = normal_vectors(2000, 32)
        for name in ("first", "second"):
            create(client, name, 32)
            fill(client, name, values)
            create_index(client, name, {"index_type": "FLAT", "metric_type": "L2"})
        client.load_collection("first")
        with pytest.raises(MilvusException, match=r"memory limit exceeded\[predict=\d+\]\[limit=500000\]"):
            client.load_collection("second")
        assert client.search("first", [values[3].tolist()], limit=1)[0][0]["id"] == 3
        client.release_collection("first")
        client.load_collection("second")
        assert client.search("second", [values[3].tolist()], limit=1)[0][0]["id"] == 3
    finally:
        client.close()
        server.kill()
