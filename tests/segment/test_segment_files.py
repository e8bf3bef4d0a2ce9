"""Keys are found by sorted search as a dict finds them; files say what is wrong with them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from segment_worlds import batch_of, keys_of, schema_of

from elanus.base.errors import CorruptedError
from elanus.segment.deletes import decode_deletes
from elanus.segment.files import ScalarFile, SegmentData, encode_segment, open_vectors
from elanus.segment.keys import KeyRuns, find_rows, has_duplicates, sort_order, take_values

NUMBERS = st.lists(st.integers(0, 30), max_size=30)


@given(NUMBERS, NUMBERS, st.booleans())
def test_rows_are_found_as_a_dict_finds_them(keys: list[int], probes: list[int], strings: bool) -> None:
    values, wanted = keys_of(keys, strings).values, keys_of(probes, strings).values
    order = sort_order(values)
    found = find_rows(take_values(values, order), wanted)
    pairs = sorted((int(probe), int(order[row])) for probe, row in zip(*found, strict=True))
    assert pairs == sorted((i, j) for i, probe in enumerate(probes) for j, key in enumerate(keys) if key == probe)
    assert has_duplicates(take_values(values, order)) == (len(set(keys)) < len(keys))


@given(st.lists(NUMBERS, max_size=12), NUMBERS, st.booleans())
def test_runs_find_what_was_added(parts: list[list[int]], probes: list[int], strings: bool) -> None:
    runs, every = KeyRuns(), []
    for part in parts:
        runs.add(keys_of(part, strings).values, len(every))
        every += part
    found = runs.find(keys_of(probes, strings).values)
    pairs = sorted(zip(found[0].tolist(), found[1].tolist(), strict=True))
    assert pairs == sorted((i, j) for i, probe in enumerate(probes) for j, key in enumerate(every) if key == probe)


def _data(count: int = 4) -> SegmentData:
    return SegmentData(batch_of(list(range(count)), False), np.arange(count, dtype=np.uint64) + 1, None)


def test_scalars_are_plain_parquet_under_the_users_names() -> None:
    files = encode_segment(_data(), schema_of(False))
    table = pq.read_table(pa.BufferReader(files.scalars))
    assert table.column_names == ["id", "name", "$timestamp"]
    assert table.column("id").to_pylist() == [0, 1, 2, 3]
    assert table.column("name").to_pylist() == ["n0", None, "n2", None]
    assert [table.schema.field(n).metadata[b"PARQUET:field_id"] for n in table.column_names] == [b"100", b"102", b"1"]


def test_vectors_are_mapped_not_copied() -> None:
    files = encode_segment(_data(), schema_of(False))
    data = memoryview(files.vectors[101])
    column = open_vectors(data, "v")
    assert isinstance(column.values, np.ndarray)
    start = np.frombuffer(data, np.uint8).ctypes.data
    assert start <= column.values.ctypes.data < start + len(data)


@pytest.mark.parametrize("cut", [0, 3, 40, -1])
def test_a_damaged_file_is_named(cut: int) -> None:
    files = encode_segment(_data(), schema_of(False))
    scalars, vectors = files.scalars.to_pybytes(), files.vectors[101].to_pybytes()
    with pytest.raises(CorruptedError, match="scalars-7"):
        ScalarFile(scalars[:cut], "scalars-7")
    with pytest.raises(CorruptedError, match="vector-7"):
        open_vectors(vectors[:cut], "vector-7")
    with pytest.raises(CorruptedError, match="deletes-7"):
        decode_deletes(scalars[:cut], "deletes-7")


def test_a_file_of_another_format_version_is_refused() -> None:
    table = pa.table({"id": [1]}).replace_schema_metadata({b"elanus.format": b"99"})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    with pytest.raises(CorruptedError, match="format version 99"):
        ScalarFile(memoryview(sink.getvalue()), "s")
