"""How hard an index's data is: the effort that finds the nearest rows, measured once when the index is built.

Recall at a given `ef` or `nprobe` depends on the data: clustered embeddings reach 0.99 where uniform noise reaches
0.5. A search that promises recall under a filter has to know. So every build measures: some of its own rows, each moved
part of the way towards another row so that it is no stored point, are searched with growing effort until the recall of
their nearest `rank` rows reaches `RECALL`; the points go into the file.

An index over codes orders rows only roughly. For it the build also measures how many of the best rows by code hold the
`rank` nearest ones; where even `WIDTH_FACTORS` of them do not, the point says that the index cannot promise anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from elanus.index.contract import Floats, Found, Rows
from elanus.index.exact import search_exact
from elanus.index.file import Effort
from elanus.index.vectors import Vectors
from elanus.model.types import Metric

RECALL: Final = 0.98
WIDTH_RECALL: Final = 0.99
"""What the candidates must hold at full effort, so that less effort can reach `RECALL`."""
RANKS: Final = (10, 100)
WIDTH_FACTORS: Final = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
SAMPLE_QUERIES: Final = 64
SHIFT: Final = np.float32(0.2)
"""How far a sample moves towards another row: real queries are not stored points."""


@dataclass(frozen=True)
class Sample:
    """Queries, and by rank the true nearest rows of each (q, rank)."""

    queries: np.ndarray
    truths: Mapping[int, Rows]


def recall(found: Rows, truth: Rows) -> float:
    """Mean share of each query's true rows (q, k) that are among those found (q, anything); pads are ignored."""
    real = truth >= 0
    wanted = int(real.sum())
    return 1.0 if wanted == 0 else int((_places(found, truth) < found.shape[1])[real].sum()) / wanted


def _places(found: Rows, truth: Rows) -> Rows:
    """Where each true row stands among those found; their number where it is missing."""
    out = np.full(truth.shape, found.shape[1], np.int64)
    for line, rows in enumerate(found):
        order = np.argsort(rows, kind="stable")
        at = np.minimum(np.searchsorted(rows[order], truth[line]), len(rows) - 1)
        same = rows[order[at]] == truth[line]
        out[line, same] = order[at[same]]
    return out


def sample_rows(count: int) -> tuple[Rows, Rows]:
    """Rows at even steps, and for each another one far away."""
    rows = np.linspace(0, count - 1, min(SAMPLE_QUERIES, count)).astype(np.int64)
    return rows, (rows * 7919 + count // 2) % max(count, 1)


def sample_dense(vectors: Floats, metric: Metric) -> Sample:
    """Queries that look like the data but are not in it: rows moved towards others."""
    rows, others = sample_rows(len(vectors))
    queries = np.asarray(vectors[rows] * (1 - SHIFT) + vectors[others] * SHIFT, np.float32)
    ranks = [rank for rank in RANKS if rank <= len(vectors)]
    if not ranks:
        return Sample(queries, {})
    truth = search_exact(Vectors(vectors), queries, ranks[-1], metric).rows
    return Sample(queries, {rank: truth[:, :rank] for rank in ranks})


def calibrate(
    search: Callable[[np.ndarray, int, int], Found],
    sample: Sample,
    ladder: Callable[[int], Sequence[int]],
    coded_rows: int = 0,
) -> tuple[Effort, ...]:
    """One point for each rank. `search(queries, k, effort)` asks the index; `ladder(rank)` are the efforts to try,
    ascending; the last one is taken where none is enough. `coded_rows`: how many rows an index over codes has, 0 where
    scores are exact."""
    points = []
    for rank, truth in sample.truths.items():
        width = _width(search, sample.queries, truth, ladder(rank)[-1], coded_rows) if coded_rows else rank
        steps = ladder(width)
        if width > coded_rows > 0:
            points.append(Effort(rank, steps[-1], width))
            continue
        enough = (step for step in steps if recall(search(sample.queries, width, step).rows, truth) >= RECALL)
        points.append(Effort(rank, next(enough, steps[-1]), width if coded_rows else 0))
    return tuple(points)


def _width(
    search: Callable[[np.ndarray, int, int], Found], queries: np.ndarray, truth: Rows, effort: int, row_count: int
) -> int:
    """How many of the best rows by code hold the true ones; more than there are rows if the widest do not."""
    widths = [min(row_count, math.ceil(int(truth.shape[1]) * factor)) for factor in WIDTH_FACTORS]
    places = _places(search(queries, widths[-1], effort).rows, truth)
    enough = (width for width in widths if float((places < width).mean()) >= WIDTH_RECALL)
    if (found := next(enough, None)) is not None:
        return found
    return widths[-1] if float((places < widths[-1]).mean()) >= RECALL else row_count + 1


def effort_for(points: Sequence[Effort], rank: int, fallback: float) -> float:
    """The effort for any rank, by power law through the points; `fallback` per rank where there are none."""
    return _between([(point.rank, point.value) for point in points], rank) if points else fallback * rank


def candidates_for(points: Sequence[Effort], rank: int, row_count: int) -> int:
    """How many candidates for any rank, in the same way; all rows where there are no points, more than there are where
    a point that counts says that no number is enough."""
    if not points:
        return row_count
    if points[0].candidates > row_count or (rank > points[0].rank and points[-1].candidates > row_count):
        return row_count + 1
    wanted = _between([(point.rank, point.candidates) for point in points], rank)
    return min(row_count, max(rank, math.ceil(wanted)))


def _between(points: Sequence[tuple[int, int]], rank: int) -> float:
    (first_rank, first), (last_rank, last) = points[0], points[-1]
    if rank <= first_rank or first_rank == last_rank:
        return first * max(1.0, rank / first_rank)
    slope = max(0.0, math.log(last / first) / math.log(last_rank / first_rank))
    return float(first * (rank / first_rank) ** slope)
