"""What clients saw, and whether one copy of the data could have shown it.

Each key is a register that writes set to a value (a delete: to None) and reads show. Every written value is unique, so
that a read names its write. Times are numbers of a counter that every call's begin and end draw from; a write whose
outcome is unknown has no end.

Strong: per key, some order of all writes and Strong reads explains what the reads saw, keeps every call that ended
before another began in front of it, and takes each unknown write in once or not at all. The search is Wing and Gong's
with Lowe's memory of visited states ("Testing for linearizability", 2017), made fast by two facts: a read that fits may
always be taken at once, and an unknown write that no read names may be left out.

Weaker levels: what a read saw was written before the read ended, and was not yet overwritten, in every possible order,
at the moment from which on the level promises to see: the begin of a Session read for the client's own writes, some
seconds before the begin of a Bounded read for everybody's, none for Eventually.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from elanus.testing.history import BrokenPromise

FOREVER: Final = 1 << 62
STATES_MAX: Final = 200_000


class Inconsistent(BrokenPromise):
    """No order of the writes explains what a client read."""


@dataclass(slots=True)
class Write:
    """A write of one key. `ended` is FOREVER while its outcome is unknown."""

    client: str
    key: int
    value: int | None
    begun: int
    ended: int = FOREVER
    ended_s: float = float("inf")


@dataclass(slots=True)
class Read:
    """What a read saw under one key; `level` in Milvus's words."""

    client: str
    key: int
    value: int | None
    begun: int
    ended: int
    begun_s: float
    level: str


@dataclass(slots=True)
class Register:
    """Everything about one key."""

    writes: list[Write] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)

    def candidates(self, value: int | None, before: int) -> list[Write | None]:
        """The writes that may have left `value`, begun before that time; None is the state at the start."""
        found: list[Write | None] = [one for one in self.writes if one.value == value and one.begun < before]
        return [None, *found] if value is None else found

    def possible(self, value: int | None, before: int, newer: Sequence[Write]) -> bool:
        """Whether a read that ended at `before`, and must reflect the writes in `newer`, may have seen `value`: one of
        its writes did not surely end before any of those began."""
        latest = max((one.begun for one in newer), default=0)
        return any((0 if one is None else one.ended) >= latest for one in self.candidates(value, before))


class ClientHistory:
    """Calls of all clients, by key."""

    def __init__(self) -> None:
        self.registers: dict[int, Register] = defaultdict(Register)
        self._now = 0

    def tick(self) -> int:
        """The next moment."""
        self._now += 1
        return self._now

    def wrote(self, write: Write) -> None:
        """A write has begun."""
        self.registers[write.key].writes.append(write)

    def withdraw(self, write: Write) -> None:
        """The write was refused: it never was."""
        self.registers[write.key].writes.remove(write)

    def read(self, read: Read) -> None:
        """A read has ended."""
        self.registers[read.key].reads.append(read)

    def bounds(self, keys: Iterable[int], begun: int, ended: int) -> tuple[int, int]:
        """Least and most number of these keys that a Strong read of that time may count."""
        least = most = 0
        for key in keys:
            register = self.registers.get(key)
            if register is None:
                continue
            newer = [one for one in register.writes if one.ended < begun]
            values = {one.value for one in register.writes}
            most += any(value is not None and register.possible(value, ended, newer) for value in values)
            least += not register.possible(None, ended, newer)
        return least, most


def check(history: ClientHistory, bounded_s: float) -> None:
    """Raise Inconsistent unless every read kept its level's promise. `bounded_s`: how far Bounded may lag."""
    for key, register in sorted(history.registers.items()):
        for read in register.reads:
            if not register.possible(read.value, read.ended, _promised(register, read, bounded_s)):
                raise Inconsistent(f"T1: {_told(read)}: {read.level} read, but {_why(register, read)}")
        strong = [read for read in register.reads if read.level == "STRONG"]
        if not explained(register.writes, strong):
            raise Inconsistent(f"T1: key {key} is not linearizable at Strong: {_story(register.writes, strong)}")


def _promised(register: Register, read: Read, bounded_s: float) -> list[Write]:
    """The writes that the read's level promises to show, or something newer."""
    done = [one for one in register.writes if one.ended < read.begun]
    match read.level:
        case "STRONG":
            return done
        case "SESSION":
            return [one for one in done if one.client == read.client]
        case "BOUNDED":
            return [one for one in done if one.ended_s < read.begun_s - bounded_s]
    return []


def _told(read: Read) -> str:
    return f"key {read.key}: {read.client} read {read.value} at {read.begun}..{read.ended}"


def _why(register: Register, read: Read) -> str:
    if not register.candidates(read.value, read.ended):
        return "nobody had written that"
    after = [f"{one.value} at {one.begun}..{one.ended}" for one in register.writes if one.ended < read.begun]
    return f"it was overwritten: {after[-3:]}"


def _story(writes: Sequence[Write], reads: Sequence[Read]) -> str:
    calls = [(one.begun, one.ended, f"write {one.value}") for one in writes]
    calls += [(one.begun, one.ended, f"read {one.value}") for one in reads]
    return "; ".join(f"{begun}..{'?' if ended == FOREVER else ended} {what}" for begun, ended, what in sorted(calls))


@dataclass(frozen=True, slots=True)
class _Step:
    begun: int
    ended: int
    value: int | None
    is_read: bool


def explained(writes: Sequence[Write], reads: Sequence[Read]) -> bool:
    """Whether one order of the writes explains the reads."""
    named = {read.value for read in reads}
    steps = [
        _Step(one.begun, one.ended, one.value, False)
        for one in writes
        if one.ended < FOREVER or one.value is None or one.value in named
    ]
    steps += [_Step(one.begun, one.ended, one.value, True) for one in reads]
    steps.sort(key=lambda step: step.begun)
    needed = sum(1 << number for number, step in enumerate(steps) if step.ended < FOREVER)
    seen: set[tuple[int, int | None]] = set()
    open_states: list[tuple[int, int | None]] = [(0, None)]
    while open_states:
        done, value = open_states.pop()
        done, ready = _absorb(steps, done, value)
        if done & needed == needed:
            return True
        if (done, value) in seen:
            continue
        seen.add((done, value))
        if len(seen) > STATES_MAX:
            raise Inconsistent("too many orders to try: use fewer clients")
        open_states += [(done | 1 << number, steps[number].value) for number in reversed(ready)]
    return False


def _absorb(steps: Sequence[_Step], done: int, value: int | None) -> tuple[int, list[int]]:
    """Take every read that fits now; then the writes that may come next."""
    while True:
        taken = done
        ready: list[int] = []
        horizon = FOREVER + 1
        for number in range(_first_open(done), len(steps)):
            step = steps[number]
            if step.begun > horizon:
                break
            if done >> number & 1:
                continue
            horizon = min(horizon, step.ended)
            if not step.is_read:
                ready.append(number)
            elif step.value == value:
                taken |= 1 << number
        # A step may be next only if no other one had ended before it began.
        if taken == done:
            return done, [number for number in ready if steps[number].begun < horizon]
        done = done | _allowed(steps, taken & ~done, horizon)


def _allowed(steps: Sequence[_Step], chosen: int, horizon: int) -> int:
    allowed = 0
    while chosen:
        lowest = chosen & -chosen
        if steps[lowest.bit_length() - 1].begun < horizon:
            allowed |= lowest
        chosen ^= lowest
    return allowed


def _first_open(done: int) -> int:
    """Number of the first step that is not done."""
    return (~done & done + 1).bit_length() - 1
