"""The disk cache in front of a remote store: the port's promises, its limits, and that it may be wiped or damaged."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from elanus.base.doors import Doors
from elanus.base.errors import StorageError
from elanus.base.real import real_doors
from elanus.model.segment import FileRef
from elanus.objects.cache import CachedObjectStore, CacheLimits, open_cache
from elanus.objects.checksums import checksum, map_verified
from elanus.objects.memory import MemoryObjectStore
from elanus.testing import clock
from elanus.testing.cases import case_name
from elanus.testing.conformance_objects import CASES, Case

SMALL = CacheLimits(disk_bytes_max=3_000_000, memory_bytes_max=20_000, memory_object_bytes_max=6_000)
NO_MEMORY = CacheLimits(disk_bytes_max=100_000, memory_bytes_max=0, memory_object_bytes_max=-1)


class Counting(MemoryObjectStore):
    """A remote store that counts what is read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.down = False

    async def get(self, key: str) -> bytes:
        self._count()
        return await super().get(key)

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        self._count()
        await asyncio.sleep(0)
        return (await super().get(key))[offset : offset + length]

    def _count(self) -> None:
        self.reads += 1
        if self.down:
            raise StorageError("the store is down")


def play(folder: Path, scenario: Callable[[Doors], Awaitable[None]]) -> None:
    async def main() -> None:
        failures: list[object] = []
        doors = real_doors(lambda *failure: failures.append(failure))
        try:
            await scenario(doors)
        finally:
            doors.close()
        assert not failures

    asyncio.run(main())


@pytest.mark.parametrize("case", CASES, ids=case_name)
@pytest.mark.parametrize("limits", [SMALL, NO_MEMORY], ids=["small", "no-memory"])
def test_case(case: Case, limits: CacheLimits, tmp_path: Path) -> None:
    async def scenario(doors: Doors) -> None:
        await case(await open_cache(doors, MemoryObjectStore(), str(tmp_path / "cache"), limits))

    play(tmp_path, scenario)


def copies(folder: Path) -> list[Path]:
    return sorted((folder / "cache").glob("*"))


def test_an_object_is_fetched_once_however_many_ask(tmp_path: Path) -> None:
    async def scenario(doors: Doors) -> None:
        remote = Counting()
        data = bytes(range(256)) * 300
        await remote.put("a/b", data)
        store = await open_cache(doors, remote, str(tmp_path / "cache"), NO_MEMORY)
        found = await asyncio.gather(*(store.map("a/b") for _ in range(10)))
        assert all(one == data for one in found) and remote.reads == 1
        remote.down = True
        assert await store.get("a/b") == data and await store.get_range("a/b", 5, 7) == data[5:12]
        ref = FileRef("a/b", len(data), checksum(data))
        assert await map_verified(doors, store, ref) == data
        path = store.local_path("a/b")
        assert path is not None and doors.files.read(path) == data

    play(tmp_path, scenario)


def test_the_limit_holds_and_the_least_recently_used_goes(tmp_path: Path) -> None:
    async def scenario(doors: Doors) -> None:
        remote = Counting()
        for number in range(20):
            await remote.put(f"o{number}", bytes([number]) * 10_000)
        store = await open_cache(doors, remote, str(tmp_path / "cache"), NO_MEMORY)
        held = await store.map("o0")
        for number in range(20):
            await store.map(f"o{number}")
            await store.map("o1") if number else None
            assert sum(path.stat().st_size for path in copies(tmp_path)) <= 100_000
            assert store.disk_bytes <= 100_000
        before = remote.reads
        assert await store.map("o1") == bytes([1]) * 10_000 and remote.reads == before, "used all the time"
        assert await store.map("o2") == bytes([2]) * 10_000 and remote.reads > before, "went long ago"
        assert held == bytes(10_000), "a mapping outlives its copy"
        await remote.put("huge", bytes(200_000))
        assert await store.map("huge") == bytes(200_000) and store.disk_bytes <= 100_000

    play(tmp_path, scenario)


