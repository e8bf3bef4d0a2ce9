"""What a load is estimated to take beside what it takes, and whether an index is mapped where the user said so."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from pymilvus import DataType, MilvusClient

from servers import DrillServer

PROGRAM = """
import asyncio, json, sys
import numpy as np
from elanus.base.real import real_doors
from elanus.base.memory import keep_heap_small, release_memory
from elanus.index.exact import search_exact
from elanus.index.kernels import initialize_thread, library
from elanus.index.registry import build, load, resolve
from elanus.model.channel import ORIGIN
from elanus.model.columns import Batch, Column
from elanus.model.schema import CollectionSchema, FieldSchema
from elanus.model.segment import IndexFile, SegmentEntry
from elanus.model.types import DataType, Metric
from elanus.objects.checksums import map_verified, write_file
from elanus.objects.posix import open_posix
from elanus.segment.files import SegmentData
from elanus.segment.footprint import footprint
from elanus.segment.storage import SegmentPlace, open_segment, write_segment
import msgspec, pyarrow as pa

ROWS, DIMENSION = 60_000, 128
FIELDS = (
    FieldSchema(100, "id", DataType.INT64, is_primary=True),
    FieldSchema(101, "vector", DataType.FLOAT_VECTOR, type_params={"dim": str(DIMENSION)}),
    FieldSchema(102, "text", DataType.VARCHAR, type_params={"max_length": "100"}),
)
SCHEMA = CollectionSchema(name="c", fields=FIELDS)


def resident_bytes():
    rolled = open("/proc/self/smaps_rollup").read()
    return 1024 * int(rolled.partition("Pss:")[2].split()[0])


keep_heap_small()


async def main(folder, action, index_type):
    doors = real_doors(lambda name, error: None, cores=1)
    objects = await open_posix(doors, folder + "/objects", lambda error: None)
    resolved = resolve({"index_type": index_type, "metric_type": "L2"}, FIELDS[1])
    random = np.random.default_rng(1)
    vectors = random.normal(size=(ROWS, DIMENSION)).astype(np.float32)
    if action == "write":
        texts = pa.array([f"the text of row {row} and some more words" for row in range(ROWS)], pa.large_string())
        columns = {100: Column(np.arange(ROWS)), 101: Column(vectors), 102: Column(texts)}
        data = SegmentData(Batch(ROWS, columns), np.arange(1, ROWS + 1, dtype=np.uint64), None)
        place = SegmentPlace(1, "by-dev-rootcoord-dml_0_1v0", 7, 1, ORIGIN, "ab")
        entry = await write_segment(doors, objects, data, SCHEMA, place)
        file = await write_file(doors, objects, "index", list(build(resolved, vectors, 1)))
        index = IndexFile(1, 101, index_type, "L2", file, {})
        print(msgspec.json.encode(msgspec.structs.replace(entry, indexes=(index,))).decode())
        return
    queries = vectors[:8].copy()
    del vectors
    entry = msgspec.json.decode(sys.stdin.read(), type=SegmentEntry)
    library()
    initialize_thread(1)
    # Once for what the libraries keep for themselves, and again for what the segment takes.
    for _ in range(2):
        loaded = None
        release_memory()
        before = resident_bytes()
        loaded = await load_and_search(doors, objects, entry, queries)
    release_memory()
    print(json.dumps([footprint(entry), resident_bytes() - before]))


async def load_and_search(doors, objects, entry, queries):
    segment = await open_segment(doors, objects, entry, SCHEMA)
    index = load(await map_verified(doors, objects, entry.indexes[0].file))
    for field in FIELDS:
        segment.column(field.field_id)
    index.search(queries, 10, None, {"nprobe": 128})
    search_exact(segment.vectors(101), queries, 5, Metric.L2)
    return segment, index


asyncio.run(main(*sys.argv[1:]))
"""


def run(folder: Path, action: str, index_type: str, said: str = "") -> str:
    command = [sys.executable, "-c", PROGRAM, str(folder), action, index_type]
    done = subprocess.run(command, input=said, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's smaps_rollup")
@pytest.mark.parametrize("index_type", ["IVF_FLAT", "SCANN"])
def test_the_estimate_is_within_a_fifth_of_what_is_used(tmp_path: Path, index_type: str) -> None:
    entry = run(tmp_path, "write", index_type)
    estimated, used = (int(number) for number in re.findall(r"\d+", run(tmp_path, "load", index_type, entry)))
    assert 0.8 * used < estimated < 1.2 * used, (estimated, used)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc/<pid>/maps")
def test_an_index_is_mapped_unless_the_user_says_otherwise(tmp_path: Path) -> None:
    server = DrillServer(tmp_path / "data").wait_ready()
    client = MilvusClient(server.uri)
    try:
        values = np.random.default_rng(3).normal(size=(1500, 16)).astype(np.float32)
        schema = client.create_schema()
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("v", DataType.FLOAT_VECTOR, dim=16)
        client.create_collection("c", schema=schema, consistency_level="Strong")
        client.insert("c", [{"id": place, "v": row.tolist()} for place, row in enumerate(values)])
        client.flush("c")
        indexes = client.prepare_index_params()
        indexes.add_index("v", index_type="IVF_SQ8", metric_type="L2", params={"nlist": 8})
        client.create_index("c", indexes)
        for value, is_mapped in (("true", True), ("false", False), ("true", True)):
            client.alter_index_properties("c", "v", {"mmap.enabled": value})
            client.load_collection("c")
            assert client.search("c", [values[3].tolist()], limit=1)[0][0]["id"] == 3
            until = time.monotonic() + 10
            while ("/index-" in Path(f"/proc/{server.process.pid}/maps").read_text()) is not is_mapped:
                assert time.monotonic() < until, value
                time.sleep(0.1)
            client.release_collection("c")
    finally:
        client.close()
        server.kill()
