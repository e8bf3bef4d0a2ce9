"""Which shard and which partition a row belongs to: Milvus's hash of the primary key, and of the partition key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from elanus.model.channel import hash_keys
from elanus.model.columns import Column, Rows

Shards = npt.NDArray[np.int64]


def shards_of(keys: Column, shard_count: int) -> Shards:
    """The shard number of each key, shape (n,) int64."""
    if shard_count == 1:
        return np.zeros(len(keys), np.int64)
    return (hash_keys(keys.values) % np.uint32(shard_count)).astype(np.int64)


def rows_by_shard(shards: Shards, shard_count: int) -> list[tuple[int, Rows]]:
    """(shard, its row numbers ascending) for every shard that has rows."""
    order = np.argsort(shards, kind="stable")
    ends = np.cumsum(np.bincount(shards, minlength=shard_count)).tolist()
    return [
        (shard, order[start:end])
        for shard, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True))
        if end > start
    ]


def hashed_partitions(keys: Column, partition_ids: Sequence[int]) -> Shards:
    """The partition of each row from its partition key; `partition_ids` in the order of their numbers."""
    numbers = hash_keys(keys.values) % np.uint32(len(partition_ids))
    chosen: Shards = np.asarray(partition_ids, np.int64)[numbers]
    return chosen


def numbered_partitions(partitions: Mapping[str, int]) -> tuple[int, ...]:
    """Ids of the partitions `_default_0`, `_default_1`, … in the order of their numbers."""
    return tuple(partitions[name] for name in sorted(partitions, key=_number))


def _number(name: str) -> int:
    return int(name.rsplit("_", 1)[1])
