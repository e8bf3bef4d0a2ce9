"""Plays one plan and says what came of it.

A run: the shape starts; clients work while the injector carries out the plan; then everything is healed, the clients
finish, the background comes to rest, every key is read once more at Strong, and all invariants are checked. A run that
does not get that far in `LASTS_S_MAX` virtual seconds has failed, too: it has lost the ability to go on.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol

import pyarrow as pa
from threadpoolctl import threadpool_limits

from elanus.app.roles import Roles
from elanus.base.errors import Action, ElanusError
from elanus.index.kernels import initialize_thread
from elanus.nodes.contracts import Frontend
from elanus.nodes.streaming.delegate import BOUNDED_STALENESS_S
from elanus.testing.client import Client
from elanus.testing.clock import Deadlock
from elanus.testing.composition import Parts
from elanus.testing.history import BrokenPromise
from elanus.testing.sim.cluster import Cluster, MakeRoles
from elanus.testing.sim.faults import Injector, Machines
from elanus.testing.sim.hosts import Host
from elanus.testing.sim.linear import ClientHistory, check
from elanus.testing.sim.loop import Crashed, SimLoop, nap
from elanus.testing.sim.network import Network, SimTransport
from elanus.testing.sim.plan import LASTS_S, Plan
from elanus.testing.sim.standalone import Standalone
from elanus.testing.sim.trace import Trace
from elanus.testing.sim.workload import FIELDS, MAIN, PARTITIONS, Definer, NoAnswer, Record, Score, Worker

LASTS_S_MAX: Final = 120.0
REST_S: Final = 1.0
LOOKING_S_MAX: Final = 5.0
CHECKS_MAX: Final = 10


@dataclass
class Outcome:
    """What came of a run. `failure` is empty when every invariant held."""

    plan: Plan
    failure: str = ""
    score: Score = field(default_factory=Score)
    struck: Counter[tuple[str, str]] = field(default_factory=Counter)
    virtual_s: float = 0.0
    steps: int = 0
    trace: Trace | None = None
    exits: int = 0
    moves: int = 0

    @property
    def digest(self) -> str:
        """A hash over everything that happened."""
        return "" if self.trace is None else self.trace.digest()


class Died(BrokenPromise):
    """A process met a fault of its own making."""


class Shape(Machines, Protocol):
    """A composition under simulation."""

    broken: list[BaseException]
    exits: int
    moves: int

    def start(self) -> None:
        """Begin every process."""
        ...

    def checking(self, *, comes_to_rest: bool = True) -> list[asyncio.Task[Any]]:
        """Tasks that raise unless all invariants hold of what is stored and served; `comes_to_rest`: nothing is under
        way any more."""
        ...

    def addresses(self) -> list[str]:
        """Where proxies answer."""
        ...

    def balance(self) -> bool:
        """Ask for a channel to be moved; whether it will be."""
        ...


MakeShape = Callable[[Plan, Trace, Network], Shape]


class ClientSite:
    """A client's machine: where it finds proxies, and a clock."""

    def __init__(self, run: Run, name: str) -> None:
        self.trace = run.trace
        self.name = name
        self._run = run
        self.host = Host(name, "client", run.plan.seed, run.trace)
        self.life = self.host.begin()
        self._chance = random.Random(f"{run.plan.seed} way of {name}")
        self._transport = SimTransport(run.network, self.host)
        self._known: dict[str, Frontend] = {}

    @property
    def proxy(self) -> Frontend:
        address = self._chance.choice(self._run.shape.addresses())
        if address not in self._known:
            self._known[address] = self._transport.connect(address, Frontend)
        return self._known[address]

    def now_s(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await nap(seconds)

    async def balance(self) -> bool:
        return self._run.shape.balance()


class Run:
    """One run, on a loop of its own."""

    def __init__(self, plan: Plan, make: MakeShape) -> None:
        loop = asyncio.get_running_loop()
        self.plan = plan
        self.trace = Trace(loop.time)
        self.history = ClientHistory()
        self.score = Score()
        self.record = Record(self.history, self.score)
        self.network = Network(random.Random(f"{plan.seed} network"), self.trace)
        self.shape: Shape = make(plan, self.trace, self.network)
        self.injector = Injector(self.shape, random.Random(f"{plan.seed} faults"))

    async def play(self) -> None:
        """See the module's head."""
        plan = self.plan
        self.shape.start()
        first = ClientSite(self, "client-0")
        await self.until([first.life.start(self._set_up(first), "set up")])
        self.injector.begin(plan.faults)
        working = []
        for number in range(1, plan.load.clients + 1):
            site = ClientSite(self, f"client-{number}")
            worker = Worker(site, plan.load, self.record, random.Random(f"{plan.seed} client {number}"), number)
            working.append(site.life.start(worker.run(), site.name))
        site = ClientSite(self, "definer")
        definer = Definer(site, self.score, random.Random(f"{plan.seed} definer"))
        working.append(site.life.start(definer.run(plan.load.collections), site.name))
        await asyncio.wait(working, timeout=LASTS_S)
        self.injector.heal()
        await self.until(working)
        await self.until([first.life.start(self._wind_up(first), "wind up")])

    async def _set_up(self, site: ClientSite) -> None:
        """The collection that all share."""
        client = Client(site, MAIN, FIELDS)
        while True:
            try:
                await client.create(shard_count=self.plan.shard_count, replicas=self.plan.load.replicas)
                for partition in PARTITIONS[1:]:
                    await client.create_partition(partition)
                return
            except ElanusError as error:
                self.trace.note(site.name, "refused", f"create: {type(error).__name__}: {error.message}")
                await site.sleep(0.1)

    async def _wind_up(self, site: ClientSite) -> None:
        """Read everything; seal everything; read it again, and once more when its segments are merged."""
        client = Client(site, MAIN, FIELDS)
        worker = Worker(site, self.plan.load, self.record, random.Random(0), 0)
        await _insist(site, partial(client.load, replicas=self.plan.load.replicas))
        await _insist(site, worker.read_all)
        await _insist(site, worker.do_flush)
        await site.sleep(REST_S)
        await _insist(site, worker.read_all)
        await _insist(site, worker.do_compact)
        await site.sleep(REST_S)
        await _insist(site, worker.read_all)

    async def until(self, tasks: list[asyncio.Task[Any]]) -> None:
        """Wait for the tasks, or for something that must never happen."""
        while tasks:
            done, _ = await asyncio.wait(tasks, timeout=1.0, return_when=asyncio.FIRST_EXCEPTION)
            self._unbroken()
            for task in [one for one in tasks if one in done]:
                task.result()
                tasks.remove(task)

    async def rest(self) -> None:
        """Let background work come to rest."""
        await asyncio.sleep(REST_S)

    async def check(self) -> None:
        """Every promise."""
        check(self.history, BOUNDED_STALENESS_S)
        for attempt in range(CHECKS_MAX):
            try:
                await self.until(self.shape.checking())
                break
            except ElanusError as error:
                # Channels may still be on their way to other owners.
                if error.action not in (Action.RETRY, Action.ELSEWHERE) or attempt == CHECKS_MAX - 1:
                    raise
                self.trace.note("inspector", "refused", f"{type(error).__name__}: {error.message}")
                await asyncio.sleep(REST_S)
        self._unbroken()

    async def look_into(self) -> None:
        """Why a run does not get on: raises if a promise was broken on the way, as far as can be seen now. What keeps
        dying can be asked between two deaths."""
        check(self.history, BOUNDED_STALENESS_S)
        for _ in range(CHECKS_MAX):
            try:
                async with asyncio.timeout(LOOKING_S_MAX):
                    await self.until(self.shape.checking(comes_to_rest=False))
            except (ElanusError, TimeoutError) as error:
                self.trace.note("inspector", "refused", f"{type(error).__name__}: {error}")
            await asyncio.sleep(REST_S)

    def _unbroken(self) -> None:
        """Raise if a process died of something that no process may die of."""
        for error in (*self.shape.broken, *self.network.failed):
            if isinstance(error, BrokenPromise):
                raise error
            raise Died(f"{type(error).__name__}: {error}") from error


async def _insist(site: ClientSite, call: Any) -> None:
    while True:
        try:
            await call()
            return
        except NoAnswer:
            continue
        except ElanusError as error:
            site.trace.note(site.name, "refused", f"{type(error).__name__}: {error.message}")
            await site.sleep(0.2)


def one_thread() -> None:
    """No library may use a second thread: its timing would decide what happens."""
    initialize_thread()
    threadpool_limits(1)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)


