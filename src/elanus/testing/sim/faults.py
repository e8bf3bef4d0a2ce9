"""Faults: a plan drawn from the seed, and the injector that carries it out.

A fault is of a kind, on a host, from a moment, for a while, with a strength. A plan is a list of them and can be
shortened, which is how a failing run is shrunk. Kinds by what they break: the network between processes, the bucket,
the meta store, the disk, the clock, the process itself.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from elanus.testing.sim.bucket import Bucket
from elanus.testing.sim.hosts import Host
from elanus.testing.sim.meta import MetaServer
from elanus.testing.sim.network import Network
from elanus.testing.sim.trace import Trace

NETWORK: Final = ("delay", "loss", "duplicate", "reorder", "partition", "one_way")
OBJECTS: Final = ("object_503", "object_409", "object_412", "object_late", "object_stale")
META: Final = ("meta_lost", "meta_late", "meta_cut", "meta_no_quorum", "watch_gap", "lease_lost")
DISK: Final = ("disk_full", "write_error", "sync_error")
PROCESS: Final = ("pause", "crash", "power_cut", "clock_step")

CLOCK_STEP_MS_MAX: Final = 20_000
LONG_PAUSE_S: Final = 25.0
FUSE_CALLBACKS_MAX: Final = 300
STRENGTH_MIN: Final = 0.1
STRENGTH_MAX: Final = 0.6


class Fault(msgspec.Struct, frozen=True):
    """`strength` 0..1: how likely, how long, how far, as the kind has it."""

    kind: str
    host: str
    at_s: float
    for_s: float
    strength: float


class Machines(Protocol):
    """What the injector works on."""

    trace: Trace
    network: Network
    hosts: dict[str, Host]

    @property
    def bucket(self) -> Bucket | None:
        """The object store of all, if there is one."""
        ...

    @property
    def meta_server(self) -> MetaServer | None:
        """The meta store of all, if there is one."""
        ...

    def crash(self, host: Host, *, power_seed: int | None = None) -> None:
        """End the host's process; it is started again some time later."""
        ...

    def lease_keys(self, host: Host) -> Sequence[str]:
        """Keys that stand under the leases of the host's process."""
        ...


def draw(
    chance: random.Random, kinds: Mapping[str, Sequence[str]], count: int, lasts_s: float, seldom: Sequence[str] = ()
) -> tuple[Fault, ...]:
    """One crash on every host, and more of any kind that a host can have (`kinds`: host to kinds). Hosts that `seldom`
    get a message, and seldom store anything, hardly meet what network or bucket do for a second: one of them has such a
    fault for as long as it lasts, and at its strongest."""
    hosts = sorted(kinds)
    crashes = [_one(chance, "crash", host, lasts_s) for host in hosts]
    offered = sorted({(host, kind) for host in hosts for kind in kinds[host]})
    others = [_one(chance, kind, host, lasts_s) for host, kind in (chance.choice(offered) for _ in range(count))]
    lasting = [(host, kind) for host, kind in offered if host in seldom and kind in (*NETWORK, *OBJECTS)]
    for host, kind in [chance.choice(lasting)] if lasting else []:
        others.append(Fault(kind, host, 0.0, lasts_s, STRENGTH_MAX))
    return tuple(sorted([*crashes, *others], key=lambda fault: fault.at_s))


def _one(chance: random.Random, kind: str, host: str, lasts_s: float) -> Fault:
    for_s = 0.2 + chance.random() * 1.5
    if kind == "pause" and chance.random() < 0.3:
        for_s = LONG_PAUSE_S
    strength = STRENGTH_MIN + (STRENGTH_MAX - STRENGTH_MIN) * chance.random()
    return Fault(kind, host, round(chance.random() * lasts_s, 3), round(for_s, 3), round(strength, 3))


