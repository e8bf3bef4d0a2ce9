"""Grouping hits by a value they share: which rows stay, and in which order.

Groups stand in the order of their best hit, a group's hits together and best first, ties by key. Of equal keys the best
hit counts, whichever group it is in; null is a value like any other. A group that is among the best `limit` of all is
among the best `limit` of every part that holds its best hit, so parts may be cut before they are merged. A part may
cut members of a group whose best hit lies in another part: such groups may come out less full than they could, until
they are asked for by name (`Grouping.among`).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from elanus.base.errors import check
from elanus.model.columns import Column, Mask, Rows
from elanus.model.reads import Hits, VectorQuery
from elanus.model.types import Metric
from elanus.search.reduce import best_rows, joined, key_ranks, merge_hits, position_in_run, queries_of, taken

Codes = npt.NDArray[np.int64]


def group_codes(column: Column) -> Codes:
    """Integers that are equal iff the values are; null has one of its own."""
    values = column.values
    if isinstance(values, np.ndarray):
        codes = np.unique(values, return_inverse=True)[1].astype(np.int64)
    else:
        codes = np.asarray(values.dictionary_encode().indices).astype(np.int64)
    return codes if column.valid is None else np.where(column.valid, codes, -1)


def grouped_rows(kept: Rows, queries: Rows, codes: Codes, limit: int, size: int) -> tuple[Rows, Rows]:
    """Of `kept` rows, in order (query, badness): those of each query's first `limit` groups, `size` of each at most, in
    groups. Beside them each row's place in its group."""
    owners, groups = queries[kept], codes[kept]
    if not len(kept):
        return kept, kept
    by_group = np.lexsort((groups, owners))
    changes = (owners[by_group][1:] != owners[by_group][:-1]) | (groups[by_group][1:] != groups[by_group][:-1])
    number_of_run = np.cumsum(np.r_[False, changes])
    member, leader = np.empty(len(kept), np.int64), np.empty(len(kept), np.int64)
    member[by_group] = position_in_run(number_of_run)
    leader[by_group] = by_group[np.flatnonzero(np.r_[True, changes])][number_of_run]
    is_leader = member == 0
    ordinal = np.empty(len(kept), np.int64)
    ordinal[is_leader] = position_in_run(owners[is_leader])
    ordinal = ordinal[leader]
    chosen = np.flatnonzero((ordinal < limit) & (member < size))
    chosen = chosen[np.lexsort((member[chosen], ordinal[chosen], owners[chosen]))]
    return kept[chosen], member[chosen]


def is_among(column: Column, wanted: Column) -> Mask:
    """Which values are one of the wanted; null is where null is wanted."""
    values, real = column.values, wanted.values
    if wanted.valid is not None:
        real = wanted.take(np.flatnonzero(wanted.valid)).values
    if isinstance(values, np.ndarray):
        found = np.isin(values, real)
    else:
        found = np.asarray(pc.is_in(values, real).to_numpy(zero_copy_only=False), np.bool_)
    if column.valid is None:
        return found
    wants_null = wanted.valid is not None and not wanted.valid.all()
    return np.where(column.valid, found, wants_null)


def merge_searched(parts: Sequence[Hits], vector: VectorQuery) -> Hits:
    """The partial results of a search, grouped or not, as one."""
    query_count, larger_is_better = len(vector.queries), Metric(vector.metric).larger_is_better
    if vector.grouping is None:
        return merge_hits(parts, query_count, vector.k, larger_is_better)
    return merge_groups(parts, query_count, vector, larger_is_better)


def merge_groups(parts: Sequence[Hits], query_count: int, vector: VectorQuery, larger_is_better: bool) -> Hits:
    """The best `vector.k` groups per query of several grouped results (at least one)."""
    assert vector.grouping is not None
    hits = joined([part for part in parts if len(part.scores)] or parts[:1])
    queries = queries_of([part for part in parts if len(part.scores)] or parts[:1], query_count)
    costs = -hits.scores if larger_is_better else hits.scores
    kept = best_rows(queries, costs, key_ranks(hits.keys.values), len(queries))
    rows, _ = grouped_rows(kept, queries, group_codes(groups_of(hits)), vector.k, vector.grouping.size)
    return msgspec.structs.replace(
        taken(hits, queries, rows),
        read_timestamp=max(part.read_timestamp for part in parts),
        searched_row_count=sum(part.searched_row_count for part in parts),
    )


def groups_of(hits: Hits) -> Column:
    """The groups of a grouped result."""
    check(hits.groups is not None or not len(hits.scores), "hits of a grouped search come without their groups")
    return Column(np.empty(0, np.int64)) if hits.groups is None else hits.groups


def group_positions(hits: Hits) -> Rows:
    """For each hit of a grouped result the place of its group within its query."""
    queries = np.repeat(np.arange(len(hits.counts)), hits.counts)
    if not len(queries):
        return queries
    codes = group_codes(groups_of(hits))
    starts = np.r_[True, (queries[1:] != queries[:-1]) | (codes[1:] != codes[:-1])]
    number = np.cumsum(starts) - 1
    first_of_query = np.r_[True, queries[1:] != queries[:-1]]
    base = number[first_of_query][np.cumsum(first_of_query) - 1]
    positions: Rows = number - base
    return positions
