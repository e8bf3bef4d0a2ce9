"""A folder's store becomes a cluster's and comes back: the same rows, new terms, and never two living stores."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pymilvus import MilvusClient

from filled import create, stored_words, worded_rows
from servers import DrillServer, elanus, wait_for_address
from services import BUCKET, Radosgw, Service, s3_environment, start_etcd

pytestmark = pytest.mark.drill

ROWS, DIM = 400, 8


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Service]:
    service = start_etcd(tmp_path)
    yield service
    service.kill()


@pytest.fixture(params=["folder", "radosgw"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where a cluster's objects are: a folder that its processes share, or a real S3 store."""
    if request.param == "folder":
        yield f"file://{tmp_path / 'shared'}"
        return
    pytest.importorskip("obstore", reason="needs obstore: pip install 'elanus[cluster]'")
    (tmp_path / "radosgw").mkdir()
    service = Radosgw(tmp_path / "radosgw")
    for name, value in s3_environment(service.port).items():
        monkeypatch.setenv(name, value)
    yield f"s3://{BUCKET}/elanus"
    service.kill()


def fill(client: MilvusClient) -> None:
    index = {"index_type": "AUTOINDEX", "metric_type": "L2"}
    create(client, "things", DIM, index, vector="vector", text="word")
    client.insert("things", worded_rows(0, ROWS, DIM))
    client.delete("things", ids=list(range(0, ROWS, 10)))
    client.create_alias("things", "other")


def stored(client: MilvusClient) -> dict[int, str]:
    client.load_collection("other")
    return stored_words(client, "other")


EXPECTED = {number: f"w{number}" for number in range(ROWS) if number % 10}


def test_there_and_back(etcd: Service, store_url: str, tmp_path: Path, serve: Callable[..., DrillServer]) -> None:
    folder = tmp_path / "data"
    urls = ("--meta", f"etcd://127.0.0.1:{etcd.port}/elanus", "--store", store_url)
    server = serve(folder=folder)
    client = MilvusClient(f"http://{server.address}")
    fill(client)
    running = elanus("promote", str(folder), *urls)
    assert running.returncode == 3 and "in use" in running.stderr, running.stderr
    client.close()
    server.kill()  # what was not flushed is in its log

    moved = elanus("promote", str(folder), *urls)
    assert moved.returncode == 0 and "moved: " in moved.stdout, moved.stderr
    again = elanus("serve", "--data", str(folder), "--port", "0", "--metrics-port", "-1")
    assert again.returncode != 0 and "was moved to" in again.stderr
    twice = elanus("promote", str(folder), *urls)
    assert twice.returncode != 0 and "complete already" in twice.stderr

    counts = ("--coordinators", "1", "--streaming", "1", "--query", "1", "--data", "1", "--proxies", "1")
    flags = ("--folder", str(tmp_path / "up"), "--port", "0", *counts, "--set", "cluster.reply_bytes_max=2048")
    up = subprocess.Popen(
        [sys.executable, "-m", "elanus", "up", *urls, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        address = wait_for_address(up)
        client = MilvusClient(f"http://{address}")
        assert stored(client) == EXPECTED
        client.insert("things", worded_rows(ROWS, ROWS + 50, DIM))
        assert len(stored(client)) == len(EXPECTED) + 50
        busy = elanus("demote", str(tmp_path / "back"), *urls)
        assert busy.returncode != 0 and "is running" in busy.stderr, busy.stderr
        client.flush("things")
        client.close()
    finally:
        up.terminate()
        up.wait(60)
    back = elanus("demote", str(tmp_path / "back"), *urls)
    assert back.returncode == 0, back.stderr
    server = serve(folder=tmp_path / "back")
    client = MilvusClient(f"http://{server.address}")
    assert stored(client) == EXPECTED | {number: f"w{number}" for number in range(ROWS, ROWS + 50)}
    client.insert("things", worded_rows(ROWS + 50, ROWS + 60, DIM))
    assert len(stored(client)) == len(EXPECTED) + 60
    client.close()


def test_killed_anywhere_it_goes_on(etcd: Service, tmp_path: Path, serve: Callable[..., DrillServer]) -> None:
    folder = tmp_path / "data"
    urls = ("--meta", f"etcd://127.0.0.1:{etcd.port}/elanus", "--store", f"file://{tmp_path / 'shared'}")
    server = serve(folder=folder)
    client = MilvusClient(f"http://{server.address}")
    fill(client)
    client.close()
    server.stop()
    for line, delay_s in (("flushing", 0.0), (" bytes", 0.0), (" of ", 0.0), (" of ", 0.02), (" of ", 0.05)):
        moving = subprocess.Popen(
            [sys.executable, "-m", "elanus", "promote", str(folder), *urls], stderr=subprocess.PIPE, text=True
        )
        assert moving.stderr is not None
        said = next((one for one in moving.stderr if line in one or one.startswith("elanus: ")), "")
        assert line in said or "complete already" in said, said
        time.sleep(delay_s)
        moving.kill()
        moving.wait()
    last = elanus("promote", str(folder), *urls)
    assert last.returncode == 0 or "complete already" in last.stderr, last.stderr
    assert elanus("promote", str(folder), *urls).stderr.count("complete already") == 1
    assert "was moved to" in elanus("serve", "--data", str(folder), "--port", "0", "--metrics-port", "-1").stderr


def test_a_damaged_file_stops_the_move_and_the_folder_lives_on(
    etcd: Service, tmp_path: Path, serve: Callable[..., DrillServer]
) -> None:
    folder = tmp_path / "data"
    urls = ("--meta", f"etcd://127.0.0.1:{etcd.port}/elanus", "--store", f"file://{tmp_path / 'shared'}")
    server = serve(folder=folder)
    client = MilvusClient(f"http://{server.address}")
    fill(client)
    client.flush("things")
    client.release_collection("things")
    client.close()
    server.stop()
    victim = next((folder / "objects").rglob("vector-*.arrow"))
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    moved = elanus("promote", str(folder), *urls)
    assert moved.returncode != 0 and victim.name in moved.stderr, moved.stderr
    victim.write_bytes(whole)
    server = serve(folder=folder)
    client = MilvusClient(f"http://{server.address}")
    assert stored(client) == EXPECTED
    client.insert("things", worded_rows(ROWS, ROWS + 5, DIM))
    client.close()
    server.stop()
    assert elanus("promote", str(folder), *urls).returncode == 0
