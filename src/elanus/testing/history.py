"""What happened, noted where it happens: the records of a log and the objects of a store, over all lives of a world.

`LogHistory` holds every record that was durable: acknowledged by an append, or read by an opener or a follower. A
position that shows another content than before raises at once, and so does a replay that lacks a record, or a record
that is acknowledged after a successor has replayed the log without it. `ObjectHistory` raises when a path gets a second
content. Both are the truth that `testing.invariants` compares a running world with.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right, insort
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from elanus.model.channel import Position
from elanus.objects.store import Data, ObjectStore, buffers
from elanus.wal.log import Confirm, Follower, Log, SharedLog, Writer

if TYPE_CHECKING:
    from elanus.wal.log import Payload


class BrokenPromise(AssertionError):
    """A store did what its port says it never does."""


class LogHistory:
    """Durable records by pchannel and position."""

    def __init__(self) -> None:
        self.records: dict[str, dict[Position, bytes]] = {}
        self.replayed: dict[str, int] = {}
        """The highest term whose owner has replayed the pchannel's log to its end."""
        self._order: dict[str, list[Position]] = {}

    def positions(self, pchannel: str) -> list[Position]:
        """All positions ever durable, in log order."""
        return self._order.setdefault(pchannel, [])

    def note(self, pchannel: str, position: Position, data: bytes) -> None:
        """A record is durable."""
        known = self.records.setdefault(pchannel, {})
        if known.setdefault(position, data) != data:
            raise BrokenPromise(f"T3: {pchannel} {position} has two contents")
        order = self.positions(pchannel)
        at = bisect_right(order, position)
        if at == 0 or order[at - 1] != position:
            insort(order, position)


class _RecordingWriter:
    """A writer whose acknowledged records are noted."""

    def __init__(self, writer: Writer, pchannel: str, history: LogHistory) -> None:
        self._writer = writer
        self._pchannel = pchannel
        self._history = history
        self.term = writer.term
        self.report = writer.report

    @property
    def end(self) -> Position:
        return self._writer.end

    async def append(self, records: Sequence[Payload]) -> Position:
        first = await self._writer.append(records)
        successor = self._history.replayed.get(self._pchannel, 0)
        if first.term < successor and first not in self._history.records.get(self._pchannel, ()):
            raise BrokenPromise(
                f"T3: {self._pchannel} {first} is acknowledged, and term {successor} has not replayed it"
            )
        for offset, record in enumerate(records):
            self._history.note(self._pchannel, first._replace(offset=offset), bytes(memoryview(record)))
        return first

    async def close(self) -> None:
        await self._writer.close()


class _RecordingFollower:
    """A follower that notes what it read: every later owner replays it, or has it from here."""

    def __init__(self, follower: Follower, pchannel: str, history: LogHistory) -> None:
        self._follower = follower
        self._pchannel = pchannel
        self._history = history
        self.at_end = follower.at_end
        self.close = follower.close

    @property
    def position(self) -> Position:
        return self._follower.position

    async def next(self) -> list[tuple[Position, memoryview]]:
        found = await self._follower.next()
        for position, data in found:
            self._history.note(self._pchannel, position, bytes(data))
        return found


class RecordingLog:
    """`log.Log` that notes what is durable."""

    def __init__(self, log: Log, history: LogHistory) -> None:
        self._log = log
        self._history = history
        self._terms: dict[str, int] = {}

    async def open(self, pchannel: str, term: int, replay_from: Position, confirm: Confirm) -> Writer:
        writer = await self._log.open(pchannel, term, replay_from, confirm)
        self._terms[pchannel] = term
        return _RecordingWriter(writer, pchannel, self._history)

    async def read(self, pchannel: str, after: Position) -> AsyncIterator[tuple[Position, memoryview]]:
        known, term = list(self._history.positions(pchannel)), self._terms.get(pchannel, 0)
        seen = []
        async for position, data in self._log.read(pchannel, after):
            seen.append(position)
            self._history.note(pchannel, position, bytes(data))
            yield position, data
        # What a predecessor has acknowledged meanwhile lies before this term, too.
        known += [one for one in self._history.positions(pchannel) if one.term < term]
        missing = {one for one in known if one > after} - set(seen)
        if missing:
            raise BrokenPromise(f"T3: {pchannel} lost acknowledged records: {sorted(missing)[:3]}")
        self._history.replayed[pchannel] = max(self._history.replayed.get(pchannel, 0), term)

    def follow(self, pchannel: str, after: Position) -> Follower:
        """As the log itself, where it can be shared."""
        assert isinstance(self._log, SharedLog)
        return _RecordingFollower(self._log.follow(pchannel, after), pchannel, self._history)

    async def truncate(self, pchannel: str, before: Position) -> None:
        await self._log.truncate(pchannel, before)


class ObjectHistory:
    """Contents of all objects ever put: key to CRC-32 and size."""

    def __init__(self) -> None:
        self.contents: dict[str, tuple[int, int]] = {}
        self.deleted: set[str] = set()

    def note(self, key: str, data: Data) -> None:
        """An object is about to be put."""
        state = size = 0
        for view in buffers(data):
            state, size = zlib.crc32(view, state), size + view.nbytes
        if self.contents.setdefault(key, (state, size)) != (state, size):
            raise BrokenPromise(f"T9: {key} gets a second content")


class RecordingObjects:
    """`store.ObjectStore` that notes what is put and deleted."""

    def __init__(self, store: ObjectStore, history: ObjectHistory) -> None:
        self._store = store
        self._history = history
        self.get = store.get
        self.get_range = store.get_range
        self.list = store.list
        self.stat = store.stat
        self.map = store.map
        self.local_path = store.local_path

    async def put(self, key: str, data: Data) -> None:
        self._history.note(key, data)
        await self._store.put(key, data)

    async def delete(self, key: str) -> None:
        self._history.deleted.add(key)
        await self._store.delete(key)
