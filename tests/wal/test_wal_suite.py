"""The log suite, on every store."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from log_harness import FileHarness, MemoryHarness, ObjectHarness

from elanus.base.doors import Doors
from elanus.base.real import real_doors
from elanus.objects.memory import MemoryObjectStore
from elanus.objects.posix import open_posix
from elanus.testing.cases import case_name
from elanus.testing.clock import run
from elanus.testing.conformance_log import CASES, Case

cases = pytest.mark.parametrize("case", CASES, ids=case_name)
SIZES = pytest.mark.parametrize("file_bytes_max", [300, 1 << 26], ids=["rolling", "one-file"])


@cases
@pytest.mark.parametrize("pause_s", [0.0, 0.01])
def test_memory(case: Case, pause_s: float) -> None:
    run(lambda doors: case(MemoryHarness(doors, pause_s)))


@cases
@SIZES
@pytest.mark.parametrize("seed", range(3))
def test_file_on_the_forgetting_disk(case: Case, file_bytes_max: int, seed: int) -> None:
    async def main(doors: Doors) -> None:
        await case(FileHarness(doors, "/store/wal", file_bytes_max))

    run(main, seed)


@cases
@SIZES
def test_file_on_the_real_disk(case: Case, file_bytes_max: int, tmp_path: Path) -> None:
    failures: list[object] = []

    async def main() -> None:
        doors = real_doors(lambda *failure: failures.append(failure))
        await case(FileHarness(doors, str(tmp_path / "wal"), file_bytes_max))
        await doors.stop_tasks()
        doors.close()

    asyncio.run(main())
    assert not failures


@cases
@pytest.mark.parametrize("seed", range(3))
def test_objects_in_memory(case: Case, seed: int) -> None:
    async def main(doors: Doors) -> None:
        await case(ObjectHarness(doors, MemoryObjectStore()))

    run(main, seed)


@cases
def test_objects_on_the_forgetting_disk(case: Case) -> None:
    async def main(doors: Doors) -> None:
        await case(ObjectHarness(doors, await open_posix(doors, "/store/objects")))

    run(main)
