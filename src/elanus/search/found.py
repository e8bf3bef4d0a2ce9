"""Partial answers of one query as one, at every level: rows by key, rows in an asked order, or groups."""

from __future__ import annotations

from collections.abc import Sequence

from elanus.model.reads import Found, ShardRead
from elanus.search.aggregate import merged_groups
from elanus.search.order import ordered_rows
from elanus.search.reduce import key_ranks, merge_found, taken_rows


def merged(parts: Sequence[Found], read: ShardRead) -> Found:
    """At most `read.limit` rows (or all groups) of several answers; at least one. Of each key the newest row."""
    if read.aggregation is not None:
        return merged_groups(parts, read.aggregation)
    if not read.order:
        return merge_found(parts, read.limit)
    return in_order(merge_found(parts, -1), read)


def in_order(found: Found, read: ShardRead) -> Found:
    """The first `read.limit` rows in the order that the read asks for."""
    if not found.row_count or found.keys is None:
        return found
    columns = [found.fields[key.field_id] for key in read.order]
    return taken_rows(found, ordered_rows(columns, read.order, key_ranks(found.keys.values), read.limit))
