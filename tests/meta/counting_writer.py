"""A process that commits numbers to a store until it is killed, and prints each one after its commit was answered."""

from __future__ import annotations

import asyncio
import sys

from elanus.base.real import real_doors
from elanus.meta.sqlite import open_sqlite
from elanus.meta.store import Put


async def main(path: str, first: int) -> None:
    doors = real_doors(lambda name, error: sys.exit(f"{name}: {error!r}"))
    store = await open_sqlite(doors, path)
    number = first
    while True:
        value = b"%d" % number
        await store.transact((), (Put("newest", value), Put(f"n/{number % 50}", value * 20)))
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
        number += 1


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
