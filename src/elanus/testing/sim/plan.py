"""What a run is made of: everything follows from this value, and a smaller one of the same kind is a simpler run."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from elanus.testing.sim.faults import DISK, META, NETWORK, OBJECTS, PROCESS, Fault, draw
from elanus.testing.sim.workload import Load

LASTS_S: Final = 8.0
FAULT_COUNT: Final = 36

STANDALONE_KINDS: Final[Mapping[str, Sequence[str]]] = {"server": (*NETWORK, *DISK, *PROCESS)}
CLUSTER_MACHINES: Final[Mapping[str, str]] = {
    f"{role}-{number}": role for role in ("coordinator", "streaming", "query", "data", "proxy") for number in (1, 2)
}
_ANYWHERE: Final = (*NETWORK, *META, "pause", "crash", "clock_step")
_OBJECTS_OF: Final[Mapping[str, Sequence[str]]] = {
    "proxy": (),
    "query": ("object_503",),
    "data": ("object_503", "object_409", "object_412", "object_late"),
}
"""What a role can meet at the bucket: who never puts meets no 409, who never lists no stale list."""
_NEVER: Final = frozenset({("reorder", "data")})
"""A data node is given one task at a time, so that no message to or from it has another to overtake."""


def _kinds_of(role: str) -> Sequence[str]:
    return [kind for kind in (*_ANYWHERE, *_OBJECTS_OF.get(role, OBJECTS)) if (kind, role) not in _NEVER]


CLUSTER_KINDS: Final[Mapping[str, Sequence[str]]] = {name: _kinds_of(role) for name, role in CLUSTER_MACHINES.items()}
CLUSTER_SELDOM: Final = tuple(name for name, role in CLUSTER_MACHINES.items() if role == "data")
"""A data node hears of a compaction now and then, and of nothing else."""


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
    deleted_ratio_min: float = 0.2
    lease_s: float = 2.0


_CHEAP: Final = ("", "upsert", "patch", "delete", "insert", "query")
_COSTLY: Final = ("flush", "compact", "balance")
"""One operation of these entails dozens of messages in a cluster."""


def _load(chance: random.Random, emphases: Sequence[str]) -> Load:
    """Runs differ in what they do most: some faults need many flushes, some need clients at one key."""
    return Load(hot_keys=chance.choice((3, 6, 10)), emphasis=chance.choice(emphases))


def plan_standalone(seed: int) -> Plan:
    """One process of all roles, on a disk that forgets, with clients over the network."""
    chance = random.Random(f"{seed} plan")
    return Plan(
        seed=seed,
        load=_load(chance, (*_CHEAP, *_COSTLY)),
        faults=draw(chance, STANDALONE_KINDS, FAULT_COUNT, LASTS_S),
        pchannel_count=chance.randint(1, 2),
        shard_count=chance.randint(1, 2),
        growing_bytes_max=chance.choice((1500, 3000, 6000)),
        growing_idle_s=chance.choice((0.5, 1.0, 3.0)),
    )


def plan_cluster(seed: int) -> Plan:
    """Two processes of each role, on shared stores and a shared log. What makes a run cost more (shards, replicas,
    segments, operations that entail many others) is drawn seldom, so that more of them are played in the same time."""
    chance = random.Random(f"{seed} plan")
    return Plan(
        seed=seed,
        shape="cluster",
        load=msgspec.structs.replace(
            _load(chance, (*_CHEAP, *_CHEAP, *_COSTLY)), replicas=chance.choice((1, 1, 1, 1, 2))
        ),
        faults=draw(chance, CLUSTER_KINDS, FAULT_COUNT, LASTS_S, CLUSTER_SELDOM),
        pchannel_count=2,
        shard_count=chance.choice((1, 1, 1, 1, 1, 2)),
        growing_bytes_max=chance.choice((2000, 4000, 8000, 16_000)),
        growing_idle_s=chance.choice((1.0, 3.0, 5.0)),
        deleted_ratio_min=chance.choice((0.2, 0.5, 1.0)),
    )


class Shape(msgspec.Struct, frozen=True):
    """A composition that can be simulated. `roles` and `moves` are what a run must have crashed and moved to count;
    `possible`: which faults can strike which roles."""

    draw: Callable[[int], Plan]
    roles: tuple[str, ...]
    moves: int
    possible: frozenset[tuple[str, str]]


def _possible(kinds: Mapping[str, Sequence[str]], roles: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset((kind, roles[host]) for host, offered in kinds.items() for kind in offered)


SHAPES: Final[Mapping[str, Shape]] = {
    "standalone": Shape(plan_standalone, ("standalone",), 0, _possible(STANDALONE_KINDS, {"server": "standalone"})),
    "cluster": Shape(
        plan_cluster,
        ("coordinator", "streaming", "query", "data", "proxy"),
        1,
        _possible(CLUSTER_KINDS, CLUSTER_MACHINES),
    ),
}


def plan_of(seed: int, shape: str) -> Plan:
    """The plan of a seed."""
    return SHAPES[shape].draw(seed)
