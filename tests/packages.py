"""Packages beside Elanus, as an installer leaves them: modules in a folder, and their entry points."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from elanus.index.extensions import find_extension
from elanus.model.metrics import find_metric_extension

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def install(folder: Path, modules: Mapping[str, str], entry_points: Mapping[str, Mapping[str, str]]) -> None:
    """Modules by name, and what each group of entry points names."""
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    info = folder / "elanus_beside-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: elanus-beside\nVersion: 1.0\n")
    lines = [
        line
        for group, names in entry_points.items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in names.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


def example(name: str) -> str:
    """The text of an example's module."""
    return (EXAMPLES / name / f"elanus_{name}.py").read_text()


def python_path(folder: Path) -> str:
    """For a server that is to find what is installed in the folder."""
    return os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


@contextmanager
def on_path(folder: Path) -> Iterator[Path]:
    """What is installed in the folder is found in this process."""
    sys.path.insert(0, str(folder))
    _forget()
    yield folder
    sys.path.remove(str(folder))
    _forget()


def _forget() -> None:
    find_extension.cache_clear()
    find_metric_extension.cache_clear()
