"""The limit: faiss in a process of its own, without a server, a wire or a store.

Its index has the parameters asked of every system. Single searches and the CPU time by query use one OpenMP thread;
the build and the calls of 1000 queries use all cores; queries per second with n clients use n Python threads over the
one index.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import faiss as installed_faiss
import numpy as np

from bench.client import EF_CONSTRUCTION, M, Timed
from bench.workload import Bools, Dataset, Floats, Ints, K

faiss: Any = installed_faiss
"""Untyped: the stubs faiss ships lag behind what its wrapper offers."""

CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Kernel:
    """CPU milliseconds by query and recall of the bare index at each ef of the ladder."""

    cpu_ms: dict[int, float]
    recall: dict[int, float]


class BareIndex:
    """HNSW over unit vectors by inner product, keys being row positions."""

    version: str = faiss.__version__

    def __init__(self, data: Dataset) -> None:
        self._data = data
        self._index = faiss.IndexHNSWFlat(data.vectors.shape[1], M, faiss.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction = EF_CONSTRUCTION
        faiss.omp_set_num_threads(CORES)
        began_s = time.perf_counter()
        self._index.add(data.vectors)
        self.build_s = time.perf_counter() - began_s

    def _search(self, queries: Floats, ef: int, selector: Any = None) -> Ints:
        params = faiss.SearchParametersHNSW(efSearch=ef, sel=selector)
        keys: Ints = self._index.search(queries, K, params=params)[1]
        return keys

    def ladder(self, efs: Sequence[int]) -> Kernel:
        """CPU time and recall on the timed queries, in one call, for each ef."""
        faiss.omp_set_num_threads(1)
        queries = self._data.queries[self._data.timed]
        cpu_ms: dict[int, float] = {}
        recall: dict[int, float] = {}
        for ef in efs:
            began_s = time.process_time()
            answers = self._search(queries, ef)
            cpu_ms[ef] = (time.process_time() - began_s) * 1000 / len(queries)
            recall[ef] = self._data.recall(answers)
        return Kernel(cpu_ms, recall)

    def search_singly(self, queries: Floats, ef: int, mask: Bools | None = None) -> Timed:
        """One query by call on one thread; `mask` keeps the rows that may be answered."""
        faiss.omp_set_num_threads(1)
        bits = None if mask is None else np.packbits(mask, bitorder="little")
        selector = None if bits is None else faiss.IDSelectorBitmap(bits)
        seconds = np.empty(len(queries), dtype=np.float32)
        answers = np.empty((len(queries), K), dtype=np.int64)
        for row in range(len(queries)):
            began_s = time.perf_counter()
            answers[row] = self._search(queries[row : row + 1], ef, selector)[0]
            seconds[row] = time.perf_counter() - began_s
        return Timed(seconds, answers)

    def batch_rate(self, queries: Floats, ef: int, span_s: float) -> float:
        """Queries per second in calls of 1000 queries on all cores."""
        faiss.omp_set_num_threads(CORES)
        block = queries[:1000]
        began_s = time.perf_counter()
        asked = 0
        while time.perf_counter() - began_s < span_s:
            self._search(block, ef)
            asked += len(block)
        return asked / (time.perf_counter() - began_s)

    def rate(self, ef: int, threads: int, span_s: float) -> float:
        """Single queries per second asked by `threads` Python threads at once."""
        barrier = threading.Barrier(threads)
        rates: list[float] = []

        def ask(first: int) -> None:
            faiss.omp_set_num_threads(1)
            queries = self._data.queries
            barrier.wait()
            began_s = time.perf_counter()
            asked = 0
            while time.perf_counter() - began_s < span_s:
                at = (first + asked) % len(queries)
                self._search(queries[at : at + 1], ef)
                asked += 1
            rates.append(asked / (time.perf_counter() - began_s))

        workers = [threading.Thread(target=ask, args=(each * 100,)) for each in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return sum(rates)
