"""A grouped search of one segment: look at ever more of the nearest rows until there are enough groups.

Each round asks for the k nearest rows of the queries that still lack groups. A query is done when its nearest rows hold
`vector.k` groups, for a strict search full ones, or when there are no more rows: the segment's rows that pass are all
among them, or the search gave fewer than asked for because the rest is out of range. k grows at least `GROWTH`-fold
from round to round up to the number of rows that pass, and with that many every query is done: so it ends after at most
log(rows that pass) rounds.

The nearest k rows determine the best groups: every row not seen is no better than every row seen, so once there are
enough groups no unseen row founds a better one; and a full group's members are the best of all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

import numpy as np

from elanus.index.contract import Bools, Floats
from elanus.index.contract import Found as Nearest
from elanus.model.columns import Column, Rows
from elanus.model.reads import Grouping, Hits, ShardRead, VectorQuery
from elanus.search.group import group_codes, grouped_rows
from elanus.search.group_values import group_values
from elanus.search.reduce import best_rows, key_ranks
from elanus.segment.reader import Reader

GROWTH: Final = 4
FIRST_K_MIN: Final = 64
ENTRIES_MAX: Final = 4 << 20
"""Queries times k of one round held at once; more queries are asked in blocks."""

Search: TypeAlias = Callable[[Rows, int], Awaitable[Nearest]]
"""The nearest k rows of the queries with these numbers."""


class _Chosen(NamedTuple):
    """Hits in groups, and by which of the queries asked all is found that can be."""

    queries: Rows
    rows: Rows
    scores: Floats
    done: Bools


@dataclass(frozen=True)
class GroupedSearch:
    """One segment, of which `passing` rows may be found."""

    reader: Reader
    vector: VectorQuery
    grouping: Grouping
    passing: int
    larger_is_better: bool
    nearest: Search

    async def run(self, read: ShardRead) -> Hits:
        """The best groups of each query."""
        k = min(max(FIRST_K_MIN, 2 * self.vector.k * self.grouping.size), self.passing)
        pending = np.arange(len(self.vector.queries))
        chosen: list[_Chosen] = []
        while len(pending):
            step = max(1, ENTRIES_MAX // max(k, 1))
            left = []
            for start in range(0, len(pending), step):
                block = pending[start : start + step]
                found = self._choose(await self.nearest(block, k), len(block))
                done = found.done | (k >= self.passing)
                ended = done[found.queries]
                chosen.append(_Chosen(block[found.queries[ended]], found.rows[ended], found.scores[ended], done))
                left.append(block[~done])
            pending = np.concatenate(left)
            k = min(GROWTH * k, self.passing)
        return self._as_hits(read, chosen)

    def _choose(self, nearest: Nearest, query_count: int) -> _Chosen:
        """The best groups among the nearest rows."""
        found = nearest.rows >= 0
        queries, rows, scores = np.nonzero(found)[0], nearest.rows[found], nearest.scores[found]
        distinct, inverse = np.unique(rows, return_inverse=True)
        codes = group_codes(group_values(self.reader, self.grouping, distinct))[inverse]
        ranks = key_ranks(Column(self.reader.keys).take(distinct).values)[inverse]
        kept = best_rows(queries, -scores if self.larger_is_better else scores, ranks, len(rows))
        limit, size = self.vector.k, self.grouping.size
        taken, place = grouped_rows(kept, queries, codes, limit, size)
        groups = np.bincount(queries[taken[place == 0]], minlength=query_count)
        members = np.bincount(queries[taken], minlength=query_count)
        enough = (members == limit * size) if self.grouping.is_strict else (groups == limit)
        exhausted = ~found[:, -1] if found.shape[1] else np.ones(query_count, np.bool_)
        return _Chosen(queries[taken], rows[taken], scores[taken], enough | exhausted)

    def _as_hits(self, read: ShardRead, chosen: list[_Chosen]) -> Hits:
        queries = np.concatenate([one.queries for one in chosen])
        order = np.argsort(queries, kind="stable")
        rows = np.concatenate([one.rows for one in chosen])[order]
        return Hits(
            counts=np.bincount(queries, minlength=len(self.vector.queries)).astype(np.int64),
            keys=Column(self.reader.keys).take(rows),
            scores=np.concatenate([one.scores for one in chosen])[order],
            fields={field_id: self.reader.column(field_id).take(rows) for field_id in read.output_field_ids},
            groups=group_values(self.reader, self.grouping, rows),
            read_timestamp=read.at_timestamp,
            searched_row_count=self.reader.row_count,
        )
