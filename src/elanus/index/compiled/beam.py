"""One step of a beam search over a graph on disk, for several queries at once, and its twin in NumPy.

A walk (Subramanya et al. 2019, "DiskANN", section 3) keeps for each query the `capacity` nearest nodes it knows of, by
their product-quantised codes, nearest first, ties by node. A step takes the nodes that were just read from disk: each
is scored exactly from its vector, and its neighbours that the walk has not met join the list. Then the first few nodes
of the list that were not read are chosen to be read next; a query is done when there are none.

A node's record, in words of four bytes: its vector, how many neighbours it has, and these.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from elanus.base.kernel import kernel, part

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
Places = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

CODE_VALUES: Final = 256


class Asked(NamedTuple):
    """`queries` (q, dim); `tables` (q, m, 256): what each code of each part adds to a distance; whether exact scores
    are squared distances or else negative inner products."""

    queries: Floats
    tables: Floats
    is_distance: bool


class Records(NamedTuple):
    """The words just read, as floats and as integers, the words that are always in memory, likewise, and where each
    record of the frontier begins, (q, beam): below 0, at -1 - start of the words in memory. Records have room for
    `degree` neighbours."""

    floats: Floats
    integers: Ints
    kept_floats: Floats
    kept_integers: Ints
    starts: Places
    degree: int


class Walk(NamedTuple):
    """The state of q walks, changed in place. Nearest known: `nodes`, `distances`, `is_read` (q, capacity), `counts`.
    `met` (q, n) is 1 for each node it knew. `found`, `scores` (q, limit) and `found_counts`: nodes read and their
    exact scores, smaller is better. `frontier` (q, beam) and `frontier_counts`: what to read next."""

    nodes: Ints
    distances: Floats
    is_read: Bytes
    counts: Ints
    met: Bytes
    found: Ints
    scores: Floats
    found_counts: Ints
    frontier: Ints
    frontier_counts: Ints


def begun(query_count: int, row_count: int, capacity: int, beam: int) -> Walk:
    """Walks that have met node 0, the entry, and are about to read it."""
    limit = 2 * capacity + 4 * beam
    walk = Walk(
        nodes=np.zeros((query_count, capacity), np.int32),
        distances=np.zeros((query_count, capacity), np.float32),
        is_read=np.ones((query_count, capacity), np.uint8),
        counts=np.ones(query_count, np.int32),
        met=np.zeros((query_count, row_count), np.uint8),
        found=np.full((query_count, limit), -1, np.int32),
        scores=np.full((query_count, limit), np.inf, np.float32),
        found_counts=np.zeros(query_count, np.int32),
        frontier=np.zeros((query_count, beam), np.int32),
        frontier_counts=np.ones(query_count, np.int32),
    )
    walk.met[:, 0] = 1
    return walk


def step_numpy(codes: Bytes, asked: Asked, records: Records, walk: Walk) -> int:
    """The twin: all that was read at once."""
    queries, places = np.nonzero(np.arange(walk.frontier.shape[1]) < walk.frontier_counts[:, None])
    owners, around = _score_numpy(asked, records, walk, queries, places)
    row_count = len(codes)
    met = walk.met.reshape(-1)
    pairs = owners * row_count + around
    pairs = np.unique(pairs[met[pairs] == 0])
    met[pairs] = 1
    owners, around = np.divmod(pairs, row_count)
    part_count = codes.shape[1]
    at = (owners[:, None] * part_count + np.arange(part_count)) * CODE_VALUES + codes[around]
    distances = asked.tables.reshape(-1)[at].sum(axis=1)
    bounds = np.searchsorted(owners, np.arange(len(walk.counts) + 1))
    for query in range(len(walk.counts)):
        own = slice(bounds[query], bounds[query + 1])
        _join_numpy(walk, query, around[own].astype(np.int32), distances[own])
        _choose_numpy(walk, query)
    return int(walk.frontier_counts.sum())


def _score_numpy(asked: Asked, records: Records, walk: Walk, queries: Places, places: Places) -> tuple[Places, Places]:
    """Score what was read; all its neighbours, and whose they are."""
    dimension, degree = asked.queries.shape[1], records.degree
    starts = records.starts[queries, places]
    columns = np.arange(dimension + 1 + degree)
    words = np.empty((len(starts), len(columns)), np.float32)
    kept = starts < 0
    words[kept] = records.kept_floats[(-1 - starts[kept])[:, None] + columns]
    words[~kept] = records.floats[starts[~kept][:, None] + columns]
    vectors, own = words[:, :dimension], asked.queries[queries]
    if asked.is_distance:
        own = own - vectors
        scores = np.einsum("ij,ij->i", own, own)
    else:
        scores = -np.einsum("ij,ij->i", own, vectors)
    slots = walk.found_counts[queries] + places
    walk.found[queries, slots] = walk.frontier[queries, places]
    walk.scores[queries, slots] = scores
    walk.found_counts[:] += walk.frontier_counts
    integers = words.view(np.int32)
    counts = integers[:, dimension]
    around = integers[:, dimension + 1 :][np.arange(degree) < counts[:, None]]
    return np.repeat(queries, counts), around.astype(np.int64)


def _join_numpy(walk: Walk, query: int, fresh: Ints, distances: Floats) -> None:
    """Let nodes that a query has not met before join its list."""
    known, capacity = walk.counts[query], walk.nodes.shape[1]
    if known == capacity:
        near = distances <= walk.distances[query, -1]
        fresh, distances = fresh[near], distances[near]
    if not len(fresh):
        return
    nodes = np.concatenate([walk.nodes[query, :known], fresh])
    distances = np.concatenate([walk.distances[query, :known], distances])
    is_read = np.concatenate([walk.is_read[query, :known], np.zeros(len(fresh), np.uint8)])
    order = np.lexsort((nodes, distances))[:capacity]
    walk.counts[query] = count = len(order)
    walk.nodes[query, :count] = nodes[order]
    walk.distances[query, :count] = distances[order]
    walk.is_read[query, :count] = is_read[order]


def _choose_numpy(walk: Walk, query: int) -> None:
    room = walk.found.shape[1] - walk.found_counts[query]
    unread = np.flatnonzero(walk.is_read[query, : walk.counts[query]] == 0)[: min(walk.frontier.shape[1], room)]
    walk.is_read[query, unread] = 1
    walk.frontier[query, : len(unread)] = walk.nodes[query, unread]
    walk.frontier_counts[query] = len(unread)


@part
def _code_distance(codes: Bytes, node: int, tables: Floats) -> np.float32:
    total = np.float32(0)
    for place in range(codes.shape[1]):
        total += tables[place, codes[node, place]]
    return total


@part
def _exact_score(query: Floats, words: Floats, start: int, is_distance: bool) -> np.float32:
    total = np.float32(0)
    if is_distance:
        for place in range(len(query)):
            difference = query[place] - words[start + place]
            total += difference * difference
        return total
    for place in range(len(query)):
        total += query[place] * words[start + place]
    return -total


@part
def _insert(walk: Walk, query: int, node: int, distance: np.float32) -> None:
    """Into the query's list, in order; the last one leaves a full list."""
    nodes, distances, is_read = walk.nodes[query], walk.distances[query], walk.is_read[query]
    count = walk.counts[query]
    if count == len(nodes):
        last = distances[count - 1]
        if distance > last or (distance == last and node > nodes[count - 1]):
            return
        count -= 1
    else:
        walk.counts[query] += 1
    at = count
    while at > 0 and (distances[at - 1] > distance or (distances[at - 1] == distance and nodes[at - 1] > node)):
        nodes[at], distances[at], is_read[at] = nodes[at - 1], distances[at - 1], is_read[at - 1]
        at -= 1
    nodes[at], distances[at], is_read[at] = node, distance, 0


