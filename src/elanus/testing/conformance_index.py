"""What every index with a file of its own must do, checked against a twin that computes everything in float64.

A test module calls `check_index(case)` for every case of `index_cases()`; who writes an index type of their own calls
it with cases of theirs, and has a type that Elanus can serve when nothing is raised. Nothing here knows what an index
does inside; thresholds hold for clustered data of a few thousand rows.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from elanus.base.errors import CorruptedError
from elanus.base.files import PosixFiles
from elanus.index import registry
from elanus.index.compared import as_compared
from elanus.index.contract import Found, ResolvedIndex, RowMask, VectorIndex
from elanus.index.kernels import initialize_thread
from elanus.index.plan import SearchRequest, nearest, search_planned
from elanus.index.scored import ScoredVectors
from elanus.index.vectors import Vectors
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType, Metric
from elanus.testing import conformance_filtered
from elanus.testing.conformance_data import (
    BINARY_DIMENSION,
    DIMENSION,
    ROWS,
    Data,
    assert_well_formed,
    data_of,
    recall_by_score,
    twin_best,
)
from elanus.testing.conformance_filtered import RECALL_MIN, SHARES, K, Subject, check_uncorrelated

COST_RATIO_MIN: Final = 2.0
"""Estimated costs that are nearer to one another need not show in the time."""
TIME_RATIO_MIN: Final = 1.2
"""So much more time effort takes that is estimated to cost `COST_RATIO_MIN` times as much."""
TIMED_MAX: Final = 60
"""Runs of each kind before an index is given up: what counts is the least time, which every run may come nearer to."""


@dataclass(frozen=True)
class IndexCase:
    """One index type under one metric over vectors of one type. `weak` and `strong` are search parameters of little and
    of much effort; `recall_min` is what the strong ones must reach, less than `RECALL_MIN` only where the type's codes
    cannot tell near rows apart and nothing refines them."""

    index_type: str
    metric: Metric
    params: Mapping[str, str]
    weak: Mapping[str, object]
    strong: Mapping[str, object]
    data_type: DataType = DataType.FLOAT_VECTOR
    recall_min: float = RECALL_MIN

    @property
    def label(self) -> str:
        """For test ids."""
        return f"{self.index_type}-{self.metric}-{self.data_type.label.removesuffix('Vector')}"

    @property
    def resolved(self) -> ResolvedIndex:
        """What to build: the definition as a user would write it, checked and resolved."""
        dimension = BINARY_DIMENSION if self.data_type is DataType.BINARY_VECTOR else DIMENSION
        field = FieldSchema(100, "v", self.data_type, type_params={"dim": str(dimension)})
        given = {"index_type": self.index_type, "metric_type": self.metric.value, **self.params}
        return registry.resolve(registry.validate_definition(given, field), field)

    @property
    def data(self) -> Data:
        """The vectors and queries it is checked with."""
        return data_of(self.data_type)

    @property
    def column(self) -> Vectors | ScoredVectors:
        """The vectors as a search by the metric takes them."""
        return as_compared(self.data.column, self.metric)


_GRAPH: Final = {"M": "16", "efConstruction": "100"}
_REFINED: Final = {"refine": "true", "refine_type": "FP32"}
_DISK: Final = {"max_degree": "24", "search_list_size": "60"}
_LISTS: Final = {"nlist": "32"}
_PARTS: Final = {"m": "12", "nbits": "6"}
_FEW: Final = {"nprobe": 1}
_ALL: Final = {"nprobe": 32}
_MUCH: Final = {"ef": 400, "refine_k": 20.0}


class _Way(NamedTuple):
    """How a type is built and searched, whatever the vectors and the metric."""

    index_type: str
    params: Mapping[str, str]
    weak: Mapping[str, object]
    strong: Mapping[str, object]
    recall_min: float = RECALL_MIN


_WAYS: Final = (
    _Way("HNSW", _GRAPH, {"ef": K}, {"ef": 400}),
    _Way("HNSW_SQ", _GRAPH | _REFINED | {"sq_type": "SQ4U"}, {"ef": K}, _MUCH),
    _Way("HNSW_PQ", _GRAPH | _REFINED | _PARTS, {"ef": K}, _MUCH),
    _Way("HNSW_PRQ", _GRAPH | _REFINED | {"m": "6", "nbits": "5", "nrq": "2"}, {"ef": K}, _MUCH),
    _Way("IVF_FLAT", _LISTS, _FEW, _ALL),
    _Way("IVF_SQ8", _LISTS, _FEW, _ALL),
    _Way("IVF_PQ", _LISTS | _PARTS, _FEW, _ALL, recall_min=0.6),
    _Way("IVF_RABITQ", _LISTS | _REFINED, _FEW, _ALL | {"refine_k": 20.0}),
    _Way("SCANN", _LISTS, _FEW, _ALL | {"reorder_k": 200}),
    _Way("DISKANN", _DISK, {"search_list": K}, {"search_list": 300}),
    _Way("BIN_IVF_FLAT", _LISTS, _FEW, _ALL),
    _Way("SPARSE_INVERTED_INDEX", {}, {"drop_ratio_search": 0.6}, {}),
    _Way("SPARSE_WAND", {}, {"drop_ratio_search": 0.6}, {}),
)


def index_cases() -> Iterator[IndexCase]:
    """Every served index type with a file, under every metric and over every type of vectors that it takes; those over
    lists of vectors, whose rows have no two vectors to compare, left out."""
    for way in _WAYS:
        kind = registry.find_index_type(way.index_type)
        for data_type in sorted(kind.data_types - {DataType.ARRAY_OF_VECTOR}):
            for metric in sorted(kind.metrics):
                yield IndexCase(way.index_type, metric, way.params, way.weak, way.strong, data_type, way.recall_min)


_FILES: Final[dict[str, bytes]] = {}


def built(case: IndexCase) -> bytes:
    """The file of the case over its data; made once."""
    if case.label not in _FILES:
        _FILES[case.label] = file_of(case)
    return _FILES[case.label]


def file_of(case: IndexCase, data: Data | None = None) -> bytes:
    """The case's file over its data, or over other data of the kind."""
    return b"".join(registry.build(case.resolved, (data or case.data).buildable, 1))


