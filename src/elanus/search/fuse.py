"""Fusing the hits of several searches into one order, and reordering the hits of one, by a ranker.

A row found by several searches is one row; its values are taken from the first search that found it. Order is total:
better fused score first, then smaller key. Grouped hits come out in groups: a group's score is the best, the sum or the
mean of those of its (at most `size`) best rows; of equal scores the larger group goes first, then the one with the
smaller first key.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from elanus.base.errors import InvariantError
from elanus.functions.rankers import AVERAGE, MAX, SUM, Ranker
from elanus.functions.scores import Scores
from elanus.model.columns import Rows
from elanus.model.reads import Hits
from elanus.model.types import Metric
from elanus.search.group import group_codes, grouped_rows, groups_of
from elanus.search.reduce import joined, key_ranks, position_in_run, queries_of, taken


class GroupOrder(NamedTuple):
    """How fused hits are grouped: members at most, and what of them is the group's score."""

    size: int
    scorer: str


def fuse(parts: Sequence[Hits], metrics: Sequence[Metric], ranker: Ranker, order: GroupOrder | None = None) -> Hits:
    """All distinct rows of the searches, best first. `parts` (at least one) are those of `metrics`, of equal numbers of
    queries; each part has a key once per query."""
    filled = [number for number, part in enumerate(parts) if len(part.scores)]
    if not filled:
        return parts[0]
    used = [parts[number] for number in filled]
    hits = joined(used)
    queries = queries_of(used, len(hits.counts))
    ranks = key_ranks(hits.keys.values)
    slots, first = _distinct(queries, ranks)
    merged = _Merged(len(first))
    begin = 0
    for number, part in zip(filled, used, strict=True):
        stop = begin + len(part.scores)
        places = position_in_run(queries[begin:stop]) + 1
        merged.add(slots[begin:stop], ranker.contributions(number, places, part.scores, metrics))
        begin = stop
    scores = merged.scores(ranker.merge)
    if ranker.input_field_id:
        values = hits.fields[ranker.input_field_id].take(first).values
        scores = scores * ranker.factors(np.asarray(values, np.float64))
    costs = -scores if ranker.descends(metrics) else scores
    by_cost = np.lexsort((ranks[first], costs, queries[first]))
    if order is not None:
        codes = group_codes(groups_of(hits))
        by_cost = _in_groups(by_cost, _Rows(queries[first], codes[first], ranks[first], costs), order)
    fused = taken(hits, queries, first[by_cost])
    return msgspec.structs.replace(
        fused,
        scores=scores[by_cost],
        read_timestamp=max(part.read_timestamp for part in parts),
        searched_row_count=sum(part.searched_row_count for part in parts),
    )


def _distinct(queries: Rows, ranks: Rows) -> tuple[Rows, Rows]:
    """The number of each hit's row among the distinct (query, key), and of each of these its first hit."""
    order = np.lexsort((ranks, queries))
    new = np.r_[True, (queries[order][1:] != queries[order][:-1]) | (ranks[order][1:] != ranks[order][:-1])]
    slots = np.empty(len(order), np.int64)
    slots[order] = np.cumsum(new) - 1
    return slots, order[new]


class _Merged:
    """Contributions of searches by row, in float32, added one search after another."""

    def __init__(self, count: int) -> None:
        self._sums = np.zeros(count, np.float32)
        self._best = np.full(count, -np.inf, np.float32)
        self._counts = np.zeros(count, np.int64)

    def add(self, slots: Rows, contributions: Scores) -> None:
        """What one search says of these rows, each named once."""
        self._sums[slots] += contributions
        self._best[slots] = np.maximum(self._best[slots], contributions)
        self._counts[slots] += 1

    def scores(self, merge: str) -> Scores:
        """Sum, largest, or mean."""
        match merge:
            case _ if merge == SUM:
                return self._sums
            case _ if merge == MAX:
                return self._best
            case _ if merge == AVERAGE:
                return np.asarray(self._sums / self._counts.astype(np.float32), np.float32)
        raise InvariantError(f"no merge {merge}")


class _Rows(NamedTuple):
    """Distinct rows: query, group, rank of the key, and how bad the score is."""

    queries: Rows
    codes: npt.NDArray[np.int64]
    ranks: Rows
    costs: Scores


def _in_groups(kept: Rows, rows: _Rows, order: GroupOrder) -> Rows:
    """Of `kept`, which is in order (query, cost, key), at most `order.size` of each group, in the order of groups."""
    members, place = grouped_rows(kept, rows.queries, rows.codes, len(kept), order.size)
    starts = np.flatnonzero(place == 0)
    sizes = np.diff(np.r_[starts, len(members)])
    first = members[starts]
    group_costs = rows.costs[first]
    if order.scorer != MAX:
        group_costs = np.add.reduceat(rows.costs[members], starts)
    if order.scorer == AVERAGE:
        group_costs = group_costs / sizes.astype(np.float32)
    number = np.empty(len(starts), np.int64)
    number[np.lexsort((rows.ranks[first], -sizes, group_costs, rows.queries[first]))] = np.arange(len(starts))
    return members[np.lexsort((place, np.repeat(number, sizes)))]
