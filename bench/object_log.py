"""The log on an object store beside the bare store, in one run: ``python -m bench.object_log``.

Without ``--store`` it starts a one-node Ceph gateway in memory (tools/one_node_radosgw.sh); else the store is reached
as the server reaches it, by the usual environment variables. Three questions:

- Latency: appends that come one by one, each beside a put of the same bytes. Goal: mean acknowledgement <= 1.5 puts.
- Bandwidth: many appends in flight, beside as many puts in flight as the store likes best. Goal: >= 70 %.
- Recovery: opening and replaying a log of 10,000 slots, beside reading them one after another.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from bench.environment import ROOT
from elanus.app.stores import open_objects
from elanus.base.doors import Doors
from elanus.base.real import real_doors
from elanus.model.channel import ORIGIN
from elanus.objects import paths
from elanus.objects.store import ObjectStore
from elanus.wal.objects import ObjectLog
from elanus.wal.slots import Key, encode_data

PCHANNEL = "elanus-dml_0"
RECORD_BYTES = 1024
LARGE_BYTES = 1 << 20
SLOT_BYTES = 4 << 20
PARALLEL = (4, 8, 16)


async def confirmed() -> None:
    """Nobody else opens the log."""


async def latency(doors: Doors, store: ObjectStore, count: int) -> tuple[float, float]:
    """Mean seconds of an acknowledgement and of a put, one after the other, with pauses."""
    writer = await ObjectLog(doors, store).open(PCHANNEL, 1, ORIGIN, confirmed)
    acks, puts = [], []
    for number in range(count):
        data = os.urandom(RECORD_BYTES)
        acks.append(await timed(writer.append([data])))
        puts.append(await timed(store.put(f"bare/{number}", data)))
        await asyncio.sleep(0.002)
    return statistics.mean(acks), statistics.mean(puts)


async def timed(work: Awaitable[object]) -> float:
    start_s = time.perf_counter()
    await work
    return time.perf_counter() - start_s


async def bandwidth(doors: Doors, store: ObjectStore, seconds: float) -> tuple[float, dict[int, float]]:
    """MB/s of appends of `LARGE_BYTES`, and of bare puts of full slots by how many are in flight. In turns."""
    writer = await ObjectLog(doors, store).open("elanus-dml_1", 1, ORIGIN, confirmed)
    data, slot = os.urandom(LARGE_BYTES), os.urandom(SLOT_BYTES)
    numbers = iter(range(1 << 30))

    async def put() -> int:
        await store.put(f"wide/{next(numbers)}", slot)
        return SLOT_BYTES

    async def append() -> int:
        await writer.append([data])
        return LARGE_BYTES

    bare: dict[int, list[float]] = {parallel: [] for parallel in PARALLEL}
    log = []
    for _ in range(2):
        for parallel in PARALLEL:
            bare[parallel].append(await rate(put, parallel, seconds))
        log.append(await rate(append, 64, seconds))
        await forget(store, "wide/")
    return statistics.mean(log), {parallel: statistics.mean(found) for parallel, found in bare.items()}


async def rate(work: Callable[[], Awaitable[int]], parallel: int, seconds: float) -> float:
    """MB/s of so many workers."""
    start_s = time.perf_counter()
    done = 0

    async def worker() -> None:
        nonlocal done
        while time.perf_counter() - start_s < seconds:
            moved = await work()  # `done +=` around the await would lose what others add meanwhile
            done += moved

    await asyncio.gather(*(worker() for _ in range(parallel)))
    return done / 1e6 / (time.perf_counter() - start_s)


async def forget(store: ObjectStore, prefix: str) -> None:
    """The store may live in memory."""
    for key in await store.list(prefix):
        await store.delete(key)


async def recovery(doors: Doors, store: ObjectStore, slots: int) -> tuple[float, float]:
    """Seconds to open and replay so many slots, and of one get."""
    pchannel = "elanus-dml_2"
    await ObjectLog(doors, store).open(pchannel, 1, ORIGIN, confirmed)

    async def put(number: int) -> None:
        key = Key(1, number)
        await store.put(
            paths.log_slot(pchannel, *key), encode_data(pchannel, key, "bench", [[os.urandom(RECORD_BYTES)]])
        )

    for start in range(0, slots, 64):
        await asyncio.gather(*(put(number) for number in range(start, min(slots, start + 64))))
    gets = [await timed(store.get(paths.log_slot(pchannel, 1, number))) for number in range(0, slots, slots // 100)]
    start_s = time.perf_counter()
    log = ObjectLog(doors, store)
    await log.open(pchannel, 2, ORIGIN, confirmed)
    count = 0
    async for _ in log.read(pchannel, ORIGIN):
        count += 1
    took_s = time.perf_counter() - start_s
    assert count == slots, count
    return took_s, statistics.mean(gets)


async def run(url: str, options: argparse.Namespace) -> None:
    doors = real_doors(lambda name, error: print(f"{name}: {error!r}"))
    store = await open_objects(doors, url, os.environ)
    ack_s, put_s = await latency(doors, store, options.count)
    print(
        f"low load    ack {1e3 * ack_s:.2f} ms, put {1e3 * put_s:.2f} ms: {ack_s / put_s:.2f} puts (goal 1.5)",
        flush=True,
    )
    log, bare = await bandwidth(doors, store, options.seconds)
    best = max(bare.values())
    told = ", ".join(f"{parallel} in flight {found:.0f}" for parallel, found in bare.items())
    print(f"high load   log {log:.0f} MB/s, bare puts {told} MB/s: {100 * log / best:.0f} % (goal 70)", flush=True)
    took_s, get_s = await recovery(doors, store, options.slots)
    print(f"recovery    {options.slots} slots in {took_s:.1f} s; one after another {options.slots * get_s:.1f} s")
    await doors.stop_tasks()
    doors.close()


def start_radosgw(folder: Path) -> str:
    """A gateway with a bucket; its URL. Its processes are in `folder`/*.pid."""
    import boto3  # of moto, in the development extra

    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(str(probe.getsockname()[1]))
    subprocess.run(
        [ROOT / "tools/one_node_radosgw.sh", folder, *ports], check=True, timeout=120, stdout=subprocess.DEVNULL
    )
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports[0]}",
        "AWS_ACCESS_KEY_ID": "AKTEST",
        "AWS_SECRET_ACCESS_KEY": "SKTEST",
        "AWS_REGION": "us-east-1",
    }
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"], region_name="us-east-1")
    client.create_bucket(Bucket="bench")
    return "s3://bench/log"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.object_log", description=__doc__)
    parser.add_argument("--store", help="URL of an empty store (default: a Ceph gateway of its own)")
    # The gateway of its own holds 2 GiB, and gives back what is deleted late: when it is full, nothing answers.
    parser.add_argument("--seconds", type=float, default=0.5, help="per measurement of bandwidth (%(default)s)")
    parser.add_argument("--count", type=int, default=400, help="appends for the latency (%(default)s)")
    parser.add_argument("--slots", type=int, default=10_000, help="slots to recover (%(default)s)")
    options = parser.parse_args(arguments)
    if options.store:
        asyncio.run(run(options.store, options))
        return
    with tempfile.TemporaryDirectory() as name:
        try:
            asyncio.run(run(start_radosgw(Path(name)), options))
        finally:
            for file in Path(name).glob("*.pid"):
                os.kill(int(file.read_text()), signal.SIGKILL)
            time.sleep(0.5)


if __name__ == "__main__":
    main()
