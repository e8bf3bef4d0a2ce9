"""Hybrid search, rerankers and boosts through pymilvus, against rows scored one by one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from pymilvus import (
    AnnSearchRequest,
    Function,
    FunctionScore,
    FunctionType,
    MilvusClient,
    MilvusException,
    RRFRanker,
    WeightedRanker,
)
from reads_twin import Row, Rows, Vector, ranked

pytestmark = pytest.mark.slow

QUERIES: list[Vector] = [[0.3, -0.2, 0.9, 0.1], [-1.0, 0.4, 0.2, 0.7]]
DEPTH = 40


def asked(field: str, **more: Any) -> AnnSearchRequest:
    return AnnSearchRequest(QUERIES, field, {"metric_type": field.upper()}, DEPTH, **more)


def reranker(name: str, inputs: Sequence[str] = (), **params: Any) -> Function:
    return Function(
        name="f", function_type=FunctionType.RERANK, input_field_names=list(inputs), params={"reranker": name, **params}
    )


def normal(value: float, field: str) -> float:
    if field == "cosine":
        return (1 + value) / 2
    return 0.5 + math.atan(value) / math.pi if field == "ip" else 1 - 2 * math.atan(value) / math.pi


def fused(
    rows: Rows, query: Vector, fields: Sequence[str], say: Callable[[int, int, float], float], down: bool = True
) -> list[tuple[int, float]]:
    """Key and summed score, best first; `say` gets the search's number, the place from 1, and the score."""
    total: dict[int, float] = {}
    for number, field in enumerate(fields):
        for place, (row, value) in enumerate(ranked(rows, query, field)[:DEPTH], 1):
            total[row.key] = total.get(row.key, 0.0) + say(number, place, value)
    return sorted(total.items(), key=lambda one: (-one[1] if down else one[1], one[0]))


def same(hits: Any, expected: Sequence[tuple[int, float]]) -> None:
    assert [hit["distance"] for hit in hits] == pytest.approx([value for _, value in expected], rel=1e-4, abs=1e-5)
    assert [hit["id"] for hit in hits] == [key for key, _ in expected]


RANKERS: dict[str, tuple[Any, Callable[[int, int, float], float]]] = {
    "rrf": (RRFRanker(10), lambda number, place, value: 1 / (10 + place)),
    "rrf function": (reranker("rrf", k=3), lambda number, place, value: 1 / (3 + place)),
    "weighted": (WeightedRanker(0.2, 0.9), lambda number, place, value: (0.2, 0.9)[number] * _normal(number, value)),
    "weighted, mixed directions": (
        WeightedRanker(0.5, 0.25, norm_score=False),
        lambda number, place, value: (0.5 * value, 0.25 * normal(value, "l2"))[number],
    ),
    "weighted function": (
        reranker("weighted", weights=[0.7, 0.3], norm_score=True),
        lambda number, place, value: (0.7, 0.3)[number] * _normal(number, value),
    ),
}


def _normal(number: int, value: float) -> float:
    return normal(value, ("cosine", "l2")[number])


@pytest.mark.parametrize("name", list(RANKERS))
@pytest.mark.parametrize("offset", [0, 3])
def test_fusion(client: MilvusClient, rows: Rows, name: str, offset: int) -> None:
    ranker, say = RANKERS[name]
    # What a single search finds goes as deep as its own limit and the offset.
    found = client.hybrid_search(
        "c", [asked("cosine"), asked("l2")], ranker, limit=7, offset=offset, output_fields=["number", "kind"]
    )
    by_key = {row.key: row for row in rows}
    for hits, query in zip(found, QUERIES, strict=True):
        for hit in hits:
            row = by_key[hit["id"]]
            assert hit["entity"] == {"number": row.number, "kind": row.kind}
        if not offset:
            same(hits, fused(rows, query, ("cosine", "l2"), say)[:7])
    if offset and name == "rrf":
        start = client.hybrid_search("c", [asked("cosine"), asked("l2")], ranker, limit=7 + offset)
        assert [hit["id"] for hit in start[0]][offset:][:3] == [hit["id"] for hit in found[0]][:3]


def test_raw_distances_ascend(client: MilvusClient, rows: Rows) -> None:
    found = client.hybrid_search("c", [asked("l2")], WeightedRanker(0.5, norm_score=False), limit=5)
    for hits, query in zip(found, QUERIES, strict=True):
        same(hits, fused(rows, query, ("l2",), lambda number, place, value: 0.5 * value, down=False)[:5])


