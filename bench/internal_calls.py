"""What a call between roles costs: direct, through the codec, and over streams between two processes.

    python -m bench.internal_calls

The processor time of the caller holds on a busy machine, too. Small is `add(1)`; 3 MB are the columns of an insert
(1000 rows of 768 floats), there and back.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection

import numpy as np
import uvloop

from elanus.base.real import real_doors
from elanus.model.columns import Batch, Column
from elanus.nodes.codec import through_codec
from elanus.testing.conformance_transport import Desk, Parcel, Postman
from elanus.wire.internal import Link, StreamTransport

SECONDS = 1.5
LINK = Link("127.0.0.1:0", "bench")


def _transport() -> StreamTransport:
    return StreamTransport(LINK, real_doors(lambda *_: None), report=lambda _: None, observe=lambda *_: None)


def _serve(tell: Connection) -> None:
    async def serve() -> None:
        tell.send(await _transport().serve({Postman: Desk()}))
        await asyncio.Event().wait()

    uvloop.run(serve())


async def _rate(call: Callable[[], Awaitable[object]], callers: int) -> tuple[float, float, float]:
    """(calls a second, median milliseconds, the caller's processor milliseconds for each)."""
    taken: list[float] = []
    used = time.process_time()
    end = time.perf_counter() + SECONDS

    async def caller() -> None:
        while (started := time.perf_counter()) < end:
            await call()
            taken.append(time.perf_counter() - started)

    await asyncio.gather(*(caller() for _ in range(callers)))
    used = time.process_time() - used
    return len(taken) / SECONDS, sorted(taken)[len(taken) // 2] * 1000, used / len(taken) * 1000


async def _measure(address: str) -> None:
    rows = {1: Column(np.arange(1000)), 2: Column(np.zeros((1000, 768), np.float32))}
    parcel = Parcel(name="rows", batch=Batch(1000, rows))
    remote = _transport().connect(address, Postman)
    ways: dict[str, Postman] = {"direct": Desk(), "codec": through_codec(Desk(), Postman), "stream": remote}
    sys.stdout.write(f"{'way':8}{'message':10}{'callers':>8}{'calls/s':>10}{'p50 ms':>9}{'CPU ms':>9}\n")
    for way, postman in ways.items():
        for message, call, callers in (
            ("small", lambda postman=postman: postman.add(1), 1),
            ("small", lambda postman=postman: postman.add(1), 32),
            ("3 MB", lambda postman=postman: postman.echo(parcel), 1),
        ):
            rate, median, used = await _rate(call, callers)
            sys.stdout.write(f"{way:8}{message:10}{callers:8}{rate:10.0f}{median:9.3f}{used:9.3f}\n")


def main() -> None:
    """Start the serving process, measure, end it."""
    context = multiprocessing.get_context("spawn")
    listen, tell = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(tell,), daemon=True)
    process.start()
    uvloop.run(_measure(listen.recv()))
    process.kill()


if __name__ == "__main__":
    main()
