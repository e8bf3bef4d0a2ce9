"""Rows, and a search of them that scores and sorts everything in plain Python."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

ROW_COUNT = 600
Vector: TypeAlias = list[float]


@dataclass(frozen=True)
class Row:
    """Values as sent."""

    key: int
    vectors: dict[str, Vector | None]
    number: int
    group: int | None
    name: str
    json: dict[str, Any]
    kind: int

    def as_sent(self) -> dict[str, Any]:
        sent: dict[str, Any] = {"id": self.key, "number": self.number, "group": self.group, "name": self.name}
        return {**sent, **self.vectors, "json": self.json, "kind": self.kind}


Rows: TypeAlias = list[Row]


def made_rows(generator: np.random.Generator) -> Rows:
    def vector() -> Vector:
        return [float(value) for value in generator.normal(size=4).astype(np.float32)]

    return [
        Row(
            key=key,
            vectors={"cosine": vector(), "l2": vector(), "ip": None if key % 9 == 0 else vector()},
            number=int(generator.integers(-50, 50)),
            group=None if key % 11 == 0 else key % 7,
            name=f"n{key % 5}",
            json={"k": key % 6} if key % 4 else {"k": f"t{key % 3}"},
            kind=key % 8,
        )
        for key in range(ROW_COUNT)
    ]


def score(query: Vector, vector: Vector, metric: str) -> float:
    a, b = np.array(query), np.array(vector)
    if metric == "l2":
        return float(((a - b) ** 2).sum())
    length = float(np.linalg.norm(a) * np.linalg.norm(b)) if metric == "cosine" else 1.0
    return float(a @ b) / length if length else 0.0


def ranked(rows: Rows, query: Vector, field: str) -> list[tuple[Row, float]]:
    """All rows that have a vector, best first."""
    scored = [(row, score(query, vector, field)) for row in rows if (vector := row.vectors[field]) is not None]
    return sorted(scored, key=lambda one: (one[1] if field == "l2" else -one[1], one[0].key))
