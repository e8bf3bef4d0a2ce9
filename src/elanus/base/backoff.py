"""Pauses before something is tried again: each about twice as long as the one before, within bounds, and by chance, so
that those who failed together do not come back together."""

from __future__ import annotations

from elanus.base.doors import Random


class Backoff:
    """Pauses from `first_s` to `most_s` seconds."""

    def __init__(self, random: Random, first_s: float, most_s: float) -> None:
        self._random = random
        self._first_s = first_s
        self._most_s = most_s
        self._next_s = first_s

    def next_s(self) -> float:
        """The next pause, in seconds: between half and the whole of what is due."""
        due_s, self._next_s = self._next_s, min(2 * self._next_s, self._most_s)
        return due_s * (0.5 + 0.5 * self._random.uniform())

    def reset(self) -> None:
        """It has succeeded."""
        self._next_s = self._first_s
