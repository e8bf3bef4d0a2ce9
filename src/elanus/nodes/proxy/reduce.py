"""From shards' answers to the client's: merged, cut to the page, rounded.

One shard's answer is in order and without repeated keys already and passes untouched where there is no offset.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from elanus.model.columns import Column, Rows
from elanus.model.reads import Found, Hits
from elanus.search.reduce import merge_found, merge_hits, position_in_run


def reduce_hits(parts: Sequence[Hits], query_count: int, limit: int, offset: int, larger_is_better: bool) -> Hits:
    """Hits [offset, offset + limit) of each query, best first, equal scores by key, each key once."""
    if len(parts) == 1:
        hits = parts[0]
    else:
        hits = merge_hits(parts, query_count, limit + offset, larger_is_better)
    return _without_first(hits, offset) if offset else hits


def _without_first(hits: Hits, offset: int) -> Hits:
    """Each query's hits from `offset` on."""
    queries = np.repeat(np.arange(len(hits.counts)), hits.counts)
    return take_hits(hits, np.flatnonzero(position_in_run(queries) >= offset))


def take_hits(hits: Hits, rows: Rows) -> Hits:
    """These hits only, in this order, which keeps queries together."""
    queries = np.repeat(np.arange(len(hits.counts)), hits.counts)
    return msgspec.structs.replace(
        hits,
        counts=np.bincount(queries[rows], minlength=len(hits.counts)).astype(np.int64),
        keys=hits.keys.take(rows),
        scores=hits.scores[rows],
        fields={field_id: column.take(rows) for field_id, column in hits.fields.items()},
    )


def rounded(scores: np.ndarray, decimals: int) -> np.ndarray:
    """Scores with that many decimals (-1: as they are)."""
    if decimals < 0:
        return scores
    factor = 10.0**decimals
    return (np.round(scores.astype(np.float64) * factor) / factor).astype(np.float32)


def reduce_found(parts: Sequence[Found], limit: int, offset: int) -> Found:
    """Rows [offset, offset + limit) in key order (limit -1: all), of each key the newest."""
    found = parts[0] if len(parts) == 1 else merge_found(parts, -1 if limit < 0 else limit + offset)
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
