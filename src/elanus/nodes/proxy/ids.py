"""Automatic primary keys: blocks of ids from the coordinator, handed out in order; a lost block is never used."""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa

from elanus.base.errors import UnavailableError
from elanus.model.columns import Column, concatenate
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType
from elanus.nodes.contracts import Coordinator, Range
from elanus.nodes.proxy.routing import Shards, shards_of

ID_BLOCK: Final = 10_000
DRAW_ROUNDS_MAX: Final = 64


class IdAllocator:
    """Draws distinct int64 ids; asks the coordinator once per block."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._block = Range(0, 0)

    async def draw(self, count: int) -> Column:
        """`count` fresh ids, shape (count,) int64, ascending."""
        if self._block.end - self._block.first < count:
            # Another draw may have brought a block meanwhile: the one that is longer is kept, ids are plentiful.
            block = await self._coordinator.allocate_ids(max(count, ID_BLOCK))
            if block.end - block.first > self._block.end - self._block.first:
                self._block = block
            else:
                return Column(np.arange(block.first, block.first + count))
        first = self._block.first
        self._block = Range(first + count, self._block.end)
        return Column(np.arange(first, first + count))

    async def draw_keys(self, field: FieldSchema, count: int) -> Column:
        """Fresh primary keys of the field's type; as VARCHAR the decimal digits."""
        return as_keys(field, await self.draw(count))

    async def draw_for_shards(self, field: FieldSchema, shards: Shards, shard_count: int) -> Column:
        """Fresh keys, the i-th of which hashes to `shards[i]`: drawn in excess, matched shard by shard."""
        missing = np.arange(len(shards))
        chosen: list[Column] = []
        places: list[Shards] = []
        for _ in range(DRAW_ROUNDS_MAX):
            keys = await self.draw_keys(field, len(missing) * shard_count)
            offered, wanted = shards_of(keys, shard_count), shards[missing]
            taken = np.zeros(len(missing), np.bool_)
            for shard in range(shard_count):
                found, needed = np.flatnonzero(offered == shard), np.flatnonzero(wanted == shard)
                fit = min(len(found), len(needed))
                chosen.append(keys.take(found[:fit]))
                places.append(missing[needed[:fit]])
                taken[needed[:fit]] = True
            missing = missing[~taken]
            if not len(missing):
                order = np.argsort(np.concatenate(places))
                return concatenate(chosen).take(order)
        raise UnavailableError("could not draw ids for all shards")


def as_keys(field: FieldSchema, ids: Column) -> Column:
    """Ids as values of the primary key field."""
    if field.data_type is DataType.VARCHAR:
        return Column(pa.array(ids.values).cast(pa.large_string()))
    return ids
