"""What crosses a role's border comes out as it went in, and what cannot cross is refused."""

from __future__ import annotations

import asyncio
import typing
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elanus.base.errors import Action, InvariantError
from elanus.model import errors as model_errors
from elanus.model.channel import ORIGIN, Position
from elanus.model.columns import Batch, Column
from elanus.model.errors import CollectionNotFoundError
from elanus.model.reads import Found, ShardRead, VectorQuery
from elanus.model.records import ChangeRecord, Record, ShardChange, WriteRecord
from elanus.model.schema import CollectionSchema, FieldSchema
from elanus.model.segment import DeleteFile, FileRef, IndexFile, Manifest, SegmentEntry
from elanus.model.types import ConsistencyLevel, DataType
from elanus.nodes import contracts
from elanus.nodes.codec import (
    decode,
    decode_as,
    decode_error,
    encode,
    encode_as,
    encode_error,
    error_classes,
    through_codec,
)
from elanus.nodes.contracts import DeleteRange, Query, ShardWrite, WriteReply

DTYPES = ("?", "<i1", "<i2", "<i4", "<i8", "<u1", "<u2", "<u8", "<f2", "<f4", "<f8")


def same(one: Any, other: Any) -> bool:
    """Equality that knows arrays."""
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and np.array_equal(one, other)
    if isinstance(one, pa.Array):
        return bool(one.equals(other))
    if isinstance(one, Column):
        return same(one.values, other.values) and same(one.valid, other.valid)
    if isinstance(one, Batch):
        return one.row_count == other.row_count and same(dict(one.columns), dict(other.columns))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, msgspec.Struct):
        return type(one) is type(other) and all(same(getattr(one, n), getattr(other, n)) for n in one.__struct_fields__)
    if isinstance(one, tuple | list):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, WriteRecord | ChangeRecord):
        return type(one) is type(other) and all(same(getattr(one, n), getattr(other, n)) for n in one.__slots__)
    return type(one) is type(other) and bool(one == other)


@st.composite
def columns(draw: st.DrawFn, rows: int) -> Column:
    values: Any
    match draw(st.sampled_from(["number", "vector", "text", "bytes", "list"])):
        case "number":
            values = np.arange(rows).astype(draw(st.sampled_from(DTYPES)))
        case "vector":
            values = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)[:, :: draw(st.sampled_from([1, -1]))]
        case "text":
            values = pa.array([draw(st.text(max_size=3)) for _ in range(rows + 2)], pa.large_string())[1 : rows + 1]
        case "bytes":
            values = pa.array([draw(st.binary(max_size=3)) for _ in range(rows)], pa.large_binary())
        case _:
            values = pa.array([[n] * (n % 3) for n in range(rows)], pa.large_list(pa.int64()))
    valid = draw(st.one_of(st.none(), st.just(np.arange(rows) % 2 == 0)))
    return Column(values, valid)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    rows = draw(st.integers(0, 5))
    return Batch(rows, {100 + n: draw(columns(rows)) for n in range(draw(st.integers(0, 3)))})


@given(batches(), st.booleans())
def test_writes_and_records_come_out_as_they_went_in(batch: Batch, is_upsert: bool) -> None:
    keys = Column(np.arange(3)) if is_upsert else None
    partition_ids = np.arange(batch.row_count)
    write = ShardWrite(
        vchannel="v", schema_version=1, batch=batch, partition_ids=partition_ids, delete_keys=keys, guard_timestamp=9
    )
    assert same(decode(encode(write), ShardWrite), write)
    record = WriteRecord("v", 7, 1, batch, partition_ids, keys, 4)
    assert same(decode_as(encode_as(record, Record), Record), record)
    change = ChangeRecord("v", 8, ShardChange(vchannel="v", collection_id=1, kind="create", intent_id=3))
    assert same(decode_as(encode_as(change, Record), Record), change)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text(max_size=3), PLAIN, max_size=3), st.integers(0, 2**64 - 1))
def test_reads_come_out_as_they_went_in(templates: dict[str, Any], timestamp: int) -> None:
    vector = VectorQuery(field_id=1, metric="L2", k=3, queries=np.ones((2, 4), np.float32), params=templates, radius=1)
    read = ShardRead(
        vchannel="v",
        level=ConsistencyLevel.SESSION,
        at_timestamp=timestamp,
        partition_ids=(1, 2),
        templates=templates,
        vector=vector,
    )
    assert same(decode(encode(read), ShardRead), read)
    found = Found(row_count=1, keys=Column(np.ones(1, np.int64)), fields={7: Column(np.zeros(1))}, read_position=ORIGIN)
    assert same(decode(encode(found), Found), found)


