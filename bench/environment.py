"""Virtual environments of the bench, below ``bench/.cache``, made on first use from the package registry.

The client is pymilvus of exactly `PYMILVUS_VERSION`. Where the project's environment holds another one, or lacks what
draws the plot, the bench starts itself again in an environment of its own with the same versions of everything else,
and Elanus is still served by the project's interpreter. Standard library only: this runs before anything is certain.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / "bench" / ".cache"
PYMILVUS_VERSION = "2.6.17"
INSTALL = "pip install 'elanus[bench]'"
"""What the comparisons need beside the package."""
SERVER_PYTHON = "BENCH_SERVER_PYTHON"
"""Names the project's interpreter once the bench runs in another environment."""

_SHARED = ("faiss-cpu", "grpcio", "msgspec", "numpy", "pyarrow", "protobuf", "uvloop")
_OWN = ("psutil", "matplotlib")


def installed(name: str) -> str | None:
    """The version of an installed distribution, None when it is missing."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def require(*names: str) -> None:
    """End with one line that says what to install, unless all are there."""
    missing = [name for name in names if installed(name) is None]
    if missing:
        raise SystemExit(f"bench: needs {', '.join(missing)}: {INSTALL}")


def virtual_environment(name: str, *requirements: str) -> Path:
    """The folder of a virtual environment that holds `requirements`, created when missing."""
    folder = CACHE / f"venv-{name}"
    stamp = folder / "ready"
    wanted = " ".join(requirements)
    if not (stamp.exists() and stamp.read_text() == wanted):
        sys.stderr.write(f"bench: installing {wanted} into {folder}\n")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *requirements], check=True)
        stamp.write_text(wanted)
    return folder


def server_python() -> str:
    """The interpreter of the project's environment, which serves Elanus."""
    return os.environ.get(SERVER_PYTHON, sys.executable)


def requirements_missing(found: Mapping[str, str | None]) -> tuple[str, ...]:
    """What an environment of our own must hold, given the versions found here; empty when this one will do."""
    if found["pymilvus"] == PYMILVUS_VERSION and all(found[name] for name in (*_SHARED, *_OWN)):
        return ()
    shared = (f"{name}=={found[name]}" if found[name] else name for name in _SHARED)
    return (f"pymilvus=={PYMILVUS_VERSION}", *shared, *_OWN)


def enter() -> None:
    """Return where this interpreter will do; else replace this process by the bench in an environment that does."""
    requirements = requirements_missing({name: installed(name) for name in ("pymilvus", *_SHARED, *_OWN)})
    if not requirements or SERVER_PYTHON in os.environ:
        return
    python = str(virtual_environment("bench", *requirements) / "bin/python")
    os.execve(python, [python, "-m", "bench", *sys.argv[1:]], {**os.environ, SERVER_PYTHON: sys.executable})
