"""What only the sqlite store promises: kill -9, damage, a full disk, one owner, quick opening."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meta_worlds import Harness, play

from elanus.base.compute import DISK_THREADS
from elanus.base.doors import Doors
from elanus.base.errors import CorruptedError, DiskFullError, ElanusError, InUseError, OutcomeUnknownError, StorageError
from elanus.base.real import RealDoors, real_doors
from elanus.meta.local import LocalMetaStore
from elanus.meta.sqlite import open_sqlite
from elanus.meta.state import State
from elanus.meta.store import Delete, Item, Put, WatchBatch

T = TypeVar("T")
WRITER = Path(__file__).with_name("counting_writer.py")


def run(scenario: Callable[[Doors], Awaitable[T]]) -> T:
    async def main() -> T:
        doors = real_doors(lambda name, error: None)
        try:
            return await scenario(doors)
        finally:
            await doors.stop_tasks()
            doors.close()

    return asyncio.run(main())


async def read(doors: Doors, path: Path) -> list[Item]:
    store = await open_sqlite(doors, str(path))
    items = await store.range("")
    await store.close()
    return items


# --- its end --------------------------------------------------------------------------------------------------------
def test_a_close_waits_for_the_write_that_nobody_waits_for_any_more(tmp_path: Path) -> None:
    """A stopped server's tasks are cancelled, and the thread that commits for one goes on: sqlite's connection must
    not be closed under it."""
    begun, released = threading.Event(), threading.Event()

    async def scenario(doors: Doors) -> None:
        store = await open_sqlite(doors, str(tmp_path / "meta.db"))
        # All disk threads have started, so that the close finds one that is free.
        await asyncio.gather(*(doors.compute.run_io(time.sleep, 0.05) for _ in range(DISK_THREADS)))
        journal = cast("Any", store)._journal
        commit = journal._commit

        def commit_when_released(*arguments: object) -> None:
            begun.set()
            released.wait(30)
            commit(*arguments)

        journal._commit = commit_when_released
        writing = asyncio.ensure_future(store.transact((), [Put("a", b"1")]))
        await asyncio.to_thread(begun.wait)
        await cast("RealDoors", doors).stop_tasks()
        closing = asyncio.ensure_future(store.close())
        await asyncio.wait((closing,), timeout=0.1)
        assert not closing.done()
        released.set()
        await closing
        with pytest.raises(OutcomeUnknownError):
            await writing

    run(scenario)
    assert [item.key for item in run(lambda doors: read(doors, tmp_path / "meta.db"))] == ["a"]


# --- power ----------------------------------------------------------------------------------------------------------
def kill_after(path: Path, first: int, count: int) -> int:
    """Let a process commit at least `count` numbers, kill it, and give the last number it has been answered."""
    writer = subprocess.Popen([sys.executable, str(WRITER), str(path), str(first)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    for _ in range(count):
        assert writer.stdout.readline(), "the writer ended by itself"
    writer.kill()
    rest = writer.stdout.read()
    writer.wait()
    writer.stdout.close()
    whole = [line for line in rest.split("\n")[:-1] if line]
    return int(whole[-1]) if whole else first + count - 1


@pytest.mark.slow
def test_kill_loses_no_answered_commit(tmp_path: Path) -> None:
    path = tmp_path / "meta.db"
    first = 0
    revision = 0
    for count in (5, 120):
        answered = kill_after(path, first, count)

        async def check(doors: Doors, answered: int = answered) -> None:
            nonlocal first, revision
            store = await open_sqlite(doors, str(path))
            newest = await store.get("newest")
            assert newest is not None and answered <= int(newest.value) <= answered + 1
            for item in await store.range("n/"):
                number = int(item.value[: len(item.value) // 20])
                assert item.value == b"%d" % number * 20 and int(newest.value) - 50 < number <= int(newest.value)
            taken = await store.snapshot("")
            assert taken.revision > revision
            revision, first = taken.revision, int(newest.value) + 1
            await store.close()

        run(check)


def test_leases_end_with_the_process(tmp_path: Path) -> None:
    async def hold(harness: Harness) -> None:
        lease = await harness.store.grant(100)
        await harness.store.transact((), (Put("kept", b""), Put("was", b"")))
        await harness.store.transact((), (Put("held", b"", lease), Put("was", b"", lease)))
        # As a crash would: nothing is closed before the copy is taken.
        shutil.copytree(tmp_path, copy, ignore=shutil.ignore_patterns("copy"))
        revisions.append((await harness.store.snapshot("")).revision)

    copy = tmp_path / "copy"
    revisions: list[int] = []
    play("sqlite", tmp_path, hold)

    async def look(doors: Doors) -> None:
        store = await open_sqlite(doors, str(copy / "meta.db"))
        taken = await store.snapshot("")
        assert [item.key for item in taken.items] == ["kept"]
        assert taken.revision > revisions[0]
        await store.close()

    run(look)


def test_commits_are_synced(tmp_path: Path) -> None:
    """No test can cut the power of this machine, so at least the settings that hold what it promises are looked at."""

    async def look(harness: Harness) -> None:
        connection = vars(vars(harness.store)["_journal"])["_connection"]
        for pragma, expected in (
            ("synchronous", 2),
            ("journal_mode", "wal"),
            ("fullfsync", 1),
            ("checkpoint_fullfsync", 1),
        ):
            assert connection.execute(f"PRAGMA {pragma}").fetchone()[0] == expected

    play("sqlite", tmp_path, look)


# --- damage ---------------------------------------------------------------------------------------------------------
@contextmanager
def filled(*, crashed: bool) -> Iterator[tuple[Path, list[Item]]]:
    """A store of some pages, as left by a close or a crash."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kept: list[Item] = []

        async def fill(harness: Harness) -> None:
            for number in range(8):
                puts = [Put(f"key/{number}/{n}", bytes([n]) * 150) for n in range(20)]
                await harness.store.transact((), (*puts, Delete(f"key/{number - 1}/3")))
            kept.extend(await harness.store.range(""))
            if crashed:
                shutil.copytree(folder, folder / "copy", ignore=shutil.ignore_patterns("copy"))

        play("sqlite", folder, fill)
        yield (folder / "copy" if crashed else folder) / "meta.db", kept