def test_own_filters_and_rounding(client: MilvusClient, rows: Rows) -> None:
    found = client.hybrid_search(
        "c",
        [asked("cosine", expr="number > {n}", expr_params={"n": 0}), asked("ip", expr="number > 0")],
        WeightedRanker(0.5, 0.5),
        limit=9,
        round_decimal=2,
        output_fields=["number"],
    )
    kept = [row for row in rows if row.number > 0]
    for hits, query in zip(found, QUERIES, strict=True):
        say = lambda number, place, value: 0.5 * normal(value, ("cosine", "ip")[number])  # noqa: E731
        expected = [
            (key, math.floor(value * 100 + 0.5) / 100) for key, value in fused(kept, query, ("cosine", "ip"), say)
        ]
        same(hits, expected[:9])


@pytest.mark.parametrize("scorer", ["max", "sum", "avg"])
def test_fusion_in_groups(client: MilvusClient, rows: Rows, scorer: str) -> None:
    found = client.hybrid_search(
        "c",
        [asked("cosine"), asked("l2")],
        RRFRanker(),
        limit=3,
        group_by_field="name",
        group_size=2,
        strict_group_size=True,
        rank_group_scorer=scorer,
        output_fields=["name"],
    )
    for hits in found:
        names = [hit["entity"]["name"] for hit in hits]
        values = [hit["distance"] for hit in hits]
        assert len(names) == 6
        assert names[::2] == names[1::2]
        assert len(set(names)) == 3
        score = {"max": max, "sum": sum, "avg": lambda pair: sum(pair) / 2}[scorer]
        scores = [score(values[at : at + 2]) for at in (0, 2, 4)]
        assert scores == sorted(scores, reverse=True)
        assert all(values[at] >= values[at + 1] for at in (0, 2, 4))


def test_refusals(client: MilvusClient, rows: Rows) -> None:
    def refused(text: str, requests: list[Any], ranker: Any, **more: Any) -> None:
        with pytest.raises(MilvusException, match=text):
            client.hybrid_search("c", requests, ranker, **{"limit": 3, **more})

    both = [asked("cosine"), asked("l2")]
    mismatch = (
        r"the length of weights param mismatch with ann search requests: invalid parameter\[expected=2\]\[actual=1\]"
    )
    refused(mismatch, both, WeightedRanker(0.5))
    refused(r"rank param weight should be in range \[0, 1\]", both, WeightedRanker(0.5, 1.5))
    refused(r"the rank params k should be in range \(0, 16384\)", both, RRFRanker(0))
    refused(r"\(offset\+limit\) should be in range \[1, 16384\], but got 16385", both, RRFRanker(), limit=16385)
    refused(r"unsupported rerank function: \[boost\]", both, reranker("boost", weight=2))
    refused("the rrf function does not support input parameters", both, reranker("rrf", ["number"]))
    one = AnnSearchRequest(QUERIES[:1], "l2", {"metric_type": "L2"}, 3)
    refused("sub search request nq should be the same", [asked("cosine"), one], RRFRanker())
    refused("fieldName\\(nothing\\) not found", [asked("nothing")], RRFRanker())
    refused("groupBy field not found in schema|unsupported data type", both, RRFRanker(), group_by_field="l2")


# --- one search -----------------------------------------------------------------------------------------------------
def decayed(row: Row, shape: str) -> float:
    away = max(0.0, abs(row.number - 10) - 2)
    return {
        "gauss": math.exp(away**2 * math.log(0.3) / 64),
        "exp": math.exp(away * math.log(0.3) / 8),
        "linear": max(0.3, 1 - away * 0.7 / 8),
    }[shape]


@pytest.mark.parametrize("shape", ["gauss", "exp", "linear"])
@pytest.mark.parametrize("field", ["cosine", "l2"])
def test_decay(client: MilvusClient, rows: Rows, shape: str, field: str) -> None:
    ranker = reranker("decay", ["number"], function=shape, origin=10, scale=8, offset=2, decay=0.3)
    for found in (
        client.search("c", QUERIES, anns_field=field, limit=30, ranker=ranker, output_fields=["name"]),
        client.hybrid_search("c", [AnnSearchRequest(QUERIES, field, {}, 30)], ranker, limit=30, output_fields=["name"]),
    ):
        for hits, query in zip(found, QUERIES, strict=True):
            expected = [
                (row.key, decayed(row, shape) * (normal(value, "l2") if field == "l2" else value))
                for row, value in ranked(rows, query, field)[:30]
            ]
            assert {hit["id"]: hit["distance"] for hit in hits} == pytest.approx(dict(expected), rel=1e-4, abs=1e-6)
            values = [hit["distance"] for hit in hits]
            assert values == sorted(values, reverse=True)
            assert set(hits[0]["entity"]) == {"name"}


