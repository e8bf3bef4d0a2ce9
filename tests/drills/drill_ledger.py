"""What a store may hold, as its clients know it: per key the set of outcomes still possible.

A write under way adds its outcome to what is possible; its acknowledgement leaves only that; a refusal takes it back.
A write whose fate is unknown leaves both, and may come true as late as the next start: a delete by filter acknowledged
in between deletes the rows it saw, so that a row which it could not see yet stays possible. (A delete by key stands
behind it in the log, and hides it.) What is seen after a restart narrows each key to the one outcome seen.
Each key has one writer at a time, so that its writes are ordered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

DIM = 8
SHELVES = 16

Outcome = int | None  # the version of the row, or no row


def vectors(keys: np.ndarray, versions: np.ndarray) -> np.ndarray:
    """The vector of each (key, version), told apart from all others: float32 of shape (n, DIM)."""
    phase = np.arange(1, DIM + 1, dtype=np.float64)
    angles = np.asarray(keys, np.float64)[:, None] * (0.7310 * phase) + np.asarray(versions, np.float64)[:, None] * (
        1.9173 * phase**1.5
    )
    return (np.sin(angles) * 10.0).astype(np.float32)


def text_of(key: int, version: int) -> str:
    """The text of a row."""
    return f"{key}:{version}:" + "x" * (key % 40)


@dataclass
class Counts:
    """What was tried, over all writers of a ledger."""

    acknowledged: int = 0
    refused: int = 0
    unknown: int = 0
    rows: int = 0
    reads: int = 0


@dataclass
class Ledger:
    """The keys of one writer in one collection."""

    possible: dict[int, frozenset[Outcome]] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)

    def of(self, key: int) -> frozenset[Outcome]:
        """What may be there under the key."""
        return self.possible.get(key, frozenset((None,)))

    def begin(self, outcomes: Mapping[int, Outcome]) -> dict[int, frozenset[Outcome]]:
        """A write is sent; returns what `take_back` needs."""
        before = {key: self.of(key) for key in outcomes}
        for key, outcome in outcomes.items():
            self.possible[key] = before[key] | {outcome}
        return before

    def acknowledge(self, outcomes: Mapping[int, Outcome]) -> None:
        """It was done."""
        for key, outcome in outcomes.items():
            self.possible[key] = frozenset((outcome,))
        self.counts.acknowledged += 1
        self.counts.rows += len(outcomes)

    def acknowledge_filter(self, before: Mapping[int, frozenset[Outcome]]) -> None:
        """A delete by filter was done that began when `before` was possible."""
        self.acknowledge(dict.fromkeys(before))
        self.possible.update({key: outcomes for key, outcomes in before.items() if None in outcomes})

    def take_back(self, before: Mapping[int, frozenset[Outcome]]) -> None:
        """It was refused: nothing was done."""
        self.possible.update(before)
        self.counts.refused += 1

    def living(self) -> list[int]:
        """Keys that may hold a row."""
        return [key for key, outcomes in self.possible.items() if outcomes != {None}]

    def differences(self, seen: Mapping[int, int], asked: Iterable[int]) -> list[str]:
        """Every key of `asked`, and every key seen, whose outcome is not a possible one."""
        keys = set(asked) | set(seen)
        return [
            f"key {key}: seen {seen.get(key)}, possible {sorted(map(str, self.of(key)))}"
            for key in sorted(keys)
            if seen.get(key) not in self.of(key)
        ]

    def settle(self, seen: Mapping[int, int]) -> None:
        """All is known again: what was seen is what there is."""
        self.possible = {key: frozenset((version,)) for key, version in seen.items()}
