"""BIN_IVF_FLAT: its kernel against the twin, whatever the width, the metric and the mask."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elanus.base.kernel import Kernel, kernel
from elanus.index.compiled.bits import BitLists, Wanted, nearest_bits


def lists_of(rows: int, width: int, seed: int) -> BitLists:
    random = np.random.default_rng(seed)
    vectors = random.integers(0, 256, (rows, width), np.uint8) & random.integers(0, 256, (rows, width), np.uint8)
    vectors[::3] = vectors[0]
    offsets = np.sort(random.integers(0, rows + 1, 5))
    offsets[0], offsets[-1] = 0, rows
    dtype = np.uint64 if width % 8 == 0 else np.uint8
    order = random.permutation(rows).astype(np.int32)
    return BitLists(vectors[:4].copy().view(dtype), offsets.astype(np.int64), order, vectors.view(dtype))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(4, 80),
    width=st.sampled_from([1, 3, 8, 16, 24]),
    seed=st.integers(0, 10**6),
    k=st.integers(1, 20),
    list_count=st.integers(1, 4),
    is_jaccard=st.booleans(),
    share=st.sampled_from([None, 0.0, 0.3, 1.0]),
)
def test_the_kernel_is_its_twin(
    rows: int, width: int, seed: int, k: int, list_count: int, is_jaccard: bool, share: float | None
) -> None:
    pytest.importorskip("numba", reason="numba is not installed: kernels run as their NumPy twins")
    lists, random = lists_of(rows, width, seed), np.random.default_rng(seed)
    keep = np.empty(0, np.uint8) if share is None else (random.random(rows) < share).view(np.uint8)
    queries = np.concatenate((lists.vectors[:2], np.zeros_like(lists.vectors[:1]), lists.vectors[-1:]))
    wanted = Wanted(min(k, rows), list_count, is_jaccard, keep)
    mine, twin = (run(lists, queries, wanted) for run in (nearest_bits.compiled, nearest_bits.twin))
    assert mine[2].tolist() == twin[2].tolist()
    for place, count in enumerate(twin[2]):
        assert mine[1][place, :count].tolist() == twin[1][place, :count].tolist()
        assert mine[0][place, :count].tobytes() == twin[0][place, :count].tobytes()


def test_a_kernel_asked_for_soon_answers_at_once_and_is_ready_later() -> None:
    pytest.importorskip("numba", reason="numba is not installed: kernels run as their NumPy twins")
    added: Kernel[[int], int] = kernel(lambda number: number + 1)(lambda number: number + 1)
    assert added.soon(1) == 2
    for _ in range(1000):
        if added.is_ready:
            break
        _wait_a_little()
    assert added.is_ready
    assert added.soon(2) == 3


def _wait_a_little() -> None:
    np.sort(np.random.default_rng(0).random(100_000))
