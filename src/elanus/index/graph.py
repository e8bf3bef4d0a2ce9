"""The graph of DISKANN from vectors to arrays: Vamana over distinct vectors, in the order in which searches meet them.

Equal vectors would shut one another out of the graph (a neighbour at distance 0 leaves no room for a second), so they
are one node with several rows. Nodes are numbered breadth first from the entry, the node nearest the mean: the first
nodes are those that every search reads, and neighbours stand near one another on the disk.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from elanus.base.compute import run_in_threads
from elanus.base.pieces import repeated
from elanus.index.compiled.vamana import Adjacency, Shape, link, link_back, thin
from elanus.index.contract import Bytes, Floats, Rows
from elanus.index.kernels import library, threads_set

ALPHA: Final = 1.2
SLACK: Final = 1.3
"""How much longer than its final degree a list may grow before it is thinned out."""
BATCH_SHARE: Final = 0.02
BATCH_MAX: Final = 20_000
SEED: Final = 20_190_908
HASHED_ROWS: Final = 8192

CODE_VALUES: Final = 256
TRAINED_ROWS_MAX: Final = 64 * CODE_VALUES
TRAINING_ROUNDS: Final = 12

Ints = npt.NDArray[np.int32]


class Distinct(NamedTuple):
    """Vectors without repetitions. Vector i stands for the rows `rows[starts[i]:starts[i + 1]]`, which ascend."""

    vectors: Floats
    rows: Ints
    starts: Rows


class Codes(NamedTuple):
    """Product quantisation (Jégou et al. 2011): vectors, padded with zeros, are cut into m parts, and each part is the
    number of its nearest among 256: `codebooks` float32 (m, 256, dim / m), `codes` uint8 (n, m)."""

    codebooks: Floats
    codes: Bytes


def distinct(vectors: Floats) -> Distinct:
    """The vectors, each once, in the order of their first rows."""
    values = np.ascontiguousarray(vectors + np.float32(0))
    words = values.view(np.uint32)
    factors = np.random.default_rng(SEED).integers(1, 1 << 63, values.shape[1], dtype=np.uint64) | np.uint64(1)
    hashes = np.empty(len(values), np.uint64)
    for start in range(0, len(values), HASHED_ROWS):
        block = words[start : start + HASHED_ROWS].astype(np.uint64)
        hashes[start : start + HASHED_ROWS] = (block * factors).sum(axis=1)
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    again = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
    again = again[(words[order[again]] == words[order[again - 1]]).all(axis=1)]
    is_first = np.ones(len(values), np.bool_)
    is_first[again] = False
    firsts = order[is_first]
    node_of = np.empty(len(values), np.int64)
    node_of[order] = np.argsort(np.argsort(firsts))[np.cumsum(is_first) - 1]
    rows = np.argsort(node_of, kind="stable").astype(np.int32)
    counts = np.bincount(node_of, minlength=len(firsts))
    starts = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))
    return Distinct(values[np.sort(firsts)], rows, starts)


def encode(vectors: Floats, part_count: int, threads: int) -> Codes:
    """Codebooks from a sample, and every vector's codes. Parts know nothing of one another, so each thread has some of
    them; faiss's own threads would wait for one another in every round."""
    width = -(-vectors.shape[1] // part_count)
    step = max(1, len(vectors) // TRAINED_ROWS_MAX)
    sample = _padded(vectors[::step][:TRAINED_ROWS_MAX], width * part_count)
    sample = np.resize(sample, (max(len(sample), CODE_VALUES), sample.shape[1]))
    books = np.empty((part_count, CODE_VALUES, width), np.float32)
    codes = np.empty((len(vectors), part_count), np.uint8)

    def fill(begin: int, end: int) -> None:
        columns = slice(begin * width, end * width)
        with threads_set(1):
            quantizer = _trained(sample[:, columns], end - begin)
            found = library().vector_to_array(quantizer.centroids)
            books[begin:end] = found.reshape(end - begin, CODE_VALUES, width)
            for start in range(0, len(vectors), HASHED_ROWS):
                block = _padded(vectors[start : start + HASHED_ROWS], width * part_count)[:, columns]
                codes[start : start + HASHED_ROWS, begin:end] = quantizer.compute_codes(np.ascontiguousarray(block))

    run_in_threads([_bound(fill, *span) for span in _spans(np.linspace(0, part_count, threads + 1).astype(int))])
    return Codes(books, codes)


def _trained(sample: Floats, part_count: int) -> Any:
    quantizer = library().ProductQuantizer(sample.shape[1], part_count, 8)
    quantizer.cp.niter = TRAINING_ROUNDS
    quantizer.cp.min_points_per_centroid = 1
    quantizer.cp.seed = SEED
    quantizer.train(np.ascontiguousarray(sample))
    return quantizer


def _padded(vectors: Floats, width: int) -> Floats:
    if vectors.shape[1] == width:
        return np.ascontiguousarray(vectors)
    padded = np.zeros((len(vectors), width), np.float32)
    padded[:, : vectors.shape[1]] = vectors
    return padded


def augmented(vectors: Floats) -> Floats:
    """Vectors whose order by distance from a query (with a last 0) is that by inner product: each becomes as long as
    the longest by one more number (Bachrach et al. 2014, "Speeding up the Xbox recommender system")."""
    squares = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    rest = np.sqrt(np.maximum(squares.max(initial=0.0) - squares, 0))
    return np.ascontiguousarray(np.column_stack((vectors, rest)), np.float32)


def build_graph(points: Floats, degree: int, list_size: int, threads: int) -> Adjacency:
    """The neighbours of every point, at most `degree` each; uses up to `threads` cores."""
    count = len(points)
    graph = Adjacency(np.full((count, int(degree * SLACK) + 1), -1, np.int32), np.zeros(count, np.int32))
    shape = Shape(entry_of(points), max(list_size, degree), degree, ALPHA)
    order = np.random.default_rng(SEED).permutation(count).astype(np.int32)
    order = order[order != shape.entry]
    marks = [np.zeros(count + 1, np.int32) for _ in range(threads)]
    done, size = 0, 1
    while done < len(order):
        batch = order[done : done + size]
        out = _linked(points, graph, shape, batch, marks)
        _set_edges(graph, batch, out)
        _add_back(points, graph, shape, _back_edges(batch, out), threads)
        done += len(batch)
        size = min(2 * size, BATCH_MAX, max(64, int(count * BATCH_SHARE)))
    bounds = np.linspace(0, count, threads + 1).astype(int)
    run_in_threads([_bound(thin, points, graph, shape, *span) for span in _spans(bounds)])
    return graph


def entry_of(points: Floats) -> int:
    """The point nearest the mean."""
    mean = points.mean(axis=0, dtype=np.float64).astype(np.float32)
    distances = np.concatenate(
        [
            ((points[start : start + HASHED_ROWS] - mean) ** 2).sum(axis=1)
            for start in range(0, len(points), HASHED_ROWS)
        ]
    )
    return int(np.argmin(distances))


def _linked(points: Floats, graph: Adjacency, shape: Shape, batch: Ints, marks: list[Ints]) -> Ints:
    bounds = np.linspace(0, len(batch), len(marks) + 1).astype(int)
    out = np.empty((len(batch), shape.degree), np.int32)

    def fill(begin: int, end: int, scratch: Ints) -> None:
        out[begin:end] = link(points, graph, shape, batch[begin:end], scratch)

    run_in_threads([_bound(fill, *span, scratch) for span, scratch in zip(_spans(bounds), marks, strict=False)])
    return out


def _set_edges(graph: Adjacency, batch: Ints, out: Ints) -> None:
    graph.neighbours[batch, : out.shape[1]] = out
    graph.degrees[batch] = (out >= 0).sum(axis=1)


def _back_edges(batch: Ints, out: Ints) -> Ints:
    """From the neighbours of a batch to its points: (e, 2), by target and then by point."""
    present = out >= 0
    edges = np.column_stack((out[present], repeated(batch, present.sum(axis=1)))).astype(np.int32)
    return np.ascontiguousarray(edges[np.lexsort((edges[:, 1], edges[:, 0]))])


def _add_back(points: Floats, graph: Adjacency, shape: Shape, edges: Ints, threads: int) -> None:
    targets = edges[:, 0]
    firsts = np.flatnonzero(np.concatenate((np.ones(min(1, len(edges)), np.bool_), targets[1:] != targets[:-1])))
    groups = np.append(firsts, len(edges)).astype(np.int64)
    spans = _spans(np.linspace(0, len(firsts), threads + 1).astype(int))
    run_in_threads([_bound(link_back, points, graph, shape, groups[begin : end + 1], edges) for begin, end in spans])


def _spans(bounds: Any) -> list[tuple[int, int]]:
    return [(int(begin), int(end)) for begin, end in pairwise(bounds) if begin < end]


def _bound(function: Any, *arguments: Any) -> Any:
    return lambda: function(*arguments)


def breadth_first(graph: Adjacency, entry: int) -> Rows:
    """All nodes in the order in which a breadth-first walk from the entry meets them, (n,); the rest follows."""
    count = len(graph.degrees)
    met = np.zeros(count, np.bool_)
    met[entry] = True
    layers = [np.array([entry], np.int64)]
    while len(layers[-1]):
        around = graph.neighbours[layers[-1]]
        around = around[np.arange(around.shape[1]) < graph.degrees[layers[-1]][:, None]]
        fresh, first = np.unique(around[~met[around]], return_index=True)
        met[fresh] = True
        layers.append(fresh[np.argsort(first)].astype(np.int64))
    return np.concatenate([*layers, np.flatnonzero(~met)])
