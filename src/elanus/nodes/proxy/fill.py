"""Strict groups made full: members that no segment showed, because the group is not among its own best, are asked for.

The first answer settles which groups a query gets; it can miss members of them, never a group. So where a group is not
full, the shards are asked again, at the timestamps they answered at, for the members of the groups found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np

from elanus.model.reads import Hits, ShardRead
from elanus.search.group import group_codes, group_positions, groups_of, merge_searched
from elanus.search.reduce import joined

MEMBERS_MAX: Final = 1 << 20
"""Hits that one further question may bring at most, unless a single query brings more."""


class FurtherRead(NamedTuple):
    """A search for members of known groups by the queries [start, stop) of the first one."""

    start: int
    stop: int
    read: ShardRead


def needs_filling(read: ShardRead, hits: Hits) -> bool:
    """Whether a strict group has fewer members than it may."""
    if read.vector is None or read.vector.grouping is None or not read.vector.grouping.is_strict:
        return False
    positions = group_positions(hits)
    if not len(positions):
        return False
    queries = np.repeat(np.arange(len(hits.counts)), hits.counts)
    starts = (positions[1:] != positions[:-1]) | (queries[1:] != queries[:-1])
    return len(positions) < (1 + int(np.count_nonzero(starts))) * read.vector.grouping.size


def further_reads(read: ShardRead, hits: Hits) -> Sequence[FurtherRead]:
    """Searches for the members of the groups in `hits`."""
    vector = read.vector
    assert vector is not None and vector.grouping is not None
    step = max(1, int((MEMBERS_MAX / (vector.k * vector.grouping.size)) ** 0.5))
    bounds = np.r_[0, np.cumsum(hits.counts)]
    reads = []
    for start in range(0, len(hits.counts), step):
        stop = min(start + step, len(hits.counts))
        groups = groups_of(hits).slice(int(bounds[start]), int(bounds[stop]))
        if not len(groups):
            continue
        among = groups.take(np.unique(group_codes(groups), return_index=True)[1])
        asked = msgspec.structs.replace(
            vector,
            queries=vector.queries[start:stop],
            k=len(among),
            grouping=msgspec.structs.replace(vector.grouping, among=among),
        )
        reads.append(FurtherRead(start, stop, msgspec.structs.replace(read, vector=asked, limit=asked.k)))
    return reads


def filled(read: ShardRead, hits: Hits, further: Sequence[tuple[FurtherRead, Sequence[Hits]]]) -> Hits:
    """The hits of the first question's groups, from the shards' answers to the further ones."""
    vector = read.vector
    assert vector is not None
    parts = []
    for one, answers in further:
        block = msgspec.structs.replace(vector, queries=vector.queries[one.start : one.stop])
        merged = merge_searched(answers, block)
        counts = np.zeros(len(hits.counts), np.int64)
        counts[one.start : one.stop] = merged.counts
        parts.append(msgspec.structs.replace(merged, counts=counts))
    return msgspec.structs.replace(
        joined(parts), read_timestamp=hits.read_timestamp, searched_row_count=hits.searched_row_count
    )
