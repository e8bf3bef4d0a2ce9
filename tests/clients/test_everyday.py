"""Real pymilvus of both lines, as clients of one server build."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent / "everyday.py"
NEWER = "3.0.2"
"""Beside it, the line that is installed here."""


def run_everyday(interpreter: str | Path, uri: str) -> str:
    """What the script said; its errors are the test's."""
    done = subprocess.run([str(interpreter), str(SCRIPT), uri], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
def test_the_installed_client_does_everyday_work(serve: Callable[..., Any]) -> None:
    assert metadata.version("pymilvus").startswith("2.6.")
    assert run_everyday(sys.executable, serve().uri).endswith("done\n")


@pytest.mark.drill
def test_the_newer_line_of_the_client_does_everyday_work(serve: Callable[..., Any], tmp_path: Path) -> None:
    environment = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    interpreter = environment / "bin" / "python"
    install = [str(interpreter), "-m", "pip", "install", "--quiet", f"pymilvus=={NEWER}", "setuptools<80"]
    subprocess.run(install, check=True)
    assert run_everyday(interpreter, serve().uri).endswith("done\n")
