"""Kernels where numba is absent, and where nothing can be written: the same answers, slower."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from elanus.base.private_folder import private_folder

SEARCH = """
import sys
{prepare}
import pyarrow as pa, numpy as np
from elanus.index import registry
from elanus.base.kernel import is_compiled
from elanus.index.compiled.postings import best_rows
from elanus.index.sparse import packed_queries
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType
def row(*pairs):
    return b"".join(np.uint32(d).tobytes() + np.float32(w).tobytes() for d, w in pairs)
column = pa.array([row((1, 2.0), (7, 1.0)), row((7, 3.0)), row((2, 1.0))], pa.large_binary())
field = FieldSchema(100, "v", DataType.SPARSE_FLOAT_VECTOR)
resolved = registry.resolve({{"metric_type": "IP", "index_type": "SPARSE_INVERTED_INDEX"}}, field)
index = registry.load(memoryview(b"".join(registry.build(resolved, column, 1))))
assert "numba" not in sys.modules or sys.modules["numba"] is None, "loaded before it was needed"
found = index.search(packed_queries([row((7, 1.0))]), 3, None, {{}})
print(found.rows.tolist(), found.scores.tolist(), is_compiled(), best_rows.is_ready)
"""


def answer(prepare: str, environment: dict[str, str]) -> str:
    code = SEARCH.format(prepare=prepare)
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)
    assert told.returncode == 0, told.stderr
    return told.stdout.strip()


@pytest.mark.slow
def test_without_numba_the_twins_answer() -> None:
    assert answer("sys.modules['numba'] = None", dict(os.environ)) == ("[[1, 0, -1]] [[3.0, 1.0, -inf]] False True")


@pytest.mark.slow
def test_kernels_are_compiled_where_nothing_can_be_kept(tmp_path: Path) -> None:
    """No home folder: compiled in memory, and not a byte is written anywhere."""
    pytest.importorskip("numba", reason="numba is not installed: nothing is compiled")
    bare = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(tmp_path)}
    code = f"import os; os.chdir({str(tmp_path)!r})"
    assert answer(code, bare) == "[[1, 0, -1]] [[3.0, 1.0, -inf]] True True"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_compiled_kernels_are_kept_in_the_users_folder(tmp_path: Path) -> None:
    pytest.importorskip("numba", reason="numba is not installed: nothing is compiled")
    assert answer("", {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "NUMBA_CACHE_DIR": ""}).endswith("True True")
    assert list((tmp_path / "elanus" / "kernels").rglob("*.nbc"))


def test_a_private_folder_is_this_users_alone(tmp_path: Path) -> None:
    found = private_folder("things", {"HOME": str(tmp_path)})
    assert found == str(tmp_path / ".cache" / "elanus" / "things")
    assert private_folder("things", {"XDG_CACHE_HOME": str(tmp_path / "cache")}) is not None
    for environment in ({}, {"XDG_CACHE_HOME": "relative"}, {"HOME": ""}, {"HOME": "/proc/1/nowhere"}):
        assert private_folder("things", environment) is None
    Path(found).chmod(0o777)
    assert private_folder("things", {"HOME": str(tmp_path)}) is None
