"""The file suite on the real disk and on the one that forgets, and what only each of them shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from elanus.base.errors import DiskFullError, StorageError
from elanus.base.files import PosixFiles
from elanus.testing.cases import case_name
from elanus.testing.conformance_files import CASES, Case
from elanus.testing.disk import ForgettingDisk, Point, PowerCut

cases = pytest.mark.parametrize("case", CASES, ids=case_name)


@cases
def test_real_disk(case: Case, tmp_path: Path) -> None:
    case(PosixFiles(), str(tmp_path))


@cases
def test_forgetting_disk(case: Case) -> None:
    disk = ForgettingDisk()
    disk.make_directory("/folder")
    case(disk, "/folder")


def test_a_full_device_is_told_apart() -> None:
    """/dev/full answers every write with ENOSPC."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    import os

    from elanus.base.files import PosixAppendFile

    file = PosixAppendFile(os.open("/dev/full", os.O_WRONLY), "/dev/full")
    with pytest.raises(DiskFullError):
        file.append(b"x")
    with pytest.raises(StorageError):
        file.append(b"x")
    file.close()


def test_a_folder_in_place_of_a_file_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        PosixFiles().read(str(tmp_path))


def test_only_synced_bytes_under_synced_names_survive() -> None:
    kept, torn, nameless = set(), set(), set()
    for seed in range(60):
        disk = ForgettingDisk()
        disk.make_directory("/d")
        file = disk.create("/d/a")
        file.append(b"synced.")
        file.sync()
        disk.sync_directory("/d")
        file.append(b"unsynced")
        disk.create("/d/b").append(b"x")
        found = disk.crash(seed)
        kept.add(found.read("/d/a")[:7])
        torn.add(len(found.read("/d/a")))
        nameless.add(found.exists("/d/b"))
        with pytest.raises(PowerCut):
            disk.read("/d/a")
    assert kept == {b"synced."}
    assert torn == set(range(7, 16))
    assert nameless == {False, True}


def test_a_removed_name_may_come_back_until_its_folder_is_synced() -> None:
    for sync, expected in ((False, {False, True}), (True, {False})):
        found = set()
        for seed in range(20):
            disk = ForgettingDisk()
            disk.make_directory("/d")
            disk.create("/d/a").sync()
            disk.sync_directory("/d")
            disk.remove("/d/a")
            if sync:
                disk.sync_directory("/d")
            found.add(disk.crash(seed).exists("/d/a"))
        assert found == expected


def test_bytes_of_a_failed_sync_are_seen_and_lost() -> None:
    def fail(point: Point) -> None:
        if point.verb == "sync":
            raise StorageError("input/output error")

    disk = ForgettingDisk(hook=fail)
    disk.make_directory("/d")
    file = disk.create("/d/a")
    file.append(b"12345678")
    with pytest.raises(StorageError):
        file.sync()
    with pytest.raises(StorageError):
        file.append(b"9")
    disk.hook = None
    disk.sync_directory("/d")
    assert disk.read("/d/a") == b"12345678"
    assert disk.crash(0).read("/d/a") == bytes(8)


def test_a_full_forgetting_disk_keeps_a_prefix() -> None:
    disk = ForgettingDisk(capacity_bytes=10)
    file = disk.create("/a")
    file.append(b"1234567")
    assert disk.free_bytes("/") == 3
    with pytest.raises(DiskFullError):
        file.append(b"890ab")
    assert disk.read("/a") == b"1234567890"
    with pytest.raises(StorageError):
        file.sync()
