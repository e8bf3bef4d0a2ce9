"""What a batch of runs amounts to: totals, rates, and how often each fault struck each role."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, fields

import msgspec

from elanus.testing.sim.plan import SHAPES
from elanus.testing.sim.run import Outcome


@dataclass
class Tally:
    """Sums over runs of one shape."""

    shape: str
    runs: int = 0
    counted: int = 0
    cpu_s: float = 0.0
    virtual_s: float = 0.0
    exits: int = 0
    moves: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    acknowledged: Counter[str] = field(default_factory=Counter)
    unknown: int = 0
    refused: int = 0
    struck: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[tuple[int, str]] = field(default_factory=list)
    lacked: Counter[str] = field(default_factory=Counter)
    """Of runs that did not count: why."""

    def add(self, outcome: Outcome, cpu_s: float) -> None:
        """One run more."""
        lacks = lacking(outcome, self.shape)
        self.runs += 1
        self.counted += not lacks
        self.lacked.update(lacks)
        self.cpu_s += cpu_s
        self.virtual_s += outcome.virtual_s
        self.exits += outcome.exits
        self.moves += outcome.moves
        self.calls += outcome.score.calls
        self.acknowledged += outcome.score.acknowledged
        self.unknown += outcome.score.unknown
        self.refused += outcome.score.refused
        self.struck += outcome.struck
        if outcome.failure:
            self.failures.append((outcome.plan.seed, outcome.failure))

    def merge(self, other: Tally, cpu_s: float) -> None:
        """The runs of another tally more, which took so much time besides what it knows of."""
        for one in fields(self):
            if one.name != "shape":
                setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))
        self.cpu_s += cpu_s

    def encoded(self) -> bytes:
        """As JSON."""
        struck = [(fault, role, count) for (fault, role), count in sorted(self.struck.items())]
        return msgspec.json.encode(
            {
                **{name: getattr(self, name) for name in ("runs", "counted", "cpu_s", "virtual_s", "exits", "moves")},
                "calls": sum(self.calls.values()),
                "strikes": sum(self.struck.values()),
                "failures": self.failures,
                "struck": struck,
            }
        )

    def lines(self) -> list[str]:
        """A summary, the rates, and the table of fault × role."""
        minutes = max(self.cpu_s, 1e-9) / 60
        calls, strikes = sum(self.calls.values()), sum(self.struck.values())
        return [
            f"{self.runs} runs, {self.counted} counted, {len(self.failures)} failed; {self.virtual_s:.0f} virtual "
            f"seconds in {self.cpu_s:.1f} CPU seconds: {self.runs / minutes:.0f} runs, "
            f"{calls / minutes:.0f} operations, {strikes / minutes:.0f} faults per CPU-minute",
            f"{calls} operations: {sum(self.acknowledged.values())} acknowledged, {self.refused} refused, "
            f"{self.unknown} unknown; {self.moves} channels moved, {self.exits} processes ended themselves",
            "acknowledged: " + ", ".join(f"{kind} {count}" for kind, count in sorted(self.acknowledged.items())),
            "not counted for want of: "
            + (", ".join(f"{why} {count}" for why, count in self.lacked.items()) or "nothing"),
            *table(self.struck, SHAPES[self.shape].possible),
        ]


def table(struck: Counter[tuple[str, str]], possible: Collection[tuple[str, str]]) -> list[str]:
    """How often each fault struck each role; '-' where it cannot."""
    roles = sorted({role for _, role in possible})
    faults = sorted({fault for fault, _ in possible})

    def cell(fault: str, role: str) -> str:
        return str(struck[fault, role]) if (fault, role) in possible else "-"

    head = f"{'fault':<16}" + "".join(f"{role:>13}" for role in roles)
    return [head, *(f"{fault:<16}" + "".join(f"{cell(fault, role):>13}" for role in roles) for fault in faults)]


def lacking(outcome: Outcome, shape: str) -> list[str]:
    """What a run lacks of being hard enough to count: 300 operations, 20 faults of 5 kinds, a crash of every role, a
    flush, a compaction, and as many moves of a channel as the shape can have."""
    struck, done = outcome.struck, outcome.score.acknowledged
    wanted = {
        "operations": sum(outcome.score.calls.values()) >= 300,
        "faults": sum(struck.values()) >= 20,
        "kinds of faults": len({fault for (fault, _), count in struck.items() if count}) >= 5,
        "a flush": bool(done["flush"]),
        "a compaction": bool(done["compact"]),
        "a move": outcome.moves >= SHAPES[shape].moves,
    }
    crashes = {
        f"a crash of {role}": struck["crash", role] + struck["power_cut", role] > 0 for role in SHAPES[shape].roles
    }
    return [name for name, there in (wanted | crashes).items() if not there]
