"""A pchannel under its owner: one log, one appender task, the shards it carries.

Write path. Writers put a request in a bounded queue and wait. The appender takes what waits, refuses whatever can be
refused, stamps the rest, appends them as one batch, and when that is durable applies each record to its shard and
answers. After the stamp nothing is skipped: if the append or the apply cannot complete, the term ends here (`fail`),
and the writers of that batch learn either that nothing was written or that the outcome is unknown.

States: opening (replaying; reads and writes wait), owning, failed (writes are refused as retriable; a new term reopens
the log and replays what this owner had not applied), closed.

Stories this file answers
1. Two requests in one batch, insert(7) and delete(7): each record has its own timestamp, so the delete hides the row.
2. An append fails half way. The frames may or may not be found by the next opener. Going on and flushing past them
   would lose or revive them: hence `fail`, reopen under a new term, and replay from the last *applied* position.
3. A guarded write (partial upsert) in one batch with another write of its key: a batch is cut before a guarded write,
   so that the guard is compared with a state that holds everything stamped before it.
4. A partial upsert made under an older schema writes whole rows without the fields added since, whose values would go
   with them: it is refused, and made again under the newest schema.
5. A client goes away while its write is queued or in flight: the request is the appender's, not the caller's task, so
   cancellation of the caller changes nothing.
6. The log is opened again while its owner still appends (the coordinator had not heard that the term before was open).
   A batch that lands before the fence is found by the replay and applied by the appender, too; one that lands after it
   fails, which says nothing about the new handle. Hence `suspend` before the log is opened, and the appender takes the
   handle when nothing is left to wait for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from elanus.base.doors import Doors, Job
from elanus.base.errors import (
    Action,
    DiskFullError,
    ElanusError,
    FencedError,
    OverloadedError,
    UnavailableError,
    check,
)
from elanus.base.limits import (
    LOG_BATCH_BYTES_MAX,
    LOG_BATCH_RECORDS_MAX,
    PENDING_WRITE_BYTES_MAX,
    PENDING_WRITES_MAX,
)
from elanus.model.channel import ORIGIN, Position
from elanus.model.errors import (
    ChannelNotAvailableError,
    PartitionNotFoundError,
    SchemaMismatchError,
    WriteConflictError,
)
from elanus.model.records import ChangeRecord, Record, ShardChange, WriteRecord
from elanus.nodes.contracts import Coordinator, ShardWrite, WriteReply
from elanus.nodes.streaming.shard import Shard
from elanus.nodes.streaming.stamps import Stamps
from elanus.wal.log import Writer
from elanus.wal.records import encode_record

REPORT_RETRY_S: Final = 1.0


@dataclass(slots=True)
class _Pending:
    """A write that waits; exactly one of `write` and `change` is set."""

    write: ShardWrite | None
    change: ShardChange | None
    size_bytes: int
    reply: asyncio.Future[WriteReply]

    @property
    def vchannel(self) -> str:
        request = self.write or self.change
        assert request is not None
        return request.vchannel


class Keeper(Protocol):
    """The node that keeps a channel, as the channel sees it."""

    def new_shard(self, change: ShardChange, before: Position) -> Shard:
        """The shard of a create record that stands right after `before`."""
        ...

    def check_room(self, shard: Shard) -> None:
        """Refuse a write for want of memory or disk, before it is stamped."""
        ...

    def batch_applied(self, shards: list[Shard]) -> None:
        """These shards have changed."""
        ...

    def fenced(self, channel: Channel) -> None:
        """A higher term has opened the channel's log."""
        ...


