"""Threads, tasks and the folder lock of the real doors."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from elanus.base.compute import BACKGROUND_NICENESS, BACKGROUND_THREADS, ThreadPool
from elanus.base.errors import InUseError, OverloadedError, StorageError, UnavailableError
from elanus.base.lock import FolderLock
from elanus.base.real import RealDoors, real_doors
from elanus.base.scope import Scope


def with_doors(work) -> list[tuple[str, BaseException]]:  # type: ignore[no-untyped-def]
    failures: list[tuple[str, BaseException]] = []

    async def main() -> None:
        doors = real_doors(lambda name, error: failures.append((name, error)), cores=2)
        try:
            await work(doors)
        finally:
            await doors.stop_tasks()
            doors.close()

    asyncio.run(main())
    return failures


def test_clock_and_chance() -> None:
    async def work(doors: RealDoors) -> None:
        assert abs(doors.clock.now_ms() - time.time() * 1000) < 1000
        before = doors.clock.monotonic_s()
        await doors.clock.sleep(0)
        assert doors.clock.monotonic_s() >= before
        tokens = {doors.random.token() for _ in range(1000)}
        assert len(tokens) == 1000 and all(len(token) == 16 and int(token, 16) >= 0 for token in tokens)
        assert all(0 <= doors.random.uniform() < 1 and doors.random.below(3) in (0, 1, 2) for _ in range(100))

    assert with_doors(work) == []


def test_calls_run_on_bounded_threads_and_return_what_they_raise() -> None:
    async def work(doors: RealDoors) -> None:
        names = await asyncio.gather(*(doors.compute.run(lambda: threading.current_thread().name) for _ in range(50)))
        assert set(names) <= {"serving-0", "serving-1"}
        assert await doors.compute.run_io(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await doors.compute.run_io(divmod, 7, 0)
        with pytest.raises(StorageError):
            await doors.compute.run_io(doors.files.read, "/")

    assert with_doors(work) == []


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a priority of their own on Linux only")
def test_background_threads_are_nice_and_few() -> None:
    async def work(doors: RealDoors) -> None:
        nice = lambda: (os.getpriority(os.PRIO_PROCESS, threading.get_native_id()), threading.get_ident())  # noqa: E731
        background = await asyncio.gather(*(doors.compute.run_background(nice) for _ in range(5)))
        assert len({thread for _, thread in background}) <= BACKGROUND_THREADS
        assert len({niceness for niceness, _ in background}) == 1
        serving = await doors.compute.run(nice)
        assert background[0][0] == min(19, serving[0] + BACKGROUND_NICENESS)

    assert with_doors(work) == []


def test_initializers_run_once_per_thread_and_their_failure_reaches_the_caller() -> None:
    async def main() -> None:
        seen: list[int] = []
        pool = ThreadPool("pool", 2, lambda: seen.append(threading.get_ident()))
        used = set(await asyncio.gather(*(pool.run(threading.get_ident) for _ in range(40))))
        assert used <= set(seen) and len(seen) == len(set(seen)) <= 2
        pool.close()
        with pytest.raises(OverloadedError):
            await pool.run(int)

        def broken() -> None:
            raise RuntimeError("no such library")

        with pytest.raises(RuntimeError):
            await ThreadPool("broken", 1, broken).run(int)

    asyncio.run(main())


def test_a_cancelled_call_that_has_not_begun_is_skipped() -> None:
    async def main() -> None:
        pool = ThreadPool("pool", 1)
        gate, ran = threading.Event(), []
        first = asyncio.ensure_future(pool.run(gate.wait))
        second = asyncio.ensure_future(pool.run(ran.append, 2))
        third = asyncio.ensure_future(pool.run(ran.append, 3))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(first, third)
        assert ran == [3]
        pool.close()

    asyncio.run(main())


def test_a_task_that_dies_is_reported_once_and_a_cancelled_one_is_not() -> None:
    async def work(doors: RealDoors) -> None:
        async def dies() -> None:
            raise ValueError("unexpected")

        async def waits() -> None:
            await asyncio.Event().wait()

        job = doors.tasks.spawn(dies(), name="dies")
        with pytest.raises(ValueError, match="unexpected"):
            await job.wait()
        waiting = doors.tasks.spawn(waits(), name="waits")
        assert doors.tasks.names() == ["waits"] and not waiting.done()
        waiting.cancel()
        await waiting.wait()
        assert waiting.done() and job.done()
        with pytest.raises(TimeoutError):
            await doors.tasks.timeout(0.001, waits())
        doors.tasks.spawn(waits(), name="stopped at the end")

    failures = with_doors(work)
    assert [(name, type(error)) for name, error in failures] == [("dies", ValueError)]


def test_a_folder_has_one_holder_who_is_named(tmp_path: Path) -> None:
    lock = FolderLock.acquire(str(tmp_path))
    assert lock.held()
    with pytest.raises(InUseError, match=str(os.getpid())):
        FolderLock.acquire(str(tmp_path))
    lock.release()
    lock.release()
    assert not lock.held()
    with pytest.raises(InUseError):
        lock.check()
    FolderLock.acquire(str(tmp_path)).release()
    assert (tmp_path / "LOCK").exists()
    with pytest.raises(StorageError):
        FolderLock.acquire(str(tmp_path / "missing"))


HOLD = """
import os, sys
from elanus.base.lock import FolderLock
lock = FolderLock.acquire(sys.argv[1])
child = os.fork()
if child == 0:
    os.write(1, b"child holds\\n" if lock.held() else b"child does not\\n")
    sys.stdin.read()
    os._exit(0)
os.write(1, b"parent holds\\n" if lock.held() else b"parent does not\\n")
os.read(0, 1)
os._exit(0)
"""


def test_a_fork_neither_holds_nor_keeps_the_lock(tmp_path: Path) -> None:
    """An idle child is still alive when the parent dies without a word; the folder is free at once."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdin is not None and holder.stdout is not None
    lines = {holder.stdout.readline(), holder.stdout.readline()}
    assert lines == {b"child does not\n", b"parent holds\n"}
    with pytest.raises(InUseError, match=str(holder.pid)):
        FolderLock.acquire(str(tmp_path))
    holder.kill()
    holder.wait()
    FolderLock.acquire(str(tmp_path)).release()
    holder.stdin.close()
    holder.stdout.close()


def test_a_task_that_ends_before_it_begins_leaves_nothing_to_await() -> None:
    async def work(doors: RealDoors) -> None:
        scope = Scope(doors.tasks, lambda: None)
        never = asyncio.sleep(1)
        scope.spawn(never, name="never")
        await scope.end()
        assert inspect.getcoroutinestate(never) == inspect.CORO_CLOSED
        with pytest.raises(UnavailableError):
            scope.spawn(asyncio.sleep(1), name="after the end")

    assert with_doors(work) == []
