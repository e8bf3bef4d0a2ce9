"""Every vector index in process, beside the bare library: `python -m bench.indexes`.

One thread, one query a call, over unit vectors by cosine (binary indexes: over the signs of their numbers by Hamming
distance). Times are CPU times: of the searching thread, and of the whole process for builds. *Ours* is what a node does
for one segment: `plan.search_planned` over a mapped file and the vectors. *Bare* is the index that faiss makes of
the same parameters, searched directly, with faiss's own refinement by the vectors where ours refines. Builds use all
cores. Memory is what a process grows by when it maps the file and searches.

Written are a table, JSON, and one picture of recall against queries per second. With `--indexes` some are measured, and
shown beside what an earlier run over as many rows measured of the others.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np

from bench.cli import FULL_DATA, SAMPLE
from bench.environment import INSTALL, ROOT
from bench.workload import Bools, Dataset, K, load
from elanus.index import registry
from elanus.index.binary import BinaryVectors
from elanus.index.contract import RowMask, VectorIndex
from elanus.index.kernels import library
from elanus.index.plan import SearchRequest, search_planned
from elanus.index.vectors import Vectors
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType, Metric

T = TypeVar("T")

faiss: Any = library()
CORES = len(os.sched_getaffinity(0))
ROWS = 30_000
QUERIES = 300
SHARES = (0.01, 0.1)
"""Passing shares of the filtered searches, at the strongest effort."""

EFS = [{"ef": ef} for ef in (10, 24, 48, 96, 192)]
NPROBES = [{"nprobe": nprobe} for nprobe in (1, 2, 4, 8, 16, 32, 64)]
GRAPH = {"M": 16, "efConstruction": 120}
LISTS = {"nlist": 256}


class Point(msgspec.Struct):
    """One effort: what was asked, and what came of it; bare figures where the library has such an index."""

    params: dict[str, Any]
    recall: float
    rate: float
    bare_recall: float | None = None
    bare_rate: float | None = None

    @property
    def ratio(self) -> float | None:
        """Queries per second over those of the bare library."""
        return None if self.bare_rate is None else self.rate / self.bare_rate


class Figures(msgspec.Struct):
    """One index."""

    name: str
    build_s: float
    disk_bytes_per_row: float
    memory_bytes_per_row: float
    points: list[Point]
    filtered: dict[str, tuple[float, float]]
    bare_build_s: float | None = None


@dataclass(frozen=True)
class Entry:
    """An index to be measured: its definition, the efforts to try, and how faiss makes and searches the same."""

    name: str
    params: Mapping[str, Any]
    efforts: list[dict[str, Any]]
    bare: Callable[[int], Any] | None = None
    bare_params: Callable[[dict[str, Any]], Any] = lambda effort: None


def _hnsw_params(effort: dict[str, Any]) -> Any:
    return faiss.SearchParametersHNSW(efSearch=effort["ef"])


def _ivf_params(effort: dict[str, Any]) -> Any:
    return faiss.SearchParametersIVF(nprobe=effort["nprobe"])


def _refined(inner: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    def make(effort: dict[str, Any]) -> Any:
        factor = float(effort.get("refine_k", effort.get("reorder_k", K) / K))
        return faiss.IndexRefineSearchParameters(k_factor=factor, base_index_params=inner(effort))

    return make


def _rabitq_params(effort: dict[str, Any]) -> Any:
    inner = faiss.IVFRaBitQSearchParameters(nprobe=effort["nprobe"], qb=0)
    return faiss.SearchParametersPreTransform(index_params=inner)


def _with(efforts: list[dict[str, Any]], **more: Any) -> list[dict[str, Any]]:
    return [effort | more for effort in efforts]


def _graph(index: Any) -> Any:
    index.hnsw.efConstruction = GRAPH["efConstruction"]
    return index


def _rabitq(d: int) -> Any:
    bits = faiss.IndexIVFRaBitQFastScan(
        faiss.IndexFlatIP(d), d, LISTS["nlist"], faiss.METRIC_INNER_PRODUCT, 32, True, 1
    )
    return faiss.IndexRefineFlat(faiss.IndexPreTransform(faiss.RandomRotationMatrix(d, d), bits))


def entries() -> Iterator[Entry]:
    """All of them."""
    ip, quantizer = faiss.METRIC_INNER_PRODUCT, faiss.IndexFlatIP
    eight, nlist, m = faiss.ScalarQuantizer.QT_8bit, LISTS["nlist"], 48
    refined = {"refine": "true", "refine_type": "FP32"}
    yield Entry("FLAT", {}, [{}], faiss.IndexFlatIP)
    yield Entry("HNSW", GRAPH, EFS, lambda d: _graph(faiss.IndexHNSWFlat(d, 16, ip)), _hnsw_params)
    yield Entry(
        "HNSW_SQ",
        GRAPH | refined | {"sq_type": "SQ8"},
        _with(EFS, refine_k=2.0),
        lambda d: faiss.IndexRefineFlat(_graph(faiss.IndexHNSWSQ(d, eight, 16, ip))),
        _refined(_hnsw_params),
    )
    yield Entry(
        "HNSW_PQ",
        GRAPH | refined | {"m": m},
        _with(EFS, refine_k=4.0),
        lambda d: faiss.IndexRefineFlat(_graph(faiss.IndexHNSWPQ(d, m, 16, 8, ip))),
        _refined(_hnsw_params),
    )
    yield Entry("HNSW_PRQ", GRAPH | refined | {"m": 24, "nrq": 2}, _with(EFS, refine_k=4.0))
    yield Entry("IVF_FLAT", LISTS, NPROBES, lambda d: faiss.IndexIVFFlat(quantizer(d), d, nlist, ip), _ivf_params)
    yield Entry(
        "IVF_SQ8",
        LISTS,
        NPROBES,
        lambda d: faiss.IndexIVFScalarQuantizer(quantizer(d), d, nlist, eight, ip, False),
        _ivf_params,
    )
    yield Entry(
        "IVF_PQ", LISTS | {"m": m}, NPROBES, lambda d: faiss.IndexIVFPQ(quantizer(d), d, nlist, m, 8, ip), _ivf_params
    )
    yield Entry("IVF_RABITQ", LISTS | refined, _with(NPROBES, refine_k=10.0), _rabitq, _refined(_rabitq_params))
    yield Entry(
        "SCANN",
        LISTS,
        _with(NPROBES, reorder_k=100),
        lambda d: faiss.IndexRefineFlat(faiss.IndexIVFPQFastScan(quantizer(d), d, nlist, d // 2, 4, ip)),
        _refined(_ivf_params),
    )
    if "DISKANN" in registry.INDEX_TYPES:
        yield Entry("DISKANN", {}, [{"search_list": width} for width in (10, 20, 50, 100, 200)])
    yield Entry("BIN_FLAT", {}, [{}], faiss.IndexBinaryFlat)
    yield Entry("BIN_IVF_FLAT", LISTS, NPROBES, lambda d: faiss.IndexBinaryIVF(faiss.IndexBinaryFlat(d), d, nlist))


class World:
    """The data as one kind of index sees them, and their exact answers."""

    def __init__(self, data: Dataset, is_binary: bool) -> None:
        self.is_binary = is_binary
        self.metric = Metric.HAMMING if is_binary else Metric.COSINE
        self.dimension = int(data.vectors.shape[1])
        self.values = np.packbits(data.vectors > 0, axis=1) if is_binary else data.vectors
        queries = data.queries[:QUERIES]
        self.queries = np.packbits(queries > 0, axis=1) if is_binary else queries
        self.column: Any = BinaryVectors(self.values) if is_binary else Vectors(self.values)
        random = np.random.default_rng(5)
        self.masks = {share: random.random(len(self.values)) < share for share in SHARES}

    def worst_scores(self, keep: Bools | None = None) -> np.ndarray:
        """The k-th best score of each query: an answer as good is a right one."""
        mask = None if keep is None else RowMask.of(keep)
        return search_planned(None, self.column, SearchRequest(self.queries, K, self.metric), mask).scores[:, -1]

    def recall(self, rows: np.ndarray, worst: np.ndarray) -> float:
        """Share of places filled by rows at least as good as the k-th best."""
        if self.is_binary:
            own = np.bitwise_count(self.values[rows] ^ self.queries[:, None]).sum(axis=2)
            return float(((own <= worst[:, None]) & (rows >= 0)).mean())
        own = np.einsum("qd,qkd->qk", self.queries, self.values[rows])
        return float(((own >= worst[:, None] - 1e-5) & (rows >= 0)).mean())


def _timed(search: Callable[[np.ndarray], np.ndarray], queries: np.ndarray) -> tuple[np.ndarray, float]:
    """Rows of all queries, asked one by one, and queries per second of this thread's CPU time, which a busy machine
    stretches little; asked twice, the better time counts."""
    best = float("inf")
    for _ in range(2):
        began_s = time.thread_time()
        rows = np.concatenate([search(queries[place : place + 1]) for place in range(len(queries))])
        best = min(best, time.thread_time() - began_s)
    return rows, len(queries) / best


def _resident_bytes() -> int:
    rolled = Path("/proc/self/smaps_rollup").read_text()
    return 1024 * int(rolled.partition("Pss:")[2].split()[0])


def measure(entry: Entry, world: World) -> Figures:
    """Ours, then bare."""
    data_type = DataType.BINARY_VECTOR if world.is_binary else DataType.FLOAT_VECTOR
    field = FieldSchema(100, "v", data_type, type_params={"dim": str(world.dimension)})
    given = {"index_type": entry.name, "metric_type": str(world.metric)}
    given |= {name: str(value) for name, value in entry.params.items()}
    resolved = registry.resolve(registry.validate_definition(given, field), field)
    faiss.omp_set_num_threads(CORES)
    began_s = time.process_time()
    parts = registry.build(resolved, world.values, CORES) if resolved.needs_file else []
    build_s = time.process_time() - began_s
    size = sum(len(part) for part in parts)
    with TemporaryFile(dir=ROOT / "bench") as file:
        file.writelines(parts)
        file.flush()
        del parts
        gc.collect()
        faiss.omp_set_num_threads(1)
        before = _resident_bytes()
        index = registry.load(memoryview(mmap(file.fileno(), 0, access=ACCESS_READ))) if size else None
        points, filtered = _ours(entry, world, index)
        memory = _resident_bytes() - before if size else 0
        del index
    found = Figures(entry.name, build_s, size / len(world.values), memory / len(world.values), points, filtered)
    if entry.bare is not None:
        _bare(entry, world, found)
    return found


def _ours(entry: Entry, world: World, index: VectorIndex | None) -> tuple[list[Point], dict[str, tuple[float, float]]]:
    worst = world.worst_scores()
    points = []
    for effort in entry.efforts:
        request = {**effort}

        def search(queries: np.ndarray, mask: RowMask | None = None, request: dict[str, Any] = request) -> np.ndarray:
            return search_planned(index, world.column, SearchRequest(queries, K, world.metric, request), mask).rows

        rows, rate = _timed(search, world.queries)
        points.append(Point(effort, world.recall(rows, worst), rate))
    filtered = {}
    for share, keep in world.masks.items():
        mask = RowMask.of(keep)
        rows, rate = _timed(lambda queries, mask=mask: search(queries, mask), world.queries)
        filtered[f"{share:g}"] = (world.recall(rows, world.worst_scores(keep)), rate)
    return points, filtered


def _bare(entry: Entry, world: World, found: Figures) -> None:
    assert entry.bare is not None
    worst = world.worst_scores()
    faiss.omp_set_num_threads(CORES)
    began_s = time.process_time()
    index = entry.bare(world.dimension)
    index.train(world.values)
    index.add(world.values)
    found.bare_build_s = time.process_time() - began_s
    faiss.omp_set_num_threads(1)
    for point in found.points:
        if world.is_binary and point.params:
            index.nprobe = point.params["nprobe"]
        params = entry.bare_params(point.params)

        def search(queries: np.ndarray, params: Any = params) -> np.ndarray:
            more = {} if params is None else {"params": params}
            return np.asarray(index.search(queries, K, **more)[1])

        rows, point.bare_rate = _timed(search, world.queries)
        point.bare_recall = world.recall(rows, worst)


def table(found: list[Figures], rows: int, dimension: int) -> str:
    """The figures as text: of each index every effort, filters and build in the first line."""
    lines = [
        f"{rows} rows x {dimension}, one thread, one query a call, k = {K}, CPU time; x = q/s over bare faiss's",
        f"{'index':<13}{'effort':<34}{'recall':>7}{'q/s':>8}{'bare':>7}{'q/s':>8}{'x':>6}"
        f"{'build s':>9}{'bare':>7}{'disk B/row':>11}{'mem B/row':>10}   filtered: share recall q/s",
    ]
    for one in found:
        for place, point in enumerate(one.points):
            effort = " ".join(f"{name}={value:g}" for name, value in point.params.items())
            line = f"{one.name if not place else '':<13}{effort:<34}{point.recall:>7.3f}{point.rate:>8.0f}"
            if point.bare_rate is not None:
                line += f"{point.bare_recall:>7.3f}{point.bare_rate:>8.0f}{point.ratio:>6.2f}"
            else:
                line += f"{'-':>7}{'-':>8}{'-':>6}"
            if not place:
                bare = "-" if one.bare_build_s is None else f"{one.bare_build_s:.1f}"
                line += f"{one.build_s:>9.1f}{bare:>7}{one.disk_bytes_per_row:>11.0f}{one.memory_bytes_per_row:>10.0f}"
                line += "   " + "; ".join(f"{s} {r:.3f} {q:.0f}" for s, (r, q) in one.filtered.items())
            lines.append(line)
    return "\n".join(lines) + "\n"


def draw(found: list[Figures], path: Path, heading: str) -> bool:
    """Recall against queries per second of all in one picture; False when matplotlib is not installed."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panel = pyplot.subplots(figsize=(11, 7))
    for place, one in enumerate(found):
        colour = f"C{place % 10}"
        style = {"color": colour, "marker": "o" if place < 10 else "s"}
        panel.plot([p.recall for p in one.points], [p.rate for p in one.points], label=one.name, **style)
        bare = [(p.bare_recall, p.bare_rate) for p in one.points if p.bare_rate is not None]
        panel.plot(*zip(*bare, strict=True), color=colour, linestyle=":", alpha=0.6) if bare else None
    panel.set_yscale("log")
    panel.set_xlabel(f"recall@{K}")
    panel.set_ylabel("queries per second of one core (dotted: bare faiss)")
    panel.set_title(heading, fontsize=9)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True


