"""Building a Vamana graph, and the twins of its kernels in NumPy.

Vamana (Subramanya et al. 2019, "DiskANN: fast accurate billion-point nearest neighbor search on a single node",
algorithms 1 to 3): each point is searched for in the graph so far; of the nodes that the search expanded those become
its neighbours that are not much nearer to one already chosen (`alpha` times, on squared distances); and the point joins
the neighbours of its neighbours, which are thinned out in the same way when they are too many.

Points go in by batches that are searched for in the graph as it was before the batch, and whose edges back are added
afterwards, target by target (Manohar et al. 2024, "ParlayANN", section 4): so the graph depends on nothing but the
order of the points, and both halves of a batch can be cut into parts for threads. Lists may grow to `width` before they
are thinned out to `degree`.

All ties are broken by the point's number. Distances are float32, of float32 points.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from elanus.base.kernel import kernel, part

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
Places = npt.NDArray[np.int64]


class Adjacency(NamedTuple):
    """The graph so far: `neighbours` (n, width), of which the first `degrees[i]` of row i count."""

    neighbours: Ints
    degrees: Ints


class Shape(NamedTuple):
    """Where searches begin, how many nodes they keep, and how many neighbours a point has in the end."""

    entry: int
    list_size: int
    degree: int
    alpha: float


def link_numpy(points: Floats, graph: Adjacency, shape: Shape, batch: Ints, marks: Ints) -> Ints:
    """The twin of `link`."""
    out = np.full((len(batch), shape.degree), -1, np.int32)
    for place, point in enumerate(batch):
        nodes, distances = _expanded_numpy(points, graph, shape, int(point))
        chosen = _thinned_numpy(points, shape, nodes, distances)
        out[place, : len(chosen)] = chosen
    return out


def _expanded_numpy(points: Floats, graph: Adjacency, shape: Shape, point: int) -> tuple[Ints, Floats]:
    known = np.array([shape.entry], np.int32)
    distances = _distances_numpy(points, point, known)
    is_expanded = np.zeros(1, np.bool_)
    met = np.zeros(len(points), np.bool_)
    met[shape.entry] = True
    found: list[tuple[int, np.float32]] = []
    while not is_expanded.all():
        at = int(np.flatnonzero(~is_expanded)[0])
        is_expanded[at] = True
        found.append((int(known[at]), distances[at]))
        around = graph.neighbours[known[at], : graph.degrees[known[at]]]
        fresh = around[~met[around]]
        met[fresh] = True
        known = np.concatenate([known, fresh])
        distances = np.concatenate([distances, _distances_numpy(points, point, fresh)])
        is_expanded = np.concatenate([is_expanded, np.zeros(len(fresh), np.bool_)])
        order = np.lexsort((known, distances))[: shape.list_size]
        known, distances, is_expanded = known[order], distances[order], is_expanded[order]
    nodes = np.array([node for node, _ in found if node != point], np.int32)
    return nodes, np.array([distance for node, distance in found if node != point], np.float32)


def _distances_numpy(points: Floats, point: int, others: Ints) -> Floats:
    differences = points[others] - points[point]
    return np.asarray(np.einsum("ij,ij->i", differences, differences), np.float32)


def _thinned_numpy(points: Floats, shape: Shape, nodes: Ints, distances: Floats) -> Ints:
    order = np.lexsort((nodes, distances))
    nodes, distances = nodes[order], distances[order]
    chosen: list[int] = []
    while len(nodes) and len(chosen) < shape.degree:
        node = int(nodes[0])
        chosen.append(node)
        nodes, distances = nodes[1:], distances[1:]
        stay = np.float32(shape.alpha) * _distances_numpy(points, node, nodes) > distances
        nodes, distances = nodes[stay], distances[stay]
    return np.array(chosen, np.int32)


def link_back_numpy(points: Floats, graph: Adjacency, shape: Shape, bounds: Places, edges: Ints) -> int:
    """The twin of `link_back`."""
    for place in range(len(bounds) - 1):
        begin, end = int(bounds[place]), int(bounds[place + 1])
        target = int(edges[begin, 0])
        old = graph.neighbours[target, : graph.degrees[target]]
        new = edges[begin:end, 1]
        joined = np.concatenate([old, new[~np.isin(new, old)]])
        if len(joined) > graph.neighbours.shape[1]:
            joined = _thinned_numpy(points, shape, joined, _distances_numpy(points, target, joined))
        graph.neighbours[target, : len(joined)] = joined
        graph.degrees[target] = len(joined)
    return len(bounds) - 1


def thin_numpy(points: Floats, graph: Adjacency, shape: Shape, begin: int, end: int) -> int:
    """The twin of `thin`."""
    thinned = 0
    for point in range(begin, end):
        nodes = graph.neighbours[point, : graph.degrees[point]]
        if len(nodes) > shape.degree:
            chosen = _thinned_numpy(points, shape, nodes, _distances_numpy(points, point, nodes))
            graph.neighbours[point, : len(chosen)] = chosen
            graph.degrees[point] = len(chosen)
            thinned += 1
    return thinned


@part
def _distance(points: Floats, one: int, other: int) -> np.float32:
    total = np.float32(0)
    for place in range(points.shape[1]):
        difference = points[one, place] - points[other, place]
        total += difference * difference
    return total


@part
def _insert_sorted(nodes: Ints, distances: Floats, count: int, node: int, distance: np.float32) -> int:
    """Into two arrays that are sorted together; the last one leaves where they are full. Where it came to stand, -1 for
    nowhere."""
    at = count
    if count == len(nodes):
        if distance > distances[-1] or (distance == distances[-1] and node > nodes[-1]):
            return -1
        at = count - 1
    while at > 0 and (distances[at - 1] > distance or (distances[at - 1] == distance and nodes[at - 1] > node)):
        nodes[at], distances[at] = nodes[at - 1], distances[at - 1]
        at -= 1
    nodes[at], distances[at] = node, distance
    return at


@part
def _is_among(nodes: Ints, count: int, node: int) -> bool:
    found = False
    for at in range(count):
        found |= nodes[at] == node
    return found


@part
def _thinned(points: Floats, shape: Shape, nodes: Ints, distances: Floats, chosen: Ints) -> int:
    """Choose neighbours among nodes sorted by distance, algorithm 2 of the paper; how many."""
    alpha = np.float32(shape.alpha)
    stays = np.ones(len(nodes), np.uint8)
    count = 0
    for at in range(len(nodes)):
        if stays[at] == 0:
            continue
        chosen[count] = nodes[at]
        count += 1
        if count == shape.degree:
            break
        for later in range(at + 1, len(nodes)):
            if stays[later] and alpha * _distance(points, nodes[at], nodes[later]) <= distances[later]:
                stays[later] = 0
    return count


@part
def _thinned_around(points: Floats, shape: Shape, point: int, nodes: Ints, chosen: Ints) -> int:
    """Of these nodes, which are in no order, those that stay neighbours of a point."""
    sorted_nodes, distances = np.empty(len(nodes), np.int32), np.empty(len(nodes), np.float32)
    for at in range(len(nodes)):
        _insert_sorted(sorted_nodes, distances, at, nodes[at], _distance(points, point, nodes[at]))
    return _thinned(points, shape, sorted_nodes, distances, chosen)


@kernel(link_numpy)
def link(points: Floats, graph: Adjacency, shape: Shape, batch: Ints, marks: Ints) -> Ints:
    """The neighbours of each point of a batch, (b, degree), -1 after the last. `marks` (n + 1) is scratch of the
    calling thread: zeros at first, then left as it is."""
    out = np.full((len(batch), shape.degree), -1, np.int32)
    known, distances = np.empty(shape.list_size, np.int32), np.empty(shape.list_size, np.float32)
    limit = 4 * shape.list_size
    found, found_distances = np.empty(limit, np.int32), np.empty(limit, np.float32)
    for place in range(len(batch)):
        point = batch[place]
        marks[-1] += 2
        mark = marks[-1]
        marks[shape.entry] = mark
        known[0], distances[0] = shape.entry, _distance(points, point, shape.entry)
        count, found_count, first = 1, 0, 0
        while first < count:
            node = known[first]
            # An odd mark says that the node was expanded.
            marks[node] = mark + 1
            if node != point and found_count < limit:
                _insert_sorted(found, found_distances, found_count, node, distances[first])
                found_count += 1
            lowest = count
            for at in range(graph.degrees[node]):
                other = graph.neighbours[node, at]
                if marks[other] >= mark:
                    continue
                marks[other] = mark
                stands = _insert_sorted(known, distances, count, other, _distance(points, point, other))
                if stands >= 0:
                    count = min(count + 1, shape.list_size)
                    lowest = min(lowest, stands)
            first = min(first, lowest)
            while first < count and marks[known[first]] == mark + 1:
                first += 1
        _thinned(points, shape, found[:found_count], found_distances[:found_count], out[place])
    return out


@kernel(link_back_numpy)
def link_back(points: Floats, graph: Adjacency, shape: Shape, bounds: Places, edges: Ints) -> int:
    """Add edges (e, 2), each a target and its new neighbour, grouped by target: group i is [bounds[i], bounds[i + 1]).
    Changes the lists of its targets only. How many targets there were."""
    width = graph.neighbours.shape[1]
    for place in range(len(bounds) - 1):
        begin, end = bounds[place], bounds[place + 1]
        target = edges[begin, 0]
        own, count = graph.neighbours[target], graph.degrees[target]
        joined = np.empty(count + end - begin, np.int32)
        joined[:count] = own[:count]
        total = count
        for at in range(begin, end):
            if not _is_among(own, count, edges[at, 1]):
                joined[total] = edges[at, 1]
                total += 1
        if total <= width:
            own[:total] = joined[:total]
            graph.degrees[target] = total
        else:
            graph.degrees[target] = _thinned_around(points, shape, target, joined[:total], own)
    return len(bounds) - 1


@kernel(thin_numpy)
def thin(points: Floats, graph: Adjacency, shape: Shape, begin: int, end: int) -> int:
    """Bring the lists of the points [begin, end) down to `degree`; how many were longer."""
    thinned = 0
    for point in range(begin, end):
        count = graph.degrees[point]
        if count > shape.degree:
            own = graph.neighbours[point]
            graph.degrees[point] = _thinned_around(points, shape, point, own[:count].copy(), own)
            thinned += 1
    return thinned
