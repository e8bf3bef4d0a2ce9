"""The folder store on a disk that loses power, fills up and fails, at every point where it can."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elanus.base.doors import Doors
from elanus.base.errors import DiskFullError, ElanusError, StorageError
from elanus.objects.posix import open_posix
from elanus.objects.store import ObjectExistsError
from elanus.testing import clock
from elanus.testing.conformance_objects import contents
from elanus.testing.disk import ForgettingDisk, Point, PowerCut

ROOT = "/volume/objects"
PUTS = {"a/one": b"1" * 3000, "a/two.bin": b"2" * 10, "b/c/three": b"3" * 700, "four": b""}


async def put_all(doors: Doors, answered: dict[str, bytes]) -> None:
    """Open and put everything, noting what was answered."""
    store = await open_posix(doors, ROOT)
    for key, data in PUTS.items():
        await store.put(key, data)
        answered[key] = data


def points_of(work: Callable[[Doors], Awaitable[None]]) -> int:
    """How many points the work passes on a healthy disk."""
    disk = ForgettingDisk()
    clock.run(work, files=disk)
    return disk.points


async def everything(doors: Doors) -> None:
    await put_all(doors, {})


POINTS = points_of(everything)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, POINTS), seed=st.integers(0, 1000))
def test_power_cuts_lose_no_answered_put(at: int, seed: int) -> None:
    """What was answered is there whole after a cut; what was not is there whole or not at all; putting again works."""

    def cut(point: Point) -> None:
        if point.number == at:
            raise PowerCut

    answered: dict[str, bytes] = {}

    async def before(doors: Doors) -> None:
        try:
            await put_all(doors, answered)
        except PowerCut:
            return

    disk = ForgettingDisk(hook=cut)
    clock.run(before, files=disk)
    found_disk = disk.crash(seed)

    async def after(doors: Doors) -> None:
        store = await open_posix(doors, ROOT)
        found = await contents(store)
        assert answered.items() <= found.items() <= PUTS.items()
        assert doors.files.list(f"{ROOT}/.temporary") == []
        for key, data in PUTS.items():
            await store.put(key, data)
        assert await contents(store) == PUTS

    clock.run(after, files=found_disk)
    again = found_disk.crash(seed)
    clock.run(after, files=again)


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, POINTS), seed=st.integers(0, 1000), full=st.booleans())
def test_failures_are_told_and_end_writing(at: int, seed: int, full: bool) -> None:
    """After a disk error no later put is answered, unless the error proves that nothing was done (a full disk); and
    whatever was answered survives a power cut."""

    def fail(point: Point) -> None:
        if point.number == at and point.phase == "before":
            raise DiskFullError("full") if full else StorageError("broken")

    answered: dict[str, bytes] = {}

    async def before(doors: Doors) -> None:
        try:
            store = await open_posix(doors, ROOT)
        except ElanusError:
            return
        failed = False
        for key, data in PUTS.items():
            try:
                await store.put(key, data)
                assert not failed, "a put was answered after a failed sync"
                answered[key] = data
            except DiskFullError:
                assert full
                await store.put(key, data)
                answered[key] = data
            except StorageError:
                failed = True
                assert answered.items() <= (await contents(store)).items()

    disk = ForgettingDisk(hook=fail)
    clock.run(before, files=disk)

    async def after(doors: Doors) -> None:
        found = await contents(await open_posix(doors, ROOT))
        assert answered.items() <= found.items() <= PUTS.items()

    clock.run(after, files=disk.crash(seed))


def test_folders_are_made_durable_by_each_process() -> None:
    """A folder may have been created just before a crash, its own name not yet durable: whoever puts into it first
    makes sure, before the object's name is answered for."""

    async def scenario(doors: Doors) -> None:
        for _ in range(2):
            seen.clear()
            store = await open_posix(doors, ROOT)
            await store.put("a/b/c/d", b"")
            synced = [point.path for point in seen if point.verb == "sync_directory" and point.phase == "after"]
            assert {ROOT, f"{ROOT}/a", f"{ROOT}/a/b"} <= set(synced) and synced[-1] == f"{ROOT}/a/b/c"
            count = len(synced)
            await store.delete("a/b/c/d")
            await store.put("a/b/c/d", b"")
            again = [point.path for point in seen if point.verb == "sync_directory" and point.phase == "after"]
            assert again[count:] == [f"{ROOT}/a/b/c"]

    seen: list[Point] = []
    clock.run(scenario, files=ForgettingDisk(hook=seen.append))


def test_a_full_disk_takes_smaller_objects() -> None:
    async def scenario(doors: Doors) -> None:
        store = await open_posix(doors, ROOT)
        await store.put("a", bytes(6000))
        with pytest.raises(DiskFullError):
            await store.put("b", bytes(6000))
        await store.put("c", bytes(3000))
        await store.delete("a")
        await store.put("b", bytes(6000))
        assert sorted(await contents(store)) == ["b", "c"]

    clock.run(scenario, files=ForgettingDisk(capacity_bytes=10_000))


@pytest.mark.parametrize("seed", range(20))
def test_an_equal_put_answers_for_itself(seed: int) -> None:
    """Two writers of the same bytes race; the power fails after the first answer: the object is there."""

    async def race(doors: Doors) -> None:
        store = await open_posix(doors, ROOT)
        puts = [asyncio.ensure_future(store.put("a/b", b"same")) for _ in range(2)]
        await asyncio.wait(puts, return_when=asyncio.FIRST_COMPLETED)
        disks.append(disk.crash(seed))
        await asyncio.gather(*puts, return_exceptions=True)

    async def look(doors: Doors) -> None:
        store = await open_posix(doors, ROOT)
        assert await store.get("a/b") == b"same"
        with pytest.raises(ObjectExistsError):
            await store.put("a/b", b"other")

    disk = ForgettingDisk()
    disks: list[ForgettingDisk] = []
    with suppress(PowerCut):
        clock.run(race, seed, files=disk)
    clock.run(look, files=disks[0])


def test_after_a_failed_sync_nothing_is_put_and_the_owner_hears_once() -> None:
    """The kernel may call pages clean that never reached the disk: a put that is tried again would succeed on air. The
    process that owns the store must end, for without puts nothing can be sealed any more."""
    told: list[StorageError] = []
    fails = [False]

    def hook(point: Point) -> None:
        if fails[0] and point.verb == "sync" and point.phase == "before":
            raise StorageError("sync failed")

    async def scenario(doors: Doors) -> None:
        store = await open_posix(doors, ROOT, told.append)
        await store.put("a", b"1")
        fails[0] = True
        with pytest.raises(StorageError, match="sync failed"):
            await store.put("b", b"2")
        fails[0] = False
        for _ in range(2):
            with pytest.raises(StorageError, match="no more writes"):
                await store.put("b", b"2")
        assert await store.get("a") == b"1"
        assert len(told) == 1

    clock.run(scenario, files=ForgettingDisk(hook=hook))