class Choice(NamedTuple):
    """What a run measures: indexes of these `names` (none: all), in worlds of `data` as floats (False) and as bits."""

    names: frozenset[str]
    out: Path
    data: Dataset
    worlds: dict[bool, World]

    def takes(self, entry: Entry) -> bool:
        """Whether the index is to be measured."""
        return not self.names or entry.name in self.names

    def world(self, entry: Entry) -> World:
        """The data for that index."""
        return self.worlds[entry.name.startswith("BIN")]


def choice(prog: str, description: str) -> Choice:
    """From the command line; makes the folder of results."""
    parser = argparse.ArgumentParser(prog=f"python -m {prog}", description=description)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--indexes", default="", help="comma-separated choice; all by default")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    options = parser.parse_args()
    data = load(FULL_DATA if FULL_DATA.exists() else SAMPLE, options.rows)
    options.out.mkdir(parents=True, exist_ok=True)
    names = frozenset(name for name in options.indexes.split(",") if name)
    worlds = {is_binary: World(data, is_binary) for is_binary in (False, True)}
    return Choice(names, options.out, data, worlds)


def earlier(kept: Path, kind: type[T]) -> list[T]:
    """What earlier runs measured of the same rows."""
    return msgspec.json.decode(kept.read_bytes(), type=list[kind]) if kept.exists() else []  # type: ignore[valid-type]


def main() -> int:
    """Measure what was chosen."""
    chosen = choice("bench.indexes", "Every vector index beside faiss.")
    vectors = chosen.data.vectors
    kept = chosen.out / f"indexes-{len(vectors)}.json"
    figures = {one.name: one for one in earlier(kept, Figures)}
    for entry in filter(chosen.takes, entries()):
        sys.stderr.write(f"bench: measuring {entry.name}\n")
        figures[entry.name] = measure(entry, chosen.world(entry))
        kept.write_bytes(msgspec.json.format(msgspec.json.encode(list(figures.values()))))
    found = [figures[entry.name] for entry in entries() if entry.name in figures]
    page = table(found, len(vectors), int(vectors.shape[1]))
    sys.stdout.write(page)
    (chosen.out / "indexes.txt").write_text(page)
    if not draw(found, chosen.out / "indexes.png", page.partition("\n")[0]):
        sys.stderr.write(f"bench: no plot: matplotlib is not installed: {INSTALL}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
