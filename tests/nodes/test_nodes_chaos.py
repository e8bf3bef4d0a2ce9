"""Writers, readers, upkeep, failing logs, kills and power cuts at once, in an order drawn from a seed.

Each writer owns some keys and knows for each what it may hold: after an acknowledged write exactly that, after an
unknown outcome either. Whatever happens, Strong reads answer within that, no key is counted twice, and in the end all
invariants hold.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest
from node_calls import Client, row, run

from elanus.base.doors import Doors
from elanus.base.errors import Action, DiskFullError, ElanusError, OutcomeUnknownError, StorageError
from elanus.model.channel import Position
from elanus.testing.composition import Options, Parts, World
from elanus.wal.log import Confirm, Log, Writer

KEYS_OF_WRITER = 6
CALL_S_MAX = 60.0


class FlakyWriter:
    """Fails now and then, in every way the port allows."""

    def __init__(self, writer: Writer, log: FlakyLog) -> None:
        self._writer = writer
        self._log = log
        self._dead: ElanusError | None = None
        self.term, self.report = writer.term, writer.report

    @property
    def end(self) -> Position:
        return self._writer.end

    async def append(self, records: Sequence[Any]) -> Position:
        if self._dead is not None:
            raise type(self._dead)(self._dead.message)
        fault = self._log.chance.random() if self._log.failing else 1.0
        if fault < 0.03:
            self._dead = DiskFullError("no room, says the test")
            raise self._dead
        if fault < 0.06:
            self._dead = StorageError("broken, says the test")
            raise self._dead
        first = await self._writer.append(records)
        if fault < 0.09:
            self._dead = OutcomeUnknownError("who knows, says the test")
            raise self._dead
        return first

    async def close(self) -> None:
        await self._writer.close()


class FlakyLog:
    """A log whose writers fail."""

    def __init__(self, log: Log, chance: random.Random) -> None:
        self._log = log
        self.chance = chance
        self.failing = True
        self.read = log.read
        self.truncate = log.truncate

    async def open(self, pchannel: str, term: int, replay_from: Position, confirm: Confirm) -> Writer:
        return FlakyWriter(await self._log.open(pchannel, term, replay_from, confirm), self)


class Flaky(Parts):
    """Such a log in every life."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.failing = False
        self.logs: list[FlakyLog] = []

    def log(self, doors: Doors, folder: str, options: Options) -> Log:
        made = FlakyLog(super().log(doors, folder, options), self.chance)
        made.failing = self.failing
        self.logs.append(made)
        return made

    def set_failing(self, failing: bool) -> None:
        self.failing = failing
        for log in self.logs:
            log.failing = failing


class Chaos:
    """One run."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.chance = random.Random(seed)
        self.client = Client(world)
        self.calls: set[asyncio.Future[Any]] = set()
        self.up = asyncio.Event()
        self.up.set()
        self.writing = True
        self.acknowledged = 0

    async def call(self, coroutine: Any) -> Any:
        """The answer, or None when nobody will ever know."""
        await self.up.wait()
        job = asyncio.ensure_future(asyncio.wait_for(coroutine, CALL_S_MAX))
        self.calls.add(job)
        try:
            await asyncio.wait((job,))
            return None if job.cancelled() or isinstance(job.exception(), TimeoutError) else job.result()
        finally:
            self.calls.discard(job)

    async def write_for_ever(self, first: int) -> dict[int, set[int | None]]:
        possible: dict[int, set[int | None]] = {key: {None} for key in range(first, first + KEYS_OF_WRITER)}
        turn = 0
        while self.writing:
            await self.up.wait()
            turn += 1
            keys = self.chance.sample(sorted(possible), self.chance.randint(1, 3))
            value: int | None = turn
            if self.chance.random() < 0.3:
                value, request = None, self.client.delete_ids(keys)
            elif all(possible[key] == {None} for key in keys) and self.chance.random() < 0.5:
                request = self.client.insert([row(key, turn) for key in keys])
            else:
                request = self.client.upsert([row(key, turn) for key in keys])
            sure = False
            try:
                sure = await self.call(request) is not None
            except ElanusError as error:
                if error.action is not Action.UNKNOWN:
                    continue
            for key in keys:
                possible[key] = {value} if sure else possible[key] | {value}
            self.acknowledged += sure
            if self.chance.random() < 0.4:
                await self.compare(possible)
            await self.world_sleep(self.chance.random() * 0.2)
        return possible

    async def compare(self, possible: dict[int, set[int | None]]) -> None:
        """Exact keys, and as many rows as keys."""
        known = {key: set(values) for key, values in possible.items()}
        among = f"id in {sorted(possible)}"
        try:
            reply = await self.call(self.client.rows(among, ("id", "value")))
            count = await self.call(self.client.count(among))
        except ElanusError as error:
            assert error.action in (Action.RETRY, Action.ELSEWHERE, Action.FENCED), error
            return
        if reply is None or count is None:
            return
        found = {one["id"]: one["value"] for one in reply}
        wrong = {key: (found.get(key), values) for key, values in known.items() if found.get(key) not in values}
        assert not wrong, f"found, possible: {wrong}"
        least = sum(None not in values for values in known.values())
        most = sum(values != {None} for values in known.values())
        assert least <= count <= most, f"counted {count}, possible {least} to {most}"

    async def world_sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def upkeep_for_ever(self) -> None:
        while self.writing:
            await self.up.wait()
            try:
                await self.call(self.client.flush() if self.chance.random() < 0.7 else self.client.compact())
            except ElanusError as error:
                assert error.action is not Action.CORRUPTED, error
            await self.world_sleep(self.chance.random() * 2)

    async def crash(self) -> None:
        self.up.clear()
        power = self.chance.randint(0, 99) if self.chance.random() < 0.5 else None
        for job in list(self.calls):
            job.cancel()
        await self.world.kill()
        if power is not None:
            self.world.ground.cut_power(power)  # type: ignore[union-attr]
        await self.world.start()
        self.up.set()

    async def play(self, lives: int) -> None:
        parts = self.world.parts
        assert isinstance(parts, Flaky)
        await self.client.create(shard_count=2)
        parts.set_failing(True)
        writers = [asyncio.ensure_future(self.write_for_ever(100 * number)) for number in range(1, 4)]
        upkeep = asyncio.ensure_future(self.upkeep_for_ever())
        for _ in range(lives):
            await self.world_sleep(self.chance.random() * 6)
            for _ in range(self.chance.randint(0, 40)):
                await asyncio.sleep(0)
            await self.crash()
        await self.world_sleep(3)
        self.writing = False
        outcomes = await asyncio.gather(*writers)
        await upkeep
        parts.set_failing(False)
        await self.world_sleep(5)
        for possible in outcomes:
            await self.compare(possible)
        assert self.acknowledged > 10
        await self.client.flush()
        await self.world.settle()
        for possible in outcomes:
            await self.compare(possible)


def chaos(seed: int) -> None:
    async def scenario(world: World) -> None:
        await Chaos(world, seed).play(lives=4)

    options = Options(
        codec=seed % 2 == 1,
        query_nodes=1 + seed % 3 // 2,
        growing_bytes_max=(64 * 1024 * 1024, 2000)[seed % 2],
        growing_idle_s=3.0,
        log_file_bytes_max=8192,
    )
    run(scenario, options, seed=seed, parts=Flaky(seed))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_nothing_acknowledged_is_lost_doubled_or_revived(seed: int) -> None:
    chaos(seed)


@pytest.mark.drill
@pytest.mark.parametrize("seed", range(1000, 1120))
def test_the_same_from_many_seeds(seed: int) -> None:
    chaos(seed)
