"""Reducing partial results: the same functions serve query node, delegator and proxy.

Order is total: for searches better score first, then smaller key, then earlier element; for queries smaller key first.
Of hits (or rows) with equal keys (and elements) one is kept, the best score (or the newest timestamp).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from elanus.model.columns import Column, Rows, Values, concatenate
from elanus.model.reads import Found, Hits


def key_ranks(keys: Values) -> npt.NDArray[np.int64]:
    """Integers that compare as the keys do and are equal iff the keys are."""
    if isinstance(keys, np.ndarray):
        ranks: npt.NDArray[np.int64] = keys
        return ranks
    coded = keys.dictionary_encode()
    order = np.asarray(pc.array_sort_indices(coded.dictionary))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return np.asarray(rank[np.asarray(coded.indices)])


def merge_hits(parts: Sequence[Hits], query_count: int, limit: int, larger_is_better: bool) -> Hits:
    """The best `limit` hits per query of several partial results (at least one), each key once."""
    read_timestamp = max(part.read_timestamp for part in parts)
    searched_row_count = sum(part.searched_row_count for part in parts)
    parts = [part for part in parts if len(part.scores)] or list(parts[:1])
    queries = np.concatenate([np.repeat(np.arange(query_count), part.counts) for part in parts])
    scores = np.concatenate([part.scores for part in parts])
    keys = concatenate([part.keys for part in parts])
    elements = _elements_of(parts)
    ranks = _hit_ranks(key_ranks(keys.values), elements)
    kept = best_rows(queries, scores if not larger_is_better else -scores, ranks, limit)
    return Hits(
        counts=np.bincount(queries[kept], minlength=query_count).astype(np.int64),
        keys=keys.take(kept),
        scores=scores[kept],
        fields=_take_fields([part.fields for part in parts], kept),
        elements=None if elements is None else elements[kept],
        read_timestamp=read_timestamp,
        searched_row_count=searched_row_count,
    )


def _elements_of(parts: Sequence[Hits]) -> Rows | None:
    """The elements of all hits; None of a search of rows."""
    found = [part.elements for part in parts if part.elements is not None]
    return np.concatenate(found) if found else None


def _hit_ranks(ranks: Rows, elements: Rows | None) -> Rows:
    """Integers in the order of (key, element)."""
    if elements is None or not len(elements):
        return ranks
    return np.asarray(np.unique(ranks, return_inverse=True)[1] * (elements.max() + 1) + elements, np.int64)


def best_elements(hits: Hits) -> Hits:
    """Found elements as found rows: of each query's every key the best hit; other hits as they are."""
    if hits.elements is None:
        return hits
    queries = queries_of([hits], len(hits.counts))
    order = np.arange(len(queries), dtype=np.float64)
    kept = best_rows(queries, order, key_ranks(hits.keys.values), len(queries))
    return msgspec.structs.replace(taken(hits, queries, kept), elements=None)


def best_rows(queries: Rows, costs: npt.NDArray[np.floating[Any]], ranks: Rows, limit: int) -> Rows:
    """Row numbers of each query's `limit` cheapest distinct keys, in order (query, cost, key)."""
    order = np.lexsort((ranks, costs, queries))
    if len(order) > 1:
        by_key = np.lexsort((costs[order], ranks[order], queries[order]))
        sorted_queries, sorted_ranks = queries[order][by_key], ranks[order][by_key]
        repeated = (sorted_queries[1:] == sorted_queries[:-1]) & (sorted_ranks[1:] == sorted_ranks[:-1])
        if repeated.any():
            keep = np.ones(len(order), np.bool_)
            keep[by_key[1:][repeated]] = False
            order = order[keep]
    return order[position_in_run(queries[order]) < limit]


def position_in_run(sorted_values: npt.NDArray[Any]) -> Rows:
    """For each element its index within its run of equal values."""
    count = len(sorted_values)
    if count == 0:
        return np.empty(0, np.int64)
    places = np.arange(count)
    begins = np.ones(count, np.bool_)
    np.not_equal(sorted_values[1:], sorted_values[:-1], out=begins[1:])
    return places - np.maximum.accumulate(np.where(begins, places, 0))


