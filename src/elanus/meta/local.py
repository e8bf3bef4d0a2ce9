"""A MetaStore for the roles of one process: everything in memory, each change first written through a journal.

Theory. One lock orders all transactions. A transaction is decided on the state in memory, which nobody else can change
(one process owns the journal's file), then journaled, then applied and shown to watchers, then answered. So a reader
never sees what is not durable, point reads cost a dictionary look-up, and they are linearizable: what they miss has not
been answered yet.

Races met here:

1. The caller is cancelled while the journal writes. The write goes on in its thread, so memory must follow it: each
   commit is a task of its own that nobody but `close` waits for; the caller only waits for its outcome.
2. The journal fails after it may have written. Memory and file may differ, so the store is dead from there on: the
   caller is told "unknown", everyone after it StorageError. Only an error that proves that nothing was written
   (DiskFullError) leaves it alive.
3. A lease ends while a transaction that puts a key under it waits for the lock. Leases are looked at under the lock.
4. The machine sleeps, and the clock goes on. Timers do not, so that holders wake up before the ends of their leases
   do: a lease that is overdue can still be kept alive until its end has begun.
5. A slow watcher. It holds no queue of its own, only a revision; when the history has moved past it, it is told so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from elanus.base.doors import Doors, Job
from elanus.base.errors import (
    DiskFullError,
    ElanusError,
    OutcomeUnknownError,
    OverloadedError,
    StorageError,
    UnavailableError,
)
from elanus.base.limits import META_TRANSACTION_OPERATIONS_MAX
from elanus.meta.state import State
from elanus.meta.store import (
    NO_LEASE,
    Compare,
    Delete,
    Item,
    LeaseGoneError,
    MetaLimitError,
    Operation,
    Put,
    Snapshot,
    TransactionResult,
    WatchBatch,
    unchanged,
    validate,
)

TRANSACTIONS_WAITING_MAX: Final = 1024
LEASE_COUNT_MAX: Final = 4096
WATCH_READ_MAX: Final = 64


class Journal(Protocol):
    """Where a local store writes its changes down."""

    async def write(self, change: WatchBatch) -> None:
        """Make the change durable. DiskFullError: nothing was written. Any other error: it may have been."""
        ...

    async def close(self) -> None:
        """Release the file. Idempotent."""
        ...


@dataclass
class _Lease:
    ttl_s: float
    deadline_s: float
    ended: bool = False
    job: Job | None = None


class LocalMetaStore:
    """The MetaStore of one process; without a journal it forgets everything with the process."""

    def __init__(self, doors: Doors, state: State, journal: Journal | None) -> None:
        self._doors = doors
        self._state = state
        self._journal = journal
        self._lock = asyncio.Lock()
        self._waiting = 0
        self._watchers: dict[asyncio.Future[None], None] = {}
        self._leases: dict[int, _Lease] = {}
        self._next_lease = 1
        self._closed: ElanusError | None = None

    # --- reads ------------------------------------------------------------------------------------------------------
    async def get(self, key: str) -> Item | None:
        """See MetaStore."""
        self._check_open()
        return self._state.items.get(key)

    async def range(self, prefix: str) -> list[Item]:
        """See MetaStore."""
        self._check_open()
        return list(self._state.range(prefix))

    async def snapshot(self, prefix: str) -> Snapshot:
        """See MetaStore."""
        self._check_open()
        return Snapshot(tuple(self._state.range(prefix)), self._state.revision)

    # --- transactions -----------------------------------------------------------------------------------------------
    async def transact(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> TransactionResult:
        """See MetaStore. OverloadedError when too many wait."""
        validate(compares, operations)
        self._check_open()
        if self._waiting >= TRANSACTIONS_WAITING_MAX:
            raise OverloadedError(f"{self._waiting} meta transactions are waiting")
        outcome: asyncio.Future[TransactionResult] = asyncio.get_running_loop().create_future()
        outcome.add_done_callback(_retrieve)
        self._waiting += 1
        self._doors.tasks.spawn(self._commit_into(outcome, tuple(compares), tuple(operations)), name="meta commit")
        return await asyncio.shield(outcome)

    async def _commit_into(
        self,
        outcome: asyncio.Future[TransactionResult],
        compares: tuple[Compare, ...],
        operations: tuple[Operation, ...],
    ) -> None:
        try:
            async with self._lock:
                result = await self._commit(compares, operations)
            outcome.set_result(result)
        except ElanusError as error:
            outcome.set_exception(error)
        finally:
            self._waiting -= 1
            if not outcome.done():
                outcome.set_exception(OutcomeUnknownError("the meta store stopped during a transaction"))

    async def _commit(self, compares: tuple[Compare, ...], operations: tuple[Operation, ...]) -> TransactionResult:
        """Decide, journal, apply, show. The lock is held."""
        self._check_open()
        if not self._state.holds(compares):
            return TransactionResult(False, self._state.revision)
        for operation in operations:
            if isinstance(operation, Put) and operation.lease != NO_LEASE:
                self._live(operation.lease)
        change = self._state.stage(operations)
        if change is not None:
            await self._write(change)
            self._state.apply(change)
            self._wake()
        return TransactionResult(True, self._state.revision)

    async def _write(self, change: WatchBatch) -> None:
        if self._journal is None:
            return
        try:
            await self._journal.write(change)
        except DiskFullError:
            raise
        except BaseException as error:
            self._die(StorageError(f"the meta store is dead after a failed write: {error}"))
            if isinstance(error, ElanusError):
                raise OutcomeUnknownError(f"the meta transaction may or may not be stored: {error}") from error
            raise

    # --- watch ------------------------------------------------------------------------------------------------------
    async def watch(self, prefix: str, after_revision: int) -> AsyncIterator[WatchBatch]:
        """See MetaStore."""
        seen = after_revision
        while True:
            self._check_open()
            if seen >= self._state.revision:
                await self._wait_for_change()
                continue
            for change in self._state.changes_after(seen, WATCH_READ_MAX):
                seen = change.revision
                events = tuple(event for event in change.events if event.key.startswith(prefix))
                if events:
                    yield WatchBatch(change.revision, events)

    async def _wait_for_change(self) -> None:
        grown: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchers[grown] = None
        try:
            await grown
        finally:
            del self._watchers[grown]

    def _wake(self) -> None:
        for watcher in self._watchers:
            if not watcher.done():
                watcher.set_result(None)

    # --- leases -----------------------------------------------------------------------------------------------------
    async def grant(self, ttl_s: float) -> int:
        """See MetaStore."""
        self._check_open()
        if len(self._leases) >= LEASE_COUNT_MAX:
            raise MetaLimitError(f"{LEASE_COUNT_MAX} leases are held")
        lease, self._next_lease = self._next_lease, self._next_lease + 1
        held = _Lease(ttl_s, self._doors.clock.monotonic_s() + ttl_s)
        self._leases[lease] = held
        held.job = self._doors.tasks.spawn(self._end_in_time(lease, held), name=f"meta lease {lease}")
        return lease

    async def keep_alive(self, lease: int) -> None:
        """See MetaStore."""
        self._check_open()
        held = self._live(lease)
        held.deadline_s = self._doors.clock.monotonic_s() + held.ttl_s

    async def revoke(self, lease: int) -> None:
        """See MetaStore."""
        self._check_open()
        held = self._leases.get(lease)
        if held is not None:
            await self._end(lease, held)
            if held.job is not None:
                held.job.cancel()

    def _live(self, lease: int) -> _Lease:
        held = self._leases.get(lease)
        if held is None or held.ended:
            raise LeaseGoneError(f"meta lease {lease} has ended")
        return held

    async def _end_in_time(self, lease: int, held: _Lease) -> None:
        while self._closed is None:
            left_s = held.deadline_s - self._doors.clock.monotonic_s()
            if left_s > 0:
                await self._doors.clock.sleep(left_s)
                continue
            try:
                await self._end(lease, held)
                return
            except DiskFullError:
                await self._doors.clock.sleep(held.ttl_s)

    async def _end(self, lease: int, ending: _Lease) -> None:
        """Delete the lease's keys in transactions that compare them, lest a key put anew meanwhile be lost."""
        ending.ended = True
        while held := [item for item in self._state.items.values() if item.lease == lease]:
            held = held[:META_TRANSACTION_OPERATIONS_MAX]
            compares = [unchanged(item.key, item.mod_revision) for item in held]
            await self.transact(compares, [Delete(item.key) for item in held])
        self._leases.pop(lease, None)

    # --- life -------------------------------------------------------------------------------------------------------
    async def close(self) -> None:
        """See MetaStore. Waits for the transaction under way; those that wait for the lock are refused."""
        self._die(UnavailableError("the meta store is closed"))
        for held in self._leases.values():
            if held.job is not None:
                held.job.cancel()
        self._leases.clear()
        async with self._lock:
            if self._journal is not None:
                await self._journal.close()

    def _die(self, error: ElanusError) -> None:
        if self._closed is None:
            self._closed = error
            self._wake()

    def _check_open(self) -> None:
        if self._closed is not None:
            raise type(self._closed)(self._closed.message)


def _retrieve(outcome: asyncio.Future[TransactionResult]) -> None:
    """Look at an outcome whose caller may be gone, lest the loop report it as never seen."""
    if not outcome.cancelled():
        outcome.exception()
