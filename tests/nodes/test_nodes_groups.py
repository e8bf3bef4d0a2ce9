"""Grouped and hybrid searches over several shards and segments, called directly and through the codec."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from node_calls import STRONG, Client, python_values, row

from elanus.model.requests import FunctionScore, HybridSearchRequest, SearchReply, SearchRequest
from elanus.model.schema import FunctionSchema
from elanus.model.types import DataType
from elanus.search import execute
from elanus.testing.composition import World


def hits_of(reply: SearchReply) -> list[tuple[Any, Any]]:
    """Group and key of each hit."""
    assert reply.groups is not None
    return list(zip(python_values(reply.groups.column), python_values(reply.keys), strict=True))


@pytest.mark.parametrize("shards", [1, 3])
def test_strict_groups_are_full_wherever_their_members_lie(composed: Callable[..., World], shards: int) -> None:
    """Each segment's nearest rows are of other groups; the best groups' further members are in none's best."""

    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create(shard_count=shards)
        # In each segment rows of its own groups stand near; those of groups 0 and 1 stand far in all but the first.
        for segment in range(3):
            own = [row(100 * segment + at, value=0 if segment == 0 else 10 * segment + at) for at in range(9)]
            far = [row(500 + 10 * segment + at, value=at % 2) for at in range(2)]
            await client.insert(own if segment else [row(at, value=at % 2) for at in range(2)])
            await client.insert(far)
            if segment < 2:
                await client.flush()
        params = {"group_by_field": "value", "group_size": "3", "strict_group_size": "true"}
        reply = await client.search_reply([0.0, 0.0], 2, params=params)
        assert hits_of(reply) == [(0, 0), (0, 500), (0, 510), (1, 1), (1, 501), (1, 511)]
        assert reply.groups is not None
        assert reply.groups.field.name == "value"
        loose = await client.search_reply([0.0, 0.0], 2, params={**params, "strict_group_size": "false"})
        assert hits_of(loose)[0] == (0, 0)

    composed(scenario)


def test_null_is_a_group(composed: Callable[..., World]) -> None:
    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create()
        await client.insert([row(at, name=[None, "a", ""][at % 3]) for at in range(9)])
        reply = await client.search_reply([0.0, 0.0], 5, params={"group_by_field": "name"})
        assert hits_of(reply) == [(None, 0), ("a", 1), ("", 2)]

    composed(scenario)


@pytest.mark.parametrize("seed", range(5))
def test_hybrid_search_sees_one_moment(
    composed: Callable[..., World], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upserts of all rows run beside it; the halves that the two searches find are of the same version."""
    monkeypatch.setattr(execute, "INLINE_US_MAX", 0.0)  # Each search leaves the loop, so others come in between.

    def single(at: float) -> SearchRequest:
        queries = np.array([[at, 0.0]], np.float32)
        return SearchRequest(collection="c", queries=queries, query_type=DataType.FLOAT_VECTOR, params={"topk": "10"})

    hybrid = HybridSearchRequest(
        collection="c",
        requests=(single(0.0), single(19.0)),
        rank_params={"limit": "20"},
        output_fields=("value",),
        consistency=STRONG,
    )

    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create()
        await client.insert([row(at, value=0) for at in range(20)])

        async def write() -> None:
            for version in range(1, 6):
                await client.upsert([row(at, value=version) for at in range(20)])

        async def read() -> None:
            for _ in range(8):
                reply = await client.proxy.hybrid_search(hybrid)
                assert sorted(python_values(reply.keys)) == list(range(20))
                assert len(set(python_values(reply.fields[0].column))) == 1

        await asyncio.gather(write(), read())

    composed(scenario, seed=seed)


def test_hybrid_search_over_shards_with_a_ranker_of_a_field(composed: Callable[..., World]) -> None:
    async def scenario(world: World) -> None:
        client = Client(world)
        await client.create(shard_count=3)
        await client.insert([row(at, value=at) for at in range(12)])
        params = {"reranker": "decay", "function": "exp", "origin": "7", "scale": "1"}
        queries = np.array([[0.0, 0.0]], np.float32)
        reply = await client.proxy.hybrid_search(
            HybridSearchRequest(
                collection="c",
                requests=(
                    SearchRequest(
                        collection="c", queries=queries, query_type=DataType.FLOAT_VECTOR, params={"topk": "12"}
                    ),
                ),
                rank_params={"limit": "2", "offset": "1"},
                function_score=FunctionScore((FunctionSchema(0, "f", 3, "", ("value",), (), params),)),
                consistency=STRONG,
            )
        )
        scores = {at: (1 - 2 * np.arctan(at * at) / np.pi) * 0.5 ** abs(at - 7) for at in range(12)}
        assert python_values(reply.keys) == sorted(scores, key=lambda at: -scores[at])[1:3]
        assert reply.fields == ()

    composed(scenario)
