"""Client processes: one that is kept for a system, and groups that start together at a barrier.

All are spawned, never forked, so that none inherits a gRPC channel or a thread of the bench.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, TypeVar

from bench import client
from bench.procs import Server

ALIVE_POLL_S = 1.0
GROUP_S_MAX = 120.0

P = ParamSpec("P")
T = TypeVar("T")

_spawn = multiprocessing.get_context("spawn")


class ClientFailed(RuntimeError):
    """A client of a group ended with an error; its own message stands on stderr."""


class ClientProcess:
    """One client process, used for everything but the groups; it has imported pymilvus before anything is timed."""

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(max_workers=1, mp_context=_spawn)
        self._pool.submit(client.imported).result()

    def __enter__(self) -> ClientProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown(wait=kind is None, cancel_futures=True)

    def submit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Start `function` in the client process."""
        return self._pool.submit(function, *args, **kwargs)

    def run(self, server: Server, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function` there and return its value; raises `ServerDied` as soon as the server ends meanwhile."""
        return result_of(server, self.submit(function, *args, **kwargs))


def result_of(server: Server, future: Future[T]) -> T:
    """Wait for `future` while the server lives."""
    while not wait([future], timeout=ALIVE_POLL_S).done:
        server.check_alive()
    return future.result()


def group_rate(ask: client.Ask, queries_file: Path, clients: int, span_s: float) -> float:
    """Queries per second of `clients` processes that start together and ask single queries for `span_s` seconds."""
    barrier, rates = _spawn.Barrier(clients), _spawn.Queue()
    sync = (barrier, rates)
    processes = [
        _spawn.Process(target=client.search_for, args=(ask, queries_file, each * 100, span_s, sync), daemon=True)
        for each in range(clients)
    ]
    try:
        for process in processes:
            process.start()
        seen = [float(rates.get(timeout=GROUP_S_MAX)) for _ in processes]
        for process in processes:
            process.join(timeout=GROUP_S_MAX)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
    if min(seen) < 0:
        raise ClientFailed(f"{sum(rate < 0 for rate in seen)} of {clients} clients failed")
    return sum(seen)
