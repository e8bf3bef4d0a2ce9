"""Torn tails, flipped bytes and missing files: cut what was never acknowledged, refuse what was."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from elanus.base.doors import Doors
from elanus.base.errors import CorruptedError, DiskFullError, OutcomeUnknownError
from elanus.base.events import Events, discard
from elanus.model.channel import ORIGIN, Position
from elanus.testing.clock import run
from elanus.testing.conformance_log import PCHANNEL, Entry, confirmed, entries, everything
from elanus.testing.disk import ForgettingDisk, Point
from elanus.wal.file import FileLog

ROOT = "/store/wal"
FOLDER = f"{ROOT}/{PCHANNEL}"
BATCHES = [[b"first", b"batch"], [b"second"], [b"third" * 5], [b"the last one", b"", b"of all"]]


def with_log(disk: ForgettingDisk, work: Callable[[FileLog], Awaitable[None]], file_bytes_max: int = 1 << 20) -> None:
    async def main(doors: Doors) -> None:
        await work(FileLog(doors, ROOT, file_bytes_max=file_bytes_max))

    run(main, files=disk)


def written(*, close: bool, file_bytes_max: int = 1 << 20) -> ForgettingDisk:
    """A disk with BATCHES in term 1, synced one by one; closed or killed."""
    disk = ForgettingDisk()

    async def work(log: FileLog) -> None:
        writer = await log.open(PCHANNEL, 1, ORIGIN, confirmed)
        for batch in BATCHES:
            await writer.append(batch)
        if close:
            await writer.close()

    with_log(disk, work, file_bytes_max)
    disk.restart()
    return disk


def paths(disk: ForgettingDisk) -> list[str]:
    return [f"{FOLDER}/{name}" for name in disk.list(FOLDER)]


def reopened(disk: ForgettingDisk, replay_from: Position = ORIGIN) -> tuple[list[Entry], str]:
    """What the next owner replays, and the file it reports as cut."""
    found: list[tuple[list[Entry], str]] = []

    async def work(log: FileLog) -> None:
        writer = await log.open(PCHANNEL, 9, replay_from, confirmed)
        found.append((await everything(log, replay_from), writer.report.cut_file))

    with_log(disk, work)
    return found[0]


@pytest.mark.slow
def test_a_tail_torn_at_any_byte_is_cut_and_reported() -> None:
    (path,) = paths(whole := written(close=False))
    sizes = [whole.size(path)]
    for count in (3, 4):
        for size in range(*last_frame(count)):
            disk = written(close=False)
            disk.cut(path, size)
            found, cut_file = reopened(disk)
            assert found == entries(1, BATCHES[: count - 1])
            assert bool(cut_file) == (size > last_frame(count)[0])
            assert cut_file in ("", path)
    assert last_frame(4)[1] == sizes[0]


def last_frame(count: int) -> tuple[int, int]:
    """Where the last of the first `count` batches begins and ends."""
    disk = ForgettingDisk()
    ends = [0]

    async def work(log: FileLog) -> None:
        writer = await log.open(PCHANNEL, 1, ORIGIN, confirmed)
        for batch in BATCHES[:count]:
            ends[0] = disk.size(paths(disk)[0])
            await writer.append(batch)

    with_log(disk, work)
    return ends[0], disk.size(paths(disk)[0])


@pytest.mark.slow
@pytest.mark.parametrize("close", [True, False], ids=["closed", "killed"])
@pytest.mark.parametrize("file_bytes_max", [1 << 20, 300], ids=["one-file", "rolled"])
def test_a_byte_flipped_below_the_mark_refuses_to_open(close: bool, file_bytes_max: int) -> None:
    whole = written(close=close, file_bytes_max=file_bytes_max)
    acknowledged = entries(1, BATCHES)
    refusals = 0
    for path in paths(whole):
        last = path == paths(whole)[-1]
        for offset in range(whole.size(path)):
            disk = written(close=close, file_bytes_max=file_bytes_max)
            disk.damage(path, offset)
            try:
                found, cut_file = reopened(disk)
            except CorruptedError as error:
                assert path in error.message and "offset" in error.message
                refusals += 1
                continue
            # Padding, the closing mark, or (killed before any mark says it was synced) the last batch itself.
            assert found == acknowledged or (last and not close and cut_file and found == acknowledged[:-3])
    total = sum(whole.size(path) for path in paths(whole))
    assert refusals > total * (0.7 if close else 0.5)


def test_damage_below_replay_from_is_no_obstacle() -> None:
    disk = written(close=True, file_bytes_max=200)
    disk.damage(paths(disk)[0], 130)
    with pytest.raises(CorruptedError):
        reopened(disk)
    disk = written(close=True, file_bytes_max=200)
    disk.damage(paths(disk)[0], 130)
    found, _ = reopened(disk, Position(1, 3, 0))
    assert found == entries(1, BATCHES)[-2:]


def test_a_missing_file_refuses_to_open() -> None:
    count = len(paths(written(close=True, file_bytes_max=200)))
    assert count >= 3
    for missing in range(count - 1):
        disk = written(close=True, file_bytes_max=200)
        path = paths(disk)[missing]
        disk.remove(path)
        with pytest.raises(CorruptedError, match="missing") as caught:
            reopened(disk)
        assert path in caught.value.message
    disk = written(close=True, file_bytes_max=200)
    for path in paths(disk):
        disk.remove(path)
    with pytest.raises(CorruptedError):
        reopened(disk, Position(1, 3, 0))


def test_records_that_look_like_frames_deceive_nobody() -> None:
    """A record that holds the log itself, torn: what is inside it neither revives nor alarms."""
    disk = written(close=False)
    (path,) = paths(disk)
    inside = disk.read(path)

    async def work(log: FileLog) -> None:
        writer = await log.open(PCHANNEL, 2, ORIGIN, confirmed)
        await writer.append([inside])

    with_log(disk, work)
    copy = paths(disk)[-1]
    disk.restart()
    disk.cut(copy, disk.size(copy) - 9)
    assert reopened(disk) == (entries(1, BATCHES), copy)


def test_a_file_that_never_served_is_passed_over_and_one_that_served_is_not() -> None:
    """Chain, story 1: the copied tail of term 2 is damaged, before and after term 2 appended something."""
    for served in (False, True):
        disk = written(close=False)

        async def work(log: FileLog, served: bool = served) -> None:
            writer = await log.open(PCHANNEL, 2, ORIGIN, confirmed)
            assert writer.report.copied_frames == 1
            if served:
                await writer.append([b"acknowledged"])

        with_log(disk, work)
        for offset in (20, 110):
            damaged = disk.crash(1)
            damaged.damage(paths(damaged)[-1], offset)
            if served:
                with pytest.raises(CorruptedError):
                    reopened(damaged)
            else:
                assert reopened(damaged) == (entries(1, BATCHES), "")
            disk.restart()


def test_what_was_cut_is_told() -> None:
    disk = written(close=False)
    (path,) = paths(disk)
    disk.cut(path, disk.size(path) - 1)
    events = Events(lambda: 5, sink=discard)

    async def main(doors: Doors) -> None:
        writer = await FileLog(doors, ROOT, events=events).open(PCHANNEL, 2, ORIGIN, confirmed)
        assert writer.report.cut_file == path

    run(main, files=disk)
    (event,) = events.kept("wal.tail_cut")
    assert event.fields["file"] == path and event.fields["bytes"] == disk.size(path) - event.fields["offset"]


def test_fates_when_the_disk_fills_up_between_batches_of_one_run() -> None:
    """Whole batches before the one that did not fit may be replayed; it and those after it will not be."""
    disk = ForgettingDisk(capacity_bytes=1 << 20)

    def fill_up(point: Point) -> None:
        if point.verb == "append" and point.phase == "before" and disk.size(point.path) > 96 + 72 * 2:
            disk.capacity_bytes = disk.size(point.path) + 3

    async def work(log: FileLog) -> None:
        writer = await log.open(PCHANNEL, 1, ORIGIN, confirmed)
        await writer.append([b"warm"])
        disk.hook = fill_up
        flying = [writer.append([bytes([number]) * 8]) for number in range(6)]
        answers = await asyncio.gather(*flying, return_exceptions=True)
        kinds = [type(answer) for answer in answers]
        doubtful = kinds.count(OutcomeUnknownError)
        assert doubtful and kinds == [OutcomeUnknownError] * doubtful + [DiskFullError] * (6 - doubtful)
        disk.hook, disk.capacity_bytes = None, 1 << 20
        second = await log.open(PCHANNEL, 2, ORIGIN, confirmed)
        assert second.end == Position(1, doubtful, 0)

    with_log(disk, work)


def test_the_header_of_a_file_that_never_served_still_proves_its_predecessor_synced() -> None:
    """Chain, story 1: found by models/file_log.py, rule link_evidence."""
    disk = written(close=False)
    disk.cut(paths(disk)[0], last_frame(4)[1])

    async def work(log: FileLog) -> None:
        await log.open(PCHANNEL, 2, ORIGIN, confirmed)

    with_log(disk, work)
    disk.restart()
    old, new = paths(disk)
    disk.cut(new, disk.size(new) - 3)
    disk.cut(old, last_frame(4)[0])
    assert reopened(disk)[0] == entries(1, BATCHES[:-1])
    disk.remove(paths(disk)[-1])
    disk.damage(old, last_frame(3)[0] + 60)
    with pytest.raises(CorruptedError, match="synced"):
        reopened(disk)
