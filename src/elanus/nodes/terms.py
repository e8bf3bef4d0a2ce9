"""The coordinator's term that commands carry: receivers keep the highest and refuse what a deposed one still sends."""

from __future__ import annotations

from elanus.base.errors import FencedError


class HighestTerm:
    """Kept by every node for as long as it lives."""

    def __init__(self) -> None:
        self._highest = 0

    def accept(self, term: int) -> None:
        """Take note of a command's term; 0 is no coordinator's. FencedError if a higher one was seen."""
        if term and term < self._highest:
            raise FencedError(f"coordinator term {term} was superseded by {self._highest}")
        self._highest = max(self._highest, term)
