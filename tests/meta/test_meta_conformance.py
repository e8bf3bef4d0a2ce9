"""Every MetaStore of one process does what the port says."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from meta_worlds import Harness, play

from elanus.testing.cases import case_name
from elanus.testing.conformance_meta import CASES, Case, Step, check_history, histories, keys, put

KINDS = ("memory", "sqlite")


@pytest.mark.parametrize("case", CASES, ids=case_name)
@pytest.mark.parametrize("kind", KINDS)
def test_case(kind: str, case: Case, tmp_path: Path) -> None:
    play(kind, tmp_path, case)


@settings(max_examples=60, deadline=None)
@given(history=histories())
def test_memory_history(history: list[Step]) -> None:
    async def scenario(harness: Harness) -> None:
        await check_history(harness.store, history)

    play("memory", Path(), scenario)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(first=histories(), second=histories())
def test_sqlite_history_survives_reopening(first: list[Step], second: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as folder:

        async def begin(harness: Harness) -> None:
            twin = await check_history(harness.store, first)
            kept.extend(sorted(twin.items.values(), key=lambda item: item.key))
            revisions.append(twin.revision if twin.log else 0)

        async def go_on(harness: Harness) -> None:
            taken = await harness.store.snapshot("")
            assert list(taken.items) == kept
            assert taken.revision > revisions[0]
            await check_history(harness.store, second)

        kept: list[object] = []
        revisions: list[int] = []
        play("sqlite", Path(folder), begin)
        play("sqlite", Path(folder), go_on)


def test_leases_outlast_a_sleep_of_the_machine() -> None:
    async def scenario(harness: Harness) -> None:
        store = harness.store
        lease = await store.grant(10)
        revision = await put(store, "l", b"", lease)
        for _ in range(3):
            await asyncio.sleep(0)
            harness.clock.suspend(3600)
            await harness.clock.advance(3)
            await store.keep_alive(lease)
            await put(store, "l", b"", lease)
        assert await keys(store) == ["l"]
        await harness.clock.advance(11)
        batch = await anext(aiter(store.watch("", revision + 3)))
        assert batch.events[0].item is None

    play("memory", Path(), scenario)
