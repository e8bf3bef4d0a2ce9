"""Nearest rows of binary vectors in lists: every query reads the lists of its nearest centroids, bit by bit."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from elanus.base.kernel import kernel, part
from elanus.index.compiled.heap import order, push

Words = npt.NDArray[np.uint64]
Floats32 = npt.NDArray[np.float32]
Ints32 = npt.NDArray[np.int32]
Ints64 = npt.NDArray[np.int64]
Flags = npt.NDArray[np.uint8]


class BitLists(NamedTuple):
    """Vectors in the order of their lists: list i has [offsets[i], offsets[i + 1]) of `rows` and `vectors`. A vector is
    a line of words, uint64, or uint8 where it is no whole number of these."""

    centroids: Words
    offsets: Ints64
    rows: Ints32
    vectors: Words


class Wanted(NamedTuple):
    """The best `k` rows of the `list_count` nearest lists, by JACCARD or else by HAMMING; `keep` says which rows count,
    1 or 0 each; empty: all."""

    k: int
    list_count: int
    is_jaccard: bool
    keep: Flags


Nearest = tuple[Floats32, Ints32, Ints64]
"""Negated distances and rows (q, k), best first, and how many each query has."""


def nearest_bits_numpy(lists: BitLists, queries: Words, wanted: Wanted) -> Nearest:
    """The twin: whole columns at a time."""
    scores = np.empty((len(queries), wanted.k), np.float32)
    rows, counts = np.empty((len(queries), wanted.k), np.int32), np.zeros(len(queries), np.int64)
    for place, query in enumerate(queries):
        nearest = np.argsort(-_closeness(lists.centroids, query, wanted.is_jaccard), kind="stable")
        spans = [slice(lists.offsets[one], lists.offsets[one + 1]) for one in nearest[: wanted.list_count]]
        met = np.concatenate([lists.rows[span] for span in spans])
        members = np.concatenate([lists.vectors[span] for span in spans])
        if len(wanted.keep):
            kept = np.flatnonzero(wanted.keep[met])
            met, members = met[kept], members[kept]
        found = _closeness(members, query, wanted.is_jaccard)
        best = np.lexsort((met, -found))[: wanted.k]
        counts[place] = len(best)
        scores[place, : len(best)], rows[place, : len(best)] = found[best], met[best]
    return scores, rows, counts


def _closeness(vectors: Words, query: Words, is_jaccard: bool) -> Floats32:
    differing = np.bitwise_count(vectors ^ query).sum(axis=1, dtype=np.int64)
    if not is_jaccard:
        return np.asarray(-differing.astype(np.float32))
    either = np.bitwise_count(vectors | query).sum(axis=1, dtype=np.int64)
    return np.asarray(-(differing / np.maximum(either, 1)).astype(np.float32))


@part
def _bit_count(word: np.uint64) -> np.uint64:
    """Bits that are set; compilers know this as one instruction."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (word * np.uint64(0x0101010101010101)) >> np.uint64(56)


@part
def _near(vector: Words, query: Words, is_jaccard: bool) -> float:
    """The negated distance of two vectors."""
    differing, either = np.uint64(0), np.uint64(0)
    for at in range(len(query)):
        differing += _bit_count(np.uint64(vector[at] ^ query[at]))
    if not is_jaccard:
        return -np.float32(differing)  # type: ignore[return-value]
    for at in range(len(query)):
        either += _bit_count(np.uint64(vector[at] | query[at]))
    return np.float32(-(np.float64(differing) / max(np.float64(either), 1.0)))  # type: ignore[return-value]


@kernel(nearest_bits_numpy)
def nearest_bits(lists: BitLists, queries: Words, wanted: Wanted) -> Nearest:
    """See the module's head."""
    scores = np.empty((len(queries), wanted.k), np.float32)
    rows, counts = np.empty((len(queries), wanted.k), np.int32), np.zeros(len(queries), np.int64)
    list_scores, nearest = np.empty(wanted.list_count, np.float32), np.empty(wanted.list_count, np.int32)
    for place in range(len(queries)):
        query, list_count, count = queries[place], 0, 0
        for one in range(len(lists.centroids)):
            near = _near(lists.centroids[one], query, wanted.is_jaccard)
            list_count = push(list_scores, nearest, list_count, near, one)
        for one in nearest[:list_count]:
            for at in range(lists.offsets[one], lists.offsets[one + 1]):
                row = lists.rows[at]
                if len(wanted.keep) == 0 or wanted.keep[row]:
                    near = _near(lists.vectors[at], query, wanted.is_jaccard)
                    if count < wanted.k or near >= scores[place, 0]:
                        count = push(scores[place], rows[place], count, near, row)
        order(scores[place], rows[place], count)
        counts[place] = count
    return scores, rows, counts
