"""DISKANN: its graph and its walk against their twins, equal vectors, its own reads, and how little memory it takes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elanus.base.files import PosixFiles
from elanus.index import registry
from elanus.index.compiled.beam import Asked, Records, begun, step
from elanus.index.compiled.vamana import Adjacency, Shape, link, link_back, thin
from elanus.index.contract import RowMask
from elanus.index.diskann import DiskAnn, Layout, pack
from elanus.index.errors import SearchParameterError
from elanus.index.graph import breadth_first, build_graph, distinct, entry_of
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType

SETTINGS = settings(max_examples=30, deadline=None)
SMALL = {"index_type": "DISKANN", "metric_type": "L2", "max_degree": "16", "search_list_size": "32"}


def built(vectors: np.ndarray, **params: str) -> bytes:
    field = FieldSchema(100, "v", DataType.FLOAT_VECTOR, type_params={"dim": str(vectors.shape[1])})
    return b"".join(registry.build(registry.resolve(SMALL | params, field), vectors, 2))


def gaussian(rows: int, dimension: int, seed: int = 1, latent: int = 12) -> np.ndarray:
    random = np.random.default_rng(seed)
    lift = random.normal(size=(latent, dimension))
    return np.asarray(random.normal(size=(rows, latent)) @ lift, np.float32)


def whole_numbers(rows: int, dimension: int, seed: int) -> np.ndarray:
    """Distinct points whose squared distances are exact in float32, whatever the order of sums."""
    random = np.random.default_rng(seed)
    points = np.unique(random.integers(-8, 9, (rows, dimension)), axis=0).astype(np.float32)
    return np.ascontiguousarray(points[random.permutation(len(points))])


def graph_by(points: np.ndarray, shape: Shape, kernels: tuple[Callable[..., Any], ...]) -> Adjacency:
    """The graph of a batch-wise build by the given forms of the three kernels."""
    link_, link_back_, thin_ = kernels
    count = len(points)
    graph, marks = (
        Adjacency(np.full((count, 11), -1, np.int32), np.zeros(count, np.int32)),
        np.zeros(count + 1, np.int32),
    )
    done, size = 1, 1
    while done < count:
        batch = np.arange(done, min(count, done + size), dtype=np.int32)
        out = link_(points, graph, shape, batch, marks)
        graph.neighbours[batch, : shape.degree] = out
        graph.degrees[batch] = (out >= 0).sum(axis=1)
        edges = np.column_stack((out[out >= 0], np.repeat(batch, (out >= 0).sum(axis=1)))).astype(np.int32)
        edges = edges[np.lexsort((edges[:, 1], edges[:, 0]))]
        firsts = np.flatnonzero(np.append(True, edges[1:, 0] != edges[:-1, 0]))
        link_back_(points, graph, shape, np.append(firsts, len(edges)).astype(np.int64), edges)
        done, size = done + len(batch), min(2 * size, 30)
    thin_(points, graph, shape, 0, count)
    return graph


@pytest.mark.slow
def test_the_graph_is_that_of_the_twins() -> None:
    pytest.importorskip("numba", reason="numba is not installed: kernels run as their NumPy twins")
    for seed in range(3):
        points, shape = whole_numbers(200, 6, seed), Shape(0, 20, 8, 1.2)
        kernels = (link, link_back, thin)
        ours = graph_by(points, shape, tuple(one.compiled for one in kernels))
        twin = graph_by(points, shape, tuple(one.twin for one in kernels))
        assert ours.degrees.tolist() == twin.degrees.tolist()
        for row, degree in enumerate(ours.degrees):
            assert ours.neighbours[row, :degree].tolist() == twin.neighbours[row, :degree].tolist()
        assert ours.degrees.max() <= 8


@pytest.mark.slow
@SETTINGS
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 5), st.booleans())
def test_a_walk_is_that_of_the_twin(seed: int, capacity: int, beam: int, is_distance: bool) -> None:
    pytest.importorskip("numba", reason="numba is not installed: kernels run as their NumPy twins")
    random = np.random.default_rng(seed)
    points = whole_numbers(50, 4, seed % 5)
    degrees = random.integers(1, 7, len(points)).astype(np.int32)
    graph = Adjacency(random.integers(0, len(points), (len(points), 6)).astype(np.int32), degrees)
    layout = Layout(4, 6)
    words = pack(layout, points, graph).reshape(-1)
    codes = random.integers(0, 256, (len(points), 3)).astype(np.uint8)
    queries = whole_numbers(3, 4, seed)
    asked = Asked(queries, random.integers(-50, 50, (len(queries), 3, 256)).astype(np.float32), is_distance)
    walks = [begun(len(queries), len(points), capacity, beam) for _ in range(2)]
    for _ in range(200):
        starts = layout.starts(walks[0].frontier.astype(np.int64))
        starts = np.where(walks[0].frontier % 2 == 0, starts, -1 - starts)
        views = words.view(np.float32), words.view(np.int32)
        records = Records(*views, *views, starts, layout.degree)
        left = [run(codes, asked, records, walk) for run, walk in zip((step.compiled, step.twin), walks, strict=True)]
        assert left[0] == left[1]
        for name in ("counts", "met", "found", "scores", "found_counts", "frontier_counts"):
            assert getattr(walks[0], name).tolist() == getattr(walks[1], name).tolist(), name
        for query, count in enumerate(walks[0].counts):
            assert walks[0].nodes[query, :count].tolist() == walks[1].nodes[query, :count].tolist()
        if not left[0]:
            break
    else:
        raise AssertionError("the walk does not end")


@SETTINGS
@given(
    st.lists(st.tuples(st.sampled_from([0.0, -0.0, 1.0, 2.5]), st.sampled_from([0.0, 1.0])), min_size=1, max_size=40)
)
def test_distinct_vectors_stand_for_all_rows(rows: list[tuple[float, float]]) -> None:
    vectors = np.array(rows, np.float32)
    found = distinct(vectors)
    assert sorted(found.rows.tolist()) == list(range(len(rows)))
    assert len({tuple(vector) for vector in (found.vectors + 0).tolist()}) == len(found.vectors)
    for node, vector in enumerate(found.vectors):
        own = found.rows[found.starts[node] : found.starts[node + 1]]
        assert own.tolist() == sorted(own.tolist())
        assert (vectors[own] == vector).all()


@pytest.mark.slow
def test_every_node_can_be_reached() -> None:
    points = gaussian(800, 24)
    graph = build_graph(points, 16, 32, 2)
    order = breadth_first(graph, entry_of(points))
    assert sorted(order.tolist()) == list(range(800))
    reached = {int(order[0])}
    for node in order:
        if int(node) in reached:
            reached.update(graph.neighbours[node, : graph.degrees[node]].tolist())
    assert len(reached) >= 0.995 * 800


@pytest.mark.slow
def test_equal_vectors_are_all_found() -> None:
    vectors = gaussian(600, 8)
    vectors[100:400] = vectors[100]
    index = registry.load(memoryview(built(vectors)))
    found = index.search(vectors[100:101], 300, None, {})
    assert found.rows[0].tolist() == list(range(100, 400))
    assert (found.scores[0] == 0).all()
    keep = np.arange(600) % 2 == 0
    found = index.search(vectors[100:101], 10, RowMask.of(keep), {})
    assert found.rows[0].tolist() == list(range(100, 120, 2))


@pytest.mark.slow
def test_reads_are_its_own_and_counted(tmp_path: Path) -> None:
    vectors = gaussian(2000, 300)
    data = built(vectors, search_cache_budget_gb_ratio="0.05")
    path = str(tmp_path / "index")
    Path(path).write_bytes(data)
    files = PosixFiles()
    file = files.open(path)
    from_disk, from_memory = registry.load(files.map(path), file), registry.load(memoryview(data))
    params = {"search_list": 40}
    counts = []
    for _ in range(2):
        before = file.piece_count
        found = from_disk.search(vectors[:20], 10, None, params)
        counts.append((file.piece_count - before) / 20)
    assert found.rows.tobytes() == from_memory.search(vectors[:20], 10, None, params).rows.tobytes()
    # The first search also reads the nodes that are kept; a walk reads about as many nodes as its list is long.
    assert counts[0] > counts[1]
    assert 10 < counts[1] < 3 * 40


MEASURE = """
import json, os, sys
import numpy as np
import faiss
from elanus.base.files import PosixFiles
from elanus.index import registry
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
folder = sys.argv[1]
queries, truth = np.load(folder + "/queries.npy"), np.load(folder + "/truth.npy")
np.argsort(queries @ queries.T)
files = PosixFiles()
before = resident()
file = files.open(folder + "/index")
index = registry.load(files.map(folder + "/index"), file)
found = [index.search(query[None, :], 10, None, {}).rows[0].tolist() for query in queries]
grown = resident() - before
recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, truth.tolist())])
print(json.dumps({"grown": grown, "recall": recall, "reads": file.piece_count, "numba": "numba" in sys.modules}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_search_grows_by_a_quarter_of_the_data_at_most(tmp_path: Path) -> None:
    """What `python -m bench.disk` shows on 600 MB."""
    everything = gaussian(4050, 2000)
    vectors, queries = everything[:4000], everything[4000:]
    scores = 2 * queries @ vectors.T - (vectors * vectors).sum(axis=1)
    np.save(tmp_path / "queries.npy", queries)
    np.save(tmp_path / "truth.npy", np.argsort(-scores, axis=1)[:, :10])
    (tmp_path / "index").write_bytes(
        built(vectors, pq_code_budget_gb_ratio="0.01", search_cache_budget_gb_ratio="0.02")
    )
    words = [sys.executable, "-c", MEASURE, str(tmp_path)]
    told = subprocess.run(words, capture_output=True, text=True, timeout=300, check=True)
    measured = json.loads(told.stdout)
    assert measured["grown"] <= vectors.nbytes / 4, measured
    assert measured["recall"] >= 0.95, measured
    assert measured["reads"] > 10 * len(queries), measured
    assert not measured["numba"], "loaded where it costs more than it spares"


def test_parameters_out_of_range_count_as_not_given() -> None:
    field = FieldSchema(100, "v", DataType.FLOAT_VECTOR, type_params={"dim": "8"})
    definition = {"index_type": "DISKANN", "metric_type": "IP", "max_degree": "0", "pq_code_budget_gb_ratio": "x"}
    resolved = registry.resolve(registry.validate_definition(definition, field), field)
    assert resolved.params == {
        "max_degree": 56,
        "search_list_size": 100,
        "pq_code_budget_gb_ratio": 0.125,
        "search_cache_budget_gb_ratio": 0.1,
        "dim": 8,
    }
    for name in ("search_list", "search_list_size"):
        with pytest.raises(SearchParameterError, match=r"search_list_size\(1\) should be larger than k\(10\)"):
            DiskAnn().check_search({name: 1}, 10)
