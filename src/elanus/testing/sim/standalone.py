"""The standalone shape in a simulation: one server with all roles on a disk that forgets, clients over the network."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

from elanus.base.doors import Doors
from elanus.base.errors import Action, ElanusError, UnavailableError
from elanus.nodes.contracts import Frontend
from elanus.testing.composition import Options, Parts, VirtualGround, World
from elanus.testing.history import LogHistory, ObjectHistory
from elanus.testing.invariants import check_all
from elanus.testing.sim.bucket import Bucket
from elanus.testing.sim.hosts import Host
from elanus.testing.sim.meta import MetaServer
from elanus.testing.sim.network import Network
from elanus.testing.sim.plan import Plan
from elanus.testing.sim.trace import Trace

DOWN_S_MAX: Final = 0.4
ADDRESS: Final = "server"
_EXPECTED: Final = (Action.RETRY, Action.ELSEWHERE, Action.FENCED, Action.UNKNOWN)


class _HostGround(VirtualGround):
    """The server's machine as the ground of a `World`."""

    def __init__(self, host: Host) -> None:
        super().__init__(disk=host.disk)
        self._host = host

    def doors(self, on_failure: Callable[[str, BaseException], None]) -> Doors:
        self._host.disk.make_directory(self.folder)
        return self._host.doors(lambda _, task, error: on_failure(task, error))


class Standalone:
    """See the module's head; what `faults.Machines` and `run` ask of a shape."""

    bucket: Bucket | None = None
    meta_server: MetaServer | None = None
    moves = 0

    def __init__(self, plan: Plan, trace: Trace, network: Network, parts: Parts | None = None) -> None:
        self.trace = trace
        self.network = network
        self.log_history = LogHistory()
        self.object_history = ObjectHistory()
        self.host = Host("server", "standalone", plan.seed, trace)
        self.hosts = {"server": self.host}
        self.broken: list[BaseException] = []
        self.exits = 0
        self._chance = random.Random(f"{plan.seed} shape")
        self._ground = _HostGround(self.host)
        self._options = Options(
            pchannel_count=plan.pchannel_count,
            growing_bytes_max=plan.growing_bytes_max,
            growing_idle_s=plan.growing_idle_s,
            log_file_bytes_max=4096,
            retention_ms=60_000,
        )
        self._parts = parts or Parts()
        self.world = self._new_world()

    def _new_world(self) -> World:
        return World(
            self._ground,
            self._options,
            self._parts,
            self.log_history,
            self.object_history,
        )

    # --- life -------------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Begin the server's process; it serves when it has recovered."""
        life = self.host.begin()
        self.world = self._new_world()
        life.start(self._run(), "server")

    async def _run(self) -> None:
        world, host = self.world, self.host
        starting = asyncio.ensure_future(world.start())
        died = asyncio.ensure_future(world.died.wait())
        await asyncio.wait((starting, died), return_when=asyncio.FIRST_COMPLETED)
        if died.done():
            self._exit(*world.failures[-1])
            return
        try:
            starting.result()
        except ElanusError as error:
            self._exit("start", error)
            return
        self.network.serve(host, {Frontend: world.proxy}, ADDRESS)
        self.trace.note(host.name, "serves", "")
        await died
        self._exit(*world.failures[-1])

    def _exit(self, task: str, error: BaseException) -> None:
        """A task of the process has died, and the process with it."""
        self.trace.note(self.host.name, "exit", f"{task}: {type(error).__name__}: {error}")
        self.exits += 1
        if not isinstance(error, ElanusError) or error.action not in _EXPECTED:
            self.broken.append(error)
        self.crash(self.host)

    def crash(self, host: Host, *, power_seed: int | None = None) -> None:
        """See `faults.Machines`."""
        host.end(power_seed=power_seed)
        self._ground.disk = host.disk
        self.network.later(self._chance.random() * DOWN_S_MAX, self._restart)

    def _restart(self) -> None:
        if not self.host.is_up:
            self.start()

    def lease_keys(self, host: Host) -> Sequence[str]:
        """None: its leases are in its memory."""
        return ()

    def checking(self, *, comes_to_rest: bool = True) -> list[asyncio.Task[Any]]:
        """See `run.Shape`."""
        life = self.host.life
        if life is None:
            raise UnavailableError("the server is down")
        return [life.start(check_all(self.world, comes_to_rest=comes_to_rest), "check")]

    # --- for clients ------------------------------------------------------------------------------------------------
    def addresses(self) -> list[str]:
        """Of proxies."""
        return [ADDRESS]

    def balance(self) -> bool:
        """There is nowhere to move a channel to."""
        return False
