"""Reading the chain of slots of the object-store log, in order, many at once.

The chain begins at the root; each slot says where it goes on: data in the next sequence of its term, a fence in the
term it names. A slot that is absent is the chain's end, if it was not truncated: before any slot is deleted a mark of
truncation is stored, so "absent, and then no mark beyond" proves the end.

Only a `get` decides what the chain is. A listing merely says which keys are worth asking for ahead of time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from elanus.base.doors import Doors, Job
from elanus.base.errors import CorruptedError, ElanusError, OutcomeUnknownError
from elanus.base.limits import MIB
from elanus.model.channel import Position
from elanus.objects import paths
from elanus.objects.store import ObjectNotFoundError, ObjectStore
from elanus.wal.log import TruncatedError
from elanus.wal.slots import HEADER_BYTES, ROOT, Key, Slot, decode_slot

READ_AHEAD_SLOTS: Final = 64
READ_AHEAD_BYTES: Final = 64 * MIB
LIST_AFTER_SLOTS: Final = 3
"""So many slots found one after another make a listing worth its while."""


class Slots:
    """The stored slots and marks of one pchannel."""

    def __init__(self, doors: Doors, store: ObjectStore, pchannel: str) -> None:
        self.doors = doors
        self.pchannel = pchannel
        self._store = store

    def name(self, key: Key) -> str:
        """The object of a slot."""
        return paths.log_slot(self.pchannel, *key)

    async def get(self, key: Key) -> Slot | None:
        """The slot; None when it is absent. CorruptedError, StorageError."""
        name = self.name(key)
        try:
            return decode_slot(self.pchannel, key, name, await self._store.get(name))
        except ObjectNotFoundError:
            return None

    async def is_fence(self, key: Key) -> bool:
        """Whether the slot exists and is a fence; reads no batches."""
        name = self.name(key)
        try:
            return decode_slot(self.pchannel, key, name, await self._store.get_range(name, 0, HEADER_BYTES)).is_fence
        except ObjectNotFoundError:
            return False

    async def keys(self, term: int) -> list[Key]:
        """Keys of the term's slots, in order; also of those beyond its fence, which count for nothing."""
        found = await self._store.list(paths.log_prefix(self.pchannel, term))
        return [Key(*parsed) for parsed in map(paths.parse_log_slot, found) if parsed is not None]

    async def all_keys(self) -> list[Key]:
        """Keys of all slots, in order."""
        found = await self._store.list(paths.log_prefix(self.pchannel))
        return [Key(*parsed) for parsed in map(paths.parse_log_slot, found) if parsed is not None]

    async def truncated(self) -> Key:
        """The highest mark of truncation: slots below it may be gone; ROOT when there is none."""
        found = await self._store.list(paths.log_truncated_prefix(self.pchannel))
        return max((Key(*paths.parse_log_truncated(name)) for name in found), default=ROOT)

    async def was_opened(self, term: int) -> bool:
        """Whether the term's opener left its head."""
        return await self._store.stat(paths.log_head(self.pchannel, term)) is not None

    async def beginning(self, after: Position) -> Key:
        """A slot from which the chain leads over everything above `after`. TruncatedError if some of that is gone."""
        key = Key(after.term, after.sequence)
        below = [one for one in await self.keys(key.term) if one <= key]
        if below and await self._leads_over(below[-1], key):
            return below[-1]
        mark = await self.truncated()
        if key < mark:
            raise TruncatedError(f"{self.pchannel}: records above {after} were truncated; those from {mark} are kept")
        if key.sequence == 0 and key.term and await self.was_opened(key.term):
            return key
        kept = [one for one in await self.keys(mark.term) if one < mark]
        return kept[-1] if kept else mark

    async def missing(self, key: Key) -> ElanusError:
        """Why a slot that must have been stored is absent."""
        mark = await self.truncated()
        if key < mark:
            return TruncatedError(f"{self.pchannel}: records below {mark} were truncated")
        return CorruptedError(f"{self.name(key)} is missing")

    async def _leads_over(self, key: Key, wanted: Key) -> bool:
        """Whether the slot at `key` holds the batch `wanted`, or comes right before it."""
        slot = await self.get(key)
        return slot is not None and (slot.is_fence or slot.next >= wanted)


class Walk:
    """Slots one after another from `key` on; `key` is always the one that comes next."""

    def __init__(self, slots: Slots, key: Key) -> None:
        self.key = key
        self._slots = slots
        self._in_a_row = 0
        self._listed = -1
        """The term whose keys were listed last."""
        self._hints: deque[Key] = deque()
        self._ahead: dict[Key, tuple[Job, asyncio.Future[Slot | None]]] = {}
        self._bytes_mean = 1.0

    async def next(self) -> Slot | None:
        """The slot at `key`, which moves on; None when it is absent. CorruptedError, StorageError."""
        key = self.key
        if self._in_a_row >= LIST_AFTER_SLOTS and self._listed != key.term:
            self._hints = deque(one for one in await self._slots.keys(key.term) if one >= key)
            self._listed = key.term
        self._read_ahead()
        ahead = self._ahead.pop(key, None)
        slot = await ahead[1] if ahead is not None else None
        if slot is None:  # not asked for ahead, or asked too early
            slot = await self._slots.get(key)
        if slot is None:
            self._in_a_row = 0
            return None
        self._in_a_row += 1
        self._bytes_mean += (len(slot.data) - self._bytes_mean) / 8
        self.key = slot.next
        return slot

    def stop(self) -> None:
        """Ask for nothing more."""
        for job, _ in self._ahead.values():
            job.cancel()
        self._ahead.clear()

    def _read_ahead(self) -> None:
        """Keep as many requests in flight as memory allows. What turned out not to be on the chain is dropped."""
        for key in [key for key in self._ahead if key < self.key]:
            self._ahead.pop(key)[0].cancel()
        while self._hints and self._hints[0] < self.key:
            self._hints.popleft()
        allowed = max(2, min(READ_AHEAD_SLOTS, int(READ_AHEAD_BYTES / self._bytes_mean)))
        while self._hints and len(self._ahead) < allowed:
            key = self._hints.popleft()
            found: asyncio.Future[Slot | None] = asyncio.get_running_loop().create_future()
            found.add_done_callback(_retrieve)
            job = self._slots.doors.tasks.spawn(self._fetch(key, found), name=f"log read {self._slots.pchannel}")
            self._ahead[key] = (job, found)

    async def _fetch(self, key: Key, found: asyncio.Future[Slot | None]) -> None:
        outcome: Slot | ElanusError | None = OutcomeUnknownError(f"{self._slots.name(key)}: reading was interrupted")
        try:
            outcome = await self._slots.get(key)
        except ElanusError as error:
            outcome = error
        finally:
            if found.done():
                pass  # Cancelled, with whoever waited for it.
            elif isinstance(outcome, ElanusError):
                found.set_exception(outcome)
            else:
                found.set_result(outcome)


def _retrieve(found: asyncio.Future[Slot | None]) -> None:
    """Look at an outcome nobody may wait for, lest the loop report it as never seen."""
    if not found.cancelled():
        found.exception()
