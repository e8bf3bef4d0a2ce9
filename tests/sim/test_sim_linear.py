"""The checker of client histories, against a dumb twin that tries every order."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from elanus.testing.sim.linear import FOREVER, ClientHistory, Inconsistent, Read, Write, check, explained


def write(value: int | None, begun: int, ended: int = FOREVER) -> Write:
    return Write("w", 1, value, begun, ended, float("inf") if ended == FOREVER else float(ended))


def read(value: int | None, begun: int, ended: int, level: str = "STRONG", client: str = "r") -> Read:
    return Read(client, 1, value, begun, ended, float(begun), level)


def explained_by_brute_force(writes: Sequence[Write], reads: Sequence[Read]) -> bool:
    """Every subset of the unknown writes, every order that keeps real time."""
    known = [one for one in writes if one.ended < FOREVER]
    unknown = [one for one in writes if one.ended == FOREVER]
    for chosen in range(1 << len(unknown)):
        steps: list[Write | Read] = [*known, *reads]
        steps += [one for number, one in enumerate(unknown) if chosen >> number & 1]
        if any(_fits(order) for order in permutations(steps)):
            return True
    return False


def _fits(order: Sequence[Write | Read]) -> bool:
    value: int | None = None
    for number, step in enumerate(order):
        if any(later.ended < step.begun for later in order[number + 1 :]):
            return False
        if isinstance(step, Write):
            value = step.value
        elif step.value != value:
            return False
    return True


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Write], list[Read]]:
    """Up to three writes and three reads with overlapping times."""
    times = list(range(1, 13))
    writes, reads = [], []
    for number in range(draw(st.integers(0, 3))):
        begun = draw(st.sampled_from(times))
        ended = draw(st.sampled_from([*[one for one in times if one > begun], FOREVER]))
        writes.append(write(draw(st.sampled_from([number + 1, None])), 2 * begun, min(FOREVER, 2 * ended + 1)))
    for _ in range(draw(st.integers(0, 3))):
        begun = draw(st.sampled_from(times[:-1]))
        ended = draw(st.sampled_from([one for one in times if one > begun]))
        reads.append(read(draw(st.sampled_from([None, 1, 2, 3])), 2 * begun, 2 * ended + 1))
    return writes, reads


@given(histories())
def test_it_agrees_with_trying_every_order(history: tuple[list[Write], list[Read]]) -> None:
    writes, reads = history
    assert explained(writes, reads) == explained_by_brute_force(writes, reads)


def noted(writes: Sequence[Write], reads: Sequence[Read]) -> ClientHistory:
    history = ClientHistory()
    for one in writes:
        history.wrote(one)
    for another in reads:
        history.read(another)
    return history


@pytest.mark.parametrize(
    ("writes", "reads"),
    [
        pytest.param([write(1, 1, 2)], [read(None, 3, 4)], id="lost"),
        pytest.param([write(1, 1, 2)], [read(2, 3, 4)], id="never-written"),
        pytest.param([write(1, 1, 2), write(2, 3, 4)], [read(1, 5, 6)], id="stale"),
        pytest.param([write(1, 1, 2), write(None, 3, 4)], [read(1, 5, 6)], id="revived"),
        pytest.param([write(1, 1, 2), write(2, 3)], [read(2, 5, 6), read(1, 7, 8)], id="back-in-time"),
        pytest.param([write(1, 1, 2)], [read(None, 3, 4, "SESSION", "w")], id="own-write-unseen"),
        pytest.param([write(1, 1, 2)], [read(None, 30, 31, "BOUNDED")], id="older-than-bounded"),
        pytest.param([write(1, 1, 2)], [read(7, 3, 4, "EVENTUALLY")], id="eventually-of-nothing"),
    ],
)
def test_what_breaks_a_promise_is_told(writes: list[Write], reads: list[Read]) -> None:
    with pytest.raises(Inconsistent):
        check(noted(writes, reads), 5.0)


@pytest.mark.parametrize(
    ("writes", "reads"),
    [
        pytest.param([write(1, 1)], [read(None, 3, 4), read(1, 5, 6)], id="unknown-lands-late"),
        pytest.param([write(1, 1, 2)], [read(None, 3, 4, "SESSION")], id="session-of-another"),
        pytest.param([write(1, 1, 2)], [read(None, 6, 7, "BOUNDED")], id="within-bounded"),
        pytest.param([write(1, 1, 2), write(2, 3, 4)], [read(1, 9, 10, "EVENTUALLY")], id="eventually"),
        pytest.param([write(1, 1, 4), write(2, 2, 5)], [read(2, 6, 7), read(2, 8, 9)], id="either-order"),
    ],
)
def test_what_keeps_it_passes(writes: list[Write], reads: list[Read]) -> None:
    check(noted(writes, reads), 5.0)


def test_counts_are_bounded() -> None:
    history = noted([write(1, 1, 2), write(None, 3)], [])
    assert history.bounds([1, 2], 5, 6) == (0, 1)
    assert noted([write(1, 1, 2)], []).bounds([1, 2], 5, 6) == (1, 1)