class Injector:
    """Carries a plan out; `heal` ends everything."""

    def __init__(self, machines: Machines, chance: random.Random) -> None:
        self._machines = machines
        self._chance = chance
        self._healed = False

    def begin(self, faults: Sequence[Fault]) -> None:
        """Schedule all faults, from now on."""
        loop = asyncio.get_running_loop()
        for fault in faults:
            loop.call_later(fault.at_s, self._begin, fault, context=contextvars.Context())

    def _begin(self, fault: Fault) -> None:
        if self._healed:
            return
        loop, host = asyncio.get_running_loop(), self._machines.hosts[fault.host]
        undo = self._apply(fault, host)
        if undo is not None:
            self._machines.trace.note(host.name, f"begin {fault.kind}", f"{fault.for_s} s, {fault.strength}")
            loop.call_later(fault.for_s, undo, context=contextvars.Context())

    def _apply(self, fault: Fault, host: Host) -> Callable[[], None] | None:
        """Begin the fault; what ends it."""
        if fault.kind in NETWORK:
            return self._network(fault, host)
        if fault.kind in OBJECTS:
            return self._objects(fault, host)
        if fault.kind in META:
            return self._meta(fault, host)
        if fault.kind in DISK:
            return _set(host.disk_faults, fault.kind.removeprefix("disk_"), fault.strength)
        return self._process(fault, host)

    def _network(self, fault: Fault, host: Host) -> Callable[[], None]:
        network = self._machines.network
        weather = network.weather(host.name)
        match fault.kind:
            case "delay":
                return _set(weather, "slow_s", fault.strength)
            case "loss" | "reorder":
                return _set(weather, fault.kind, fault.strength / 2)
            case "duplicate":
                return _set(weather, "double", fault.strength)
        others = [one for one in self._machines.hosts if one != host.name]
        out = [(host.name, one) for one in others]
        back = [(one, host.name) for one in others]
        if fault.kind == "partition":
            links = [*out, *back]
        else:
            links = out if self._chance.random() < 0.5 else back

        def mend() -> None:
            for link in links:
                if network.cuts.get(link) == fault.kind:
                    del network.cuts[link]

        network.cuts.update(dict.fromkeys(links, fault.kind))
        return mend

    def _objects(self, fault: Fault, host: Host) -> Callable[[], None] | None:
        if self._machines.bucket is None:
            return None
        names = {"object_503": "unavailable", "object_409": "conflict", "object_412": "lost_reply"}
        name = names.get(fault.kind) or {"object_late": "late", "object_stale": "stale_list"}[fault.kind]
        return _set(self._machines.bucket.faults(host.name), name, fault.strength)

    def _meta(self, fault: Fault, host: Host) -> Callable[[], None] | None:
        server = self._machines.meta_server
        if server is None:
            return None
        faults = server.faults(host.name)
        match fault.kind:
            case "meta_lost":
                return _set(faults, "lost_reply", fault.strength)
            case "meta_late":
                return _set(faults, "late", fault.strength)
            case "watch_gap":
                return _set(faults, "watch_gap", fault.strength)
            case "meta_cut":
                return _set(faults, "cut", True, False)
            case "meta_no_quorum":
                return _set(server, "has_quorum", False, True)
        for lease in server.leases_of(self._machines.lease_keys(host)):
            self._machines.trace.strike("lease_lost", host.role, host.name, lease)
            server.end(lease)
        return None

    def _process(self, fault: Fault, host: Host) -> Callable[[], None] | None:
        machines = self._machines
        life = host.life
        if fault.kind == "clock_step":
            step_ms = int((2 * self._chance.random() - 1) * CLOCK_STEP_MS_MAX * fault.strength)
            host.clock.skew_ms += step_ms
            machines.trace.strike("clock_step", host.role, host.name, f"{step_ms} ms")
            return None
        if life is None:
            return None
        if fault.kind == "pause":
            machines.trace.strike("pause", host.role, host.name, f"{fault.for_s} s")
            life.pause()
            machines.network.paused(host)
            return life.resume
        # At an arbitrary await of the process, or now if it does nothing.
        power_seed = self._chance.getrandbits(32) if fault.kind == "power_cut" else None
        kind = fault.kind

        def struck() -> None:
            if host.life is life:
                machines.trace.strike(kind, host.role, host.name)
                machines.crash(host, power_seed=power_seed)

        life.on_death.append(struck)
        life.light_fuse(self._chance.randint(0, FUSE_CALLBACKS_MAX))
        return lambda: None if self._healed else life.kill()

    def heal(self) -> None:
        """End every fault; hosts that are down come up by themselves."""
        self._healed = True
        machines = self._machines
        machines.network.calm()
        for host in machines.hosts.values():
            host.disk_faults.calm()
            if host.life is not None:
                host.life.resume()
        if machines.bucket is not None:
            machines.bucket.calm()
        if machines.meta_server is not None:
            machines.meta_server.calm()


def _set(place: object, name: str, value: object, rest: object = 0.0) -> Callable[[], None]:
    """Set an attribute, and what puts back what it is at rest."""
    setattr(place, name, value)
    return lambda: setattr(place, name, rest)
