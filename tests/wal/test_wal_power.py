"""Power cuts, kills and disk faults at every point: what was acknowledged stays, and nothing stays half."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elanus.base.doors import Doors
from elanus.base.errors import DiskFullError, ElanusError, OutcomeUnknownError, StorageError
from elanus.model.channel import ORIGIN, Position
from elanus.testing.cases import raises
from elanus.testing.clock import run
from elanus.testing.conformance_log import PCHANNEL, Flight, Twin, confirmed, everything
from elanus.testing.disk import ForgettingDisk, Point, PowerCut
from elanus.wal.file import FileLog

FOLDER = "/store/wal"
FILE_BYTES_MAX = 400

Append = tuple[int, ...]
"""Batches in flight at once, each given by its number of records. An empty one means: truncate."""


class Life(NamedTuple):
    """One process: what it does, how it ends and after how many points, and what luck the crash has."""

    steps: tuple[Append, ...]
    ending: str
    points: int = 0
    seed: int = 0


@dataclass
class World:
    """A disk, the twin of the log on it, the last term, and whether the last life's end met it at work."""

    disk: ForgettingDisk = field(default_factory=ForgettingDisk)
    twin: Twin = field(default_factory=Twin)
    term: int = 0
    struck: bool = False

    def live(self, life: Life) -> None:
        """One process on the disk, from its open to its end."""
        self.disk.hook, self.struck = self._hook(life), False
        with suppress(PowerCut):
            run(lambda doors: self._serve(doors, life), life.seed, files=self.disk)
        if life.ending == "cut":
            self.disk = self.disk.crash(life.seed)
        else:
            self.disk.restart()

    def _hook(self, life: Life):  # type: ignore[no-untyped-def]
        limit = self.disk.points + life.points

        def end_it(point: Point) -> None:
            if life.ending in ("cut", "kill") and point.number >= limit:
                self.struck = True
                raise PowerCut
            if life.ending == "fault" and point.number >= limit and point.verb in ("append", "sync"):
                self.struck = True
                raise StorageError("the disk answered with an error")

        return end_it

    async def _serve(self, doors: Doors, life: Life) -> None:
        self.term += 1
        log = FileLog(doors, FOLDER, file_bytes_max=FILE_BYTES_MAX)
        try:
            writer = await log.open(PCHANNEL, self.term, self.twin.floor, confirmed)
        except StorageError:
            assert life.ending == "fault"
            return
        self.twin.settle(await everything(log, self.twin.below_floor()))
        flight = Flight(self.twin, writer)
        for number, step in enumerate(life.steps):
            if not step:
                await log.truncate(PCHANNEL, self.twin.truncate())
            elif not await flight.append_all([_batch(self.term, number, *one) for one in enumerate(step)]):
                return
        if life.ending == "close":
            await writer.close()


def _batch(term: int, step: int, which: int, size: int) -> tuple[bytes, ...]:
    return tuple(f"{term}.{step}.{which}.{record}".encode() * (record * 7 + 1) for record in range(size))


steps = st.lists(st.lists(st.integers(1, 4), max_size=4).map(tuple), max_size=6).map(tuple)
lives = st.builds(
    Life, steps, st.sampled_from(["cut", "cut", "kill", "close", "fault"]), st.integers(0, 60), st.integers(0, 1 << 20)
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.lists(lives, min_size=1, max_size=6))
def test_any_story_keeps_what_was_acknowledged(story: list[Life]) -> None:
    world = World()
    for life in story:
        world.live(life)
    world.live(Life((), "close"))


@pytest.mark.parametrize("crash_seed", [0, *(pytest.param(seed, marks=pytest.mark.drill) for seed in range(1, 8))])
@pytest.mark.slow
@pytest.mark.parametrize("ending", ["cut", "kill", "fault"])
def test_a_cut_at_every_point(ending: str, crash_seed: int) -> None:
    """Life 1 closes well, life 2 is killed with a tail in the page cache, life 3 ends at each point in turn."""
    busy: tuple[Append, ...] = ((1, 3), (2,), (1, 1, 1), (), (4, 4), (2,), ())
    for points in range(200):
        world = World()
        world.live(Life(busy, "close"))
        world.live(Life(busy, "kill", 31))
        world.live(Life(busy, ending, points, crash_seed + 31 * points))
        done = not world.struck
        world.live(Life(((1,),), "cut", 1000, crash_seed))
        world.live(Life((), "close"))
        if done:
            break
    assert points > 30


