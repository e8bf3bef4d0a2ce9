"""Every ObjectStore does what the port says: in memory, in a folder, and in a folder on the fake disk."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elanus.base.doors import Doors
from elanus.base.real import real_doors
from elanus.objects.memory import MemoryObjectStore
from elanus.objects.posix import open_posix
from elanus.objects.store import ObjectStore
from elanus.testing import clock
from elanus.testing.cases import case_name
from elanus.testing.conformance_objects import CASES, Case, Step, check_history, contents, histories


def play(kind: str, folder: Path, scenario: Callable[[ObjectStore], Awaitable[None]]) -> None:
    """Run the scenario on an empty store of that kind."""

    async def real() -> None:
        doors = real_doors(lambda name, error: None)
        try:
            await scenario(await open_posix(doors, str(folder / "objects")))
        finally:
            doors.close()

    async def virtual(doors: Doors) -> None:
        await scenario(await open_posix(doors, "/volume/objects"))

    async def memory(doors: Doors) -> None:
        await scenario(MemoryObjectStore())

    if kind == "posix":
        asyncio.run(real())
    else:
        clock.run(memory if kind == "memory" else virtual)


@pytest.mark.parametrize("case", CASES, ids=case_name)
@pytest.mark.parametrize("kind", ["memory", "posix", "fake disk"])
def test_case(kind: str, case: Case, tmp_path: Path) -> None:
    if kind == "fake disk" and case.__name__ == "local_files_hold_the_object":
        return
    play(kind, tmp_path, case)


@settings(max_examples=60, deadline=None)
@given(history=histories(), kind=st.sampled_from(["memory", "fake disk"]))
def test_history(history: list[Step], kind: str) -> None:
    async def scenario(store: ObjectStore) -> None:
        await check_history(store, history)

    play(kind, Path(), scenario)


@settings(max_examples=15, deadline=None)
@given(history=histories())
def test_posix_history_survives_reopening(history: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as name:
        kept: dict[str, bytes] = {}

        async def begin(store: ObjectStore) -> None:
            kept.update(await check_history(store, history))

        async def look(store: ObjectStore) -> None:
            assert await contents(store) == kept

        play("posix", Path(name), begin)
        play("posix", Path(name), look)