class Channel:
    """See the module's head."""

    def __init__(
        self,
        doors: Doors,
        pchannel: str,
        coordinator: Coordinator,
        keeper: Keeper,
        *,
        log_is_shared: bool,
    ) -> None:
        self.pchannel = pchannel
        self.log_is_shared = log_is_shared
        self.term = 0
        self.shards: dict[str, Shard] = {}
        self.stamps = Stamps(doors.clock, coordinator)
        self.applied = ORIGIN
        self._doors = doors
        self._coordinator = coordinator
        self._keeper = keeper
        self._writer: Writer | None = None
        self._closed_by: ElanusError = UnavailableError(f"{pchannel} is not open for writes")
        self._queue: deque[_Pending] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._in_flight: asyncio.Event | None = None
        self._appender: Job | None = None
        self._closed = False
        self.follows = False

    # --- ownership --------------------------------------------------------------------------------------------------
    @property
    def is_owned(self) -> bool:
        """Whether writes are taken."""
        return self._writer is not None

    def own(self, term: int, writer: Writer) -> None:
        """Start taking writes under an opened, confirmed and replayed log."""
        self.term = term
        self.follows = False
        self._writer = writer
        if self._appender is None:
            self._appender = self._doors.tasks.spawn(self._append_for_ever(), name=f"append {self.pchannel}")

    async def suspend(self) -> None:
        """Append no more under the handle there is, which ends with its term; returns when what is in flight is applied
        or given up."""
        if self._writer is not None:
            self._writer = None
            self._closed_by = UnavailableError(f"{self.pchannel} is being opened again")
        if self._in_flight is not None:
            await self._in_flight.wait()

    def follow(self) -> None:
        """Apply what others append; writes are for the owner."""
        self.follows = True
        self._closed_by = ChannelNotAvailableError(self.pchannel)

    async def close(self) -> None:
        """Let the batch in flight finish, refuse the rest, release the log."""
        self._closed = True
        await self._idle.wait()
        if self._appender is not None:
            self._appender.cancel()
        self._refuse_all(UnavailableError(f"{self.pchannel} is closing"))
        if self._writer is not None:
            writer, self._writer = self._writer, None
            await writer.close()

    def _fail(self, writer: Writer, error: ElanusError) -> None:
        """The log handle is dead: end the term and ask for a new one, unless somebody has it already."""
        if self._writer is not writer:
            return
        self._writer = None
        if isinstance(error, FencedError):
            self._closed_by = ChannelNotAvailableError(self.pchannel)
            self._keeper.fenced(self)
            return
        if isinstance(error, DiskFullError):
            self._closed_by = DiskFullError(
                f"{self.pchannel}: its log is opened again when there is room: {error.message}"
            )
        else:
            self._closed_by = UnavailableError(f"{self.pchannel} lost its log; it is being opened again")
        self._doors.tasks.spawn(self._report(self.term), name=f"report {self.pchannel}")

    async def _report(self, term: int) -> None:
        """Ask the coordinator for a new term until it has heard."""
        while self.term == term and self._writer is None and not self._closed:
            try:
                await self._coordinator.report_failed(self.pchannel, term)
                return
            except ElanusError as error:
                if error.action not in (Action.RETRY, Action.UNKNOWN):
                    raise
            await self._doors.clock.sleep(REPORT_RETRY_S)

    def shard(self, vchannel: str) -> Shard:
        """The shard, or the error that sends the caller to refresh its route."""
        shard = self.shards.get(vchannel)
        if shard is None or shard.dropped:
            raise ChannelNotAvailableError(vchannel)
        return shard

    # --- writes -----------------------------------------------------------------------------------------------------
    async def write(self, write: ShardWrite) -> WriteReply:
        """Durable and applied when it returns."""
        size = (write.batch.nbytes if write.batch is not None else 0) + (
            write.delete_keys.nbytes if write.delete_keys is not None else 0
        )
        return await self._submit(write, None, size)

    async def change(self, change: ShardChange) -> WriteReply:
        """Log a DDL change and apply it."""
        return await self._submit(None, change, 0)

    async def _submit(self, write: ShardWrite | None, change: ShardChange | None, size_bytes: int) -> WriteReply:
        if self._writer is None:
            raise _again(self._closed_by)
        if len(self._queue) >= PENDING_WRITES_MAX or (
            self._queue and self._queued_bytes + size_bytes > PENDING_WRITE_BYTES_MAX
        ):
            raise OverloadedError("too many writes are waiting for the log")
        reply: asyncio.Future[WriteReply] = asyncio.get_running_loop().create_future()
        self._queue.append(_Pending(write, change, size_bytes, reply))
        self._queued_bytes += size_bytes
        self._wake.set()
        return await asyncio.shield(reply)

    def _refuse_all(self, error: ElanusError) -> None:
        while self._queue:
            _answer(self._queue.popleft(), error)
        self._queued_bytes = 0

    async def _append_for_ever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._idle.clear()
            try:
                while self._queue:
                    await self._append_some()
            finally:
                self._idle.set()

    async def _append_some(self) -> None:
        if self._writer is not None:
            try:
                await self.stamps.reserve(LOG_BATCH_RECORDS_MAX)
            except ElanusError as error:
                full = isinstance(error, DiskFullError)
                self._refuse_all(error if full else UnavailableError(f"no timestamps: {error.message}"))
                return
        writer = self._writer
        if writer is None:
            self._refuse_all(_again(self._closed_by))
            return
        batch = [pending for pending in self._take_batch() if self._admit(pending)]
        if not batch:
            return
        self._in_flight = asyncio.Event()
        try:
            await self._append_batch(writer, batch)
        finally:
            self._in_flight.set()
            self._in_flight = None

    async def _append_batch(self, writer: Writer, batch: list[_Pending]) -> None:
        records = [self._stamp(pending) for pending in batch]
        try:
            first = await writer.append([encode_record(record) for record in records])
        except ElanusError as error:
            for pending in batch:
                # A fenced log has taken nothing: the one who owns it now may be asked.
                fenced = isinstance(error, FencedError)
                _answer(pending, ChannelNotAvailableError(pending.vchannel) if fenced else error)
            self._fail(writer, error)
            return
        self._apply_batch(batch, records, first)

    def _take_batch(self) -> list[_Pending]:
        batch: list[_Pending] = []
        size = 0
        while self._queue and len(batch) < LOG_BATCH_RECORDS_MAX and size < LOG_BATCH_BYTES_MAX:
            guarded = self._queue[0].write is not None and self._queue[0].write.guard_timestamp is not None
            if guarded and batch:
                break
            pending = self._queue.popleft()
            self._queued_bytes -= pending.size_bytes
            size += pending.size_bytes
            batch.append(pending)
            if guarded:
                break
        return batch

    def _admit(self, pending: _Pending) -> bool:
        """Refuse here whatever can be refused; afterwards nothing is skipped."""
        try:
            if pending.write is not None:
                self._check_write(pending.write)
            elif pending.change is not None:
                return self._check_change(pending)
        except ElanusError as error:
            _answer(pending, error)
            return False
        return True

    def _check_write(self, write: ShardWrite) -> None:
        shard = self.shard(write.vchannel)
        self._keeper.check_room(shard)
        if write.schema_version > shard.schema.version:
            raise UnavailableError(f"{write.vchannel} does not know schema version {write.schema_version} yet")
        if write.schema_version < shard.schema.version and write.batch is not None:
            known = {field.field_id for field in shard.schema.fields}
            if not set(write.batch.columns) <= known or write.guard_timestamp is not None:
                raise SchemaMismatchError(shard.schema.name)
        if write.partition_ids is not None:
            unknown = set(np.unique(write.partition_ids).tolist()) - shard.partition_ids
            if unknown:
                raise PartitionNotFoundError(sorted(unknown)[0])
        guard, victims = write.guard_timestamp, write.delete_keys
        if guard is not None and victims is not None and shard.written_since(victims, guard):
            raise WriteConflictError("a row of a partial upsert was written since it was read")

    def _check_change(self, pending: _Pending) -> bool:
        change = pending.change
        assert change is not None
        shard = self.shards.get(change.vchannel)
        if shard is None and change.kind != "create":
            raise ChannelNotAvailableError(change.vchannel)
        if shard is not None and change.intent_id <= shard.intent_id:
            shard.recall(change)
            _answer(pending, WriteReply(shard.last_timestamp, shard.last_position))
            return False
        return True

    def _stamp(self, pending: _Pending) -> Record:
        timestamp = self.stamps.draw()
        if pending.change is not None:
            return ChangeRecord(pending.vchannel, timestamp, pending.change)
        write = pending.write
        assert write is not None
        return WriteRecord(
            write.vchannel,
            timestamp,
            write.schema_version,
            write.batch,
            write.partition_ids,
            write.delete_keys,
            write.delete_partition_id,
        )

    def _apply_batch(self, batch: list[_Pending], records: list[Record], first: Position) -> None:
        touched = set()
        for offset, (pending, record) in enumerate(zip(batch, records, strict=True)):
            position = first._replace(offset=offset)
            self.apply(record, position)
            touched.add(record.vchannel)
            _answer(pending, WriteReply(record.timestamp, position))
        self._keeper.batch_applied([self.shards[vchannel] for vchannel in sorted(touched) if vchannel in self.shards])

    def apply(self, record: Record, position: Position) -> None:
        """Apply one durable record; the same for fresh appends and for replay."""
        check(position > self.applied, f"{self.pchannel}: position {position} after {self.applied}")
        before, self.applied = self.applied, position
        self.stamps.raise_floor(record.timestamp)
        shard = self.shards.get(record.vchannel)
        if isinstance(record, ChangeRecord):
            if shard is None and record.change.kind == "create":
                shard = self.shards[record.vchannel] = self._keeper.new_shard(record.change, before)
            if shard is not None and position > shard.manifest.flushed_through:
                shard.apply_change(record, position)
        elif shard is not None and position > shard.manifest.flushed_through and not shard.dropped:
            shard.apply(record, position)

    async def settle(self) -> None:
        """Wait until everything stamped so far is applied. UnavailableError when a batch is of unknown outcome: it may
        be in the log, and only a replay tells."""
        if self._in_flight is not None:
            await self._in_flight.wait()
        if not self.is_owned:
            raise UnavailableError(f"{self.pchannel} lost its log; it is being opened again")


def _again(error: ElanusError) -> ElanusError:
    """The same refusal for one more caller: a raised exception carries its first traceback."""
    again = type(error).__new__(type(error), error.message)
    again.message = error.message
    return again


def _answer(pending: _Pending, outcome: WriteReply | ElanusError) -> None:
    if pending.reply.done():
        return
    if isinstance(outcome, ElanusError):
        pending.reply.set_exception(outcome)
        pending.reply.exception()
    else:
        pending.reply.set_result(outcome)