def test_a_full_disk_refuses_in_time_and_serves_again() -> None:
    disk = ForgettingDisk(capacity_bytes=1000)

    async def main(doors: Doors) -> None:
        log = FileLog(doors, FOLDER)
        writer = await log.open(PCHANNEL, 1, ORIGIN, confirmed)
        await writer.append([b"x" * 300])
        await raises(DiskFullError, writer.append([b"y" * 900]))
        await raises(DiskFullError, writer.append([b"z"]))
        disk.capacity_bytes = 10_000
        second = await log.open(PCHANNEL, 2, ORIGIN, confirmed)
        assert second.report.cut_bytes == 0
        await second.append([b"y" * 900])
        assert [len(record) for _, record in await everything(log)] == [300, 900]

    run(main, files=disk)


def test_a_disk_that_fills_up_half_way_leaves_no_half_batch() -> None:
    """Somebody else takes the room between the look and the write: the batch is refused, its half is cut."""
    disk = ForgettingDisk(capacity_bytes=10_000)

    def somebody_else_writes(point: Point) -> None:
        if point.verb == "append" and point.phase == "before" and disk.size(point.path) > 300:
            disk.capacity_bytes = disk.size(point.path) + 100

    async def main(doors: Doors) -> None:
        log = FileLog(doors, FOLDER)
        writer = await log.open(PCHANNEL, 1, ORIGIN, confirmed)
        await writer.append([b"x" * 300])
        disk.hook = somebody_else_writes
        await raises(DiskFullError, writer.append([b"y" * 900]))
        disk.hook, disk.capacity_bytes = None, 10_000
        second = await log.open(PCHANNEL, 2, ORIGIN, confirmed)
        assert (second.report.cut_bytes, second.end) == (100, Position(1, 0, 0))

    run(main, files=disk)


def test_a_full_disk_at_the_open_changes_nothing() -> None:
    disk = ForgettingDisk(capacity_bytes=1000)

    async def main(doors: Doors) -> None:
        log = FileLog(doors, FOLDER)
        writer = await log.open(PCHANNEL, 1, ORIGIN, confirmed)
        await writer.append([b"x" * 600])
        await raises(DiskFullError, log.open(PCHANNEL, 2, ORIGIN, confirmed))
        disk.capacity_bytes = 5000
        await log.open(PCHANNEL, 3, ORIGIN, confirmed)
        assert [len(record) for _, record in await everything(log)] == [600]

    run(main, files=disk)


def test_a_failed_sync_is_never_believed() -> None:
    """The batch is seen by readers after the failure, and would be gone after a power cut: the opener copies it."""
    disk = ForgettingDisk()

    def fail_sync(point: Point) -> None:
        if point.verb == "sync":
            raise StorageError("input/output error")

    async def main(doors: Doors) -> None:
        log = FileLog(doors, FOLDER)
        writer = await log.open(PCHANNEL, 1, ORIGIN, confirmed)
        await writer.append([b"one"])
        disk.hook = fail_sync
        await raises(OutcomeUnknownError, writer.append([b"two"]))
        await raises(StorageError, writer.append([b"three"]))
        disk.hook = None
        second = await FileLog(doors, FOLDER).open(PCHANNEL, 2, ORIGIN, confirmed)
        assert second.end == Position(1, 1, 0)

    async def after(doors: Doors) -> None:
        log = FileLog(doors, FOLDER)
        await log.open(PCHANNEL, 3, ORIGIN, confirmed)
        assert [record for _, record in await everything(log)] == [b"one", b"two"]

    run(main, files=disk)
    for seed in range(10):
        run(after, files=disk.crash(seed))


def test_a_guard_that_refuses_ends_the_writer_before_a_byte_is_written() -> None:
    refusing: Sequence[ElanusError] = []

    def guard() -> None:
        for error in refusing:
            raise error

    async def main(doors: Doors) -> None:
        log = FileLog(doors, FOLDER, guard=guard)
        writer = await log.open(PCHANNEL, 1, ORIGIN, confirmed)
        await writer.append([b"x"])
        size = doors.files.size(f"{FOLDER}/{PCHANNEL}/{doors.files.list(f'{FOLDER}/{PCHANNEL}')[0]}")
        refusing.append(StorageError("not ours any more"))  # type: ignore[attr-defined]
        await raises(StorageError, writer.append([b"y"]))
        assert doors.files.size(f"{FOLDER}/{PCHANNEL}/{doors.files.list(f'{FOLDER}/{PCHANNEL}')[0]}") == size

    run(main)
