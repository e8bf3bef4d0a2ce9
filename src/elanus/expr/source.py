"""What a filter runs on: a `Source` of columns, and the two optional things a source may offer to be fast."""

from __future__ import annotations

from typing import Any, Final, Protocol, TypeVar, runtime_checkable

import numpy as np

from elanus.model.columns import Column, Mask, Rows

SHRED_ENTRIES_MAX: Final = 32
SHRED_BYTES_MAX: Final = 256 * 1024 * 1024


class Source(Protocol):
    """Rows of one segment. `column` gives the whole column of a field, `row_count` rows long, null-filled if absent."""

    @property
    def row_count(self) -> int:
        """Number of rows."""
        ...

    def column(self, field_id: int) -> Column:
        """All values of one field."""
        ...


class Shreddable(Protocol):
    """What a `ShredCache` holds."""

    @property
    def nbytes(self) -> int:
        """Size in memory."""
        ...


Shredded = TypeVar("Shredded", bound=Shreddable)


class ShredCache:
    """JSON paths of one immutable source, decoded to columns; bounded in entries and bytes, oldest out first.

    Every operation is one dictionary call, so compute threads may share it; at worst a path is decoded twice.
    """

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: dict[tuple[object, ...], Any] = {}

    def get(self, key: tuple[object, ...], kind: type[Shredded]) -> Shredded | None:
        """The entry of that key, or None."""
        entry = self._entries.get(key)
        return entry if isinstance(entry, kind) else None

    def put(self, key: tuple[object, ...], entry: Shreddable) -> None:
        """Keep an entry, unless it alone is larger than the cache."""
        if entry.nbytes > SHRED_BYTES_MAX:
            return
        self._entries[key] = entry
        while len(self._entries) > SHRED_ENTRIES_MAX or self.nbytes > SHRED_BYTES_MAX:
            for oldest in list(self._entries)[:1]:
                self._entries.pop(oldest, None)

    @property
    def nbytes(self) -> int:
        """Size in memory of all entries."""
        return sum(int(entry.nbytes) for entry in list(self._entries.values()))


@runtime_checkable
class ShredSource(Protocol):
    """A source that never changes and keeps decoded JSON paths."""

    @property
    def shreds(self) -> ShredCache:
        """The cache of this source alone."""
        ...


@runtime_checkable
class SortedSource(Protocol):
    """A source whose rows ascend by one field, which has no nulls."""

    @property
    def sorted_field_id(self) -> int:
        """The field; -1 for none."""
        ...


class Scope:
    """A source, or some rows of it; every mask made in a scope is as long as the scope.

    `trace` collects what answered each leaf, an index's type or `scan`, for those who ask.
    """

    __slots__ = ("count", "rows", "source", "trace")

    def __init__(self, source: Source, rows: Rows | None, trace: list[str] | None = None) -> None:
        self.source = source
        self.rows = rows
        self.trace = trace
        self.count = source.row_count if rows is None else len(rows)

    def column(self, field_id: int) -> Column:
        """The field's values in this scope."""
        column = self.source.column(field_id)
        return column if self.rows is None else column.take(self.rows)

    def narrow(self, places: Rows) -> Scope:
        """The scope of the rows at these places of this one."""
        return Scope(self.source, places if self.rows is None else self.rows[places], self.trace)

    def note(self, answered_by: str) -> None:
        """A leaf was answered."""
        if self.trace is not None:
            self.trace.append(answered_by)

    def is_sorted_by(self, field_id: int) -> bool:
        """Whether this is a whole source in the order of that field."""
        return self.rows is None and isinstance(self.source, SortedSource) and self.source.sorted_field_id == field_id

    def full(self, value: bool) -> Mask:
        """A mask with one value everywhere."""
        return np.full(self.count, value, np.bool_)
