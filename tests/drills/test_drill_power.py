"""The power goes out at every point at which the disk is asked for something; every acknowledged operation holds.

All roles run in one process on the forgetting disk (`elanus.testing.disk`): the log, segments, manifests and their
removal go through it. A run without a cut counts the points of one fixed play: appends, syncs, links, removals, of log
files and objects. Then the play is repeated from the same seed with the power cut at each of them, the disk forgets
what was not synced (and keeps any part of it it likes), the store is opened again, and what it holds is compared with
what was acknowledged. Some runs lose power once more while they recover.

The catalog (sqlite in production, on the real disk) is modelled as durable at each commit; sqlite's own power safety
(`synchronous=FULL`) is left to sqlite.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from node_calls import Client, row

from elanus.base.errors import Action, ElanusError
from elanus.index.kernels import initialize_thread
from elanus.testing.clock import VirtualLoop
from elanus.testing.composition import Options, VirtualGround, World
from elanus.testing.disk import ForgettingDisk, Point, PowerCut
from elanus.testing.invariants import check_all

SEED = 20261123
OPTIONS = Options(
    pchannel_count=1, growing_bytes_max=1500, segment_bytes_max=100_000, retention_ms=0, log_file_bytes_max=3000
)
STEPS = 20
KEYS = 60
# What a cut is tried at: an append that is not synced yet is like none, but for its torn tail.
VERBS = frozenset({"append", "sync", "sync_directory", "link", "rename", "remove"})
CALL_S_MAX = 60.0
LASTS_S_MAX = 3600.0

Outcomes = frozenset[int | None]


class Cutter:
    """A disk's hook: notes each point, and cuts the power at one."""

    def __init__(self, at: int = -1) -> None:
        self.at = at
        self.points: list[Point] = []
        self.happened = asyncio.Event()

    def __call__(self, point: Point) -> None:
        self.points.append(point)
        if point.number == self.at:
            self.happened.set()
            raise PowerCut


