"""A process that writes a segment with an index, or loads one, searches it, and tells what it took:

loaded_memory.py FOLDER write TYPE              prints the segment's entry
loaded_memory.py FOLDER load TYPE < entry       prints what was estimated, the growth of PSS and that of RSS
loaded_memory.py FOLDER hold TYPE < entry       prints `loaded`, at a line the same, and holds on for another
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from elanus.base.doors import Doors
from elanus.base.memory import keep_heap_small, release_memory
from elanus.base.real import real_doors
from elanus.index.complete import CompleteIndex
from elanus.index.contract import VectorIndex
from elanus.index.kernels import initialize_thread, library
from elanus.index.plan import SearchRequest, search_planned
from elanus.index.registry import build, file_version, lives_on_disk, load, resolve, validate_definition
from elanus.index.sparse import packed_queries
from elanus.model.channel import ORIGIN
from elanus.model.columns import Batch, Column
from elanus.model.schema import CollectionSchema, FieldSchema
from elanus.model.segment import IndexFile, SegmentEntry
from elanus.model.types import DataType, Metric
from elanus.objects.checksums import map_verified, open_local, write_file
from elanus.objects.posix import open_posix
from elanus.objects.store import ObjectStore
from elanus.segment.files import SegmentData
from elanus.segment.footprint import footprint
from elanus.segment.sealed import SealedSegment
from elanus.segment.storage import SegmentPlace, open_segment, write_segment

ROWS, DIMENSION, BITS, SPACE, ENTRIES = 30_000, 128, 4096, 5000, 60
QUERIES = 400


class Kind(NamedTuple):
    """How a type is built, and searched so that all that a search may touch is touched."""

    data_type: DataType
    metric: Metric
    params: dict[str, str]
    thorough: dict[str, object]


_LISTS = {"nlist": "64"}
_ALL_LISTS: dict[str, object] = {"nprobe": 64}
_GRAPH = {"M": "16", "efConstruction": "60"}
_WIDE: dict[str, object] = {"ef": 600}
KINDS = {
    "HNSW": Kind(DataType.FLOAT_VECTOR, Metric.L2, _GRAPH, _WIDE),
    "HNSW_SQ": Kind(DataType.FLOAT_VECTOR, Metric.L2, _GRAPH, _WIDE),
    "HNSW_PQ": Kind(DataType.FLOAT_VECTOR, Metric.L2, _GRAPH | {"m": "16"}, _WIDE),
    "HNSW_PRQ": Kind(DataType.FLOAT_VECTOR, Metric.L2, _GRAPH | {"m": "8", "nbits": "6", "nrq": "2"}, _WIDE),
    "IVF_FLAT": Kind(DataType.FLOAT_VECTOR, Metric.L2, _LISTS, _ALL_LISTS),
    "IVF_SQ8": Kind(DataType.FLOAT_VECTOR, Metric.L2, _LISTS, _ALL_LISTS),
    "IVF_PQ": Kind(DataType.FLOAT_VECTOR, Metric.L2, _LISTS | {"m": "16"}, _ALL_LISTS),
    "IVF_RABITQ": Kind(DataType.FLOAT_VECTOR, Metric.L2, _LISTS, _ALL_LISTS),
    "SCANN": Kind(DataType.FLOAT_VECTOR, Metric.L2, _LISTS, _ALL_LISTS),
    "DISKANN": Kind(
        DataType.FLOAT_VECTOR, Metric.L2, {"max_degree": "24", "search_list_size": "40"}, {"search_list": 300}
    ),
    "BIN_IVF_FLAT": Kind(DataType.BINARY_VECTOR, Metric.HAMMING, _LISTS, _ALL_LISTS),
    "SPARSE_INVERTED_INDEX": Kind(DataType.SPARSE_FLOAT_VECTOR, Metric.IP, {}, {}),
    "SPARSE_WAND": Kind(DataType.SPARSE_FLOAT_VECTOR, Metric.IP, {}, {}),
}


def schema_of(kind: Kind) -> CollectionSchema:
    dimension = BITS if kind.data_type is DataType.BINARY_VECTOR else DIMENSION
    size = {} if kind.data_type is DataType.SPARSE_FLOAT_VECTOR else {"dim": str(dimension)}
    fields = (
        FieldSchema(100, "id", DataType.INT64, is_primary=True),
        FieldSchema(101, "vector", kind.data_type, type_params=size),
        FieldSchema(102, "text", DataType.VARCHAR, type_params={"max_length": "100"}),
    )
    return CollectionSchema(name="c", fields=fields)


def vectors_of(kind: Kind) -> Any:
    random = np.random.default_rng(1)
    if kind.data_type is DataType.BINARY_VECTOR:
        return random.integers(0, 256, (ROWS, BITS // 8), np.uint8)
    if kind.data_type is DataType.SPARSE_FLOAT_VECTOR:
        steps = random.integers(1, SPACE // ENTRIES, (ROWS, ENTRIES)).cumsum(axis=1).astype("<u4")
        weights = random.gamma(2.0, 1.0, (ROWS, ENTRIES)).astype("<f4")
        packed = np.stack((steps, weights.view("<u4")), axis=2).tobytes()
        offsets = np.arange(ROWS + 1, dtype=np.int64) * 8 * ENTRIES
        return pa.LargeBinaryArray.from_buffers(
            pa.large_binary(), ROWS, [None, pa.py_buffer(offsets), pa.py_buffer(packed)]
        )
    return random.normal(size=(ROWS, DIMENSION)).astype(np.float32)


def queries_of(kind: Kind) -> np.ndarray:
    """Some of the vectors."""
    vectors = vectors_of(kind)
    if kind.data_type is DataType.SPARSE_FLOAT_VECTOR:
        return packed_queries(vectors[:QUERIES].to_pylist())
    return np.ascontiguousarray(vectors[:QUERIES])


def memory() -> tuple[int, int]:
    """Proportional and resident bytes."""
    with open("/proc/self/smaps_rollup") as file:
        rolled = file.read()
    return tuple(1024 * int(rolled.partition(name)[2].split()[0]) for name in ("\nPss:", "\nRss:"))  # type: ignore[return-value]


async def write(doors: Doors, objects: ObjectStore, index_type: str) -> None:
    kind = KINDS[index_type]
    schema, vectors = schema_of(kind), vectors_of(kind)
    field = schema.fields[1]
    given = {"index_type": index_type, "metric_type": kind.metric.value, **kind.params}
    resolved = resolve(validate_definition(given, field), field)
    texts = pa.array([f"the text of row {row} and some more words" for row in range(ROWS)], pa.large_string())
    columns = {100: Column(np.arange(ROWS)), 101: Column(vectors), 102: Column(texts)}
    data = SegmentData(Batch(ROWS, columns), np.arange(1, ROWS + 1, dtype=np.uint64), None)
    place = SegmentPlace(1, "by-dev-rootcoord-dml_0_1v0", 7, 1, ORIGIN, "ab")
    entry = await write_segment(doors, objects, data, schema, place)
    file = await write_file(doors, objects, "index", list(build(resolved, vectors, 1)))
    params = {name: str(value) for name, value in resolved.params.items()}
    index = IndexFile(1, 101, index_type, kind.metric.value, file, params, file_version(index_type))
    print(msgspec.json.encode(msgspec.structs.replace(entry, indexes=(index,))).decode())


async def load_and_search(
    doors: Doors, objects: ObjectStore, entry: SegmentEntry, queries: np.ndarray
) -> tuple[SealedSegment, VectorIndex]:
    file = entry.indexes[0]
    kind = KINDS[file.resolved_type]
    segment = await open_segment(doors, objects, entry, schema_of(kind))
    local = await open_local(doors, objects, file.file) if lives_on_disk(file.resolved_type) else None
    index = load(await map_verified(doors, objects, file.file), local)
    for field_id in (100, 101, 102):
        segment.column(field_id)
    for start in range(0, len(queries), 8):
        index.search(queries[start : start + 8], 10, None, kind.thorough)
    # What an index finds is scored by the column; one that is complete needs none.
    exact = index if isinstance(index, CompleteIndex) else None
    search_planned(exact, segment.vectors(101), SearchRequest(queries[:4], 5, kind.metric))
    return segment, index


async def main(folder: str, action: str, index_type: str) -> None:
    doors = real_doors(lambda name, error: None, cores=1)
    objects = await open_posix(doors, folder + "/objects", lambda error: None)
    if action == "write":
        await write(doors, objects, index_type)
        return
    queries = queries_of(KINDS[index_type])
    entry = msgspec.json.decode(sys.stdin.readline(), type=SegmentEntry)
    library()
    initialize_thread(1)
    # Once for what the libraries keep for themselves, and again for what the segment takes.
    for _ in range(2):
        loaded = None
        gc.collect()
        release_memory()
        before = memory()
        loaded = await load_and_search(doors, objects, entry, queries)
    release_memory()
    if action == "hold":
        print("loaded", flush=True)
        sys.stdin.readline()
    after = memory()
    print(json.dumps([footprint(entry), after[0] - before[0], after[1] - before[1]]), flush=True)
    if action == "hold":
        sys.stdin.readline()
    assert loaded is not None


if __name__ == "__main__":
    keep_heap_small()
    asyncio.run(main(*sys.argv[1:]))
