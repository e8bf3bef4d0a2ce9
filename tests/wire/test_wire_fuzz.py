"""Whatever bytes arrive, a decoder gives a value, a typed refusal or a DecodeError of protobuf, never another fault."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_columns import python_values

from elanus.base.errors import ElanusError
from elanus.model.errors import BadParameterError
from elanus.wire import decode, decode_data
from elanus.wire.decode_fields import decode_field
from elanus.wire.messages import messages
from elanus.wire.table import CALLS


def try_decode(name: str, raw: bytes) -> None:
    try:
        CALLS[name].decode(raw, "")
    except (ElanusError, DecodeError):
        return


@cache
def samples() -> dict[str, bytes]:
    """A rich request of each kind that is read by hand."""
    insert = messages().UpsertRequest(collection_name="c", num_rows=3, schema_timestamp=1 << 60)
    for kind, member, values in (
        (1, "bool_data", [True, False, True]),
        (2, "int_data", [1, -2, 3]),
        (5, "long_data", [1 << 60, -1, 0]),
        (10, "float_data", [1.0, 2.0, 3.0]),
        (21, "string_data", ["a", "ü", ""]),
        (23, "json_data", [b"{}", b"[]", b""]),
    ):
        column = insert.fields_data.add(type=kind, field_name=f"f{kind}")
        getattr(column.scalars, member).data.extend(values)
        column.valid_data.extend([True, True, True])
    arrays = insert.fields_data.add(type=22, field_name="arrays")
    arrays.scalars.array_data.element_type = 5
    arrays.scalars.array_data.data.add().long_data.data.extend([1, 2])
    arrays.scalars.array_data.data.add()
    vectors = insert.fields_data.add(type=101, field_name="v")
    vectors.vectors.dim = 2
    vectors.vectors.float_vector.data.extend([1.0] * 4)
    vectors.valid_data.extend([True, False, True])
    sparse = insert.fields_data.add(type=104, field_name="s")
    sparse.vectors.sparse_float_vector.contents.extend([b"12345678", b""])
    group = messages().PlaceholderGroup()
    group.placeholders.add(tag="$0", type=101, values=[np.ones(3, "<f4").tobytes()] * 3)
    search = messages().SearchRequest(collection_name="c", nq=3, placeholder_group=group.SerializeToString())
    search.search_params.add(key="topk", value="10")
    search.expr_template_values["x"].array_val.long_data.data.extend([1, 2])
    return {
        "Insert": insert.SerializeToString(),
        "Upsert": insert.SerializeToString(),
        "Search": search.SerializeToString(),
        "placeholders": group.SerializeToString(),
    }


@pytest.mark.slow
@settings(max_examples=250, deadline=None)
@given(data=st.data(), name=st.sampled_from(["Insert", "Upsert", "Search"]))
def test_damaged_requests(data: st.DataObject, name: str) -> None:
    raw = bytearray(samples()[name])
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(raw) - 1))
        raw[position] = data.draw(st.sampled_from([0, 1, 2, 8, 10, 0x7F, 0x80, 0xFF, raw[position] ^ 1]))
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(raw))))
    try_decode(name, bytes(raw[:cut]))


def outcome(raw: bytes) -> object:
    """What a decoder makes of a field: its content, or the class of its refusal."""
    try:
        found = decode_field(raw, 0, len(raw))
    except ElanusError as error:
        return type(error)
    described = (found.name, found.data_type, found.dimension, found.is_dynamic, found.element_type)
    return described, repr(python_values(found.column))


def agrees_with_protobuf(raw: bytes) -> None:
    """Read in place or after protobuf's own parse: the same comes out."""
    try:
        message = messages().FieldData.FromString(raw)
    except DecodeError:
        return
    message.DiscardUnknownFields()
    try:
        assert outcome(raw) == outcome(message.SerializeToString())
    except DecodeError:
        return


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damaged_fields_are_read_as_protobuf_reads_them(data: st.DataObject) -> None:
    fields = messages().UpsertRequest.FromString(samples()["Upsert"]).fields_data
    raw = bytearray(data.draw(st.sampled_from([field.SerializeToString() for field in fields])))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    agrees_with_protobuf(bytes(raw))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_queries(data: st.DataObject) -> None:
    raw = bytearray(samples()["placeholders"])
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        found, _ = decode_data.placeholders(bytes(raw), data.draw(st.sampled_from([0, decode_data.WALKED_BYTES_MIN])))
        assert found.ndim in (1, 2)
    except (ElanusError, DecodeError):
        return


@settings(max_examples=100, deadline=None)
@given(raw=st.binary(max_size=80), name=st.sampled_from(sorted(CALLS)))
def test_random_bytes(raw: bytes, name: str) -> None:
    try_decode(name, raw)


@pytest.mark.parametrize("nested", ["[" * 100_000, '{"a":' * 100_000, "5", '"x"'])
def test_bottomless_documents_are_refused(nested: str) -> None:
    message = messages().CreateIndexRequest(collection_name="c", field_name="v")
    message.extra_params.add(key="params", value=nested)
    with pytest.raises(BadParameterError):
        decode.create_index(message.SerializeToString(), "")


def test_queries_of_no_bytes() -> None:
    for values in ([], [b""], [b"", b""]):
        group = messages().PlaceholderGroup()
        group.placeholders.add(tag="$0", type=101, values=values)
        for walked_bytes_min in (0, decode_data.WALKED_BYTES_MIN):
            found, _ = decode_data.placeholders(group.SerializeToString(), walked_bytes_min)
            assert found.shape == (len(values), 0)
