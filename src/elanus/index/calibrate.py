"""How hard an index's data is: the effort that finds the nearest rows, measured once when the index is built.

Recall at a given `ef` or `nprobe` depends on the data: clustered embeddings reach 0.99 where uniform noise reaches
0.5. A search that promises recall under a filter has to know. So every build measures: queries that look like the data
are searched with growing effort until the recall of their nearest `rank` rows reaches `RECALL`; the points go into the
file.

Queries to come are not stored, so two kinds stand for them, and the harder one counts. *Rows left out*: stored rows,
whose own place in the answer does not count. They lie among lists as queries do, but a graph leads straight to them.
*Rows moved* towards other rows, nearly as far as their nearest neighbours are away: no edge leads to them, and their
neighbours are no longer one another's. (Moved by less they are so near a stored row that `ef` of 10 finds nearly all
of their neighbours, where it finds 0.87 of real ones: 60k x 384 descriptions of Debian packages.)

An index over codes orders rows only roughly. For it the build also measures how many of the best rows by code hold the
`rank` nearest ones; where even `WIDTH_FACTORS` of them do not, the point says that the index cannot promise anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Final, TypeAlias

import numpy as np

from elanus.base.compute import run_in_threads
from elanus.index.contract import Floats, Found, Rows
from elanus.index.exact import search_exact
from elanus.index.file import Effort
from elanus.index.vectors import Vectors
from elanus.model.types import Metric

POINTS_VERSION: Final = 2
"""Version of the file formats of all types that keep points (`contract.IndexType.file_version`). Whoever changes what
is measured raises it: easier points in older files would break the promise, so these are built again."""
RECALL: Final = 0.95
"""What is promised under a filter."""
WIDTH_RECALL: Final = 0.99
"""What the candidates must hold at full effort, so that less effort can reach `RECALL`."""
WIDTH_RECALL_MIN: Final = 0.98
"""What the widest candidates must hold at least."""
RANKS: Final = (10, 30, 100)
WIDTH_FACTORS: Final = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
SAMPLE_QUERIES: Final = 128
"""Of each kind."""
SHIFT: Final = np.float32(0.8)
"""How far a sample moves, as a share of the distance to its nearest neighbour: all of it makes them harder than queries
are."""
SHIFT_MIN, SHIFT_MAX = np.float32(0.2), np.float32(0.5)
"""Bounds on that, as shares of the way to the other row."""


Search: TypeAlias = Callable[[np.ndarray, int, int], Found]
"""`search(queries, k, effort)`."""


@dataclass(frozen=True)
class Sample:
    """Queries (q, ...); the stored row that each is itself, -1 where it is none, (q,); and by rank the true nearest
    rows of each but itself, (q, rank)."""

    queries: np.ndarray
    own: Rows
    truths: Mapping[int, Rows]


def sampled(queries: np.ndarray, own: Rows, search: Callable[[np.ndarray, int], Found], row_count: int) -> Sample:
    """A sample of these queries; `search(queries, k)` is exact."""
    ranks = [rank for rank in RANKS if rank < row_count]
    if not ranks:
        return Sample(queries, own, {})
    truth = others(search(queries, ranks[-1] + 1).rows, own)
    return Sample(queries, own, {rank: truth[:, :rank] for rank in ranks})


def others(found: Rows, own: Rows) -> Rows:
    """Each line (q, n + 1) without the row `own`, or without its last one where that was not found: (q, n)."""
    left_out = (found == own[:, None]) & (own >= 0)[:, None]
    left_out[~left_out.any(axis=1), -1] = True
    rest: Rows = found[~left_out].reshape(len(found), -1)
    return rest


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
    """Both kinds of queries over vectors (n, dim)."""
    rows, away = sample_rows(len(vectors))
    column = Vectors(vectors)
    left_out, towards = vectors[rows], vectors[away] - vectors[rows]
    squares = search_exact(column, left_out, 2, Metric.L2).scores[:, 1]
    ways = np.einsum("ij,ij->i", towards, towards)
    shifts = np.sqrt(np.divide(squares, ways, out=np.zeros_like(ways), where=ways > 0))
    moved = left_out + towards * np.clip(SHIFT * shifts, SHIFT_MIN, SHIFT_MAX)[:, None]
    queries = np.concatenate((left_out, moved)).astype(np.float32)

    def exactly(queries: np.ndarray, k: int) -> Found:
        return search_exact(column, queries, k, metric)

    return sampled(queries, np.concatenate((rows, np.full(len(rows), -1))), exactly, len(vectors))


def in_threads(search: Search, threads: int) -> Search:
    """The search of an index with kernels of our own, its queries dealt out to threads; faiss deals them out itself."""

    def shared(queries: np.ndarray, k: int, effort: int) -> Found:
        blocks = [block for block in np.array_split(queries, threads) if len(block)]
        answers: list[Found | None] = [None] * len(blocks)

        def answer(place: int) -> None:
            answers[place] = search(blocks[place], k, effort)

        run_in_threads([partial(answer, place) for place in range(len(blocks))])
        found = [one for one in answers if one is not None]
        return Found(np.concatenate([one.scores for one in found]), np.concatenate([one.rows for one in found]))

    return shared


def calibrate(
    search: Search,
    sample: Sample,
    ladder: Callable[[int], Sequence[int]],
    coded_rows: int = 0,
) -> tuple[Effort, ...]:
    """One point for each rank. `search(queries, k, effort)` asks the index; `ladder(rank)` are the efforts to try,
    ascending; the last one is taken where none is enough. `coded_rows`: how many rows an index over codes has, 0 where
    scores are exact."""

    def asked(k: int, effort: int) -> Rows:
        return others(search(sample.queries, k + 1, effort).rows, sample.own)

    points = []
    for rank, truth in sample.truths.items():
        width = _width(asked, truth, ladder(rank)[-1], coded_rows) if coded_rows else rank
        steps = ladder(width)
        if width > coded_rows > 0:
            points.append(Effort(rank, steps[-1], width))
            continue
        effort = _enough(steps, partial(_surely_found, asked, width, truth, sample.own))
        points.append(Effort(rank, effort, width if coded_rows else 0))
    return tuple(points)


def _surely_found(asked: Callable[[int, int], Rows], width: int, truth: Rows, own: Rows, effort: int) -> float:
    """The recall of the kind of queries that has less, less one standard error: where a few queries miss everything,
    as among lists, a sample tells less than where all miss something."""
    found = asked(width, effort)
    worst = 1.0
    for kind in (own >= 0, own < 0):
        if kind.any():
            shares = (_places(found[kind], truth[kind]) < found.shape[1]).mean(axis=1)
            worst = min(worst, float(shares.mean() - shares.std() / math.sqrt(len(shares))))
    return worst


def _enough(steps: Sequence[int], measured: Callable[[int], float]) -> int:
    """The least effort that reaches `RECALL`, between two steps by what each reached; the last where none does."""
    before, reached_before = steps[0], 0.0
    for step in steps:
        reached = measured(step)
        if reached >= RECALL:
            share = (RECALL - reached_before) / (reached - reached_before)
            return math.ceil(before * math.pow(step / before, share))
        before, reached_before = step, reached
    return steps[-1]


def _width(asked: Callable[[int, int], Rows], truth: Rows, effort: int, row_count: int) -> int:
    """How many of the best rows by code hold the true ones; more than there are rows if the widest do not."""
    widths = [min(row_count, math.ceil(int(truth.shape[1]) * factor)) for factor in WIDTH_FACTORS]
    places = _places(asked(widths[-1], effort), truth)
    enough = (width for width in widths if float((places < width).mean()) >= WIDTH_RECALL)
    if (found := next(enough, None)) is not None:
        return found
    return widths[-1] if float((places < widths[-1]).mean()) >= WIDTH_RECALL_MIN else row_count + 1


def effort_for(points: Sequence[Effort], rank: int, fallback: float) -> float:
    """The effort for any rank, by power law through the points; `fallback` per rank where there are none."""
    return _between([(point.rank, point.value) for point in points], rank) if points else fallback * rank


def candidates_for(points: Sequence[Effort], rank: int, row_count: int) -> int:
    """How many candidates for any rank, in the same way; all rows where there are no points, more than there are where
    a point that counts says that no number is enough."""
    if not points:
        return row_count
    around = next((point for point in points if rank <= point.rank), points[-1])
    if around.candidates > row_count:
        return row_count + 1
    wanted = _between([(point.rank, point.candidates) for point in points], rank)
    return min(row_count, max(rank, math.ceil(wanted)))


def _between(points: Sequence[tuple[int, int]], rank: int) -> float:
    """By power law between the two points around the rank, or through the two that are nearest to it."""
    if len(points) == 1 or rank <= points[0][0]:
        return points[0][1] * max(1.0, rank / points[0][0])
    (first_rank, first), (last_rank, last) = next(
        (pair for pair in pairwise(points) if rank <= pair[1][0]), (points[-2], points[-1])
    )
    slope = max(0.0, math.log(last / first) / math.log(last_rank / first_rank))
    return float(first * (rank / first_rank) ** slope)
