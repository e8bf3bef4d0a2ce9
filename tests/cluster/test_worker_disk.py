"""Workers with a read-only root file system and one writable folder serve; nothing is lost with that folder.

Each process runs in a mount namespace of its own in which everything but its cache folder, `/dev` and `/proc` is
mounted read-only, `/tmp` and the home folder included.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import RoleProcess, wait_serving
from hosts import lacking
from pymilvus import MilvusClient

from services import Service, start_etcd

pytestmark = [pytest.mark.drill, pytest.mark.alone]

ROLES = ("coordinator", "streaming", "query", "data", "proxy")

READ_ONLY = """
set -e
mount --make-rprivate /
mount --bind "$CACHE" "$CACHE"
mount --bind "$OBJECTS" "$OBJECTS"
mount -o remount,ro,bind / 2>/dev/null || { mount --bind / / && mount -o remount,ro,bind /; }
for at in /tmp /var/tmp /dev/shm /run "$HOME"; do
    [ -d "$at" ] && { mount --bind "$at" "$at" 2>/dev/null && mount -o remount,ro,bind "$at"; } || true
done
mount --bind "$CACHE" "$CACHE" && mount -o remount,rw,bind "$CACHE"
mount --bind "$OBJECTS" "$OBJECTS" && mount -o remount,rw,bind "$OBJECTS"
for at in "" /tmp /var/tmp "$HOME"; do
    if touch "$at/written" 2>/dev/null; then echo "$at is writable" >&2; exit 9; fi
done
touch "$CACHE/written"
exec "$@"
"""


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Service]:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        lacking("needs root and unshare for mount namespaces")
    service = start_etcd(tmp_path, "--unsafe-no-fsync")
    yield service
    service.kill()


def make(role: str, folder: Path, etcd: Service) -> RoleProcess:
    cache, objects = folder / "cache" / role, folder / "objects"
    cache.mkdir(parents=True, exist_ok=True)
    objects.mkdir(exist_ok=True)
    command = ["unshare", "--mount", "bash", "-c", READ_ONLY, "bash", sys.executable, "-m", "elanus", "run", role]
    command += ["--meta", f"etcd://127.0.0.1:{etcd.port}/disk", "--store", f"file://{objects}", "--cache", str(cache)]
    command += ["--port", "0", "--metrics-port", "-1", "--lease", "2", "--set", "segment.flush_bytes_max=65536"]
    environment = {"CACHE": str(cache), "OBJECTS": str(objects), "PYTHONDONTWRITEBYTECODE": "1"}
    return RoleProcess(role, command, environment, folder / f"{role}.log")


def start(processes: dict[str, RoleProcess]) -> MilvusClient:
    """All of them, and a client once they serve."""
    for process in processes.values():
        process.start()
    for process in processes.values():
        process.wait_ready()
    uri = f"http://{processes['proxy'].address}"
    wait_serving(uri)
    return MilvusClient(uri, timeout=60)


def test_one_writable_folder_is_enough_and_holds_nothing_of_worth(tmp_path: Path, etcd: Service) -> None:
    processes = {role: make(role, tmp_path, etcd) for role in ROLES}
    try:
        client = start(processes)
        client.create_collection("a", 8, consistency_level="Strong")
        client.insert("a", [{"id": number, "vector": [number / 5000] * 8} for number in range(5000)])
        client.flush("a")
        client.insert("a", [{"id": 5000 + number, "vector": [1.5] * 8} for number in range(100)])
        assert count(client) == 5100
        client.close()
        for process in processes.values():
            process.kill()
        subprocess.run(["rm", "-rf", str(tmp_path / "cache")], check=True)
        for role in processes:
            (tmp_path / "cache" / role).mkdir(parents=True)
        client = start(processes)
        assert count(client) == 5100
        assert len(client.search("a", [[0.5] * 8], limit=5, timeout=60)[0]) == 5
        client.close()
    finally:
        for process in processes.values():
            process.kill()


def count(client: MilvusClient) -> int:
    """At Strong, once the collection is served again."""
    return int(client.query("a", "", output_fields=["count(*)"], timeout=60)[0]["count(*)"])
