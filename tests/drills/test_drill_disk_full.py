"""A disk without room: writes are refused with Milvus's 'disk full' code, reads go on, room makes all well again, and
kill -9 in the middle of it loses nothing that was acknowledged.

The store stands on a small tmpfs with a ballast file that stands for what else fills the disk. Once the server keeps
some room free for itself (`storage.free_bytes_min`), and once it may run into the wall, so that appends, flushes, meta
commits and log files fail half-way with ENOSPC.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pymilvus import DataType, MilvusClient, MilvusException

from servers import DrillServer, StartRefusedError

DISK_BYTES = 28 << 20
WEIGHT_BYTES, SPARE_BYTES = 6 << 20, 6 << 20
DIM = 64
BATCH = 100
BATCHES_MAX = 2000
RECOVERY_S_MAX = 20.0
DISK_FULL = 7
# Retriable refusals that may stand beside it: no timestamps or no log for a moment, too much growing data.
BESIDE = {2, 8}
UNKNOWN = 5
SMALL = (
    *("--set", "segment.flush_bytes_max=262144"),
    *("--set", "segment.growing_bytes_max=67108864"),
    *("--set", "log.file_bytes_max=262144"),
    *("--log-level", "info"),
)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        reason = "mounting a tmpfs needs root"
        pytest.fail(reason) if os.environ.get("CI") and os.geteuid() == 0 else pytest.skip(reason)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


class Play:
    """One server on the small disk and what its client was told."""

    def __init__(self, disk: Path, flags: tuple[str, ...]) -> None:
        self.disk = disk
        self.flags = flags
        self.acknowledged: set[int] = set()
        self.unknown: set[int] = set()
        self.next_key = 0
        self.codes: Counter[int] = Counter()
        self.vectors = np.random.default_rng(1).standard_normal((BATCH, DIM)).astype(np.float32)
        self.server = self.start()
        self.client = MilvusClient(self.server.uri, timeout=30)

    def start(self) -> DrillServer:
        return DrillServer(self.disk / "store", *self.flags).wait_ready()

    def create(self) -> None:
        schema = self.client.create_schema(auto_id=False)
        schema.add_field("pk", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIM)
        params = self.client.prepare_index_params()
        params.add_index("vector", index_type="FLAT", metric_type="L2")
        self.client.create_collection("rows", schema=schema, index_params=params)

    def insert(self) -> bool:
        keys = range(self.next_key, self.next_key + BATCH)
        self.next_key += BATCH
        rows = [{"pk": key, "vector": self.vectors[at]} for at, key in enumerate(keys)]
        try:
            self.client.insert("rows", rows, retry_times=1, retry_on_rate_limit=False)
        except MilvusException as error:
            self.codes[int(error.code)] += 1
            if error.code == UNKNOWN:
                assert "unknown" in error.message.lower(), error
                self.unknown |= set(keys)
            else:
                assert error.code in {DISK_FULL, *BESIDE}, error
            return False
        self.acknowledged |= set(keys)
        return True

    def fill(self) -> None:
        """Write until refused with 'disk full', and then some more."""
        for _ in range(BATCHES_MAX):
            if not self.insert() and self.codes[DISK_FULL]:
                break
        assert self.codes[DISK_FULL], self.codes
        for _ in range(10):
            self.insert()
            time.sleep(0.1)

    def check(self) -> None:
        """All that was acknowledged, nothing that was refused; the unknown either way but whole."""
        strong = {"consistency_level": "Strong", "timeout": 20}
        found: list[int] = []
        for first in range(0, self.next_key, 10_000):
            text = f"pk >= {first} and pk < {first + 10_000}"
            found += [row["pk"] for row in self.client.query("rows", text, output_fields=["pk"], limit=16384, **strong)]
        assert len(set(found)) == len(found)
        assert self.acknowledged <= set(found), sorted(self.acknowledged - set(found))[:5]
        assert set(found) <= self.acknowledged | self.unknown
        count = self.client.query("rows", "", output_fields=["count(*)"], **strong)[0]["count(*)"]
        assert count == len(found)
        hits = self.client.search("rows", [self.vectors[0]], limit=5, **strong)[0]
        assert {hit["pk"] % BATCH for hit in hits} == {0}

    def check_for(self, seconds: float) -> int:
        until, times = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            self.check()
            self.insert()
            times += 1
            time.sleep(0.1)
        return times

    def wait_writable(self) -> float:
        began = time.monotonic()
        while not self.insert():
            assert time.monotonic() - began < RECOVERY_S_MAX, f"{self.codes} {self.server.errors()[-1500:]}"
            time.sleep(0.1)
        return time.monotonic() - began

    def restart(self) -> None:
        self.server = self.start()
        self.client.close()
        self.client = MilvusClient(self.server.uri, timeout=30)


def ballast(disk: Path, name: str, size: int) -> Path:
    path = disk / name
    path.write_bytes(bytes(size))
    return path


@pytest.mark.drill
@pytest.mark.parametrize("free_bytes_min", [2 << 20, 0], ids=["with room kept", "into the wall"])
def test_full_and_free_again(disk: Path, free_bytes_min: int) -> None:
    play = Play(disk, (*SMALL, "--set", f"storage.free_bytes_min={free_bytes_min}"))
    try:
        play.create()
        weight, spare = ballast(disk, "weight", WEIGHT_BYTES), ballast(disk, "spare", SPARE_BYTES)
        play.fill()
        last = stuff(disk)
        reads = play.check_for(8.0)
        assert play.server.is_alive, play.server.errors()[-2000:]
        weight.unlink()
        last.unlink()
        writable_s = play.wait_writable()
        play.check()
        first = len(play.acknowledged)

        play.codes.clear()
        play.fill()
        play.server.kill()
        last = stuff(disk)
        started_full = starts_full(play)
        spare.unlink()
        last.unlink()
        if not started_full:
            play.restart()
        again_s = play.wait_writable()
        play.check()
        print(
            f"\ndisk full drill: {first} rows until full, {reads} full checks while full, writable {writable_s:.1f} s "
            f"after room was made; killed while full: started on the full disk {started_full}, writable after "
            f"{again_s:.1f} s, {len(play.acknowledged)} rows, {len(play.unknown)} unknown, codes {dict(play.codes)}"
        )
    finally:
        play.server.kill()


def stuff(disk: Path) -> Path:
    """A file that takes the very last byte."""
    path = disk / "last"
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return path


def starts_full(play: Play) -> bool:
    """Whether a server starts on the full disk; if not, it must say why. If so, it must answer rightly."""
    try:
        play.restart()
    except StartRefusedError as error:
        assert "disk is full" in error.args[1] or "no room" in error.args[1], error
        return False
    play.check()
    return True
