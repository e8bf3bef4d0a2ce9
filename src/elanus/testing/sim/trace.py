"""What happened in a run: one line per event, in virtual time. The same seed gives the same bytes.

Events are kept as they come and rendered on demand, because a run has many thousands and most are never read.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

FAULT_MARK: Final = "!!"


class Noted(NamedTuple):
    """At `at_s`, `who` did `what`; `is_fault` marks what the injector did to it."""

    at_s: float
    who: str
    what: str
    detail: object
    is_fault: bool = False

    def line(self) -> str:
        """One line of the timeline."""
        mark = FAULT_MARK if self.is_fault else "  "
        return f"{self.at_s:11.6f} {mark} {self.who:<14} {self.what:<12} {self.detail}"


class Trace:
    """The events of one run, and how often each fault struck each role."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self.events: list[Noted] = []
        self.struck: Counter[tuple[str, str]] = Counter()
        """(fault, role) to number of strikes."""

    def note(self, who: str, what: str, detail: object = "") -> None:
        """Something happened. `detail` must not change later."""
        self.events.append(Noted(self._now_s(), who, what, detail))

    def strike(self, fault: str, role: str, who: str, detail: object = "") -> None:
        """A fault took effect on a process of `role`."""
        self.struck[fault, role] += 1
        self.events.append(Noted(self._now_s(), who, fault, detail, True))

    def lines(self, *, messages: bool = True) -> Iterable[str]:
        """The timeline; without messages it holds what clients, processes and faults did."""
        return (event.line() for event in self.events if messages or event.what not in ("send", "receive"))

    def digest(self) -> str:
        """A hash over all lines."""
        state = hashlib.blake2b(digest_size=16)
        for line in self.lines():
            state.update(line.encode() + b"\n")
        return state.hexdigest()