def test_decay_refusals(client: MilvusClient, rows: Rows) -> None:
    def refused(text: str, ranker: Any, **more: Any) -> None:
        with pytest.raises(MilvusException, match=text):
            client.search("c", QUERIES, anns_field="l2", limit=3, ranker=ranker, **more)

    def decay(inputs: Sequence[str] = ("number",), **changed: Any) -> Function:
        params = {"function": "gauss", "origin": 0, "scale": 5, **changed}
        return reranker("decay", inputs, **{key: value for key, value in params.items() if value is not None})

    refused("unsupported rerank function: \\[nothing\\] , list of supported", reranker("nothing"))
    refused("function input field not found: kind", decay(["kind"]))
    refused("function input field cannot be nullable: field group", decay(["group"]))
    refused(r"decay function only supports single input, but gets \[\[number id\]\] input", decay(["number", "id"]))
    refused("decay rerank: unsupported input field type:VarChar, only support numeric field", decay(["name"]))
    refused(r"invalid decay function: decay, only support \[gauss,linear,exp\]", decay(function="cubic"))
    refused("param origin:x is not a number", decay(origin="x"))
    refused("decay function lost param: origin", decay(origin=None))
    refused("decay function lost param: scale", decay(scale=None))
    refused("decay function param: scale must > 0, but got -1", decay(scale=-1))
    refused("decay function param: offset must >= 0, but got -2", decay(offset=-2))
    refused("decay function param: decay must 0 < decay < 1, but got 1", decay(decay=1))
    refused("currently only supports one rerank", FunctionScore(functions=[decay(), decay()], params={}))


def test_models_are_checked_and_refused(client: MilvusClient, rows: Rows) -> None:
    def refused(text: str, **changed: Any) -> None:
        params = {"provider": "tei", "queries": ["a", "b"], "endpoint": "http://localhost:1", **changed}
        ranker = reranker("model", ["name"], **{key: value for key, value in params.items() if value is not None})
        with pytest.raises(MilvusException, match=text):
            client.search("c", QUERIES, anns_field="l2", limit=3, ranker=ranker)

    refused("unknown rerank model provider:nobody", provider="nobody")
    refused("is not a valid http/https link", endpoint="ftp://x")
    refused("is not a valid http/https link", endpoint=None)
    refused("rerank function lost params queries", queries=None)
    refused("nq must equal to queries size, but got nq \\[2\\], queries size \\[1\\]", queries=["a"])
    refused("service unimplemented")


def test_boosts(client: MilvusClient, rows: Rows) -> None:
    """Every row is a candidate, so segments do not matter."""
    score = FunctionScore(
        functions=[
            reranker("boost", weight=0.5, filter="number > 0"),
            reranker("boost", weight=0.25, filter="kind == 3"),
        ],
        params={"boost_mode": "multiply", "function_mode": "sum"},
    )
    found = client.search("c", QUERIES, anns_field="l2", limit=1000, ranker=score)
    for hits, query in zip(found, QUERIES, strict=True):
        expected = {}
        for row, value in ranked(rows, query, "l2"):
            factor = (0.5 if row.number > 0 else 0.0) + (0.25 if row.kind == 3 else 0.0)
            expected[row.key] = value * factor if factor else value
        assert {hit["id"]: hit["distance"] for hit in hits} == pytest.approx(expected, rel=1e-4, abs=1e-5)
        values = [hit["distance"] for hit in hits]
        assert values == sorted(values)
    with pytest.raises(MilvusException, match="must set weight params for weight scorer"):
        client.search("c", QUERIES, anns_field="l2", limit=3, ranker=reranker("boost", filter="id > 0"))
    with pytest.raises(MilvusException, match="don't support use segment scorer with group_by"):
        client.search("c", QUERIES, anns_field="l2", limit=3, ranker=reranker("boost", weight=2), group_by_field="name")
