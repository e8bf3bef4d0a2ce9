"""From shards' answers to the client's: merged, cut to the page, rounded.

One shard's answer is in order and without repeated keys already and passes untouched where there is no offset.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from elanus.model.columns import Column
from elanus.model.reads import Found, Hits, ShardRead, VectorQuery
from elanus.search.found import merged
from elanus.search.group import group_positions, merge_searched
from elanus.search.reduce import position_in_run, taken


def reduce_hits(parts: Sequence[Hits], vector: VectorQuery) -> Hits:
    """The best hits (or groups) of each query, best first, equal scores by key, each key once."""
    return parts[0] if len(parts) == 1 else merge_searched(parts, vector)


def page_of(hits: Hits, limit: int, offset: int) -> Hits:
    """Of each query's hits those at [offset, offset + limit); of a grouped search the hits of its groups there."""
    queries = np.repeat(np.arange(len(hits.counts)), hits.counts)
    places = group_positions(hits) if hits.groups is not None else position_in_run(queries)
    inside = (places >= offset) & (places < offset + limit)
    return hits if inside.all() else taken(hits, queries, np.flatnonzero(inside))


def rounded(scores: np.ndarray, decimals: int) -> np.ndarray:
    """Scores with that many decimals (-1: as they are)."""
    if decimals < 0:
        return scores
    factor = 10.0**decimals
    return (np.round(scores.astype(np.float64) * factor) / factor).astype(np.float32)


def rounded_half_up(scores: np.ndarray, decimals: int) -> np.ndarray:
    """As `rounded`, but halves go up, which is how fused scores are rounded."""
    if decimals < 0:
        return scores
    factor = 10.0**decimals
    return (np.floor(scores.astype(np.float64) * factor + 0.5) / factor).astype(np.float32)


def merge_parts(parts: Sequence[Found], read: ShardRead) -> Found:
    """The shards' answers as one: of each key the newest row, in the order of the read."""
    return parts[0] if len(parts) == 1 else merged(parts, read)


def cut_found(found: Found, limit: int, offset: int) -> Found:
    """Rows [offset, offset + limit); limit -1: all."""
    if limit < 0 or (not offset and found.row_count <= limit):
        return found
    start, stop = min(offset, found.row_count), min(offset + limit, found.row_count)
    return msgspec.structs.replace(
        found,
        row_count=stop - start,
        keys=_cut(found.keys, start, stop),
        timestamps=None if found.timestamps is None else found.timestamps[start:stop],
        fields={field_id: column.slice(start, stop) for field_id, column in found.fields.items()},
    )


def _cut(column: Column | None, start: int, stop: int) -> Column | None:
    return None if column is None else column.slice(start, stop)
