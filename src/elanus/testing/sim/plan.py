"""What a run is made of: everything follows from this value, and a smaller one of the same kind is a simpler run."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from elanus.testing.sim.faults import DISK, META, NETWORK, OBJECTS, PROCESS, Fault, draw
from elanus.testing.sim.workload import Load

LASTS_S: Final = 8.0
FAULT_COUNT: Final = 24

STANDALONE_HOSTS: Final = ("server",)
STANDALONE_KINDS: Final[Mapping[str, Sequence[str]]] = {"server": (*NETWORK, *DISK, *PROCESS)}
CLUSTER_KINDS: Final = (*NETWORK, *OBJECTS, *META, "pause", "crash", "clock_step")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """`shape`: standalone or cluster. `growing_bytes_max` and the like decide how much goes on in the background."""

    seed: int
    shape: str = "standalone"
    load: Load = Load()
    faults: tuple[Fault, ...] = ()
    pchannel_count: int = 2
    shard_count: int = 2
    growing_bytes_max: int = 3000
    growing_idle_s: float = 1.0


def plan_standalone(seed: int) -> Plan:
    """One process of all roles, on a disk that forgets, with clients over the network."""
    chance = random.Random(f"{seed} plan")
    return Plan(
        seed=seed,
        faults=draw(chance, STANDALONE_KINDS, FAULT_COUNT, LASTS_S),
        pchannel_count=chance.randint(1, 2),
        shard_count=chance.randint(1, 2),
        growing_bytes_max=chance.choice((1500, 3000, 6000)),
        growing_idle_s=chance.choice((0.5, 1.0, 3.0)),
    )