def merge_found(parts: Sequence[Found], limit: int) -> Found:
    """Rows of several partial queries in key order, each key once (the newest), at most `limit` (-1: all)."""
    read_timestamp = max(part.read_timestamp for part in parts)
    read_position = max(part.read_position for part in parts)
    parts = [part for part in parts if part.row_count] or list(parts[:1])
    keys = concatenate([_keys_of(part) for part in parts])
    timestamps = np.concatenate([_timestamps_of(part) for part in parts])
    kept = newest_rows(key_ranks(keys.values), timestamps, limit)
    return Found(
        row_count=len(kept),
        keys=keys.take(kept),
        timestamps=timestamps[kept],
        fields=_take_fields([part.fields for part in parts], kept),
        read_timestamp=read_timestamp,
        read_position=read_position,
    )


def taken_rows(found: Found, rows: Rows) -> Found:
    """These rows of a query's answer, in this order."""
    return msgspec.structs.replace(
        found,
        row_count=len(rows),
        keys=None if found.keys is None else found.keys.take(rows),
        timestamps=None if found.timestamps is None else found.timestamps[rows],
        fields={field_id: column.take(rows) for field_id, column in found.fields.items()},
    )


def newest_rows(ranks: Rows, timestamps: npt.NDArray[np.uint64], limit: int) -> Rows:
    """Row numbers in key order, for each key the one with the largest timestamp, at most `limit` (-1: all)."""
    order = np.lexsort((timestamps, ranks))
    if len(order) > 1:
        sorted_ranks = ranks[order]
        last_of_key = np.ones(len(order), np.bool_)
        np.not_equal(sorted_ranks[1:], sorted_ranks[:-1], out=last_of_key[:-1])
        order = order[last_of_key]
    return order if limit < 0 else order[:limit]


def queries_of(parts: Sequence[Hits], query_count: int) -> Rows:
    """The query of each hit, part after part."""
    return np.concatenate([np.repeat(np.arange(query_count), part.counts) for part in parts])


def joined(parts: Sequence[Hits]) -> Hits:
    """All hits of several parts one after another, not ordered by query (`counts` are their sum)."""
    columns = [part.groups for part in parts if part.groups is not None]
    return Hits(
        counts=np.asarray(np.sum([part.counts for part in parts], axis=0), np.int64),
        keys=concatenate([part.keys for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        fields={field_id: concatenate([part.fields[field_id] for part in parts]) for field_id in parts[0].fields},
        groups=concatenate(columns) if columns else None,
        elements=_elements_of(parts),
        read_timestamp=max(part.read_timestamp for part in parts),
        searched_row_count=sum(part.searched_row_count for part in parts),
    )


def taken(hits: Hits, queries: Rows, rows: Rows) -> Hits:
    """These hits only, in this order, which keeps queries together; `queries` is the query of each of all hits."""
    return msgspec.structs.replace(
        hits,
        counts=np.bincount(queries[rows], minlength=len(hits.counts)).astype(np.int64),
        keys=hits.keys.take(rows),
        scores=hits.scores[rows],
        fields={field_id: column.take(rows) for field_id, column in hits.fields.items()},
        groups=None if hits.groups is None else hits.groups.take(rows),
        elements=None if hits.elements is None else hits.elements[rows],
    )


def _keys_of(part: Found) -> Column:
    return part.keys if part.keys is not None else Column(np.empty(0, np.int64))


def _timestamps_of(part: Found) -> npt.NDArray[np.uint64]:
    return part.timestamps if part.timestamps is not None else np.empty(0, np.uint64)


def _take_fields(parts: Sequence[dict[int, Column]], rows: Rows) -> dict[int, Column]:
    return {field_id: concatenate([part[field_id] for part in parts]).take(rows) for field_id in parts[0]}


def empty_hits(query_count: int, key_values: Values | None = None) -> Hits:
    """No hits for any query."""
    keys = Column(np.empty(0, np.int64) if key_values is None else key_values[:0])
    return Hits(counts=np.zeros(query_count, np.int64), keys=keys, scores=np.empty(0, np.float32))
