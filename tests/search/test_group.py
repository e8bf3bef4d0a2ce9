"""Grouped search against a plain one: score every row, walk them best first, fill the groups."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elanus.base.doors import Doors
from elanus.base.errors import ElanusError
from elanus.model.channel import Position
from elanus.model.columns import Batch, Column
from elanus.model.reads import Boost, Boosting, Grouping, Hits, ShardRead, VectorQuery
from elanus.model.schema import CollectionSchema, FieldSchema
from elanus.model.types import ConsistencyLevel, DataType
from elanus.nodes.proxy.reduce import page_of
from elanus.search import grouped
from elanus.search.execute import Execution
from elanus.search.group import merge_searched
from elanus.segment.growing import GrowingSegment
from elanus.segment.reader import Visibility
from elanus.testing.clock import run

KEY, VECTOR, NUMBER, TRUTH, NAME, JSON = range(100, 106)
FIELDS = (
    FieldSchema(KEY, "id", DataType.INT64, is_primary=True),
    FieldSchema(VECTOR, "v", DataType.FLOAT_VECTOR, type_params={"dim": "2"}),
    FieldSchema(NUMBER, "n", DataType.INT16, nullable=True),
    FieldSchema(TRUTH, "b", DataType.BOOL),
    FieldSchema(NAME, "s", DataType.VARCHAR, nullable=True),
    FieldSchema(JSON, "j", DataType.JSON),
)
SCHEMA = CollectionSchema("c", FIELDS)
SEEN = Visibility(1 << 60)
DOCUMENTS: list[Any] = [{"k": 1}, {"k": True}, {"k": "1"}, {"k": 2}, {"k": None}, {}, {"k": [1]}, {"k": 2.5}, {"k": {}}]
GROUPINGS = {
    "number": Grouping(field_id=NUMBER, data_type=DataType.INT16),
    "truth": Grouping(field_id=TRUTH, data_type=DataType.BOOL),
    "name": Grouping(field_id=NAME, data_type=DataType.VARCHAR),
    "json number": Grouping(field_id=JSON, data_type=DataType.INT64, path=("k",)),
    "json truth": Grouping(field_id=JSON, data_type=DataType.BOOL, path=("k",)),
    "json name": Grouping(field_id=JSON, data_type=DataType.VARCHAR, path=("k",)),
    "json any": Grouping(field_id=JSON, data_type=DataType.NONE, path=("k",)),
}
Row = dict[str, Any]


def value_of(row: Row, kind: str) -> Any:
    """What the row is grouped by."""
    if not kind.startswith("json"):
        return row[kind]
    value = row["json"].get("k")
    if kind == "json any":
        return None if value is None or isinstance(value, list | dict) else str(value).lower()
    wanted = {"json number": int, "json truth": bool, "json name": str}[kind]
    return value if type(value) is wanted else None


def segment_of(rows: list[Row], first: int = 1) -> GrowingSegment:
    segment = GrowingSegment(first, SCHEMA)
    if not rows:
        return segment
    numbers, names = [row["number"] for row in rows], [row["name"] for row in rows]
    columns = {
        KEY: Column(np.array([row["key"] for row in rows], np.int64)),
        VECTOR: Column(np.array([[row["at"], 0.0] for row in rows], np.float32)),
        NUMBER: Column(
            np.array([one or 0 for one in numbers], np.int16), np.array([one is not None for one in numbers])
        ),
        TRUTH: Column(np.array([row["truth"] for row in rows], np.bool_)),
        NAME: Column(
            pa.array([one or "" for one in names], pa.large_string()), np.array([one is not None for one in names])
        ),
        JSON: Column(pa.array([msgspec.json.encode(row["json"]) for row in rows], pa.large_binary())),
    }
    segment.append(Batch(len(rows), columns), np.ones(len(rows), np.int64), 5 + first, Position(1, first))
    return segment


def asked(grouping: Grouping, k: int, queries: list[float], **more: Any) -> ShardRead:
    vector = VectorQuery(
        field_id=VECTOR,
        metric="L2",
        k=k,
        queries=np.array([[query, 0.0] for query in queries], np.float32),
        grouping=grouping,
        **more,
    )
    return ShardRead(vchannel="v", level=ConsistencyLevel.STRONG, vector=vector, output_field_ids=(KEY,))


def search(segments: list[GrowingSegment], read: ShardRead) -> Hits:
    async def main(doors: Doors) -> Hits:
        execution = Execution(doors.compute, doors.random, 1)
        return await execution.search([segment.reader() for segment in segments], read, SCHEMA, SEEN)

    return run(main)


def python_groups(hits: Hits) -> list[Any]:
    assert hits.groups is not None
    values = hits.groups.values
    plain = values.tolist() if isinstance(values, np.ndarray) else values.to_pylist()
    valid = hits.groups.valid
    return (
        plain if valid is None else [one if there else None for one, there in zip(plain, valid.tolist(), strict=True)]
    )


def expected_groups(rows: list[Row], query: float, kind: str) -> list[tuple[Any, list[tuple[float, int]]]]:
    """All groups of one query in order, all members of each in order; of equal keys the nearest row."""
    nearest: dict[int, tuple[float, Any]] = {}
    for row in rows:
        distance = float((np.float32(query) - np.float32(row["at"])) ** 2)
        if row["key"] not in nearest or distance < nearest[row["key"]][0]:
            nearest[row["key"]] = (distance, value_of(row, kind))
    groups: dict[Any, list[tuple[float, int]]] = {}
    for key, (distance, value) in sorted(nearest.items(), key=lambda one: (one[1][0], one[0])):
        groups.setdefault((type(value), value), []).append((distance, key))
    return [(value, members) for (_, value), members in groups.items()]


def a_row(key: st.SearchStrategy[int]) -> st.SearchStrategy[Row]:
    return st.fixed_dictionaries(
        {
            "key": key,
            "at": st.integers(-20, 20).map(float),
            "number": st.sampled_from([None, 1, 2, 3]),
            "truth": st.booleans(),
            "name": st.sampled_from([None, "", "a", "b"]),
            "json": st.sampled_from(DOCUMENTS),
        }
    )


def distinct_rows(count: int) -> st.SearchStrategy[list[Row]]:
    """Distinct keys, and a distance of its own for each row, so that one segment's cut is never among equals."""
    return st.lists(a_row(st.integers(0, 99)), max_size=count, unique_by=lambda row: row["key"]).map(
        lambda rows: [{**row, "at": row["at"] + number / 64} for number, row in enumerate(rows)]
    )


