"""Doors and stores for the meta tests."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from pathlib import Path

from elanus.base.doors import Doors
from elanus.base.real import real_doors
from elanus.meta.local import LocalMetaStore
from elanus.meta.memory import open_memory
from elanus.meta.sqlite import open_sqlite
from elanus.testing.conformance_meta import ManualClock


@dataclasses.dataclass
class Harness:
    """A store on the real doors with a clock of its own."""

    store: LocalMetaStore
    clock: ManualClock
    doors: Doors
    second_s: float = 1.0

    async def pass_time(self, seconds: float) -> None:
        await self.clock.advance(seconds)


def play(kind: str, folder: Path, scenario: Callable[[Harness], Awaitable[None]]) -> None:
    """Run the scenario on a fresh store of that kind; tasks that die fail it."""

    async def main() -> None:
        failures: list[str] = []
        clock = ManualClock()
        real = real_doors(lambda name, error: failures.append(f"{name}: {error!r}"))
        doors = Doors(clock, real.random, real.tasks, real.compute, real.files)
        store = open_memory(doors) if kind == "memory" else await open_sqlite(doors, str(folder / "meta.db"))
        try:
            await asyncio.wait_for(scenario(Harness(store, clock, doors)), 20)
        finally:
            await store.close()
            await real.stop_tasks()
            real.close()
        assert not failures, failures

    asyncio.run(main())
