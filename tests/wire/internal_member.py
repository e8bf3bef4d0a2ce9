"""A member of a network in a process of its own: serves the conformance suite's role on a port, tells its address."""

from __future__ import annotations

import asyncio
import sys

from elanus.base.real import real_doors
from elanus.testing.conformance_transport import Desk, Postman
from elanus.wire.internal import Link, StreamTransport


async def main() -> None:
    doors = real_doors(lambda name, error: None)
    link = Link(f"127.0.0.1:{sys.argv[1]}", "cluster", keep_alive_s=0.5)
    transport = StreamTransport(link, doors, report=print, observe=lambda *_: None)
    print(await transport.serve({Postman: Desk()}), flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
