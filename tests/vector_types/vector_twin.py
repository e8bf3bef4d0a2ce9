"""Vectors of every type as pymilvus takes them, and what each metric says of two of them, computed plainly.

Rows are made of small integers and quarters, which every storage type holds exactly: a twin needs no tolerance for
rounding on the way in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from pymilvus import DataType

DIMENSION = 16
SPARSE_SPACE = 40
Plain = Any
"""A dense vector as float64 (dim,), a binary one as bool (dim,), a sparse one as a dict."""


class VectorKind(NamedTuple):
    """One vector type: its field parameters, an exact index, its metrics, random rows, wire form and back."""

    data_type: DataType
    params: Mapping[str, int]
    index_type: str
    metrics: tuple[str, ...]
    sample: Callable[[np.random.Generator], Plain]
    sent: Callable[[Plain], Any]
    read: Callable[[Any], Plain]


def dense(chance: np.random.Generator) -> Plain:
    """Quarters between -4 and 4."""
    return chance.integers(-16, 17, DIMENSION) / 4


def whole(chance: np.random.Generator) -> Plain:
    """What an int8 vector holds."""
    return chance.integers(-128, 128, DIMENSION).astype(np.float64)


def bits(chance: np.random.Generator) -> Plain:
    """Random bits."""
    return chance.random(DIMENSION) < chance.random()


def sparse(chance: np.random.Generator) -> Plain:
    """Up to eight of `SPARSE_SPACE` dimensions; now and then none."""
    count = int(chance.integers(0, 9))
    places = chance.choice(SPARSE_SPACE, count, replace=False)
    return {int(place) * 1_000_003: float(chance.integers(1, 40)) / 4 for place in places}


def as_bfloat16(plain: Plain) -> bytes:
    """The upper halves of the float32s."""
    return (plain.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()


def from_bfloat16(value: Any) -> Plain:
    """The inverse."""
    return (np.frombuffer(as_bytes(value), "<u2").astype("<u4") << 16).view("<f4").astype(np.float64)


def as_bytes(value: Any) -> bytes:
    """pymilvus wraps the bytes of a vector in a list, or not."""
    return bytes(value[0] if isinstance(value, list) else value)


KINDS = {
    "FLOAT16": VectorKind(
        DataType.FLOAT16_VECTOR,
        {"dim": DIMENSION},
        "FLAT",
        ("L2", "IP", "COSINE"),
        dense,
        lambda plain: plain.astype(np.float16),
        lambda value: np.frombuffer(as_bytes(value), "<f2").astype(np.float64),
    ),
    "BFLOAT16": VectorKind(
        DataType.BFLOAT16_VECTOR,
        {"dim": DIMENSION},
        "FLAT",
        ("L2", "IP", "COSINE"),
        dense,
        as_bfloat16,
        from_bfloat16,
    ),
    "INT8": VectorKind(
        DataType.INT8_VECTOR,
        {"dim": DIMENSION},
        "AUTOINDEX",
        ("L2", "IP", "COSINE"),
        whole,
        lambda plain: plain.astype(np.int8),
        lambda value: np.frombuffer(as_bytes(value), np.int8).astype(np.float64),
    ),
    "BINARY": VectorKind(
        DataType.BINARY_VECTOR,
        {"dim": DIMENSION},
        "BIN_FLAT",
        ("HAMMING", "JACCARD"),
        bits,
        lambda plain: np.packbits(plain).tobytes(),
        lambda value: np.unpackbits(np.frombuffer(as_bytes(value), np.uint8)).astype(bool),
    ),
    "SPARSE": VectorKind(
        DataType.SPARSE_FLOAT_VECTOR,
        {},
        "SPARSE_INVERTED_INDEX",
        ("IP",),
        sparse,
        lambda plain: plain,
        lambda value: {int(place): float(weight) for place, weight in value.items()},
    ),
}
CASES = [(name, metric) for name, kind in KINDS.items() for metric in kind.metrics]


def score(metric: str, row: Plain, query: Plain) -> float | None:
    """Milvus's score of a row, None where it is no hit at all."""
    if isinstance(row, dict):
        common = row.keys() & query.keys()
        return math.fsum(row[one] * query[one] for one in common) if common else None
    match metric:
        case "L2":
            return float(((row - query) ** 2).sum())
        case "IP":
            return float((row * query).sum())
        case "COSINE":
            lengths = math.sqrt((row**2).sum()) * math.sqrt((query**2).sum())
            return float((row * query).sum()) / lengths if lengths else 0.0
        case "HAMMING":
            return float((row ^ query).sum())
        case _:
            union = int((row | query).sum())
            return 1 - int((row & query).sum()) / union if union else 0.0


def is_better_large(metric: str) -> bool:
    """Direction of the score."""
    return metric in ("IP", "COSINE")


def nearest(
    metric: str,
    rows: Mapping[int, Plain],
    query: Plain,
    limit: int,
    keeps: Callable[[float], bool] = lambda score: True,
) -> list[tuple[int, float]]:
    """Keys and scores, best first, equal scores by key; rows that are None are null."""
    scored = {key: score(metric, row, query) for key, row in rows.items() if row is not None}
    kept = [(key, value) for key, value in scored.items() if value is not None and keeps(value)]
    sign = -1 if is_better_large(metric) else 1
    return sorted(kept, key=lambda one: (sign * np.float32(one[1]), one[0]))[:limit]
