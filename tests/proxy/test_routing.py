"""Routing against the hashes' own definitions, one key at a time."""

from __future__ import annotations

import asyncio
import zlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elanus.model.columns import Column
from elanus.nodes.proxy.ids import IdAllocator
from elanus.nodes.proxy.routing import hashed_partitions, numbered_partitions, rows_by_shard, shards_of

from .requests import AUTO_ID, TEXT_ID
from .twin import Bench

INTEGERS = st.lists(st.integers(-(1 << 63), (1 << 63) - 1), min_size=1, max_size=40)
TEXTS = st.lists(st.text(max_size=150), min_size=1, max_size=20)


def murmur3(data: bytes) -> int:
    """MurmurHash3, 32 bit, seed 0, of eight bytes, by its definition."""
    state, mask = 0, 0xFFFFFFFF
    for start in (0, 4):
        block = int.from_bytes(data[start : start + 4], "little") * 0xCC9E2D51 & mask
        block = (block << 15 | block >> 17) & mask
        state ^= block * 0x1B873593 & mask
        state = ((state << 13 | state >> 19) * 5 + 0xE6546B64) & mask
    state ^= len(data)
    state = (state ^ state >> 16) * 0x85EBCA6B & mask
    state = (state ^ state >> 13) * 0xC2B2AE35 & mask
    return state ^ state >> 16


def integer_hash(key: int) -> int:
    return murmur3(key.to_bytes(8, "little", signed=True))


def text_hash(key: str) -> int:
    return zlib.crc32(key.encode()[:100])


@given(INTEGERS, st.integers(1, 16))
def test_integer_keys(keys: list[int], shards: int) -> None:
    assert shards_of(Column(np.array(keys)), shards).tolist() == [integer_hash(key) % shards for key in keys]


@given(TEXTS, st.integers(1, 16))
def test_text_keys(keys: list[str], shards: int) -> None:
    made = Column(pa.array(keys, pa.large_string()))
    assert shards_of(made, shards).tolist() == [text_hash(key) % shards for key in keys]


def test_known_hashes() -> None:
    assert integer_hash(0) == 0x63852AFC
    assert text_hash("milvus") == zlib.crc32(b"milvus")


@given(INTEGERS, st.integers(1, 30))
def test_partition_keys(keys: list[int], count: int) -> None:
    partitions = {f"_default_{number}": 500 + number for number in reversed(range(count))}
    chosen = hashed_partitions(Column(np.array(keys)), numbered_partitions(partitions))
    assert chosen.tolist() == [500 + integer_hash(key) % count for key in keys]


@given(st.lists(st.integers(0, 5), max_size=40))
def test_rows_are_split_in_order(shards: list[int]) -> None:
    parts = rows_by_shard(np.array(shards, np.int64), 6)
    assert [(shard, rows.tolist()) for shard, rows in parts] == [
        (shard, [row for row, one in enumerate(shards) if one == shard]) for shard in sorted(set(shards))
    ]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.booleans())
def test_drawn_keys_hash_to_the_wanted_shards(shards: list[int], text: bool) -> None:
    async def main() -> None:
        ids = IdAllocator(Bench().coordinator)
        field = TEXT_ID if text else AUTO_ID
        keys = await ids.draw_for_shards(field, np.array(shards), 5)
        assert shards_of(keys, 5).tolist() == shards
        assert len(set(keys.values.tolist())) == len(shards)

    asyncio.run(main())


@pytest.mark.slow
@given(st.lists(st.integers(1, 15_000), min_size=1, max_size=6))
def test_ids_are_never_given_twice(counts: list[int]) -> None:
    async def main() -> None:
        ids = IdAllocator(Bench().coordinator)
        drawn = await asyncio.gather(*[ids.draw(count) for count in counts])
        assert [len(one) for one in drawn] == counts
        everything = np.concatenate([one.values for one in drawn])
        assert len(np.unique(everything)) == len(everything)

    asyncio.run(main())
