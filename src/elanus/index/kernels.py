"""The one module that loads faiss: its distance kernels behind typed functions, its threads, its library object.

Every kernel that takes row numbers computes a pair's score from the two vectors alone, by the same instructions that
faiss's own indexes use: such a score does not depend on what else was asked. `scan` sums in another order for some
dimensions and so may differ in the last bits; callers select with it and report the pair score.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from elanus.index.contract import Bytes, Floats, RowMask, Rows
from elanus.model.types import Metric


@cache
def library() -> ModuleType:
    """faiss itself, loaded at the first call (about 60 ms).

    Its threads sleep while they wait for one another: spinning, on cores that others use too, stretches a build of many
    small steps (product codes) from seconds to minutes."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import faiss

    return faiss


def initialize_thread(threads: int = 1) -> None:
    """Let the calling thread use `threads` cores inside faiss. The setting belongs to the thread: serving threads
    call this once when they start, builds set it for as long as they run."""
    library().omp_set_num_threads(threads)


def thread_limit() -> int:
    """How many cores the calling thread may use inside faiss."""
    return int(library().omp_get_max_threads())


@contextmanager
def threads_set(threads: int) -> Iterator[None]:
    """faiss may use that many cores on this thread meanwhile."""
    before = thread_limit()
    initialize_thread(threads)
    try:
        yield
    finally:
        initialize_thread(before)


def faiss_metric(metric: Metric) -> int:
    """faiss's number of the metric; COSINE is inner product, over vectors that were normalised."""
    return int(library().METRIC_L2 if metric is Metric.L2 else library().METRIC_INNER_PRODUCT)


def selector(mask: RowMask) -> Any:
    """A bitmap selector over the mask's packed bits. The selector keeps the bits alive; the mask packs them once."""
    return library().IDSelectorBitmap(mask.bits)


def scan(query: Floats, vectors: Floats, squared_distance: bool) -> Floats:
    """One query (dim,) against all vectors: inner products or squared distances, (n,)."""
    faiss = library()
    count, dimension = vectors.shape
    out = np.empty(count, np.float32)
    kernel = faiss.fvec_L2sqr_ny if squared_distance else faiss.fvec_inner_products_ny
    kernel(faiss.swig_ptr(out), faiss.swig_ptr(query), faiss.swig_ptr(vectors), dimension, count)
    return out


def scan_rows(query: Floats, vectors: Floats, rows: Rows, squared_distance: bool) -> Floats:
    """One query (dim,) against the vectors at `rows` (m,), in place: pair scores (m,)."""
    faiss = library()
    out = np.empty(len(rows), np.float32)
    kernel = faiss.fvec_L2sqr_by_idx if squared_distance else faiss.fvec_inner_products_by_idx
    pointer = faiss.swig_ptr
    kernel(pointer(out), pointer(query), pointer(vectors), pointer(rows), vectors.shape[1], 1, len(rows))
    return out


def score_pairs(queries: Floats, places: Rows, vectors: Floats, rows: Rows, squared_distance: bool) -> Floats:
    """Pair scores of queries[places[i]] with vectors[rows[i]], (m,)."""
    faiss = library()
    out = np.empty(len(rows), np.float32)
    kernel = faiss.pairwise_indexed_L2sqr if squared_distance else faiss.pairwise_indexed_inner_product
    pointer = faiss.swig_ptr
    kernel(
        vectors.shape[1], len(rows), pointer(queries), pointer(places), pointer(vectors), pointer(rows), pointer(out)
    )
    return out


def hamming(query: Bytes, vectors: Bytes) -> npt.NDArray[np.int32]:
    """Bits in which one query (width,) differs from each of the vectors (n, width), (n,)."""
    faiss = library()
    out = np.empty(len(vectors), np.int32)
    pointer = faiss.swig_ptr
    faiss.hammings(pointer(query), pointer(vectors), 1, len(vectors), vectors.shape[1], pointer(out))
    return out
