"""How hard an index's data is: the effort that finds the nearest rows, measured once when the index is built.

Recall at a given `ef` or `nprobe` depends on the data: clustered embeddings reach 0.99 where uniform noise reaches
0.5. A search that promises recall under a filter has to know. So every build measures: some of its own rows, each moved
part of the way towards another row so that it is no stored point, are searched with growing effort until the recall of
their nearest `rank` rows reaches `RECALL`; the points go into the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from elanus.index.contract import Floats, Found, Rows
from elanus.index.exact import search_exact
from elanus.index.file import Effort
from elanus.index.vectors import Vectors
from elanus.model.types import Metric

RECALL: Final = 0.98
RANKS: Final = (10, 100)
SAMPLE_QUERIES: Final = 64
SHIFT: Final = np.float32(0.2)
"""How far a sample moves towards another row: real queries are not stored points."""


def recall(found: Rows, truth: Rows) -> float:
    """Mean share of each query's true rows (q, k) that are among those found (q, anything); pads are ignored."""
    hits = (found[:, :, None] == truth[:, None, :]).any(axis=1) & (truth >= 0)
    wanted = int((truth >= 0).sum())
    return 1.0 if wanted == 0 else int(hits.sum()) / wanted


def sample_queries(vectors: Floats) -> Floats:
    """Queries that look like the data but are not in it: rows at even steps, moved towards their opposites."""
    count = len(vectors)
    rows = np.linspace(0, count - 1, min(SAMPLE_QUERIES, count)).astype(np.int64)
    others = (rows * 7919 + count // 2) % count
    return np.asarray(vectors[rows] * (1 - SHIFT) + vectors[others] * SHIFT, np.float32)


def calibrate(
    search: Callable[[Floats, int, int], Found], vectors: Floats, metric: Metric, ladder: Callable[[int], Sequence[int]]
) -> tuple[Effort, ...]:
    """One point for each rank. `search(queries, k, effort)` asks the index; `ladder(rank)` are the efforts to try,
    ascending; the last one is taken where none is enough."""
    queries = sample_queries(vectors)
    column = Vectors(vectors)
    points = []
    for rank in RANKS:
        if rank > len(vectors):
            break
        truth = search_exact(column, queries, rank, metric).rows
        steps = ladder(rank)
        enough = (step for step in steps if recall(search(queries, rank, step).rows, truth) >= RECALL)
        points.append(Effort(rank, next(enough, steps[-1])))
    return tuple(points)


def effort_for(points: Sequence[Effort], rank: int, fallback: float) -> float:
    """The effort for any rank, by power law through the points; `fallback` per rank where there are none."""
    if not points:
        return fallback * rank
    first, last = points[0], points[-1]
    if rank <= first.rank or first.rank == last.rank:
        return first.value * max(1.0, rank / first.rank)
    slope = max(0.0, math.log(last.value / first.value) / math.log(last.rank / first.rank))
    return float(first.value * (rank / first.rank) ** slope)