def make_standalone(parts: Parts | None = None) -> MakeShape:
    """Makes a standalone shape, of these parts."""
    return lambda plan, trace, network: Standalone(plan, trace, network, parts)


def make_cluster(make: MakeRoles = Roles) -> MakeShape:
    """Makes a cluster, whose processes have such roles."""
    return lambda plan, trace, network: Cluster(plan, trace, network, make)


Steps = Callable[[Run], Awaitable[None]]


def play(plan: Plan, make: MakeShape | None = None) -> Outcome:
    """Play a plan."""

    async def steps(run: Run) -> None:
        await run.play()
        await run.check()

    return play_steps(plan, steps, make)


def play_steps(plan: Plan, steps: Steps, make: MakeShape | None = None) -> Outcome:
    """Take steps on a new world. Garbage is not collected meanwhile: nothing may happen at a moment that memory
    decides. An AssertionError that is no broken promise passes through."""
    one_thread()
    collects = gc.isenabled()
    gc.disable()
    loop = SimLoop()
    outcome = Outcome(plan)
    make = make or (make_cluster() if plan.shape == "cluster" else make_standalone())
    unexpected: list[BaseException] = []

    def on_error(_: object, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, BaseException) and not isinstance(error, Crashed | ElanusError):
            unexpected.append(error)

    loop.set_exception_handler(on_error)

    async def main() -> None:
        run = Run(plan, make)
        outcome.trace, outcome.score, outcome.struck = run.trace, run.score, run.trace.struck
        try:
            async with asyncio.timeout(LASTS_S_MAX):
                await steps(run)
        except TimeoutError:
            outcome.failure = f"stuck after {LASTS_S_MAX} virtual seconds"
            await run.look_into()
        finally:
            outcome.exits, outcome.moves = run.shape.exits, run.shape.moves
            for host in run.shape.hosts.values():
                host.end()

    try:
        _settle(loop, main(), outcome)
    finally:
        outcome.virtual_s, outcome.steps = loop.time(), loop.steps
        loop.close()
        if collects:
            gc.enable()
    if unexpected and not outcome.failure:
        outcome.failure = f"{type(unexpected[0]).__name__}: {unexpected[0]}"
    return outcome


def _settle(loop: SimLoop, main: Coroutine[Any, Any, None], outcome: Outcome) -> None:
    """Run to the end; what broke becomes the outcome's failure."""
    task = loop.create_task(main, context=contextvars.Context())
    try:
        loop.run_until_complete(task)
    except Deadlock as error:
        outcome.failure = f"stuck: {error}"
    except BrokenPromise as error:
        outcome.failure = f"{error}"
    except ElanusError as error:
        outcome.failure = f"{type(error).__name__}: {error.message}"
