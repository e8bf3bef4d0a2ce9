"""Log channels and positions.

A pchannel is one physical log; a vchannel is one shard of one collection, carried by a pchannel. A position names a
record for ever, on every kind of log: the term of its writer, the sequence of its batch in that term, and its offset in
the batch. Positions compare in log order.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_CRC_PREFIX_BYTES: Final = 100


class Position(NamedTuple):
    """Where a record stands in its pchannel."""

    term: int
    sequence: int
    offset: int = 0


ORIGIN: Final = Position(0, 0, 0)
"""Before every record."""


def pchannel_name(number: int) -> str:
    """Name of the physical log of that number."""
    return f"elanus-dml_{number}"


def vchannel_name(pchannel: str, collection_id: int, shard: int) -> str:
    """Name of a shard of a collection, in Milvus's form."""
    return f"{pchannel}_{collection_id}v{shard}"


def pchannel_of(vchannel: str) -> str:
    """The physical log that carries a shard."""
    return vchannel.rsplit("_", 1)[0]


def hash_keys(keys: npt.NDArray[np.int64] | pa.Array) -> npt.NDArray[np.uint32]:
    """Milvus's routing hash: murmur3 (32 bit, seed 0) of the 8 little-endian bytes of an integer key, CRC-32 (IEEE) of
    the first 100 bytes of a string key. Shape (n,), uint32."""
    return _murmur3(keys) if isinstance(keys, np.ndarray) else _crc32(keys)


def _murmur3(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    words = np.ascontiguousarray(keys, dtype="<i8").view("<u4").reshape(-1, 2)
    state = np.zeros(len(keys), np.uint32)
    with np.errstate(over="ignore"):
        for column in (0, 1):
            block = words[:, column] * np.uint32(0xCC9E2D51)
            block = ((block << np.uint32(15)) | (block >> np.uint32(17))) * np.uint32(0x1B873593)
            state ^= block
            state = ((state << np.uint32(13)) | (state >> np.uint32(19))) * np.uint32(5) + np.uint32(0xE6546B64)
        state ^= np.uint32(8)
        state = (state ^ (state >> np.uint32(16))) * np.uint32(0x85EBCA6B)
        state = (state ^ (state >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return state ^ (state >> np.uint32(16))


def _crc_table() -> npt.NDArray[np.uint32]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> np.uint32(1)) ^ np.uint32(0xEDB88320), table >> np.uint32(1))
    return table


_CRC_TABLE: Final = _crc_table()


def _crc32(keys: pa.Array) -> npt.NDArray[np.uint32]:
    """One table step per byte column: at most 100 vector operations for any number of strings."""
    offsets = np.asarray(keys.cast(pa.large_binary()).view(pa.large_binary()).buffers()[1]).view("<i8")
    offsets = offsets[keys.offset : keys.offset + len(keys) + 1]
    data: npt.NDArray[Any] = np.frombuffer(keys.buffers()[2] or b"", np.uint8)
    lengths = np.minimum(np.diff(offsets), _CRC_PREFIX_BYTES)
    state = np.full(len(keys), 0xFFFFFFFF, np.uint32)
    for column in range(int(lengths.max(initial=0))):
        rows = np.flatnonzero(lengths > column)
        byte = data[offsets[rows] + column]
        state[rows] = _CRC_TABLE[(state[rows] ^ byte) & 0xFF] ^ (state[rows] >> np.uint32(8))
    return state ^ np.uint32(0xFFFFFFFF)
