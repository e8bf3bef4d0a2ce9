"""Fusion against one that walks hit by hit: every ranker, every normalisation, grouped or not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elanus.functions.rankers import AVERAGE, MAX, SUM, AnyRanker, Decay, ReciprocalRank, Weighted
from elanus.functions.scores import are_mixed, is_similarity
from elanus.model.columns import Column
from elanus.model.reads import Hits
from elanus.model.types import Metric
from elanus.search.fuse import GroupOrder, fuse

AGE = 7
METRICS = st.sampled_from([Metric.COSINE, Metric.IP, Metric.L2, Metric.BM25, Metric.HAMMING, Metric.JACCARD])
SCORES = st.sampled_from([-1.0, -0.25, 0.0, 0.125, 0.5, 1.0, 3.0, 250.0])
Answer = dict[int, float]
f4 = np.float32


def age_of(key: int) -> int:
    return key * 3 - 10


def group_of(key: int) -> int | None:
    return None if key % 5 == 0 else key % 3


def keys_column(keys: list[int], text: bool) -> Column:
    return Column(pa.array([f"{key:03}" for key in keys], pa.large_string()) if text else np.array(keys, np.int64))


def hits_of(answers: list[Answer], metric: Metric, text: bool, grouped: bool) -> tuple[Hits, list[list[int]]]:
    """One search's hits, and for each query its keys in order."""
    ordered = [sorted(one, key=lambda key: (one[key] * (-1 if metric.larger_is_better else 1), key)) for one in answers]
    flat = [key for keys in ordered for key in keys]
    groups = [group_of(key) for key in flat]
    return Hits(
        counts=np.array([len(keys) for keys in ordered], np.int64),
        keys=keys_column(flat, text),
        scores=np.array([one[key] for one, keys in zip(answers, ordered, strict=True) for key in keys], f4),
        fields={AGE: Column(np.array([age_of(key) for key in flat], np.int64))},
        groups=Column(
            np.array([group or 0 for group in groups], np.int64), np.array([group is not None for group in groups])
        )
        if grouped
        else None,
        read_timestamp=3,
        searched_row_count=len(flat),
    ), ordered


# --- the dumb one ---------------------------------------------------------------------------------------------------
def normal(score: float, metric: Metric) -> float:
    if metric is Metric.COSINE:
        return (1 + score) / 2
    if metric is Metric.IP:
        return 0.5 + math.atan(score) / math.pi
    if metric is Metric.BM25:
        return 2 * math.atan(score) / math.pi
    return 1 - 2 * math.atan(score) / math.pi


def said(ranker: AnyRanker, number: int, place: int, score: float, metrics: list[Metric]) -> Any:
    metric = metrics[number]
    if isinstance(ranker, ReciprocalRank):
        return f4(1) / (f4(ranker.k) + f4(place))
    if isinstance(ranker, Weighted):
        turned = ranker.normalises or (are_mixed(metrics) and not is_similarity(metric))
        return f4(ranker.weights[number]) * f4(normal(score, metric) if turned else score)
    return f4(normal(score, metric) if ranker.normalises or not is_similarity(metric) else score)


def factor(ranker: AnyRanker, key: int) -> Any:
    if not isinstance(ranker, Decay):
        return f4(1)
    away = max(0.0, abs(age_of(key) - ranker.origin) - ranker.offset)
    if ranker.shape == "gauss":
        return f4(math.exp(away * away * math.log(ranker.decay) / ranker.scale**2))
    if ranker.shape == "exp":
        return f4(math.exp(away * math.log(ranker.decay) / ranker.scale))
    return f4(max(ranker.decay, 1 - away * (1 - ranker.decay) / ranker.scale))


def fused_one(
    ranker: AnyRanker, orders: list[list[int]], answers: list[Answer], metrics: list[Metric]
) -> dict[int, Any]:
    collected: dict[int, list[Any]] = {}
    for number, order in enumerate(orders):
        for place, key in enumerate(order, 1):
            collected.setdefault(key, []).append(said(ranker, number, place, answers[number][key], metrics))
    out = {}
    for key, parts in collected.items():
        total = f4(0)
        for part in parts:
            total = f4(total + part)
        merged = {SUM: total, MAX: max(parts), AVERAGE: f4(total / f4(len(parts)))}[ranker.merge]
        out[key] = f4(merged * factor(ranker, key))
    return out


def descends(ranker: AnyRanker, metrics: list[Metric]) -> bool:
    if not isinstance(ranker, Weighted) or ranker.normalises:
        return True
    return any(is_similarity(metric) for metric in metrics)


