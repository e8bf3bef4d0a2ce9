"""Pages against a plain list: whatever was written, deleted and sealed, and however the pages are cut, they hold every
row once and in order, those of one iterator as of one moment."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from node_calls import Client, at, python_values, row, run

from elanus.model.requests import SearchReply
from elanus.testing.composition import Options, World

KEYS = st.integers(0, 59)
SOME = st.sets(KEYS, min_size=1, max_size=25).map(sorted)
WRITES = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), SOME),
        st.tuples(st.just("upsert"), SOME),
        st.tuples(st.just("delete"), SOME),
        st.just(("flush", [])),
    ),
    min_size=1,
    max_size=8,
)
MIDST = 29.25
"""The query's place: no two keys are equally far from it."""


async def write(client: Client, kept: set[int], step: tuple[str, list[int]]) -> None:
    kind, keys = step
    match kind:
        case "insert":
            # A key that is there already is stored twice and read once.
            await client.insert([row(key) for key in keys])
            kept.update(keys)
        case "upsert":
            await client.upsert([row(key) for key in keys])
            kept.update(keys)
        case "delete":
            await client.delete_ids(keys)
            kept.difference_update(keys)
        case _:
            await client.flush()


def by_distance(keys: set[int]) -> list[int]:
    return sorted(keys, key=lambda key: abs(key - MIDST))


async def search(client: Client, limit: int, **params: Any) -> SearchReply:
    return await client.search_reply([MIDST, 0], limit, params={key: str(value) for key, value in params.items()})


async def keys_of(client: Client, limit: int, **params: Any) -> list[int]:
    return python_values((await search(client, limit, **params)).keys)


async def iterated(client: Client, batch: int, kept: set[int], meanwhile: tuple[str, list[int]]) -> list[list[int]]:
    """The pages of a search iterator; after the first one something else is written."""
    pages: list[list[int]] = []
    params: dict[str, Any] = {"iterator": True, "search_iter_v2": True, "search_iter_batch_size": batch}
    consistency: dict[str, Any] = {}
    while True:
        sent = {key: str(value) for key, value in params.items()}
        reply = await client.search_reply([MIDST, 0], batch, params=sent, **consistency)
        pages.append(python_values(reply.keys))
        if len(pages) == 1:
            consistency = {"consistency": at(reply.session_timestamp)}
            await write(client, kept, meanwhile)
        params |= {"search_iter_id": reply.iterator_token, "search_iter_last_bound": reply.iterator_last_bound}
        if not pages[-1]:
            return pages


async def queried(client: Client, batch: int) -> list[list[int]]:
    """The pages of a query iterator, each above the last one's keys."""
    pages: list[list[int]] = [[-1]]
    while pages[-1]:
        pages.append(await client.ids(f"id > {pages[-1][-1]}", limit=batch, iterator=True))
    return pages[1:]


@pytest.mark.slow
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(steps=WRITES, batch=st.integers(1, 12), meanwhile=WRITES.map(lambda steps: steps[0]), shards=st.integers(1, 2))
def test_pages_hold_every_row_once(
    steps: list[tuple[str, list[int]]], batch: int, meanwhile: tuple[str, list[int]], shards: int
) -> None:
    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create(shard_count=shards)
        kept: set[int] = set()
        for step in steps:
            await write(client, kept, step)
        everything, nearest = sorted(kept), by_distance(kept)
        assert await keys_of(client, 100) == nearest
        for start in range(0, len(kept) + batch, batch):
            assert await keys_of(client, batch, offset=start) == nearest[start : start + batch]
            assert await client.ids(limit=batch, offset=start) == everything[start : start + batch]
        pages = await queried(client, batch)
        assert list(chain.from_iterable(pages)) == everything
        pages = await iterated(client, batch, kept, meanwhile)
        assert {len(page) for page in pages[:-2]} <= {batch}
        assert list(chain.from_iterable(pages)) == nearest
        assert await keys_of(client, 100) == by_distance(kept)

    run(scenario, Options())
