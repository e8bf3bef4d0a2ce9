"""Rows in the order of a query's ORDER BY: column after column, then by primary key, so that the order is total."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from elanus.model.columns import Column, Rows
from elanus.model.reads import OrderKey
from elanus.search.reduce import key_ranks

_PARTITION_FACTOR: Final = 8
"""A single key is cut to its best rows first when at most one row in so many is wanted."""


def ordered_rows(columns: Sequence[Column], order: Sequence[OrderKey], ties: Rows, limit: int) -> Rows:
    """The numbers of the first `limit` rows (-1: all); `columns` belong to the keys of `order`, `ties` decides last."""
    keys = [part for column, key in zip(columns, order, strict=True) for part in _sortable(column, key)]
    count = len(ties)
    if limit < 0 or limit * _PARTITION_FACTOR > count:
        return np.lexsort((ties, *reversed(keys)))[: limit if limit >= 0 else None]
    among = _candidates(keys, limit)
    return among[np.lexsort((ties[among], *(key[among] for key in reversed(keys))))[:limit]]


def _sortable(column: Column, key: OrderKey) -> list[npt.NDArray[Any]]:
    """Arrays, most significant first, whose ascending order is the key's: where the nulls are, then the values."""
    ranks: npt.NDArray[Any] = key_ranks(column.values)
    parts = []
    if column.valid is not None:
        parts.append(column.valid if key.nulls_first else ~column.valid)
        ranks = np.where(column.valid, ranks, 0)
    if ranks.dtype.kind == "f":
        # NaN counts as the largest number.
        missing = np.isnan(ranks)
        parts.append(~missing if key.descending else missing)
        ranks = np.where(missing, 0, ranks)
        return [*parts, -ranks if key.descending else ranks]
    return [*parts, ~ranks if key.descending else ranks]


def _candidates(keys: Sequence[npt.NDArray[Any]], limit: int) -> Rows:
    """Rows among which the first `limit` are: all that the leading keys do not rule out."""
    among = np.arange(len(keys[0]))
    wanted = limit
    settled: list[Rows] = []
    for key in keys:
        if wanted <= 0 or len(among) <= wanted:
            break
        values = key[among]
        worst = np.partition(values, wanted - 1)[wanted - 1]
        settled.append(among[values < worst])
        wanted -= len(settled[-1])
        among = among[values == worst]
    return np.concatenate([*settled, among])
