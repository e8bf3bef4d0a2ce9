"""How long index builds keep other threads from running: `python -m bench.stalls`.

While each call runs on large input, another thread wakes every half millisecond; printed is the longest time between
two of its wakes, beside the time of the call. On a quiet machine a thread that nothing holds up is a few ms late
at most (the interpreter's switch interval is 5 ms).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from elanus.base.pieces import repeated
from elanus.index.registry import build as build_vectors
from elanus.index.registry import build_scalar, resolve
from elanus.model.columns import Column
from elanus.model.index import IndexDefinition
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType

ROWS = 1_000_000
TICK_S = 0.0005


def longest_stall_ms(call: Callable[[], Any]) -> tuple[float, float]:
    """The longest gap of a ticking thread while the call runs, and the call's own time, ms."""
    stopped, gaps = threading.Event(), [0.0]

    def tick() -> None:
        before = time.perf_counter()
        while not stopped.is_set():
            time.sleep(TICK_S)
            now = time.perf_counter()
            gaps.append(now - before - TICK_S)
            before = now

    ticking = threading.Thread(target=tick, daemon=True)
    ticking.start()
    began_s = time.perf_counter()
    call()
    took_s = time.perf_counter() - began_s
    stopped.set()
    ticking.join()
    return 1000 * max(gaps), 1000 * took_s


def _built(name: str, field: FieldSchema, column: Column, **params: str) -> Callable[[], Any]:
    definition = IndexDefinition(1, "", field.field_id, field.name, {"index_type": name, **params})
    return lambda: build_scalar(definition, field, column)


def calls(rows: int) -> dict[str, Callable[[], Any]]:
    """What is measured, by name."""
    random = np.random.default_rng(5)
    lengths = random.integers(0, 8, rows)
    offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))
    lists = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(random.integers(0, 1000, int(offsets[-1]))))
    texts = pa.array(
        [f"title {number * 7919 % 1_000_003:07d} of many" for number in range(rows // 4)], pa.large_string()
    )
    documents = pa.array([b'{"n":%d}' % number for number in range(rows // 4)], pa.large_binary())
    vectors = random.normal(size=(rows // 50, 64)).astype(np.float32)
    of_lists = FieldSchema(101, "t", DataType.ARRAY, element_type=DataType.INT64)
    of_texts, of_documents = FieldSchema(102, "s", DataType.VARCHAR), FieldSchema(103, "j", DataType.JSON)
    of_vectors = FieldSchema(104, "v", DataType.FLOAT_VECTOR, type_params={"dim": "64"})
    graph = resolve({"index_type": "DISKANN", "metric_type": "L2"}, of_vectors)
    cast = {"json_cast_type": "DOUBLE", "json_path": 'j["n"]'}
    return {
        "np.repeat, for comparison": lambda: np.repeat(np.arange(rows), lengths),
        "repeated": lambda: repeated(np.arange(rows), lengths),
        "INVERTED of lists": _built("INVERTED", of_lists, Column(lists)),
        "NGRAM of texts": _built("NGRAM", of_texts, Column(texts), min_gram="2", max_gram="4"),
        "INVERTED of a JSON path": _built("INVERTED", of_documents, Column(documents), **cast),
        "DISKANN": lambda: build_vectors(graph, vectors, 2),
    }


def main() -> None:
    """Measure and print; each once before, on little, so that what is imported on the way does not count."""
    for call in calls(2000).values():
        call()
    for name, call in calls(ROWS).items():
        stall_ms, took_ms = longest_stall_ms(call)
        print(f"{name:28}longest stall {stall_ms:8.1f} ms of {took_ms:9.1f} ms", flush=True)


if __name__ == "__main__":
    main()