@pytest.mark.slow
@settings(max_examples=150)
@given(
    st.data(), st.sampled_from(list(GROUPINGS)), st.integers(1, 4), st.integers(1, 3), st.booleans(), st.integers(0, 3)
)
def test_one_segment(data: Any, kind: str, k: int, size: int, strict: bool, offset: int) -> None:
    rows = data.draw(distinct_rows(40))
    queries = data.draw(st.lists(st.sampled_from([-9.375, 0.25, 12.125]), min_size=1, max_size=3))
    grouping = msgspec.structs.replace(GROUPINGS[kind], size=size, is_strict=strict)
    hits = search([segment_of(rows)], asked(grouping, k + offset, queries)) if rows else None
    if hits is None:
        return
    paged = page_of(hits, k, offset)
    groups, start = python_groups(paged), 0
    assert paged.keys.values.tolist() == paged.fields[KEY].values.tolist()
    for query, count in zip(queries, paged.counts.tolist(), strict=True):
        expected = expected_groups(rows, query, kind)[offset : offset + k]
        found: list[tuple[Any, list[int]]] = []
        for key, group in zip(
            paged.keys.values[start : start + count].tolist(), groups[start : start + count], strict=True
        ):
            if not found or (type(found[-1][0]), found[-1][0]) != (type(group), group):
                found.append((group, []))
            found[-1][1].append(key)
        assert [group for group, _ in found] == [group for group, _ in expected]
        for (_, keys), (_, members) in zip(found, expected, strict=True):
            best = [key for _, key in members[:size]]
            assert keys == best if strict else keys == best[: len(keys)]
        start += count
    assert start == len(paged.keys)