def opened(case: IndexCase) -> VectorIndex:
    """The case's index over its data."""
    return registry.load(memoryview(built(case)))


def check_search_and_effort(case: IndexCase) -> None:
    """Enough effort finds nearly everything; more effort never finds less; what is found has its own score."""
    data = case.data
    index, scores = opened(case), data.scores(case.metric)
    assert (index.index_type, index.metric) == (case.index_type, case.metric)
    assert (index.row_count, index.dimension) == data.shape
    truth = twin_best(scores, K, case.metric)
    recalls = []
    for params in (case.weak, case.strong):
        found = nearest(index, case.column, SearchRequest(data.queries, K, case.metric), K, params)
        assert_well_formed(found, scores, K, case.metric)
        recalls.append(recall_by_score(found, scores, truth, case.metric))
    assert recalls[1] >= case.recall_min
    assert recalls[1] >= recalls[0]
    weak, strong = (index.cost_us(index.candidates(K, params), params) for params in (case.weak, case.strong))
    assert weak < strong


def check_file(case: IndexCase) -> None:
    """Two openings of one file answer with the same bits, so does the file saved and mapped, and so do many queries at
    once and one by one; a damaged file is refused."""
    queries, column = case.data.queries, case.column
    first, second = opened(case), opened(case)
    assert first.size_bytes == len(built(case))
    one, two = (index.search(queries, K, None, case.strong) for index in (first, second))
    _assert_same_bits(one, two)
    with tempfile.TemporaryDirectory() as folder:
        _assert_same_bits(one, _stored(case, folder).search(queries, K, None, case.strong))
    together = nearest(first, column, SearchRequest(queries, K, case.metric), K, case.strong)
    single = [
        nearest(first, column, SearchRequest(query[None, :], K, case.metric), K, case.strong) for query in queries
    ]
    assert np.concatenate([found.scores for found in single]).tobytes() == together.scores.tobytes()
    for damaged in (b"", built(case)[:-1], built(case)[:-9] + b"?" * 9):
        try:
            registry.load(memoryview(damaged))
        except CorruptedError:
            continue
        raise AssertionError("a damaged file was opened")


def _stored(case: IndexCase, folder: str) -> VectorIndex:
    """The case's index saved, mapped, and where its type reads pieces, opened for that, as a query node does it."""
    path, files = f"{folder}/index", PosixFiles()
    Path(path).write_bytes(built(case))
    local = files.open(path) if registry.lives_on_disk(case.index_type) else None
    return registry.load(files.map(path), local)


def _assert_same_bits(one: Found, two: Found) -> None:
    assert one.scores.tobytes() == two.scores.tobytes()
    assert one.rows.tobytes() == two.rows.tobytes()