@part
def _choose_next(walk: Walk, query: int) -> int:
    room = walk.found.shape[1] - walk.found_counts[query]
    chosen = 0
    for at in range(walk.counts[query]):
        if chosen == min(walk.frontier.shape[1], room):
            break
        if walk.is_read[query, at] == 0:
            walk.is_read[query, at] = 1
            walk.frontier[query, chosen] = walk.nodes[query, at]
            chosen += 1
    walk.frontier_counts[query] = chosen
    return chosen


@kernel(step_numpy)
def step(codes: Bytes, asked: Asked, records: Records, walk: Walk) -> int:
    """See the module's head; `codes` (n, m). Returns how many nodes are to be read next, by all queries together."""
    dimension = asked.queries.shape[1]
    wanted = 0
    for query in range(len(walk.counts)):
        tables, met = asked.tables[query], walk.met[query]
        for place in range(walk.frontier_counts[query]):
            start = records.starts[query, place]
            floats, integers = records.floats, records.integers
            if start < 0:
                start = -1 - start
                floats, integers = records.kept_floats, records.kept_integers
            count = walk.found_counts[query]
            walk.found[query, count] = walk.frontier[query, place]
            walk.scores[query, count] = _exact_score(asked.queries[query], floats, start, asked.is_distance)
            walk.found_counts[query] += 1
            first = start + dimension + 1
            for at in range(first, first + integers[first - 1]):
                node = integers[at]
                if met[node] == 0:
                    met[node] = 1
                    _insert(walk, query, node, _code_distance(codes, node, tables))
        wanted += _choose_next(walk, query)
    return wanted