def test_looks_on_until_there_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A far group behind thousands of near rows of one; with a first look at a single row."""
    monkeypatch.setattr(grouped, "FIRST_K_MIN", 1)
    base = {"truth": True, "name": "a", "json": {}}
    rows = [{**base, "key": key, "at": key / 1000, "number": 1} for key in range(3000)]
    rows += [{**base, "key": 5000 + far, "at": 50.0 + far, "number": 2} for far in range(3)]
    rows += [{**base, "key": 9000, "at": 90.0, "number": None}]
    hits = search(
        [segment_of(rows)], asked(msgspec.structs.replace(GROUPINGS["number"], size=2, is_strict=True), 3, [0.0])
    )
    assert hits.keys.values.tolist() == [0, 1, 5000, 5001, 9000]
    assert python_groups(hits) == [1, 1, 2, 2, None]


def test_blocks_of_queries_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    base = {"truth": True, "name": "a", "json": {}}
    rows = [{**base, "key": key, "at": float(key), "number": key // 30} for key in range(300)]
    queries = [3.0, 290.0, 150.0, 31.0, 7.0]
    whole = search([segment_of(rows)], asked(GROUPINGS["number"], 6, queries))
    monkeypatch.setattr(grouped, "ENTRIES_MAX", 150)
    blocks = search([segment_of(rows)], asked(GROUPINGS["number"], 6, queries))
    assert blocks.keys.values.tolist() == whole.keys.values.tolist()
    assert blocks.counts.tolist() == whole.counts.tolist() == [6] * 5


@pytest.mark.slow
@given(st.data(), st.sampled_from(list(GROUPINGS)), st.integers(1, 3), st.integers(1, 3))
def test_segments_merge_to_the_best_groups(data: Any, kind: str, k: int, size: int) -> None:
    """Keys may repeat, in one segment and across; the groups are those of the nearest row of each key."""
    parts = [data.draw(distinct_rows(12)) for _ in range(3)]
    number = 0
    for part in parts:
        for row in part:
            row["at"], number = row["at"] + number / 64, number + 1
    grouping = msgspec.structs.replace(GROUPINGS[kind], size=size, is_strict=True)
    read = asked(grouping, k, [0.3])
    assert read.vector is not None
    filled = [part for part in parts if part]
    if not filled:
        return
    hits = merge_searched([search([segment_of(part)], read) for part in filled], read.vector)
    # Parts cut to k groups: with as many groups as there are, nothing is cut and the answer is exact.
    exact = asked(grouping, 50, [0.3])
    assert exact.vector is not None
    uncut = search([segment_of(part, number) for number, part in enumerate(filled, 1)], exact)
    assert python_groups(uncut) == [
        group
        for group, members in expected_groups([row for part in filled for row in part], 0.3, kind)
        for _ in members[:size]
    ] or len({row["key"] for part in filled for row in part}) < sum(map(len, filled))
    groups = python_groups(hits)
    assert len({(type(group), group) for group in groups}) <= k
    assert hits.counts.tolist() == [len(groups)]
    assert len(set(hits.keys.values.tolist())) == len(hits.keys)


def test_strict_cast_refuses_other_types() -> None:
    base = {"truth": True, "name": "a", "number": 1, "at": 0.0}
    rows = [{**base, "key": 1, "json": {"k": 1}}, {**base, "key": 2, "json": {"k": "x"}}]
    grouping = msgspec.structs.replace(GROUPINGS["json number"], is_strict_cast=True)
    with pytest.raises(ElanusError, match="failed to cast"):
        search([segment_of(rows)], asked(grouping, 3, [0.0]))


# --- boosts ---------------------------------------------------------------------------------------------------------
@pytest.mark.slow
@settings(max_examples=60)
@given(st.data(), st.booleans(), st.booleans())
def test_boosts(data: Any, adds_boosts: bool, adds_to_score: bool) -> None:
    rows = data.draw(distinct_rows(20).filter(len))
    bounds = data.draw(
        st.lists(st.tuples(st.integers(0, 99), st.sampled_from([0.25, 0.5, 2.0, -1.0])), min_size=1, max_size=3)
    )
    boosting = Boosting(
        boosts=tuple(Boost(weight=weight, filter=f"id > {bound}") for bound, weight in bounds),
        adds_boosts=adds_boosts,
        adds_to_score=adds_to_score,
    )
    read = asked(GROUPINGS["number"], 100, [0.0])
    assert read.vector is not None
    vector = msgspec.structs.replace(read.vector, grouping=None, boosting=boosting)
    hits = search([segment_of(rows)], msgspec.structs.replace(read, vector=vector))
    expected = {}
    for row in rows:
        score, factor, touched = row["at"] ** 2, 0.0 if adds_boosts else 1.0, False
        for bound, weight in bounds:
            if row["key"] > bound:
                factor, touched = factor + weight if adds_boosts else factor * weight, True
        if touched:
            score = score + factor if adds_to_score else score * factor
        expected[row["key"]] = float(np.float32(score))
    assert dict(zip(hits.keys.values.tolist(), hits.scores.tolist(), strict=True)) == pytest.approx(expected)
    assert hits.scores.tolist() == sorted(hits.scores.tolist())


def test_random_boosts_depend_on_seed_and_value_only() -> None:
    base = {"truth": True, "name": "a", "number": 1, "json": {}}
    rows = [{**base, "key": key, "at": 1.0 + key / 64} for key in range(50)]

    def scores(seed: int, *, turned: bool = False) -> dict[int, float]:
        boosts = (Boost(weight=1.0, random_seed=seed, random_field_id=KEY),)
        read = asked(GROUPINGS["number"], 100, [0.0])
        assert read.vector is not None
        vector = msgspec.structs.replace(read.vector, grouping=None, boosting=Boosting(boosts=boosts))
        hits = search([segment_of(rows[::-1] if turned else rows)], msgspec.structs.replace(read, vector=vector))
        return dict(zip(hits.keys.values.tolist(), hits.scores.tolist(), strict=True))

    assert scores(1) == scores(1, turned=True) != scores(2)
    fractions = [score / (1.0 + key / 64) ** 2 for key, score in scores(1).items()]
    assert all(0 <= fraction < 1 for fraction in fractions)
    assert 0.3 < sum(fractions) / 50 < 0.7