async def read_or_named(doors: Doors, path: Path, kind: type[ElanusError]) -> list[Item] | None:
    """What is in the store; None where it is refused in that way, with its name."""
    try:
        return await read(doors, path)
    except kind as error:
        assert str(path) in error.message
        return None


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found_or_harmless(place: float, bit: int) -> None:
    with filled_once() as (path, kept):
        damage(path, int(place * path.stat().st_size), bit)
        found = run(lambda doors: read_or_named(doors, path, ElanusError))
        assert found in (None, kept)


@settings(max_examples=20, deadline=None)
@given(place=st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_a_cut_is_found_or_harmless(place: float) -> None:
    with filled_once() as (path, kept):
        path.write_bytes(path.read_bytes()[: max(1, int(place * path.stat().st_size))])
        found = run(lambda doors: read_or_named(doors, path, CorruptedError))
        assert found in (None, kept)


@settings(max_examples=40, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_in_the_journal_never_drops_older_commits(place: float, bit: int) -> None:
    """At most the very last commit may go: that one cannot be told from one torn by a crash."""
    with filled_once(crashed=True) as (path, kept):
        journal = path.with_name("meta.db-wal")
        damage(journal, int(place * journal.stat().st_size), bit)
        found = run(lambda doors: read_or_named(doors, path, ElanusError))
        newest = max(item.mod_revision for item in kept)
        older = {item.key for item in kept if item.mod_revision < newest}
        assert found in (None, kept) or older <= {item.key for item in found}


_filled: dict[bool, tuple[dict[str, bytes], list[Item]]] = {}


@contextmanager
def filled_once(*, crashed: bool = False) -> Iterator[tuple[Path, list[Item]]]:
    """A fresh copy of `filled`, which is made once."""
    if crashed not in _filled:
        with filled(crashed=crashed) as (path, kept):
            _filled[crashed] = ({file.name: file.read_bytes() for file in path.parent.glob("meta.db*")}, kept)
    files, kept = _filled[crashed]
    with tempfile.TemporaryDirectory() as name:
        for file, content in files.items():
            (Path(name) / file).write_bytes(content)
        yield Path(name) / "meta.db", kept


def damage(path: Path, offset: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE head SET revision = revision - 1",
        "UPDATE head SET item_count = item_count + 1",
        "UPDATE head SET checksums = checksums + 1",
        "DELETE FROM head",
        "DELETE FROM item WHERE key = 'key/0/0'",
        "UPDATE item SET key = 'key/x' WHERE key = 'key/0/0'",
        "UPDATE item SET value = 7 WHERE key = 'key/0/0'",
        "UPDATE item SET mod_revision = 1 WHERE key = 'key/7/0'",
        "UPDATE item SET checksum = 'x' WHERE key = 'key/0/0'",
        "DROP TABLE item",
        "PRAGMA user_version = 0",
        "PRAGMA user_version = 9",
    ],
)
def test_changed_content_is_found(statement: str) -> None:
    with filled_once() as (path, _):
        connection = sqlite3.connect(path)
        with connection:
            connection.execute(statement)
        connection.close()

        async def look(doors: Doors) -> None:
            with pytest.raises(CorruptedError, match=r"meta\.db"):
                await open_sqlite(doors, str(path))

        run(look)


@pytest.mark.parametrize("content", [b"not a database at all, but a text of some length. " * 100, b"x"])
def test_foreign_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "meta.db"
    path.write_bytes(content)

    async def look(doors: Doors) -> None:
        with pytest.raises(CorruptedError, match=r"meta\.db"):
            await open_sqlite(doors, str(path))

    run(look)


# --- room, owner, speed ---------------------------------------------------------------------------------------------
def test_a_full_store_does_nothing_and_lives(tmp_path: Path) -> None:
    async def fill(doors: Doors) -> None:
        store = await open_sqlite(doors, str(tmp_path / "meta.db"), bytes_max=256 * 1024)
        count = 0
        with pytest.raises(DiskFullError):
            while True:
                await store.transact((), (Put(f"k{count:03}", bytes(16_000)), Put("count", b"%d" % count)))
                count += 1
        before = await store.snapshot("")
        assert len(before.items) == count + 1 and 3 < count < 20
        await store.transact((), (Delete("k000"),))
        await store.transact((), (Put("k999", bytes(15_000)),))
        kept = await store.range("")
        await store.close()
        assert await read(doors, tmp_path / "meta.db") == kept

    run(fill)


def test_one_owner(tmp_path: Path) -> None:
    async def twice(doors: Doors) -> None:
        path = str(tmp_path / "deep" / "er" / "meta.db")
        store = await open_sqlite(doors, path)
        with pytest.raises(InUseError):
            await open_sqlite(doors, path)
        await store.close()
        await (await open_sqlite(doors, path)).close()

    run(twice)


class FailingJournal:
    """A journal whose next write fails as told."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.written: list[WatchBatch] = []

    async def write(self, change: WatchBatch) -> None:
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        self.written.append(change)

    async def close(self) -> None:
        pass


def test_after_a_failed_write_nothing_is_trusted() -> None:
    async def scenario(doors: Doors) -> None:
        journal = FailingJournal()
        store = LocalMetaStore(doors, State(), journal)
        await store.transact((), (Put("a", b"1"),))
        journal.error = DiskFullError("full")
        with pytest.raises(DiskFullError):
            await store.transact((), (Put("a", b"2"),))
        await store.transact((), (Put("b", b"2"),))
        assert [batch.revision for batch in journal.written] == [1, 2]
        journal.error = StorageError("broken")
        waiting = [asyncio.ensure_future(store.transact((), (Put("a", b"%d" % n),))) for n in range(3)]
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [OutcomeUnknownError, StorageError, StorageError]
        with pytest.raises(StorageError):
            await store.get("a")
        with pytest.raises(StorageError):
            await anext(aiter(store.watch("", 0)))
        await store.close()

    run(scenario)