def check_time(case: IndexCase) -> None:
    """Where much effort is estimated to cost much more, it does: in the time of the thread that searches, the least of
    runs taken in turn, as many as it takes to show. What else the machine does makes runs longer, never shorter, and an
    index that takes the same time for both does not come to differ by that."""
    index, queries = opened(case), case.data.queries
    weak, strong = (index.cost_us(index.candidates(K, params), params) for params in (case.weak, case.strong))
    if strong < COST_RATIO_MIN * weak:
        return
    initialize_thread(1)
    asked = [(min(ROWS, index.candidates(K, params)), params) for params in (case.weak, case.strong)]
    least_s = [math.inf, math.inf]
    for _ in range(TIMED_MAX):
        for place, (count, params) in enumerate(asked):
            least_s[place] = min(least_s[place], _thread_time_s(index, queries, count, params))
        if TIME_RATIO_MIN * least_s[0] <= least_s[1]:
            return
    weak_s, strong_s = least_s
    raise AssertionError(f"more effort takes no more time: {weak_s:.6f} s with little, {strong_s:.6f} s with much")


def _thread_time_s(index: VectorIndex, queries: np.ndarray, k: int, params: Mapping[str, object]) -> float:
    begun_s = time.thread_time()
    index.search(queries, k, None, params)
    return time.thread_time() - begun_s


def check_equals(case: IndexCase) -> None:
    """Rows with one and the same vector are all found, in their order, when one of them is asked for."""
    data = case.data
    first, count = ROWS // 3, 20
    query = data.query_of(first)
    scores = data.asking(query).scores(case.metric)
    found = search_planned(opened(case), case.column, SearchRequest(query, 2 * count, case.metric, case.strong))
    assert_well_formed(found, scores, 2 * count, case.metric)
    better = scores[0] > scores[0, first] if case.metric.larger_is_better else scores[0] < scores[0, first]
    if better.sum() == 0 and case.recall_min == RECALL_MIN:
        equal = found.rows[0][np.isin(found.rows[0], np.arange(first, first + count))]
        assert (np.diff(equal) > 0).all(), "equal scores are not ordered by row"
        assert len(equal) == count, "rows with equal vectors are missing"


def check_masks(case: IndexCase) -> None:
    """Only kept rows come back, from an empty mask to a full one, from the index itself."""
    data = case.data
    index, scores = opened(case), data.scores(case.metric)
    random = np.random.default_rng(7)
    for share in (0.0, *SHARES):
        keep = random.random(ROWS) < share
        found = index.search(data.queries, K, RowMask.of(keep), case.strong)
        assert_well_formed(found, scores if index.scores_exactly else None, K, case.metric, keep)


def check_small(case: IndexCase) -> None:
    """Fewer rows than k, than lists, than a graph's degree; every row is found where the effort allows it."""
    for rows in (1, 2, 7):
        data = case.data.first(rows)
        index = registry.load(memoryview(file_of(case, data)))
        found = index.search(data.queries, K, None, case.strong)
        assert_well_formed(found, data.scores(case.metric) if index.scores_exactly else None, K, case.metric)
        assert ((found.rows >= 0).sum(axis=1) == rows).all()


def check_beyond(case: IndexCase) -> None:
    """A k beyond the rows: from the index a padded answer, behind the planner every row, best first."""
    data, k = case.data, ROWS + 7
    queries = data.queries[:3]
    index, scores = opened(case), data.asking(queries).scores(case.metric)
    found = index.search(queries, k, None, case.strong)
    assert_well_formed(found, scores if index.scores_exactly else None, k, case.metric)
    planned = search_planned(index, case.column, SearchRequest(queries, k, case.metric, case.strong))
    assert_well_formed(planned, scores, k, case.metric)
    assert ((planned.rows >= 0).sum(axis=1) == ROWS).all()


def check_planned(case: IndexCase) -> None:
    """Behind the planner: what it promises under masks that have nothing to do with the queries."""
    check_uncorrelated(_subject(case))


def check_correlated(case: IndexCase) -> None:
    """And under those that have."""
    conformance_filtered.check_correlated(_subject(case))


def _subject(case: IndexCase) -> Subject:
    return Subject(opened(case), case.data, case.column, case.weak, case.strong, case.recall_min >= RECALL_MIN)


CHECKS: Final = (
    check_search_and_effort,
    check_time,
    check_file,
    check_masks,
    check_equals,
    check_small,
    check_beyond,
    check_planned,
    check_correlated,
)


def check_index(case: IndexCase) -> None:
    """Everything above."""
    for check in CHECKS:
        check(case)
