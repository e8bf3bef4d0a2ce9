"""The history of a local store: bounded in revisions and bytes, and honest about what it forgot."""

from __future__ import annotations

import asyncio

import pytest

from elanus.base.doors import Doors
from elanus.base.limits import META_VALUE_BYTES_MAX
from elanus.meta.memory import open_memory
from elanus.meta.state import HISTORY_BYTES_MAX, HISTORY_REVISIONS_MAX, State
from elanus.meta.store import CompactedError, Put
from elanus.testing import clock


def change(state: State, key: str, value: bytes = b"") -> None:
    staged = state.stage((Put(key, value),))
    assert staged is not None
    state.apply(staged)


def test_history_is_bounded_by_revisions() -> None:
    state = State((), 7)
    for number in range(HISTORY_REVISIONS_MAX + 10):
        change(state, f"k{number % 5}")
    assert state.revision == 7 + HISTORY_REVISIONS_MAX + 10
    assert state.floor == 7 + 10
    assert [batch.revision for batch in state.changes_after(17, 3)] == [18, 19, 20]
    with pytest.raises(CompactedError):
        state.changes_after(16, 3)
    assert state.changes_after(state.revision, 3) == []


def test_history_is_bounded_by_bytes() -> None:
    state = State()
    count = HISTORY_BYTES_MAX // META_VALUE_BYTES_MAX + 5
    for _ in range(count):
        change(state, "k", bytes(META_VALUE_BYTES_MAX))
    assert count - state.floor <= HISTORY_BYTES_MAX // META_VALUE_BYTES_MAX
    assert len(state.changes_after(state.floor, 1000)) == count - state.floor


def test_a_reader_that_falls_behind_is_told() -> None:
    async def scenario(doors: Doors) -> None:
        store = open_memory(doors)
        await store.transact((), (Put("a", b""),))
        changes = aiter(store.watch("", 0))
        assert (await anext(changes)).revision == 1
        for number in range(HISTORY_REVISIONS_MAX + 200):
            await store.transact((), (Put("a", b"%d" % number),))
        with pytest.raises(CompactedError):
            while True:
                await anext(changes)
        taken = await store.snapshot("")
        later = asyncio.ensure_future(anext(aiter(store.watch("", taken.revision))))
        await store.transact((), (Put("b", b""),))
        assert (await later).events[0].key == "b"
        await store.close()

    clock.run(scenario)
