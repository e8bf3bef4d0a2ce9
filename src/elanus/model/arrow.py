"""Arrow without pandas.

pyarrow looks for pandas at its first conversion from or to NumPy and, finding it (pymilvus brings it along), imports
it: 0.6 s and 60 MB for nothing. It looks once and remembers, so it is made to look while pandas is hidden. A later
`to_pandas` looks again and finds it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

import pyarrow as pa


class _Hidden(MetaPathFinder):
    """Answers that there is no pandas."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "pandas":
            raise ModuleNotFoundError("pandas is hidden while pyarrow looks for it", name=fullname)
        return None


def leave_pandas_out() -> None:
    """Call once before the first conversion; does nothing where pandas is loaded already."""
    if "pandas" in sys.modules:
        return
    finder = _Hidden()
    sys.meta_path.insert(0, finder)
    try:
        pa.array([0]).to_numpy()
    finally:
        sys.meta_path.remove(finder)
