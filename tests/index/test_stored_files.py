"""Files of vector indexes as they were written once, one for each type and version of its format that is read, still
answer. `python tests/index/test_stored_files.py` writes those that are missing, after a version has grown."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from elanus.index import registry
from elanus.model.types import DataType, Metric
from elanus.testing.conformance_data import assert_well_formed, recall_by_score, twin_best
from elanus.testing.conformance_filtered import K
from elanus.testing.conformance_index import IndexCase, file_of, index_cases

FOLDER = Path(__file__).parent / "stored"
ROWS = 120
METRICS = {"BIN_IVF_FLAT": Metric.HAMMING, "SPARSE_INVERTED_INDEX": Metric.IP, "SPARSE_WAND": Metric.IP}
CASES = {
    case.index_type: case
    for case in index_cases()
    if case.metric is METRICS.get(case.index_type, Metric.L2)
    and case.data_type in (DataType.FLOAT_VECTOR, DataType.BINARY_VECTOR, DataType.SPARSE_FLOAT_VECTOR)
}
"""One of each type."""


def path_of(case: IndexCase) -> Path:
    return FOLDER / f"{case.index_type.lower()}.{registry.file_version(case.index_type)}.gz"


@pytest.mark.parametrize("index_type", sorted(CASES))
def test_a_stored_file_answers(index_type: str) -> None:
    case = CASES[index_type]
    data = case.data.first(ROWS)
    index = registry.load(memoryview(gzip.decompress(path_of(case).read_bytes())))
    assert (index.index_type, index.metric, index.row_count) == (index_type, case.metric, ROWS)
    scores = data.scores(case.metric)
    found = index.search(data.queries, index.candidates(K, case.strong), None, case.strong)
    assert_well_formed(found, scores if index.scores_exactly else None, found.rows.shape[1], case.metric)
    assert recall_by_score(found, scores, twin_best(scores, K, case.metric), case.metric) >= case.recall_min


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for one in CASES.values():
        if not path_of(one).exists():
            path_of(one).write_bytes(gzip.compress(file_of(one, one.data.first(ROWS)), mtime=0))
