"""Every vector type through pymilvus and a real server: growing, flushed, compacted, filtered, in ranges, null;
each answer against the plain twin."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pymilvus import DataType, MilvusClient
from vector_twin import CASES, KINDS, Plain, VectorKind, is_better_large, nearest

LIMIT = 12
ROWS = 150


def created(client: MilvusClient, name: str, kind: VectorKind, metric: str, **index: Any) -> None:
    """A loaded collection of `id`, `tag` and a nullable `vec`."""
    client.drop_collection(name)
    schema = client.create_schema(enable_dynamic_field=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("tag", DataType.INT64)
    schema.add_field("vec", kind.data_type, nullable=True, **kind.params)
    indexes = client.prepare_index_params()
    indexes.add_index("vec", metric_type=metric, **{"index_type": kind.index_type, **index})
    client.create_collection(name, schema=schema, index_params=indexes, consistency_level="Strong")


def rows_of(kind: VectorKind, keys: range, seed: int) -> dict[int, Plain]:
    """Random vectors by key, every seventh null."""
    chance = np.random.default_rng(seed)
    return {key: None if key % 7 == 3 else kind.sample(chance) for key in keys}


def as_sent(kind: VectorKind, rows: dict[int, Plain]) -> list[dict[str, Any]]:
    return [{"id": key, "tag": key % 3, "vec": None if row is None else kind.sent(row)} for key, row in rows.items()]


class Compared:
    """Searches of one collection beside its twin."""

    def __init__(self, client: MilvusClient, name: str, kind: VectorKind, metric: str) -> None:
        self.client, self.name, self.kind, self.metric = client, name, kind, metric
        chance = np.random.default_rng(7)
        self.queries = [kind.sample(chance) for _ in range(8)]
        self.rows: dict[int, Plain] = {}

    def asked(self, query: Plain) -> Any:
        """A query as sent. pymilvus takes bytes for a binary one, so bfloat16 fields are asked with floats."""
        return query.tolist() if self.kind.data_type is DataType.BFLOAT16_VECTOR else self.kind.sent(query)

    def check(self, keeps: Callable[[float], bool] = lambda score: True, tag: int | None = None, **params: Any) -> None:
        """One query alone and eight together, as they take different ways inside."""
        rows = {key: row for key, row in self.rows.items() if tag is None or key % 3 == tag}
        for queries in (self.queries[:1], self.queries):
            found = self.client.search(
                self.name,
                [self.asked(query) for query in queries],
                filter="" if tag is None else f"tag == {tag}",
                limit=LIMIT,
                search_params={"params": params},
            )
            for query, hits in zip(queries, found, strict=True):
                wanted = nearest(self.metric, rows, query, LIMIT, keeps)
                got = [(hit["id"], hit["distance"]) for hit in hits]
                assert [score for _, score in got] == pytest.approx([score for _, score in wanted], rel=1e-5, abs=1e-5)
                assert self.same_keys(got, wanted, dict(nearest(self.metric, rows, query, len(rows))))

    def same_keys(
        self, got: list[tuple[int, float]], wanted: list[tuple[int, float]], scores: dict[int, float]
    ) -> bool:
        """Rounding may change places among rows whose scores are as good as equal, and nothing else."""
        return len({key for key, _ in got}) == len(wanted) and all(
            scores[key] == pytest.approx(value, rel=1e-5, abs=1e-5) for key, value in got
        )

    def check_all(self) -> None:
        """Plain, filtered, and in a range that holds about half of what the plain answer holds."""
        self.check()
        self.check(tag=1)
        scores = sorted({score for _, score in nearest(self.metric, self.rows, self.queries[0], ROWS)})
        low, high = ((scores[at] + scores[at + 1]) / 2 for at in (len(scores) // 5, len(scores) - 3))
        if is_better_large(self.metric):
            self.check(lambda score: score > low, radius=low)
            self.check(lambda score: low < score <= high, radius=low, range_filter=high)
        else:
            self.check(lambda score: score < high, radius=high)
            self.check(lambda score: low <= score < high, radius=high, range_filter=low)

    def check_stored(self) -> None:
        """Every vector comes back as it was written."""
        found = self.client.query(self.name, filter="id >= 0", output_fields=["vec"], limit=10_000)
        assert {row["id"] for row in found} == self.rows.keys()
        for row in found:
            wanted = self.rows[row["id"]]
            assert (row["vec"] is None) == (wanted is None)
            if wanted is not None:
                assert np.array_equal(self.kind.read(row["vec"]), wanted) or self.kind.read(row["vec"]) == wanted


@pytest.mark.slow
@pytest.mark.parametrize(("name", "metric"), CASES)
def test_a_vector_type_lives_its_whole_life(client: MilvusClient, name: str, metric: str) -> None:
    kind, collection = KINDS[name], f"life_{name}_{metric}"
    created(client, collection, kind, metric)
    world = Compared(client, collection, kind, metric)
    world.rows = rows_of(kind, range(ROWS), 1)
    client.insert(collection, as_sent(kind, world.rows))
    world.check_all()
    client.flush(collection)
    world.check_all()
    more = rows_of(kind, range(ROWS, ROWS + 30), 2)
    client.insert(collection, as_sent(kind, more))
    replaced = rows_of(kind, range(0, 40, 2), 3)
    client.upsert(collection, as_sent(kind, replaced))
    gone = list(range(5, 60, 5))
    client.delete(collection, ids=gone)
    world.rows = {key: row for key, row in (world.rows | more | replaced).items() if key not in gone}
    world.check_all()
    world.check_stored()
    client.flush(collection)
    compacted(client, collection)
    world.check_all()
    world.check_stored()
    client.drop_collection(collection)


def compacted(client: MilvusClient, collection: str) -> None:
    job = client.compact(collection)
    until = time.monotonic() + 20
    while client.get_compaction_state(job) != "Completed":
        assert time.monotonic() < until
        time.sleep(0.05)
