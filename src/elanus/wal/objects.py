"""The log on an object store: no disk, no broker, only put-if-absent.

Theory. Per pchannel there is a chain of slots (see `slots`, `walk`). A slot's name is taken once; who takes it decides
what the log holds there. The owner of a term puts its batches into consecutive slots of its term, several at once, and
acknowledges strictly in order (`window`). A new owner walks the chain, claims the first slot that is free with a fence
that names its own term, and everything the old owner puts later lies behind that fence, where no walk comes. The two
compete for one name; there is no clock, no lease and no lock.

Opening term t, in order
1. The mark of truncation is not beyond `replay_from`, and the slot below it is there: the log and the meta store are of
   one time. Else CorruptedError, nothing is written.
2. Walk from there; follow each fence to the term it names; a fence of t or of a higher term: FencedError.
3. At the first free slot put the fence. Lost: somebody was faster; walk on. After `CHASE_CLAIMS` losses a fence is also
   put ahead of the busy owner, at a multiple of SLOT_STRIDE, which none of its slots skips.
4. Leave the term's head: the evidence, for ever, that the term was opened.
5. `confirm`: in the meta store the term is still t. Only now may anything be appended.

Truncation stores its mark first, then deletes data slots below; never a fence (a stalled owner could take the name
again and believe that it holds it), never the last slot with records below the mark.

Races met here
1. A put whose reply was lost: repeated with the same bytes, which name the writer, so "taken by the same bytes" is
   success. Its late double is harmless: the name is taken, or was truncated and lies below every walk.
2. A slow opener of a term that was superseded (and whose slots may be truncated by then): `confirm` refuses it.
3. A reader at a slot that was truncated takes it for the end: it looks at the mark afterwards.
4. An owner whose slot k is taken by a fence while k+1 is stored: k+1 is not acknowledged, as k never is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from elanus.base.doors import Doors
from elanus.base.errors import CorruptedError, FencedError, OutcomeUnknownError, StorageError
from elanus.base.limits import KIB, MIB
from elanus.model.channel import ORIGIN, Position
from elanus.objects import paths
from elanus.objects.store import ObjectExistsError, ObjectStore
from elanus.wal.admission import Batch
from elanus.wal.log import Confirm, OpenReport, TruncatedError
from elanus.wal.slots import ROOT, Key, Slot, encode_data, encode_fence
from elanus.wal.walk import Slots, Walk
from elanus.wal.window import SLOT_STRIDE, SLOTS_IN_FLIGHT_MAX, AppendWindow

if TYPE_CHECKING:
    from elanus.wal.log import Payload

PUT_WITHIN_S: Final = 60.0
"""A slot whose fate is unknown after this ends its writer."""
CLAIM_WITHIN_S: Final = 60.0
CHASE_CLAIMS: Final = 3
KEPT_BYTES_MAX: Final = 256 * MIB
"""Of what an open has read, so much is kept for the replay that follows."""
POLL_S: Final = 0.02
POLL_MAX_S: Final = 0.5
_BACKOFF_S: Final = 0.05
_BACKOFF_MAX_S: Final = 2.0
_INLINE_BYTES_MAX: Final = 64 * KIB
"""Up to this size checksums are cheaper than a change of thread."""
_CALLS_AT_ONCE: Final = 32


class ObjectWriter:
    """`log.Writer` on slots."""

    def __init__(self, slots: Slots, store: ObjectStore, opened: _Opened) -> None:
        self._slots = slots
        self._doors = slots.doors
        self._store = store
        self._opened = opened
        self._end = opened.end
        self.bound = opened.bound
        """The first slot after the durable ones."""
        self._window = AppendWindow(self._doors.tasks, f"log-append-{opened.term}", self._put, self._settled)

    @property
    def term(self) -> int:
        return self._opened.term

    @property
    def end(self) -> Position:
        return self._end

    @property
    def report(self) -> OpenReport:
        return self._opened.report

    async def append(self, records: Sequence[Payload]) -> Position:
        return Position(self.term, await self._window.put(records), 0)

    async def close(self) -> None:
        await self._window.wait_idle()
        self._window.end(StorageError(f"the log of term {self.term} is closed"))

    def _settled(self, batch: Batch) -> None:
        self._end = Position(self.term, batch.sequence, len(batch.records) - 1)
        self.bound = Key(self.term, batch.sequence + 1)

    async def _put(self, batches: Sequence[Batch]) -> None:
        """Store a slot, however often that takes. FencedError; DiskFullError; OutcomeUnknownError."""
        key = Key(self.term, batches[0].sequence)
        records = [batch.records for batch in batches]
        arguments = (self._slots.pchannel, key, self._opened.writer, records)
        if sum(batch.size for batch in batches) <= _INLINE_BYTES_MAX:
            parts = encode_data(*arguments)
        else:
            parts = await self._doors.compute.run_io(encode_data, *arguments)
        name, pause_s = self._slots.name(key), _BACKOFF_S
        deadline_s = self._doors.clock.monotonic_s() + PUT_WITHIN_S
        while True:
            try:
                await self._store.put(name, parts)
                return
            except ObjectExistsError:
                raise FencedError(f"{self._slots.pchannel}: term {self.term} was fenced at {name}") from None
            except StorageError as error:
                if self._doors.clock.monotonic_s() >= deadline_s:
                    raise OutcomeUnknownError(f"{name} may or may not be stored: {error.message}") from None
            await self._doors.clock.sleep(pause_s)
            pause_s = min(2 * pause_s, _BACKOFF_MAX_S)


@dataclass
class _Opened:
    """What an open found: the last record of the chain, and slots kept for the replay."""

    term: int
    writer: str
    end: Position = ORIGIN
    bound: Key = ROOT
    slots_read: int = 0
    bytes_read: int = 0
    kept: dict[Key, Slot] = field(default_factory=dict)
    kept_bytes: int = 0

    @property
    def report(self) -> OpenReport:
        return OpenReport(files=self.slots_read, bytes_read=self.bytes_read)

    def saw(self, slot: Slot, replay_from: Position) -> None:
        """A slot was walked over."""
        self.slots_read += 1
        self.bytes_read += len(slot.data)
        if slot.is_fence:
            return
        if self.kept_bytes + len(slot.data) <= KEPT_BYTES_MAX and slot.next > Key(*replay_from[:2]):
            self.kept[slot.key] = slot
            self.kept_bytes += len(slot.data)


class ObjectFollower:
    """`log.Follower` on slots."""

    def __init__(self, slots: Slots, after: Position) -> None:
        self._slots = slots
        self._position = after
        self._walk: Walk | None = None

    @property
    def position(self) -> Position:
        return self._position

    async def next(self) -> list[tuple[Position, memoryview]]:
        pause_s = POLL_S
        while True:
            slot = await (await self._walking()).next()
            if slot is None:
                await self._check_not_truncated()
                await self._slots.doors.clock.sleep(pause_s)
                pause_s = min(2 * pause_s, POLL_MAX_S)
            elif found := [one for one in await _records_of(self._slots.doors, slot) if one[0] > self._position]:
                self._position = found[-1][0]
                return found

    async def at_end(self) -> bool:
        walk = await self._walking()
        while True:
            slot = await self._slots.get(walk.key)
            if slot is None:
                await self._check_not_truncated()
                return True
            if any(position > self._position for position, _ in await _records_of(self._slots.doors, slot)):
                return False
            walk.key = slot.next

    async def close(self) -> None:
        if self._walk is not None:
            self._walk.stop()

    async def _walking(self) -> Walk:
        if self._walk is None:
            self._walk = Walk(self._slots, await self._slots.beginning(self._position))
        return self._walk

    async def _check_not_truncated(self) -> None:
        """What was found absent is the end, and not a slot that was deleted."""
        walk = await self._walking()
        if await self._slots.truncated() > walk.key:
            raise TruncatedError(f"{self._slots.pchannel}: records above {self._position} were truncated")


class ObjectLog:
    """`log.SharedLog` on an object store whose names are taken once (see `objects.probe`)."""

    def __init__(self, doors: Doors, store: ObjectStore) -> None:
        self._doors = doors
        self._store = store
        self._writers: dict[str, ObjectWriter] = {}
        self._opened: dict[str, _Opened] = {}
        self._fences: dict[str, set[Key]] = {}

    # --- opening ----------------------------------------------------------------------------------------------------
    async def open(self, pchannel: str, term: int, replay_from: Position, confirm: Confirm) -> ObjectWriter:
        slots = self._slots(pchannel)
        try:
            start = await self._start(slots, replay_from)
            opened = _Opened(term, self._doors.random.token(), replay_from, start)
            await self._walk_and_claim(slots, Walk(slots, start), opened, replay_from)
        except CorruptedError:
            await confirm()  # a newer owner may have truncated the log meanwhile
            raise
        await self._store.put(paths.log_head(pchannel, term), opened.writer.encode())
        await confirm()
        newer = self._writers.get(pchannel)
        if newer is not None and newer.term > term:
            raise FencedError(f"{pchannel}: term {term} was fenced by term {newer.term} while it was opening")
        self._opened[pchannel] = opened
        writer = self._writers[pchannel] = ObjectWriter(slots, self._store, opened)
        return writer

    async def _start(self, slots: Slots, replay_from: Position) -> Key:
        """The slot below `replay_from`, or the first one of its term. CorruptedError when log and meta store differ."""
        wanted = Key(replay_from.term, replay_from.sequence)
        mark = await slots.truncated()
        if mark > wanted:
            raise CorruptedError(
                f"{slots.pchannel}: records below {mark} are gone, {replay_from} is needed: the meta store is older"
            )
        if wanted == ROOT:
            # Listed before the root is asked for: nothing is stored before the root is.
            others = await slots.all_keys()
            if others and await slots.get(ROOT) is None:
                raise CorruptedError(f"{slots.pchannel}: {slots.name(ROOT)} is missing, and {others[0]} is not")
            return ROOT
        if wanted.sequence == 0:
            if not await slots.was_opened(wanted.term):
                raise CorruptedError(f"{slots.pchannel}: term {wanted.term}, from which to replay, was never opened")
            return wanted
        below = [key for key in await slots.keys(wanted.term) if key < wanted]
        if not below:
            raise CorruptedError(f"{slots.pchannel}: the slot below {replay_from}, from which to replay, is missing")
        return below[-1]

    async def _walk_and_claim(self, slots: Slots, walk: Walk, opened: _Opened, replay_from: Position) -> None:
        """To the end of the chain, and make it end there. FencedError, CorruptedError, StorageError."""
        try:
            last = await self._walk_to_own_fence(slots, walk, opened, replay_from)
        finally:
            walk.stop()
        if last is not None:
            opened.end, opened.bound = (await _records_of(self._doors, last))[-1][0], last.next

    async def _walk_to_own_fence(self, slots: Slots, walk: Walk, opened: _Opened, replay_from: Position) -> Slot | None:
        """The last slot with records before it."""
        last: Slot | None = None
        lost = 0
        while True:
            slot = await walk.next()
            if slot is None:
                if walk.key < Key(*replay_from[:2]):
                    raise CorruptedError(f"{slots.pchannel}: ends at {walk.key}, below {replay_from}")
                lost += not await self._claim(slots, walk.key, opened)
                if lost == CHASE_CLAIMS:
                    await self._claim(slots, _ahead_of(walk.key), opened)
                    lost = 0
                continue
            opened.saw(slot, replay_from)
            if not slot.is_fence:
                last = slot
                continue
            if slot.fence_term == opened.term and slot.writer == opened.writer:
                return last
            if slot.fence_term >= opened.term:
                raise FencedError(f"{slots.pchannel}: term {slot.fence_term} was opened, so {opened.term} may not")
            self._fences.setdefault(slots.pchannel, set()).add(slot.key)

    async def _claim(self, slots: Slots, key: Key, opened: _Opened) -> bool:
        """Put the fence; whether it is there now. StorageError when the store does not say so in time."""
        fence = encode_fence(slots.pchannel, key, opened.writer, opened.term)
        deadline_s, pause_s = self._doors.clock.monotonic_s() + CLAIM_WITHIN_S, _BACKOFF_S
        while True:
            try:
                await self._store.put(slots.name(key), fence)
                return True
            except ObjectExistsError:
                return False
            except StorageError:
                if self._doors.clock.monotonic_s() >= deadline_s:
                    raise
            await self._doors.clock.sleep(pause_s)
            pause_s = min(2 * pause_s, _BACKOFF_MAX_S)

    # --- reading ----------------------------------------------------------------------------------------------------
    async def read(self, pchannel: str, after: Position) -> AsyncIterator[tuple[Position, memoryview]]:
        writer = self._writers.get(pchannel)
        if writer is None:
            raise StorageError(f"{pchannel}: a log is read after it was opened")
        slots, end, bound = self._slots(pchannel), writer.end, writer.bound
        kept = self._opened.pop(pchannel).kept if pchannel in self._opened else {}
        walk = Walk(slots, await slots.beginning(after))
        try:
            while walk.key < bound:
                slot = kept.pop(walk.key, None)
                if slot is None:
                    slot = await walk.next()
                else:
                    walk.key = slot.next
                if slot is None:
                    raise await slots.missing(walk.key)
                for entry in await _records_of(self._doors, slot):
                    if after < entry[0] <= end:
                        yield entry
        finally:
            walk.stop()

    def follow(self, pchannel: str, after: Position) -> ObjectFollower:
        return ObjectFollower(self._slots(pchannel), after)

    # --- truncation -------------------------------------------------------------------------------------------------
    async def truncate(self, pchannel: str, before: Position) -> None:
        if pchannel not in self._writers:
            raise StorageError(f"{pchannel}: a log is truncated after it was opened")
        slots = self._slots(pchannel)
        mark, old = Key(before.term, before.sequence), await slots.truncated()
        if mark <= old:
            return
        await self._store.put(paths.log_truncated(pchannel, *mark), b"")
        if old != ROOT:
            await self._store.delete(paths.log_truncated(pchannel, *old))
        below = [key for key in await slots.all_keys() if key < mark]
        fences = await self._fences_among(slots, below)
        names = [slots.name(key) for key in deletable(below, fences)]
        for start in range(0, len(names), _CALLS_AT_ONCE):
            await asyncio.gather(*(self._store.delete(name) for name in names[start : start + _CALLS_AT_ONCE]))

    async def _fences_among(self, slots: Slots, keys: Sequence[Key]) -> set[Key]:
        """Those that are fences. The owner's own term has none below its mark."""
        known, term = self._fences.setdefault(slots.pchannel, set()), self._writers[slots.pchannel].term
        unsure = [key for key in keys if key.term != term and key not in known]
        for start in range(0, len(unsure), _CALLS_AT_ONCE):
            some = unsure[start : start + _CALLS_AT_ONCE]
            found = await asyncio.gather(*map(slots.is_fence, some))
            known.update(key for key, fence in zip(some, found, strict=True) if fence)
        return known

    def _slots(self, pchannel: str) -> Slots:
        return Slots(self._doors, self._store, pchannel)


def deletable(below: Sequence[Key], fences: Set[Key]) -> list[Key]:
    """Of the slots below a mark, in order, those that may go: all but the fences and the last one with records."""
    ends: dict[int, Key] = {}
    for fence in sorted(fences, reverse=True):
        ends[fence.term] = fence
    data = [key for key in below if key not in fences]
    kept = max((key for key in data if key.term not in ends or key < ends[key.term]), default=None)
    return [key for key in data if key != kept]


def _ahead_of(key: Key) -> Key:
    """Where a busy owner's slots in flight surely have not come yet, and where one of its slots will begin."""
    steps = key.sequence // SLOT_STRIDE + SLOTS_IN_FLIGHT_MAX + 2
    return Key(key.term, steps * SLOT_STRIDE)


async def _records_of(doors: Doors, slot: Slot) -> list[tuple[Position, memoryview]]:
    """The slot's records, checked; off the loop when that takes long."""
    if slot.is_fence:
        return []
    if len(slot.data) <= _INLINE_BYTES_MAX:
        return slot.records()
    return await doors.compute.run_io(slot.records)
