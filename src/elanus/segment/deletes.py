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
import pyarrow.compute as pc
import pyarrow.parquet as pq

from elanus.base.errors import CorruptedError
from elanus.model.channel import Position
from elanus.model.columns import Column, Rows, Values, concatenate, from_arrow, to_arrow
from elanus.model.timestamp import TIMESTAMP_MAX
from elanus.segment.small import once_if_small

ALL_PARTITIONS: Final = 0
Timestamps = npt.NDArray[np.uint64]


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
    """The content of a delete file: Parquet with columns `key`, `timestamp` and `partition_id` (0: all)."""
    table = pa.table(
        {
            "key": to_arrow(deletes.keys),
            "timestamp": pa.array(deletes.timestamps),
            "partition_id": pa.array(deletes.partition_ids),
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def decode_deletes(data: bytes | memoryview, name: str) -> Deletes:
    """The inverse of `encode_deletes`."""
    try:
        return _decoded(data)
    except pa.ArrowInvalid as error:
        raise CorruptedError(f"{name}: not a delete file: {error}") from error


@once_if_small
def _decoded(data: bytes | memoryview) -> Deletes:
    # Not `read_table`, which looks for a data set of many files first: 7 ms.
    table = pq.ParquetFile(pa.BufferReader(pa.py_buffer(data))).read(use_threads=False)
    timestamps: Any = from_arrow(table.column("timestamp")).values
    partition_ids: Any = from_arrow(table.column("partition_id")).values
    return Deletes(from_arrow(table.column("key")), timestamps, partition_ids)


class DeleteLog:
    """The deletes of one shard since some position, by position, for those that fold them in later."""

    def __init__(self) -> None:
        self._positions: list[Position] = []
        self._parts: list[Deletes] = []
        self.count = 0
        """Deletes held."""

    def add(self, position: Position, deletes: Deletes) -> None:
        """Note a delete record; positions rise."""
        self._positions.append(position)
        self._parts.append(deletes)
        self.count += len(deletes)

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
        self.count = sum(len(part) for part in self._parts)

    def touches_since(self, keys: Values, timestamp: int) -> bool:
        """Whether a delete above `timestamp` names one of `keys`."""
        for part in self._parts:
            recent = part.timestamps > np.uint64(timestamp)
            if not recent.any():
                continue
            named = part.keys.values
            same = np.isin(named, keys) if isinstance(named, np.ndarray) else np.asarray(pc.is_in(named, keys))
            if (same & recent).any():
                return True
        return False