def test_a_manifest_with_everything_in_it() -> None:
    file = FileRef("a/b", 10, 20)
    index = IndexFile(1, 100, "HNSW", "L2", file, {"M": "16"})
    entry = SegmentEntry(1, 2, 3, 4, Position(1, 2, 3), 5, 6, file, {100: file}, (index,))
    field = FieldSchema(100, "id", DataType.INT64, is_primary=True, default=3)
    manifest = Manifest(
        vchannel="v",
        collection_id=1,
        version=2,
        token="t",
        term=3,
        segments=(entry,),
        deletes=(DeleteFile(ORIGIN, Position(1, 0, 0), 1, file),),
    )
    for value in (manifest, CollectionSchema("c", (field,)), WriteReply(1, Position(1, 2, 3))):
        assert decode(encode(value), type(value)) == value


def test_every_call_of_every_contract_can_be_carried() -> None:
    protocols = [
        one for one in vars(contracts).values() if isinstance(one, type) and getattr(one, "_is_protocol", False)
    ]
    assert len(protocols) >= 6
    for protocol in protocols:
        role = _Anything()
        through_codec(role, protocol)
        for name in role.asked:
            hints = typing.get_type_hints(getattr(protocol, name))
            for kind in hints.values():
                with pytest.raises(InvariantError):
                    encode_as(object(), kind)


class _Anything:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.asked.append(name)
        return lambda: None


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (np.int64(3), int),
        (True, int),
        ([1], tuple[int, ...]),
        ((1, "a"), tuple[int, ...]),
        ((1,), tuple[int, int]),
        (DataType.INT64, int),
        (5, DataType),
        ({"a": np.int64(1)}, dict[str, Any]),
        ({"a": (1,)}, dict[str, Any]),
        (np.array(["a"]), np.ndarray),
        (np.array([None]), np.ndarray),
        (pa.array([1]), Column),
        (Column(pa.array(["a", None], pa.large_string())), Column),
        (memoryview(b"a"), bytes),
        (None, str),
        (object(), str | None),
    ],
)
def test_what_cannot_cross_is_refused(value: Any, kind: Any) -> None:
    with pytest.raises(InvariantError, match="cannot cross"):
        encode_as(value, kind)


def test_arrays_arrive_read_only() -> None:
    column = decode(encode(Column(np.arange(4))), Column)
    assert isinstance(column.values, np.ndarray)
    with pytest.raises(ValueError, match="read-only"):
        column.values[0] = 1


def test_errors_cross_by_class_and_message() -> None:
    error = decode_error(encode_error(CollectionNotFoundError("default", "c")))
    assert type(error) is CollectionNotFoundError
    assert error.message == str(error) == "collection not found[database=default][collection=c]"
    assert error.code == 100


def test_an_unknown_error_arrives_as_its_nearest_known_class() -> None:
    class Special(model_errors.ReadTimeoutError):
        """Of a newer sender."""

    data = encode_error(Special("too late")).replace(b"Special", b"Newborn")
    error = decode_error(data)
    assert type(error) is model_errors.ReadTimeoutError
    assert error.action is Action.RETRY


def test_every_error_class_has_a_name_of_its_own() -> None:
    assert len(error_classes()) > 40


class _Node:
    """A query node that keeps what it got."""

    def __init__(self) -> None:
        self.got: DeleteRange | None = None

    async def apply_deletes(self, deletes: DeleteRange, segment_ids: tuple[int, ...]) -> None:
        self.got = deletes
        if segment_ids == (9,):
            raise CollectionNotFoundError("d", segment_ids[0])

    def __getattr__(self, name: str) -> Any:
        return None


def test_a_role_behind_the_codec_gets_equal_values_and_none_that_is_shared() -> None:
    node = _Node()
    border = through_codec(node, Query)  # type: ignore[type-abstract]
    deletes = DeleteRange(
        vchannel="v",
        after=ORIGIN,
        through=Position(1, 1, 1),
        keys=Column(np.arange(3)),
        timestamps=np.arange(3, dtype=np.uint64),
        partition_ids=np.zeros(3, np.int64),
    )
    asyncio.run(border.apply_deletes(deletes, segment_ids=(1, 2)))
    assert node.got is not deletes
    assert same(node.got, deletes)
    with pytest.raises(CollectionNotFoundError, match="collection=9"):
        asyncio.run(border.apply_deletes(deletes, (9,)))
    with pytest.raises(InvariantError, match="cannot cross"):
        asyncio.run(border.apply_deletes(deletes, [1]))  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        border.got  # type: ignore[attr-defined]  # noqa: B018
