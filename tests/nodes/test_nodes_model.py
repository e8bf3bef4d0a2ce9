"""The composition against a plain dict: any sequence of writes, flushes, compactions, releases, restarts and power cuts
leaves Strong reads equal to the model, counted before equal keys are merged; the past stays readable."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from node_calls import Client, at, python_values, row, run

from elanus.testing.composition import Options, World

PARTITIONS = ("_default", "p")
KEYS = st.integers(0, 11)
SOME = st.sets(KEYS, min_size=1, max_size=5).map(sorted)
PARTITION = st.sampled_from(PARTITIONS)
MOST_PAST = 6


class Version(NamedTuple):
    partition: str
    value: int


class Model:
    """Rows by key, oldest first."""

    def __init__(self) -> None:
        self.rows: dict[int, list[Version]] = {}

    def copy(self) -> Model:
        made = Model()
        made.rows = {key: list(versions) for key, versions in self.rows.items()}
        return made

    def insert(self, keys: list[int], partition: str, value: int) -> None:
        for key in keys:
            self.rows.setdefault(key, []).append(Version(partition, value))

    def delete(self, keys: list[int], partition: str) -> None:
        for key in keys:
            kept = [one for one in self.rows.get(key, []) if partition and one.partition != partition]
            self.rows[key] = kept
            if not kept:
                del self.rows[key]

    def newest(self, partition: str = "") -> dict[int, int]:
        found = {
            key: [one.value for one in versions if partition in ("", one.partition)]
            for key, versions in self.rows.items()
        }
        return {key: values[-1] for key, values in sorted(found.items()) if values}

    def count(self) -> int:
        return sum(map(len, self.rows.values()))


WRITES = st.one_of(
    st.tuples(st.just("insert"), SOME, PARTITION),
    st.tuples(st.just("upsert"), SOME, PARTITION),
    st.tuples(st.just("patch"), SOME, PARTITION),
    st.tuples(st.just("delete"), SOME, st.sampled_from(("", *PARTITIONS))),
    st.tuples(st.just("delete_where"), st.integers(0, 30), st.just("")),
)
UPKEEP = st.sampled_from(["flush", "flush", "compact", "rest", "restart", "crash", "power", "reload"])
STEPS = st.lists(st.one_of(WRITES, WRITES, UPKEEP), min_size=3, max_size=22)


class Player:
    """Plays steps on a world and its model."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.client = Client(world)
        self.model = Model()
        self.past: list[tuple[int, dict[int, int]]] = []
        self.turn = 0

    async def write(self, kind: str, what: Any, partition: str) -> None:
        client, model, value = self.client, self.model, self.turn
        await self.world.sleep(0.002)
        match kind:
            case "insert":
                reply = await client.insert([row(key, value) for key in what], partition=partition)
                model.insert(what, partition, value)
            case "upsert":
                reply = await client.upsert([row(key, value) for key in what], partition=partition)
                model.delete(what, partition)
                model.insert(what, partition, value)
            case "patch":
                known = model.newest(partition)
                keys = [key for key in what if key in known]
                if not keys:
                    return
                patch = [{"id": key, "value": value} for key in keys]
                reply = await client.upsert(patch, partition=partition, partial_update=True)
                model.delete(keys, partition)
                model.insert(keys, partition, value)
            case "delete":
                reply = await client.delete_ids(what, partition=partition)
                model.delete(what, partition)
            case _:
                reply = await client.delete(f"value < {what}")
                model.delete([key for key, rows in model.rows.items() if any(one.value < what for one in rows)], "")
        if reply.timestamp:
            self.past = [*self.past, (reply.timestamp, model.newest())][-MOST_PAST:]

    async def upkeep(self, kind: str) -> None:
        match kind:
            case "flush":
                await self.client.flush()
            case "compact":
                await self.client.compact()
            case "rest":
                await self.world.settle()
            case "restart":
                await self.world.restart()
            case "crash":
                await self.world.crash()
            case "power":
                await self.world.crash(power_seed=self.turn)
            case "reload":
                await self.client.release()
                await self.client.load()

    async def compare(self) -> None:
        client, expected = self.client, self.model.newest()
        assert await client.values() == expected
        assert await client.count() == self.model.count()
        keys = list(expected)
        assert await client.ids(limit=4, offset=3) == keys[3:7]
        reply = await client.search_reply([0, 0], 50, output_fields=("value",))
        found = dict(zip(python_values(reply.keys), python_values(reply.fields[0].column), strict=True))
        assert sorted(found) == keys
        assert await client.values(partitions=("p",)) == self.model.newest("p")
        for timestamp, then in self.past:
            assert await client.values(consistency=at(timestamp), iterator=True) == then

    async def play(self, steps: list[Any]) -> None:
        await self.client.create(shard_count=2)
        await self.client.create_partition("p")
        for step in steps:
            self.turn += 1
            if isinstance(step, str):
                await self.upkeep(step)
            else:
                await self.write(*step)
            await self.compare()


@pytest.mark.slow
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS, codec=st.booleans(), seed=st.integers(0, 1000))
def test_any_sequence_of_steps_equals_the_model(steps: list[Any], codec: bool, seed: int) -> None:
    async def scenario(world: World) -> None:
        await Player(world).play(steps)

    run(scenario, Options(codec=codec, query_nodes=1 + seed % 2, log_file_bytes_max=8192), seed=seed)