def test_memory_has_a_limit_too(tmp_path: Path) -> None:
    async def scenario(doors: Doors) -> None:
        remote = Counting()
        for number in range(10):
            await remote.put(f"s{number}", bytes([number]) * 5_000)
        store = await open_cache(doors, remote, str(tmp_path / "cache"), SMALL)
        for number in range(10):
            assert await store.get(f"s{number}") == bytes([number]) * 5_000
        assert copies(tmp_path) == [], "small objects stay in memory"
        before = remote.reads
        assert await store.get("s9") and remote.reads == before
        assert await store.get("s0") and remote.reads == before + 1

    play(tmp_path, scenario)


def reopened(tmp_path: Path, spoil: Callable[[], None]) -> tuple[int, CachedObjectStore]:
    """Fill a cache, spoil its folder, and read everything through a new one; how often the remote store was asked."""
    found: list[tuple[int, CachedObjectStore]] = []

    async def scenario(doors: Doors) -> None:
        remote = Counting()
        contents = {f"o{number}": bytes([number]) * 10_000 for number in range(5)}
        for key, data in contents.items():
            await remote.put(key, data)
        first = await open_cache(doors, remote, str(tmp_path / "cache"), NO_MEMORY)
        for key in contents:
            await first.map(key)
        spoil()
        remote.reads = 0
        second = await open_cache(doors, remote, str(tmp_path / "cache"), NO_MEMORY)
        for _ in range(2):
            for key, data in contents.items():
                assert await second.map(key) == data
        found.append((remote.reads, second))

    play(tmp_path, scenario)
    return found[0]


def test_copies_are_used_by_the_next_process(tmp_path: Path) -> None:
    assert reopened(tmp_path, lambda: None)[0] == 0


def test_damaged_cut_and_foreign_files_are_fetched_again(tmp_path: Path) -> None:
    def spoil() -> None:
        first, second, *_ = copies(tmp_path)
        damaged = bytearray(first.read_bytes())
        damaged[77] ^= 1
        first.write_bytes(damaged)
        second.write_bytes(second.read_bytes()[:-1])
        (tmp_path / "cache" / "junk.part").write_bytes(b"x" * 99)

    reads, store = reopened(tmp_path, spoil)
    assert reads == 2 and store.disk_bytes == 50_000
    assert len(copies(tmp_path)) == 5


def test_a_folder_wiped_while_in_use_is_filled_again(tmp_path: Path) -> None:
    async def scenario(doors: Doors) -> None:
        remote = Counting()
        await remote.put("a", b"x" * 9_000)
        store = await open_cache(doors, remote, str(tmp_path / "cache"), NO_MEMORY)
        for _ in range(3):
            assert await store.map("a") == b"x" * 9_000
            for path in copies(tmp_path):
                path.unlink()
            (tmp_path / "cache").rmdir()
        assert await store.get_range("a", 0, 5) == b"xxxxx"

    play(tmp_path, scenario)


def test_a_failed_fetch_leaves_nothing_behind(tmp_path: Path) -> None:
    async def scenario(doors: Doors) -> None:
        remote = Counting()
        await remote.put("a", b"x" * 9_000)
        store = await open_cache(doors, remote, str(tmp_path / "cache"), NO_MEMORY)
        remote.down = True
        with pytest.raises(StorageError):
            await store.map("a")
        assert copies(tmp_path) == [] and store.disk_bytes == 0
        remote.down = False
        asking = asyncio.ensure_future(store.map("a"))
        await asyncio.sleep(0)
        waiting = asyncio.ensure_future(store.map("a"))
        await asyncio.sleep(0)
        asking.cancel()
        assert await waiting == b"x" * 9_000

    play(tmp_path, scenario)


def test_on_a_disk_that_is_full_objects_are_served_without_copies() -> None:
    async def scenario(doors: Doors) -> None:
        remote = Counting()
        await remote.put("a", b"x" * 9_000)
        store = await open_cache(doors, remote, "/cache", NO_MEMORY)
        doors.files.capacity_bytes = 10  # type: ignore[attr-defined]
        assert await store.map("a") == b"x" * 9_000

    clock.run(scenario)
