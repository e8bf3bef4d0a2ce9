"""`elanus.connect`: a helper comes, serves any number of processes, survives kill -9 without loss, and goes."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymilvus
import pytest

import elanus
from elanus.app.embedded import runtime_folder
from elanus.base.errors import InUseError, StorageError

pytestmark = pytest.mark.slow

IDLE_EXIT_S = 1.0
END_S_MAX = 20.0
KILLS = 5
KILL_PAUSE_S = 1.5


@pytest.fixture(autouse=True)
def short_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELANUS_EMBEDDED_IDLE_EXIT_S", str(IDLE_EXIT_S))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # Not below tmp_path, whose name is too long for a socket.
    with tempfile.TemporaryDirectory(prefix="elanus-", dir="/tmp", ignore_cleanup_errors=True) as runtime:
        monkeypatch.setenv("ELANUS_RUNTIME_DIR", runtime)
        path = tmp_path / "demo.db"
        yield path
        gc.collect()
        with contextlib.suppress(OSError, ValueError):
            os.kill(helper_pid(path), signal.SIGKILL)


def helper_pid(folder: Path) -> int:
    return int(Path(runtime_folder(os.path.realpath(folder)), "LOCK").read_text())


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + END_S_MAX
    while not condition():
        if time.monotonic() > deadline:
            return False
        threading.Event().wait(0.05)
    return True


def rows(first: int, count: int) -> list[dict[str, Any]]:
    return [{"id": number, "vector": [float(number), 1.0]} for number in range(first, first + count)]


def count(client: Any) -> int:
    return int(client.query("notes", filter="", output_fields=["count(*)"])[0]["count(*)"])


def make_notes(client: Any) -> None:
    client.create_collection("notes", dimension=2, metric_type="L2", consistency_level="Strong")


def test_rows_are_there_after_the_helper_left(folder: Path) -> None:
    client = elanus.connect(folder)
    make_notes(client)
    client.insert("notes", rows(0, 10))
    assert count(client) == 10
    pid = helper_pid(folder)
    client.close()
    assert eventually(lambda: is_gone(pid))
    client = elanus.connect(folder)
    assert count(client) == 10
    assert helper_pid(folder) != pid
    client.close()


def test_a_client_that_is_let_go_does_not_keep_the_helper(folder: Path) -> None:
    client = elanus.connect(folder)
    pid = helper_pid(folder)
    del client
    gc.collect()
    assert eventually(lambda: is_gone(pid))


def test_a_killed_helper_is_started_again_by_the_next_call(folder: Path) -> None:
    client = elanus.connect(folder)
    make_notes(client)
    for start in range(0, 50, 10):
        client.insert("notes", rows(start, 10))
        os.kill(helper_pid(folder), signal.SIGKILL)
        assert count(client) == start + 10
    client.close()


def test_no_acknowledged_row_is_lost_and_no_write_is_repeated(folder: Path) -> None:
    client = elanus.connect(folder)
    client.create_collection("notes", dimension=2, metric_type="L2", auto_id=True, consistency_level="Strong")
    stop = threading.Event()

    def kill_now_and_then() -> None:
        for _ in range(KILLS):
            stop.wait(KILL_PAUSE_S)
            with contextlib.suppress(OSError, ValueError):
                os.kill(helper_pid(folder), signal.SIGKILL)
        stop.set()

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    acknowledged = unknown = 0
    try:
        while not stop.is_set():
            try:
                acknowledged += client.insert("notes", [{"vector": [1.0, 2.0]}])["insert_count"]
            except pymilvus.MilvusException as error:
                assert "unknown" in error.message, error
                unknown += 1
    finally:
        stop.set()
        killer.join()
    assert acknowledged <= count(client) <= acknowledged + unknown
    client.close()


def test_many_processes_share_one_helper(folder: Path) -> None:
    program = (
        "import sys, elanus\n"
        "client = elanus.connect(sys.argv[1])\n"
        "if not client.has_collection('notes'):\n"
        "    client.create_collection('notes', dimension=2, metric_type='L2', consistency_level='Strong')\n"
        "first = 100 * int(sys.argv[2])\n"
        "client.insert('notes', [{'id': first + n, 'vector': [1.0, 2.0]} for n in range(100)])\n"
        "client.close()\n"
    )
    started = [subprocess.Popen([sys.executable, "-c", program, str(folder), str(n)]) for n in range(3)]
    assert [process.wait(60) for process in started] == [0, 0, 0]
    client = elanus.connect(folder)
    assert count(client) == 300
    client.close()


def test_a_served_folder_is_refused(folder: Path, serve: Callable[..., Any]) -> None:
    server = serve(folder=folder)
    with pytest.raises(InUseError, match=str(server.process.pid)):
        elanus.connect(folder)


def test_a_file_is_refused(folder: Path) -> None:
    folder.write_bytes(b"SQLite format 3")
    with pytest.raises(StorageError, match="is a file"):
        elanus.connect(folder)