def in_groups(order: list[int], scores: dict[int, Any], size: int, scorer: str, sign: int) -> list[int]:
    groups: dict[int | None, list[int]] = {}
    for key in order:
        members = groups.setdefault(group_of(key), [])
        if len(members) < size:
            members.append(key)

    def rank(members: list[int]) -> tuple[Any, int, int]:
        total = f4(0)
        for key in members:
            total = f4(total + scores[key])
        score = {MAX: scores[members[0]], SUM: total, AVERAGE: f4(total / f4(len(members)))}[scorer]
        return (round(float(sign * score), 4), -len(members), members[0])

    return [key for members in sorted(groups.values(), key=rank) for key in members]


# --- properties -----------------------------------------------------------------------------------------------------
def rankers(count: int) -> st.SearchStrategy[AnyRanker]:
    weight = st.sampled_from([0.0, 0.25, 0.5, 1.0])
    return st.one_of(
        st.builds(ReciprocalRank, st.sampled_from([0.5, 1.0, 60.0])),
        st.builds(Weighted, st.tuples(*[weight] * count), st.booleans()),
        st.builds(
            Decay,
            shape=st.sampled_from(["gauss", "exp", "linear"]),
            origin=st.sampled_from([-5.0, 0.0, 12.0]),
            scale=st.sampled_from([0.5, 4.0]),
            offset=st.sampled_from([0.0, 3.0]),
            decay=st.sampled_from([0.1, 0.5]),
            normalises=st.booleans(),
            merge=st.sampled_from([SUM, MAX, AVERAGE]),
            input_field_id=st.just(AGE),
        ),
    )


@pytest.mark.slow
@given(st.data(), st.integers(1, 4), st.integers(1, 3), st.booleans())
def test_fusion(data: Any, searches: int, queries: int, text: bool) -> None:
    metrics = [data.draw(METRICS) for _ in range(searches)]
    ranker = data.draw(rankers(searches))
    answer = st.dictionaries(st.integers(0, 9), SCORES, max_size=6)
    answers = [[data.draw(answer) for _ in range(queries)] for _ in range(searches)]
    made = [hits_of(one, metric, text, False) for one, metric in zip(answers, metrics, strict=True)]
    fused = fuse([hits for hits, _ in made], metrics, ranker)

    sign = -1 if descends(ranker, metrics) else 1
    start = 0
    for query, count in enumerate(fused.counts.tolist()):
        expected = fused_one(ranker, [orders[query] for _, orders in made], [one[query] for one in answers], metrics)
        keys = [int(key) for key in fused.keys.slice(start, start + count).values.tolist()]
        scores = fused.scores[start : start + count]
        assert sorted(keys) == sorted(expected)
        np.testing.assert_allclose(scores, [expected[key] for key in keys], rtol=1e-5, atol=1e-7)
        hits = list(zip((sign * scores).tolist(), keys, strict=True))
        assert hits == sorted(hits)
        assert fused.fields.get(AGE) is None or fused.fields[AGE].values[start : start + count].tolist() == [
            age_of(key) for key in keys
        ]
        start += count
    assert start == len(fused.keys)
    assert fused.searched_row_count == sum(hits.searched_row_count for hits, _ in made) or not start


@given(st.data(), st.integers(1, 3), st.integers(1, 3), st.sampled_from([MAX, SUM, AVERAGE]))
def test_fusion_in_groups(data: Any, searches: int, size: int, scorer: str) -> None:
    # Powers of two: sums are exact whatever their order, so ties are ties for both.
    metrics = [data.draw(st.sampled_from([Metric.IP, Metric.L2])) for _ in range(searches)]
    ranker = Weighted(tuple(data.draw(st.sampled_from([0.25, 0.5, 1.0])) for _ in range(searches)))
    metrics = [metrics[0]] * searches
    exact = st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0])
    answers = [[data.draw(st.dictionaries(st.integers(0, 12), exact, max_size=9))] for _ in range(searches)]
    made = [hits_of(one, metric, False, True) for one, metric in zip(answers, metrics, strict=True)]
    fused = fuse([hits for hits, _ in made], metrics, ranker, GroupOrder(size, scorer))

    sign = -1 if descends(ranker, metrics) else 1
    scores = fused_one(ranker, [orders[0] for _, orders in made], [one[0] for one in answers], metrics)
    order = sorted(scores, key=lambda key: (sign * scores[key], key))
    expected = in_groups(order, scores, size, scorer, sign)
    if scorer == AVERAGE:  # thirds are not exact: groups as close as that may change places
        assert sorted(fused.keys.values.tolist()) == sorted(expected)
    else:
        assert fused.keys.values.tolist() == expected


@pytest.mark.parametrize("metric", list(Metric))
def test_normalised_scores_order_as_the_metric_does(metric: Metric) -> None:
    scores = np.array([-1.0, -0.5, 0.0, 0.25, 1.0], f4)
    hits = [hits_of([dict(enumerate(scores.tolist()))], metric, False, False)[0]]
    fused = fuse(hits, [metric], Weighted((1.0,), True))
    assert fused.keys.values.tolist() == (([4, 3, 2, 1, 0]) if is_similarity(metric) else [0, 1, 2, 3, 4])
