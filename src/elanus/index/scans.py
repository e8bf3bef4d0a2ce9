"""Scores of queries with the vectors of a column of any storage type: faiss's kernels over the stored floats in place,
or over blocks that were widened."""

from __future__ import annotations

import numpy as np

from elanus.index.contract import Floats, Rows
from elanus.index.kernels import scan, scan_rows, score_pairs
from elanus.index.vectors import BLOCK_FLOATS, Vectors


def scan_column(query: Floats, vectors: Vectors, squared_distance: bool) -> Floats:
    """As `kernels.scan`: one query (dim,) against all rows, (n,)."""
    parts = [scan(query, block, squared_distance) for block in vectors.blocks()]
    return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.float32), *parts])


def scan_column_rows(query: Floats, vectors: Vectors, rows: Rows, squared_distance: bool) -> Floats:
    """As `kernels.scan_rows`: pair scores of one query with the rows, (m,)."""
    if vectors.is_wide:
        return scan_rows(query, vectors.values, rows, squared_distance)
    out = np.empty(len(rows), np.float32)
    for start, stop in _spans(len(rows), vectors.dimension):
        block = vectors.take(rows[start:stop])
        out[start:stop] = scan_rows(query, block, np.arange(stop - start), squared_distance)
    return out


def score_column_pairs(queries: Floats, places: Rows, vectors: Vectors, rows: Rows, squared_distance: bool) -> Floats:
    """As `kernels.score_pairs`: pair scores of queries[places[i]] with row rows[i], (m,)."""
    if vectors.is_wide:
        return score_pairs(queries, places, vectors.values, rows, squared_distance)
    out = np.empty(len(rows), np.float32)
    for start, stop in _spans(len(rows), vectors.dimension):
        block = vectors.take(rows[start:stop])
        out[start:stop] = score_pairs(queries, places[start:stop], block, np.arange(stop - start), squared_distance)
    return out


def _spans(count: int, dimension: int) -> list[tuple[int, int]]:
    step = max(1, BLOCK_FLOATS // max(1, dimension))
    return [(start, min(start + step, count)) for start in range(0, count, step)]
