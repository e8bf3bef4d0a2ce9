"""Segments for the tests, and their dumb twin."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from elanus.model.channel import ORIGIN, Position
from elanus.model.columns import Batch, Column
from elanus.model.schema import CollectionSchema, FieldSchema
from elanus.model.segment import FileRef, SegmentEntry
from elanus.model.types import DataType
from elanus.segment.deletes import Deletes
from elanus.segment.files import ScalarFile, SegmentData, encode_segment, open_vectors
from elanus.segment.sealed import SealedSegment

VECTOR = FieldSchema(101, "vector", DataType.FLOAT_VECTOR, type_params={"dim": "2"})
NAME = FieldSchema(102, "name", DataType.VARCHAR, nullable=True)


def schema_of(strings: bool) -> CollectionSchema:
    kind = DataType.VARCHAR if strings else DataType.INT64
    return CollectionSchema("c", (FieldSchema(100, "id", kind, is_primary=True), VECTOR, NAME))


def keys_of(numbers: list[int], strings: bool) -> Column:
    if strings:
        return Column(pa.array([f"k{n:03d}" for n in numbers], pa.large_string()))
    return Column(np.array(numbers, np.int64))


def batch_of(numbers: list[int], strings: bool) -> Batch:
    vectors = np.array([[n, 1] for n in numbers], np.float32).reshape(-1, 2)
    valid = np.array([n % 2 == 0 for n in numbers], np.bool_)
    names = pa.array([f"n{n}" if n % 2 == 0 else "" for n in numbers], pa.large_string())
    columns = {100: keys_of(numbers, strings), 101: Column(vectors), 102: Column(names, valid)}
    return Batch(len(numbers), columns)


def deletes_of(numbers: list[int], timestamp: int, partition_id: int, strings: bool) -> Deletes:
    count = len(numbers)
    stamps = np.full(count, timestamp, np.uint64)
    return Deletes(keys_of(numbers, strings), stamps, np.full(count, partition_id, np.int64))


def sealed_of(data: SegmentData, schema: CollectionSchema, segment_id: int, partition_id: int) -> SealedSegment:
    """The rows after a trip through their files."""
    files = encode_segment(data, schema)
    vectors: dict[int, Any] = {field: open_vectors(memoryview(one), "v") for field, one in files.vectors.items()}
    file = FileRef("s", files.scalars.size, 0)
    entry = SegmentEntry(
        segment_id,
        partition_id,
        data.batch.row_count,
        0,
        ORIGIN,
        int(data.timestamps.min()),
        int(data.timestamps.max()),
        file,
    )
    return SealedSegment(entry, schema, ScalarFile(memoryview(files.scalars), "s"), vectors)


class TwinRow(NamedTuple):
    """A row as written."""

    key: int
    timestamp: int
    partition_id: int


class TwinDelete(NamedTuple):
    """A delete of one key."""

    key: int
    timestamp: int
    partition_id: int


class Twin:
    """All rows and deletes, and the rule."""

    def __init__(self) -> None:
        self.rows: list[TwinRow] = []
        self.deletes: list[TwinDelete] = []

    def alive(self, at: int, partition_id: int | None = None) -> list[TwinRow]:
        return sorted(
            row
            for row in self.rows
            if row.timestamp <= at
            and partition_id in (None, row.partition_id)
            and not any(
                one.key == row.key and one.partition_id in (0, row.partition_id) and row.timestamp < one.timestamp <= at
                for one in self.deletes
            )
        )


def position(number: int) -> Position:
    return Position(1, number, 0)
