"""A `GrpcServer` over a `MemoryFrontend`, on a loop in a thread of its own, for clients that block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from wire_memory_frontend import MemoryFrontend

from elanus.base.real import real_doors
from elanus.wire.server import GrpcServer


class Serving:
    """The server, its frontend, and what its callbacks were told."""

    def __init__(self, connection_age_s_max: float) -> None:
        self.frontend = MemoryFrontend()
        self.reports: list[BaseException] = []
        self.observed: list[tuple[str, int, float]] = []
        self.port = 0
        self.loop = asyncio.new_event_loop()
        self.doors = real_doors(lambda name, error: self.reports.append(error))
        self.server = GrpcServer(
            self.frontend,
            self.doors,
            report=self.reports.append,
            observe=lambda name, code, seconds: self.observed.append((name, code, seconds)),
            connection_age_s_max=connection_age_s_max,
        )

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run on the server's loop and wait."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)


@contextmanager
def serving(*addresses: str, connection_age_s_max: float = 0.0) -> Iterator[Serving]:
    """A started server on a free port of 127.0.0.1 (or on these addresses)."""
    holder: list[Serving] = []
    ready = threading.Event()

    def main() -> None:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)

        async def make() -> None:
            made = Serving(connection_age_s_max)
            made.loop = loop
            holder.append(made)

        loop.run_until_complete(make())
        ready.set()
        loop.run_forever()

    thread = threading.Thread(target=main, daemon=True)
    thread.start()
    assert ready.wait(20)
    served = holder[0]
    try:
        served.port = served.run(served.server.start(addresses or ("127.0.0.1:0",)))[0]
        yield served
        served.run(served.server.stop(1.0))
    finally:
        served.loop.call_soon_threadsafe(served.loop.stop)
        thread.join(20)
        served.doors.close()
