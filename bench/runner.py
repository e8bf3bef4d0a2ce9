"""Client processes: one that is kept for a system, and groups that start together at a barrier.

All are spawned, never forked, so that none inherits a gRPC channel or a thread of the bench, and all die with it.
"""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from bench import client
from bench.procs import Server, die_with_parent

ALIVE_POLL_S = 1.0
GROUP_S_MAX = 120.0

P = ParamSpec("P")
T = TypeVar("T")

_spawn = multiprocessing.get_context("spawn")


class ClientFailed(RuntimeError):
    """A client process raised; the message is its traceback, or says that it is gone."""


def _serve(orders: Connection) -> None:
    """Body of a client process: run what is sent, answer (done, value or traceback), leave when the pipe closes."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            function, args = orders.recv()
        except EOFError:
            return
        try:
            answer = (True, function(*args))
        except Exception:
            answer = (False, traceback.format_exc())
        orders.send(answer)


class ClientProcess:
    """One client process, used for everything but the groups; it has imported pymilvus before anything is timed.

    It does one thing at a time: each `begin` is followed by one `result`. Leaving the context kills it.
    """

    def __init__(self) -> None:
        self._orders, theirs = _spawn.Pipe()
        self._process = _spawn.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self.run(None, client.imported)

    def __enter__(self) -> ClientProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.join()
        self._orders.close()

    def begin(self, function: Callable[P, Any], *args: P.args, **_none: P.kwargs) -> None:
        """Start `function` in the client process."""
        self._orders.send((function, args))

    def result(self, server: Server | None) -> Any:
        """Wait for what was begun; raises `ServerDied` as soon as `server` ends meanwhile."""
        while not self._orders.poll(ALIVE_POLL_S):
            if server is not None:
                server.check_alive()
        try:
            done, value = self._orders.recv()
        except EOFError as gone:
            raise ClientFailed("the client process is gone") from gone
        if not done:
            if server is not None:
                server.check_alive()
            raise ClientFailed(value)
        return value

    def run(self, server: Server | None, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function` there and return its value."""
        self.begin(function, *args, **kwargs)
        value: T = self.result(server)
        return value


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
            process.kill()
    if min(seen) < 0:
        raise ClientFailed(f"{sum(rate < 0 for rate in seen)} of {clients} clients failed; see their messages above")
    return sum(seen)
