"""Scenarios of your own on a virtual cluster: written with `testing.client`, replayed from a seed.

async def scenario(cluster: VirtualCluster) -> None:
    client = Client(cluster)
    await client.create()
    await client.upsert([row(1, 10)])
    cluster.crash("streaming-1")
    assert await client.values() == {1: 10}

simulate(scenario, seed=7)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from elanus.base.errors import ElanusError
from elanus.nodes.contracts import Frontend
from elanus.testing.sim.faults import Fault
from elanus.testing.sim.hosts import Host
from elanus.testing.sim.plan import Plan
from elanus.testing.sim.run import ClientSite, MakeShape, Outcome, Run, play_steps
from elanus.testing.sim.workload import Load

READY_S_MAX: Final = 30.0
_IDLE: Final = Load(clients=0, operations=0, collections=0)


class VirtualCluster:
    """Two processes of each role, as a scenario sees them: `streaming-1`, `query-2`, `proxy-1` and so on."""

    def __init__(self, run: Run, site: ClientSite) -> None:
        self._run = run
        self._site = site

    @property
    def proxy(self) -> Frontend:
        """A proxy that is up; for `testing.client.Client`."""
        return self._site.proxy

    async def sleep(self, seconds: float) -> None:
        """By the virtual clock."""
        await self._site.sleep(seconds)

    def now_s(self) -> float:
        """Virtual seconds since the start."""
        return self._site.now_s()

    def _host(self, name: str) -> Host:
        return self._run.shape.hosts[name]

    def crash(self, name: str) -> None:
        """Kill the process; its machine starts it again half a second later at most."""
        self._run.shape.crash(self._host(name))

    def pause(self, name: str) -> None:
        """Stop it as SIGSTOP does."""
        host = self._host(name)
        if host.life is not None:
            host.life.pause()
            self._run.network.paused(host)

    def resume(self, name: str) -> None:
        """Let it go on."""
        life = self._host(name).life
        if life is not None:
            life.resume()

    def cut(self, one: str, other: str) -> None:
        """Let no message through between these machines until `mend`."""
        self._run.network.cuts.update({(one, other): "partition", (other, one): "partition"})

    def mend(self) -> None:
        """Undo all cuts."""
        self._run.network.cuts.clear()

    def step_clock(self, name: str, milliseconds: int) -> None:
        """Move its wall clock."""
        self._host(name).clock.skew_ms += milliseconds

    def inject(self, kind: str, name: str, for_s: float, strength: float = 0.5) -> None:
        """Any fault of `testing.sim.faults`, from now on for a while."""
        self._run.injector.begin([Fault(kind, name, 0.0, for_s, strength)])


Scenario = Callable[[VirtualCluster], Awaitable[None]]


def simulate(scenario: Scenario, *, seed: int = 0, make: MakeShape | None = None) -> Outcome:
    """Play a scenario on a new cluster; then heal, rest, and check every invariant. Raises what broke, AssertionErrors
    of the scenario among it."""
    plan = Plan(seed=seed, shape="cluster", load=_IDLE)

    async def steps(run: Run) -> None:
        site = ClientSite(run, "client")
        run.shape.start()

        async def take() -> None:
            await _ready(site)
            await scenario(VirtualCluster(run, site))

        await run.until([site.life.start(take(), "scenario")])
        run.injector.heal()
        await run.rest()
        await run.check()

    outcome = play_steps(plan, steps, make)
    if outcome.failure:
        raise AssertionError(outcome.failure)
    return outcome


async def _ready(site: ClientSite) -> None:
    """Until the cluster answers."""
    while True:
        try:
            await site.proxy.list_databases()
            return
        except ElanusError:
            if site.now_s() > READY_S_MAX:
                raise
            await site.sleep(0.05)
