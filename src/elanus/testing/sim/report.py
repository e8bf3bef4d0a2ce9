"""What a batch of runs amounts to: totals, rates, and how often each fault struck each role."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from elanus.testing.sim.run import Outcome


@dataclass
class Tally:
    """Sums over runs."""

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

    def add(self, outcome: Outcome, cpu_s: float, *, counts: bool) -> None:
        """One run more; `counts`: it was hard enough to count."""
        self.runs += 1
        self.counted += counts
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

    def encoded(self) -> bytes:
        """As JSON."""
        struck = [(fault, role, count) for (fault, role), count in sorted(self.struck.items())]
        return msgspec.json.encode(
            {
                **{name: getattr(self, name) for name in ("runs", "counted", "cpu_s", "virtual_s", "exits", "moves")},
                "calls": sum(self.calls.values()),
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
            *table(self.struck),
        ]


def table(struck: Counter[tuple[str, str]]) -> list[str]:
    """How often each fault struck each role."""
    roles = sorted({role for _, role in struck} - {"client"})
    faults = sorted({fault for fault, _ in struck})
    head = f"{'fault':<16}" + "".join(f"{role:>13}" for role in roles)
    return [head, *(f"{fault:<16}" + "".join(f"{struck[fault, role]:>13}" for role in roles) for fault in faults)]


def counts(outcome: Outcome, roles: Sequence[str], *, moves: int = 1) -> bool:
    """Whether a run was hard enough: 300 operations, 20 faults of 5 kinds, a crash of every role, a flush, a
    compaction, and so many moves of a channel."""
    struck, done = outcome.struck, outcome.score.acknowledged
    crashes = all(struck["crash", role] + struck["power_cut", role] for role in roles)
    kinds = {fault for (fault, _), count in struck.items() if count}
    enough = sum(outcome.score.calls.values()) >= 300 and sum(struck.values()) >= 20 and len(kinds) >= 5
    return enough and crashes and bool(done["flush"]) and bool(done["compact"]) and outcome.moves >= moves