@dataclass
class Play:
    """One world, its client's knowledge, and the cuts."""

    cutter: Cutter
    seed: int
    world: World = field(init=False)
    client: Client = field(init=False)
    possible: dict[int, Outcomes] = field(default_factory=dict)
    there: frozenset[bool] = frozenset((False,))
    done: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.world = World(VirtualGround(self.seed, ForgettingDisk(hook=self.cutter)), OPTIONS)
        self.client = Client(self.world)

    # --- the play ---------------------------------------------------------------------------------------------------
    async def run(self) -> bool:
        """The whole play; False when the power went out in the middle."""
        if not await self.unless_cut(self.world.start()):
            return False
        self.there = frozenset((True, False))
        if not await self.unless_cut(self.client.create(shard_count=2)):
            return False
        self.there = frozenset((True,))
        dice = random.Random(self.seed)
        for number in range(STEPS):
            if not await self.step(dice, number):
                return False
        return True

    async def step(self, dice: random.Random, number: int) -> bool:
        keys = dice.sample(range(KEYS), dice.randint(1, 12))
        choice = dice.random()
        if number % 7 == 5:
            return await self.unless_cut(self.client.flush())
        if number % 13 == 12:
            return await self.unless_cut(self.client.compact())
        if choice < 0.55:
            fresh = dict.fromkeys(keys, number)
            return await self.write(fresh, lambda: self.client.upsert([row(key, number) for key in keys]))
        if choice < 0.75:
            first = 1000 + number * 20
            fresh = dict.fromkeys(range(first, first + 10), number)
            return await self.write(fresh, lambda: self.client.insert([row(key, number) for key in fresh]))
        if choice < 0.9:
            return await self.write(dict.fromkeys(keys), lambda: self.client.delete_ids(keys))
        low = dice.randrange(KEYS)
        gone = {key: None for key in self.possible if low <= key < low + 10}
        return await self.write(gone, lambda: self.client.delete(f"id >= {low} and id < {low + 10}"))

    async def write(self, outcomes: dict[int, int | None], call: Callable[[], Awaitable[object]]) -> bool:
        before = {key: self.of(key) for key in outcomes}
        self.possible |= {key: before[key] | {outcome} for key, outcome in outcomes.items()}
        if not await self.unless_cut(call()):
            self.done["unknown"] += 1
            return False
        self.possible |= {key: frozenset((outcome,)) for key, outcome in outcomes.items()}
        self.done["acknowledged"] += 1
        return True

    def of(self, key: int) -> Outcomes:
        return self.possible.get(key, frozenset((None,)))

    async def unless_cut(self, call: Awaitable[object]) -> bool:
        """Await the call, or the power cut."""
        running = asyncio.ensure_future(call)
        cut = asyncio.ensure_future(self.cutter.happened.wait())
        await asyncio.wait((running, cut), return_when=asyncio.FIRST_COMPLETED, timeout=CALL_S_MAX)
        cut.cancel()
        if running.done() and not running.cancelled() and running.exception() is None:
            # What was acknowledged holds, though the power go out in the same moment.
            return True
        assert self.cutter.happened.is_set(), f"a call failed or hangs: {running}"
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return False

    # --- after it ---------------------------------------------------------------------------------------------------
    async def recover(self, power_seed: int, again_at: int) -> None:
        """Open the store after a cut, with another cut in the recovery if `again_at` is reached in it."""
        ground = self.world.ground
        assert isinstance(ground, VirtualGround)
        await self.world.kill()
        ground.cut_power(power_seed)
        second = ground.disk.hook = Cutter(again_at)
        self.cutter = second
        if not await self.unless_cut(self.world.start()):
            await self.world.kill()
            ground.cut_power(power_seed + 1)
            self.done["cut again"] += 1
            await self.world.start()
        elif second.happened.is_set():
            await self.world.kill()
            ground.cut_power(power_seed + 2)
            await self.world.start()
        ground.disk.hook = None

    async def check(self) -> None:
        """Everything acknowledged is there and nothing else; then the world goes on, and its invariants hold."""
        found = await self.collection_is_there()
        assert found in self.there, f"collection there: {found}, possible {self.there}"
        if not found or False in self.there:
            return
        values = await self.client.values()
        for key in {*self.possible, *values}:
            assert values.get(key) in self.of(key), f"key {key}: {values.get(key)}, possible {self.of(key)}"
        assert await self.client.count() == len(values)
        for key in sorted(values)[:: max(1, len(values) // 4)]:
            hits = await self.client.search([float(key), 0.0], 3)
            assert hits[0] == (key, 0.0), f"search of {key}: {hits}"
        await self.client.upsert([row(key, 999) for key in range(5)])
        assert {key: value for key, value in (await self.client.values()).items() if key < 5} == dict.fromkeys(
            range(5), 999
        )

    async def collection_is_there(self) -> bool:
        try:
            await self.client.load()
        except ElanusError as error:
            assert error.action is Action.FIX_REQUEST, error
            return False
        return True


async def cut_and_check(at: int, seed: int, again: int) -> Play:
    play = Play(Cutter(at), seed)
    if await play.run() and not play.cutter.happened.is_set():
        raise AssertionError(f"point {at} was never reached")
    await play.recover(power_seed=seed * 100_000 + at, again_at=again)
    await play.check()
    await check_all(play.world)
    await play.world.stop()
    return play


def in_virtual_time(call: Callable[[], Awaitable[Play]]) -> Play:
    async def bounded() -> Play:
        async with asyncio.timeout(LASTS_S_MAX):
            return await call()

    initialize_thread()  # as a server does: several OpenMP threads on a busy machine wait for one another
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(bounded())


async def uncut() -> Play:
    """The play as it is without a cut; its cutter's points are those that a cut can come at."""
    play = Play(Cutter(), SEED)
    assert await play.run()
    assert isinstance(play.world.ground, VirtualGround)
    play.world.ground.disk.hook = None
    await play.check()
    await play.world.stop()
    return play


def kind_of(point: Point) -> str:
    """What a point is about."""
    for part in ("/wal/", "/manifests/", "/segments/", "/deletes/", "/catalog/", ".temporary"):
        if part in point.path:
            return f"{point.verb} {part.strip('/.')}"
    return point.verb


def cut_everywhere(stride: int) -> None:
    """Cut at every `stride`-th point."""
    home = VirtualGround.folder  # made before anything runs
    points = [point for point in in_virtual_time(uncut).cutter.points if point.path != home and point.verb in VERBS]
    chosen = points[::stride]
    done: Counter[str] = Counter()
    for index, point in enumerate(chosen):
        again = index % 3 * 7 if index % 3 else -1
        try:
            play = in_virtual_time(lambda at=point.number, again=again: cut_and_check(at, SEED, again))
        except BaseException as error:
            raise AssertionError(f"cut at {point} (again at {again})") from error
        done += play.done
    kinds = Counter(map(kind_of, chosen))
    print(f"\npower drill: {len(chosen)} cuts of {len(points)} points {dict(kinds)}; {dict(done)}")


@pytest.mark.slow
def test_power_cut_at_some_points() -> None:
    cut_everywhere(stride=41)


@pytest.mark.drill
def test_power_cut_at_every_point() -> None:
    cut_everywhere(stride=1)
