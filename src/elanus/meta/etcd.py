"""The MetaStore of a cluster: etcd, through its public gRPC interface.

Keys stand below `<prefix>/meta/`. etcd's revision counts all its users' transactions, so that on a shared etcd it grows
between ours too; nobody counts on the steps being ours alone.

Unknown outcomes. A reply to a transaction can be lost, and a request can be executed late. So each transaction that
puts something also puts a *receipt*: a key below `<prefix>/receipt/` of this client, with a number that names the call,
under a compare of the receipt's last revision. Sending the same request again is then harmless: it is executed at most
once, and the branch of failed compares returns the receipt, which says whether an earlier attempt was the one. Before a
call is answered "compares failed" after an earlier attempt got no reply, the receipt is moved, lest that attempt be
executed afterwards. Several transactions in flight have a receipt each (`_Receipt`, kept in a pool); a caller that is
cancelled leaves its receipt behind with an old revision, which its next user meets and corrects. Receipts hang on a
lease of their own, the session, and vanish with the client.

A transaction of deletes alone has no receipt, because it must not count a revision when it changes nothing; its unknown
outcome is told as such.

A watch that loses its stream opens another one after the last revision it told.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from elanus.base.doors import Doors, Job
from elanus.base.errors import OutcomeUnknownError, OverloadedError, StorageError, UnavailableError
from elanus.meta.etcd_client import Backoff, Client, Options, Silence
from elanus.meta.etcd_wire import (
    LEASE_GRANT,
    LEASE_KEEP_ALIVE,
    LEASE_REVOKE,
    RANGE,
    TXN,
    WATCH,
    KeySpace,
    TransactionReply,
    chunk,
    decode_lease,
    decode_range,
    decode_transaction,
    decode_watch,
    integer,
    range_end,
    range_request,
    transaction,
    watch_request,
)
from elanus.meta.store import (
    CompactedError,
    Compare,
    Item,
    LeaseGoneError,
    Operation,
    Put,
    Snapshot,
    TransactionResult,
    WatchBatch,
    unchanged,
    validate,
)

READ_WITHIN_S: Final = 5.0
TRANSACT_WITHIN_S: Final = 8.0
CLOSE_WITHIN_S: Final = 1.0
PAGE_ITEMS: Final = 256
IN_FLIGHT_MAX: Final = 1024
SESSION_TTL_S: Final = 600
_LEASES_HELD_MAX: Final = 4096
_FENCED: Final = b"fenced "


async def open_etcd(doors: Doors, options: Options) -> EtcdMetaStore:
    """Connect and make sure that the store answers. UnavailableError; StorageError: etcd refuses this user."""
    store = EtcdMetaStore(doors, options)
    try:
        await store.get("cluster")
    except BaseException:
        await store.close()
        raise
    return store


@dataclass
class _Receipt:
    """A key that one transaction at a time moves."""

    key: str
    lease: int
    revision: int = 0
    """When it was last moved, as far as its users know."""


class EtcdMetaStore:
    """See the module's head. Made by `open_etcd`."""

    def __init__(self, doors: Doors, options: Options) -> None:
        self._doors = doors
        self._client = Client(doors, options)
        root = f"{options.prefix.strip('/')}/".encode() if options.prefix.strip("/") else b""
        self._space = KeySpace(root + b"meta/")
        self._receipt_space = KeySpace(root + b"receipt/")
        self._session = 0
        self._session_lock = asyncio.Lock()
        self._session_job: Job | None = None
        self._receipts: list[_Receipt] = []
        self._receipt_count = 0
        self._call_count = 0
        self._in_flight = 0
        self._leases: set[int] = set()

    # --- reads ------------------------------------------------------------------------------------------------------
    async def get(self, key: str) -> Item | None:
        """See MetaStore."""
        reply = await self._client.read(RANGE, range_request(self._space.full(key)), READ_WITHIN_S)
        return next(iter(decode_range(self._space, reply).items), None)

    async def range(self, prefix: str) -> list[Item]:
        """See MetaStore."""
        return list((await self.snapshot(prefix)).items)

    async def snapshot(self, prefix: str) -> Snapshot:
        """See MetaStore. Read in pages, all at the first one's revision."""
        while True:
            try:
                return await self._pages(prefix)
            except CompactedError:
                continue

    async def _pages(self, prefix: str) -> Snapshot:
        key = self._space.full(prefix)
        end, revision, items = range_end(key), 0, list[Item]()
        while True:
            request = range_request(key, end, PAGE_ITEMS, revision)
            page = decode_range(self._space, await self._client.read(RANGE, request, READ_WITHIN_S))
            revision = revision or page.revision
            items += page.items
            if not page.more:
                return Snapshot(tuple(items), revision)
            key = self._space.full(items[-1].key) + b"\0"

    # --- transactions -----------------------------------------------------------------------------------------------
    async def transact(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> TransactionResult:
        """See MetaStore. OverloadedError when too many are in flight."""
        validate(compares, operations)
        self._client.check_open()
        if self._in_flight >= IN_FLIGHT_MAX:
            raise OverloadedError(f"{self._in_flight} meta transactions are in flight")
        wanted = [self._space.compare(compare) for compare in compares]
        todo = [self._space.operation(operation) for operation in operations]
        self._in_flight += 1
        try:
            if any(isinstance(operation, Put) for operation in operations):
                return await self._transact_once(wanted, todo)
            return await self._transact_plainly(wanted, todo)
        finally:
            self._in_flight -= 1

    async def _transact_plainly(self, compares: list[bytes], operations: list[bytes]) -> TransactionResult:
        """Deletes alone, or nothing."""
        request = transaction(compares, operations)
        if not operations:
            reply = await self._client.read(TXN, request, READ_WITHIN_S)
        else:
            try:
                deadline_s = self._doors.clock.monotonic_s() + TRANSACT_WITHIN_S
                reply = await self._client.attempt(TXN, request, deadline_s)
            except Silence as silence:
                raise OutcomeUnknownError(f"meta keys may or may not be deleted: {silence}") from None
        decoded = decode_transaction(self._space, reply)
        return TransactionResult(decoded.succeeded, decoded.revision)

    async def _transact_once(self, compares: list[bytes], operations: list[bytes]) -> TransactionResult:
        """With a receipt. Refused because the session has ended: nothing was done, so begin again under a new one."""
        while True:
            session = await self._live_session()
            receipt = self._take_receipt(session)
            try:
                return await self._settle(receipt, compares, operations)
            except LeaseGoneError:
                if await self._is_alive(session):
                    raise
                self._forget_session(session)
            finally:
                if receipt.lease == self._session:
                    self._receipts.append(receipt)

    async def _settle(self, receipt: _Receipt, compares: list[bytes], operations: list[bytes]) -> TransactionResult:
        """Send until there is an answer. OutcomeUnknownError when time is up."""
        self._call_count += 1
        name = b"%d" % self._call_count
        deadline_s = self._doors.clock.monotonic_s() + TRANSACT_WITHIN_S
        pause = Backoff(self._doors)
        silent = False
        while True:
            request = self._with_receipt(receipt, name, (compares, operations), fence=silent)
            try:
                answer = decode_transaction(self._receipt_space, await self._client.attempt(TXN, request, deadline_s))
            except Silence as silence:
                silent = True
                if self._client.closed or self._doors.clock.monotonic_s() >= deadline_s:
                    raise OutcomeUnknownError(f"the meta transaction may or may not be stored: {silence}") from None
                await pause.wait()
                continue
            except UnavailableError as error:
                if silent:
                    raise OutcomeUnknownError(f"the meta transaction may or may not be stored: {error}") from None
                raise
            result = self._judge(receipt, name, answer, silent=silent)
            if result is not None:
                return result
            silent = False

    def _with_receipt(
        self, receipt: _Receipt, name: bytes, call: tuple[list[bytes], list[bytes]], *, fence: bool
    ) -> bytes:
        """The call's transaction, guarded and signed by the receipt, which is read if not all compares hold."""
        compares, operations = call
        space = self._receipt_space
        guard = space.compare(unchanged(receipt.key, receipt.revision))
        failure = [chunk(1, range_request(space.full(receipt.key)))]
        if fence:
            moved = space.operation(Put(receipt.key, _FENCED + name, receipt.lease))
            failure.append(chunk(4, transaction([guard], [moved])))
        signed = space.operation(Put(receipt.key, name, receipt.lease))
        return transaction([*compares, guard], [*operations, signed], failure)

    def _judge(
        self, receipt: _Receipt, name: bytes, answer: TransactionReply, *, silent: bool
    ) -> TransactionResult | None:
        """What the answer says of the call. None: the receipt was not where we thought, no attempt of this call has
        been executed nor will be, so begin again."""
        if answer.succeeded:
            receipt.revision = answer.revision
            return TransactionResult(True, answer.revision)
        found = answer.read[0] if answer.read else None
        moved_at = found.mod_revision if found else 0
        if moved_at == receipt.revision:
            if silent:
                receipt.revision = answer.revision
            return TransactionResult(False, answer.revision)
        if silent and found is None:
            raise OutcomeUnknownError("the meta transaction may or may not be stored: its receipt is gone")
        receipt.revision = moved_at
        if found is not None and found.value == name:
            return TransactionResult(True, moved_at)
        if found is not None and found.value == _FENCED + name:
            return TransactionResult(False, answer.revision)
        return None

    def _take_receipt(self, session: int) -> _Receipt:
        if self._receipts:
            return self._receipts.pop()
        self._receipt_count += 1
        return _Receipt(f"{session:x}/{self._receipt_count}", session)

    # --- the session ------------------------------------------------------------------------------------------------
    async def _live_session(self) -> int:
        async with self._session_lock:
            if not self._session:
                self._session = await self._grant(SESSION_TTL_S)
                self._session_job = self._doors.tasks.spawn(self._keep_session(self._session), name="etcd session")
            return self._session

    async def _keep_session(self, session: int) -> None:
        while session == self._session and not self._client.closed:
            await self._doors.clock.sleep(SESSION_TTL_S / 4)
            try:
                if not await self._is_alive(session):
                    self._forget_session(session)
            except UnavailableError:
                continue

    async def _is_alive(self, lease: int) -> bool:
        try:
            await self.keep_alive(lease)
        except LeaseGoneError:
            return False
        return True

    def _forget_session(self, session: int) -> None:
        if self._session == session:
            self._session = 0
            self._receipts.clear()

    # --- watch ------------------------------------------------------------------------------------------------------
    async def watch(self, prefix: str, after_revision: int) -> AsyncIterator[WatchBatch]:
        """See MetaStore."""
        seen = after_revision
        pause = Backoff(self._doors)
        while True:
            self._client.check_open()
            try:
                request = watch_request(self._space.full(prefix), seen + 1)
                stream = await self._client.stream(WATCH, request, READ_WITHIN_S)
            except (Silence, UnavailableError):
                await pause.wait()
                continue
            try:
                while True:
                    reply = decode_watch(self._space, await stream.next())
                    if reply.compacted_below:
                        raise CompactedError(f"changes after revision {seen} are gone in etcd")
                    if reply.ended:
                        raise Silence(reply.reason)
                    for batch in reply.batches:
                        if batch.revision > seen:
                            yield batch
                            seen = batch.revision
                    if not reply.batches and not reply.created:
                        seen = max(seen, reply.revision)
                    pause.reset()
            except Silence:
                await pause.wait()
            finally:
                stream.cancel()

    # --- leases -----------------------------------------------------------------------------------------------------
    async def grant(self, ttl_s: float) -> int:
        """See MetaStore. etcd rounds up to whole seconds, and to its shortest lease (2 s as it is configured)."""
        if len(self._leases) >= _LEASES_HELD_MAX:
            raise OverloadedError(f"{_LEASES_HELD_MAX} leases are held")
        lease = await self._grant(math.ceil(ttl_s))
        self._leases.add(lease)
        return lease

    async def _grant(self, ttl_s: int) -> int:
        reply = await self._client.read(LEASE_GRANT, integer(1, ttl_s), READ_WITHIN_S)
        return decode_lease(reply)[0]

    async def keep_alive(self, lease: int) -> None:
        """See MetaStore. UnavailableError when etcd does not answer."""
        try:
            stream = await self._client.stream(LEASE_KEEP_ALIVE, integer(1, lease), READ_WITHIN_S)
            try:
                reply = await self._doors.tasks.timeout(READ_WITHIN_S, stream.next())
            finally:
                stream.cancel()
        except (Silence, TimeoutError) as error:
            raise UnavailableError(f"etcd does not answer: {error}") from None
        if decode_lease(reply)[1] <= 0:
            self._leases.discard(lease)
            raise LeaseGoneError(f"meta lease {lease} has ended")

    async def revoke(self, lease: int) -> None:
        """See MetaStore."""
        await self._revoke(lease, READ_WITHIN_S)

    async def _revoke(self, lease: int, within_s: float) -> None:
        self._leases.discard(lease)
        try:
            await self._client.read(LEASE_REVOKE, integer(1, lease), within_s)
        except LeaseGoneError:
            return

    # --- life -------------------------------------------------------------------------------------------------------
    async def close(self) -> None:
        """See MetaStore. When etcd does not answer, the leases end by themselves."""
        if self._client.closed:
            return
        if self._session_job is not None:
            self._session_job.cancel()
        self._client.end_streams()
        held = {*self._leases, self._session} - {0}
        for lease in held:
            try:
                await self._revoke(lease, CLOSE_WITHIN_S)
            except (UnavailableError, StorageError):
                break
        await self._client.close()
