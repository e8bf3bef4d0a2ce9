"""Deletes as columns, and the one rule by which they hide rows.

A row is hidden at T iff some delete has an equal key, a scope (one partition, or all: 0) that covers the row, and
row.timestamp < delete.timestamp <= T. Segments keep, per row, `deleted_at`: the smallest timestamp of a delete that
applies (TIMESTAMP_MAX: none). Since that number only ever falls from 'never' to a timestamp above every read that
started before, writing it in place is safe beside readers pinned at an earlier T.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from elanus.model.channel import Position
from elanus.model.columns import Batch, Column, Rows, concatenate, decode_batch, encode_batch
from elanus.model.timestamp import TIMESTAMP_MAX

ALL_PARTITIONS: Final = 0
Timestamps = npt.NDArray[np.uint64]

_KEY, _TIMESTAMP, _PARTITION = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Deletes:
    """Deletes in log order: `keys`, `timestamps` (uint64) and `partition_ids` (int64) of equal length."""

    keys: Column
    timestamps: Timestamps
    partition_ids: Rows

    def __len__(self) -> int:
        return len(self.timestamps)


def never(row_count: int) -> Timestamps:
    """`deleted_at` of rows that nothing has deleted."""
    return np.full(row_count, TIMESTAMP_MAX, np.uint64)


def hide(
    deletes: Deletes, found: tuple[Rows, Rows], timestamps: Timestamps, deleted_at: Timestamps, partitions: Rows | int
) -> int:
    """Lower `deleted_at` of the rows that `found` = (delete index, row) pairs name and the rule hides.

    `partitions` is each row's partition, or the one partition of all rows. Returns how many pairs took effect."""
    delete_rows, rows = found
    if len(rows) == 0:
        return 0
    stamps = deletes.timestamps[delete_rows]
    scope = deletes.partition_ids[delete_rows]
    home = partitions if isinstance(partitions, int) else partitions[rows]
    effective = (timestamps[rows] < stamps) & ((scope == ALL_PARTITIONS) | (scope == home))
    np.minimum.at(deleted_at, rows[effective], stamps[effective])
    return int(np.count_nonzero(effective))


def concatenate_deletes(parts: Sequence[Deletes]) -> Deletes:
    """Several runs of deletes, one after another; at least one."""
    return Deletes(
        concatenate([part.keys for part in parts]),
        np.concatenate([part.timestamps for part in parts]),
        np.concatenate([part.partition_ids for part in parts]),
    )


def encode_deletes(deletes: Deletes) -> pa.Buffer:
    """The content of a delete file: an Arrow IPC stream."""
    columns = {
        _KEY: deletes.keys,
        _TIMESTAMP: Column(deletes.timestamps),
        _PARTITION: Column(deletes.partition_ids),
    }
    return encode_batch(Batch(len(deletes), columns))


def decode_deletes(data: bytes | memoryview, row_count: int) -> Deletes:
    """The inverse of `encode_deletes`."""
    columns = decode_batch(data, row_count).columns
    timestamps: Any = columns[_TIMESTAMP].values
    partition_ids: Any = columns[_PARTITION].values
    return Deletes(columns[_KEY], timestamps, partition_ids)


class DeleteLog:
    """The deletes of one shard since some position, by position, for those that fold them in later."""

    def __init__(self) -> None:
        self._positions: list[Position] = []
        self._parts: list[Deletes] = []

    def add(self, position: Position, deletes: Deletes) -> None:
        """Note a delete record; positions rise."""
        self._positions.append(position)
        self._parts.append(deletes)

    @property
    def last(self) -> Position | None:
        """Position of the newest delete held."""
        return self._positions[-1] if self._positions else None

    def between(self, after: Position, through: Position) -> Deletes | None:
        """All with after < position <= through; None when there are none."""
        parts = [part for at, part in zip(self._positions, self._parts, strict=True) if after < at <= through]
        return concatenate_deletes(parts) if parts else None

    def drop_through(self, position: Position) -> None:
        """Forget those at or below `position`."""
        kept = [index for index, at in enumerate(self._positions) if at > position]
        self._positions = [self._positions[index] for index in kept]
        self._parts = [self._parts[index] for index in kept]
