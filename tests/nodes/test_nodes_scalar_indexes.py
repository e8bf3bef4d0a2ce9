"""Scalar indexes in the life of a collection: built, merged away and built again, dropped, killed under way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from node_calls import Client, rows

from elanus.model.requests import IndexRequest
from elanus.objects import paths
from elanus.testing.composition import World

STORED = {"value": ".stl_sort", "name": ".trie"}


async def index_files(world: World) -> list[str]:
    """Names of the scalar index files in the store."""
    keys = await world.process.objects.list(paths.COLLECTIONS_PREFIX)
    return sorted(key for key in keys if key.endswith(tuple(STORED.values())))


async def loaded_counts(world: World) -> list[int]:
    """How many indexes each loaded segment has."""
    (status,) = [await node.status() for node in world.process.query.values()]
    return [len(indexes) for indexes in status.indexes.values()]


async def index_both(client: Client) -> None:
    """One index on a number, one on a text."""
    await client.index("value", {"index_type": "STL_SORT"})
    await client.index("name", {"index_type": "Trie"})


async def answers(client: Client) -> list[list[int]]:
    """What filters on both find."""
    return [await client.ids(filter) for filter in ("value == 2", "value != 2", "name like 'n11%'", "name is null")]


def expected(count: int, later: int) -> list[list[int]]:
    """The same of rows 0..count with value 1, and `later` more with value 2."""
    everything = range(count + later)
    return [
        list(range(count, count + later)),
        list(range(count)),
        [number for number in everything if str(number).startswith("11")],
        [],
    ]


@pytest.mark.slow
def test_built_merged_and_dropped(composed: Any) -> None:
    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create()
        await client.insert(rows(range(1500), 1))
        await client.flush()
        await index_both(client)
        await client.wait_indexed()
        await world.settle()
        assert len(await index_files(world)) == 2
        assert await answers(client) == expected(1500, 0)
        await client.insert(rows(range(1500, 3000), 2))
        await client.flush()
        await client.compact()
        await world.settle()
        await client.wait_indexed()
        assert await client.segment_count() == 1
        assert await loaded_counts(world) == [2]
        replies = await world.proxy.describe_index(IndexRequest(collection="c", field="value"))
        assert [(one.indexed_rows, one.total_rows, one.pending_rows) for one in replies] == [(3000, 3000, 0)]
        assert await answers(client) == expected(1500, 1500)
        await world.proxy.drop_index(IndexRequest(collection="c", field="value"))
        await world.settle()
        assert await answers(client) == expected(1500, 1500)
        assert await loaded_counts(world) == [1]

    composed(scenario)


@pytest.mark.slow
def test_killed_at_any_step_of_a_build(composed: Any) -> None:
    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create()
        await client.insert(rows(range(1500), 1))
        await client.insert(rows(range(1500, 2000), 2))
        await client.flush()
        await world.settle()
        await index_both(client)
        for steps in range(0, 60, 7):
            for _ in range(steps):
                await asyncio.sleep(0)
            await world.crash(power_seed=steps)
        await client.wait_indexed()
        await world.settle()
        assert await answers(client) == expected(1500, 500)

    composed(scenario)
