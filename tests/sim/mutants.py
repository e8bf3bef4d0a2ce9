"""Rules of the design, each switched off by breaking one component in one way.

`MUTANTS` names for each the shape it is tried in and how to make it; the test says within how many seeds it is found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import test_nodes_mutants as broken

from elanus.testing.sim.run import MakeShape, make_standalone


@dataclass(frozen=True)
class Mutant:
    """`rule`: of design §5. `seeds`: within how many it must be found."""

    rule: str
    shape: str
    make: Callable[[], MakeShape]
    seeds: int


def alone(rule: str, parts: Callable[[], Any], seeds: int) -> Mutant:
    """In the standalone server, of such parts."""
    return Mutant(rule, "standalone", lambda: make_standalone(parts()), seeds)


# --- the table ------------------------------------------------------------------------------------------------------
MUTANTS: dict[str, Mutant] = {
    "acknowledged-before-the-sync": alone("22", broken.Unsynced, 4),
    "growing-released-before-the-swap": alone("11", lambda: broken.ShardsBy(broken.HastyShard), 8),
    "delete-lost-at-segment-load": alone("16", lambda: broken.Making(query_kind=broken.Forgetful), 8),
    "checkpoint-ahead-of-the-data": alone("3", lambda: broken.Making(broken.RunningAhead), 8),
    "duplicate-replay": alone("11", lambda: broken.Making(broken.Repeating), 6),
    "collected-while-still-named": alone("20", broken.Sweeping, 4),
    "one-timestamp-per-batch": alone("6", lambda: broken.Making(broken.Stamping), 4),
    "delete-without-its-scope": alone("15", lambda: broken.ShardsBy(broken.UnscopedShard), 8),
    "deletes-claimed-and-not-applied": alone("16", lambda: broken.Making(query_kind=broken.Deaf), 4),
    "read-before-its-deletes": alone("16", lambda: broken.Making(query_kind=broken.Blind), 4),
    "read-at-another-time": alone("9", lambda: broken.Making(query_kind=broken.Timeless), 4),
    "compaction-claims-later-deletes": alone("13", lambda: broken.Making(data_kind=broken.Boastful), 4),
    "purge-within-the-retention": alone("15", lambda: broken.Making(data_kind=broken.Purging), 4),
    "compaction-of-more-than-its-inputs": alone("12", lambda: broken.Making(data_kind=broken.Doubling), 4),
}
