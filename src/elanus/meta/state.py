"""The contents of a MetaStore that lives in one process: items by key, the revision, and the recent changes.

Plain values and no I/O: `stage` computes a change, `apply` makes it so. Between the two a journal may write it down.
`history` is dense: entry i is the change of revision `floor + 1 + i`, so that a watcher needs only a number.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from elanus.base.errors import check
from elanus.base.limits import MIB
from elanus.meta.store import CompactedError, Compare, Event, Item, Operation, Put, WatchBatch

HISTORY_REVISIONS_MAX: Final = 4096
HISTORY_BYTES_MAX: Final = 16 * MIB


class State:
    """See the module's head. Not for use from several threads."""

    def __init__(self, items: Iterable[Item] = (), revision: int = 0) -> None:
        """Start with `items` as of `revision`; changes up to it are not in the history."""
        self.items: dict[str, Item] = {item.key: item for item in items}
        self.revision = revision
        self._keys: list[str] = sorted(self.items)
        self._history: deque[WatchBatch] = deque()
        self._history_bytes = 0

    @property
    def floor(self) -> int:
        """The revision up to which changes are forgotten."""
        return self.revision - len(self._history)

    def range(self, prefix: str) -> Iterator[Item]:
        """Items whose key starts with `prefix`, in key order."""
        for position in range(bisect_left(self._keys, prefix), len(self._keys)):
            key = self._keys[position]
            if not key.startswith(prefix):
                return
            yield self.items[key]

    def holds(self, compares: Iterable[Compare]) -> bool:
        """Whether all conditions are met now."""
        return all(compare.holds(self.items.get(compare.key)) for compare in compares)

    def stage(self, operations: Sequence[Operation]) -> WatchBatch | None:
        """The change these operations would make at the next revision; None if they change nothing."""
        revision = self.revision + 1
        events = []
        for operation in operations:
            present = self.items.get(operation.key)
            if isinstance(operation, Put):
                created = present.create_revision if present else revision
                item = Item(operation.key, operation.value, created, revision, operation.lease)
                events.append(Event(operation.key, item))
            elif present:
                events.append(Event(operation.key, None))
        return WatchBatch(revision, tuple(events)) if events else None

    def apply(self, change: WatchBatch) -> None:
        """Make a staged change the newest one."""
        check(change.revision == self.revision + 1, f"meta change {change.revision} after {self.revision}")
        for event in change.events:
            if event.item is None:
                del self.items[event.key]
                del self._keys[bisect_left(self._keys, event.key)]
            else:
                if event.key not in self.items:
                    insort(self._keys, event.key)
                self.items[event.key] = event.item
        self.revision = change.revision
        self._remember(change)

    def changes_after(self, revision: int, count_max: int) -> list[WatchBatch]:
        """Up to `count_max` changes above `revision`, oldest first. CompactedError when some are forgotten."""
        if revision < self.floor:
            raise CompactedError(f"changes after revision {revision} are gone; those after {self.floor} are kept")
        first = revision - self.floor
        return [self._history[index] for index in range(first, min(len(self._history), first + count_max))]

    def _remember(self, change: WatchBatch) -> None:
        self._history.append(change)
        self._history_bytes += _size(change)
        while len(self._history) > HISTORY_REVISIONS_MAX or self._history_bytes > HISTORY_BYTES_MAX:
            self._history_bytes -= _size(self._history.popleft())


def _size(change: WatchBatch) -> int:
    return sum(len(event.key) + (len(event.item.value) if event.item else 0) for event in change.events)
