"""The MetaStore port: a small, linearizable, transactional key-value store with watch and leases (etcd's semantics).

Invariants of every implementation, checked by `testing.conformance_meta`:

- One global revision. It grows by exactly one with each transaction that changes anything, and only then. All keys a
  transaction writes carry that revision. No revision is ever used twice, across restarts too.
- `get`, `range` and `transact` are linearizable: a call begun after another has returned sees its effect.
- A transaction is all or nothing, and durable when `transact` returns.
- A watcher sees every change above its revision in order, one batch per revision, or learns that it cannot.
- A key put under a lease vanishes in a transaction of its own some time after the lease's end, and at the latest when
  the store is next opened. Leases say whom to replace; nothing that must be safe may depend on when they end.

Values are at most `META_VALUE_BYTES_MAX` long; a transaction has at most `META_TRANSACTION_OPERATIONS_MAX` compares and
as many operations, and names a key in at most one operation.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from enum import StrEnum
from typing import ClassVar, Final, Protocol

import msgspec

from elanus.base.errors import Action, ElanusError, check
from elanus.base.limits import KIB, META_TRANSACTION_OPERATIONS_MAX, META_VALUE_BYTES_MAX

KEY_BYTES_MAX: Final = KIB
TRANSACTION_BYTES_MAX: Final = META_VALUE_BYTES_MAX + 256 * KIB
"""Keys and values of one transaction; below etcd's request limit of 1.5 MiB."""
NO_LEASE: Final = 0


class CompactedError(ElanusError):
    """Changes above the asked revision are no longer kept: list again, then watch from the list's revision."""

    code = 5
    action = Action.RETRY


class LeaseGoneError(ElanusError):
    """The lease has ended or never was; its keys are gone or going."""

    code = 5
    action = Action.FENCED


class MetaLimitError(ElanusError):
    """A key, value or transaction exceeds the store's bounds. Nothing was done."""

    code = 5
    action: ClassVar[Action] = Action.FIX_REQUEST


class Item(msgspec.Struct, frozen=True):
    """A key as stored. `create_revision`: since when it exists without a break; `mod_revision`: its last put."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int = NO_LEASE


class Field(StrEnum):
    """What of an item a compare looks at."""

    CREATE_REVISION = "create_revision"
    MOD_REVISION = "mod_revision"
    VALUE = "value"


class Compare(msgspec.Struct, frozen=True):
    """A condition of a transaction: the field of the key's item equals `operand`.

    Both revisions of an absent key are 0. An absent key equals no value.
    """

    key: str
    field: Field
    operand: int | bytes

    def holds(self, item: Item | None) -> bool:
        """Whether the condition is met by what is stored under its key."""
        if self.field is Field.VALUE:
            return item is not None and item.value == self.operand
        if item is None:
            return self.operand == 0
        revision = item.create_revision if self.field is Field.CREATE_REVISION else item.mod_revision
        return revision == self.operand


def absent(key: str) -> Compare:
    """The key does not exist."""
    return Compare(key, Field.CREATE_REVISION, 0)


def unchanged(key: str, mod_revision: int) -> Compare:
    """The key was last put at `mod_revision` (0: it does not exist)."""
    return Compare(key, Field.MOD_REVISION, mod_revision)


def created_at(key: str, create_revision: int) -> Compare:
    """The key exists without a break since `create_revision`."""
    return Compare(key, Field.CREATE_REVISION, create_revision)


def has_value(key: str, value: bytes) -> Compare:
    """The key holds exactly these bytes."""
    return Compare(key, Field.VALUE, value)


class Put(msgspec.Struct, frozen=True, tag="put"):
    """Store a value; without a lease the key loses the one it had."""

    key: str
    value: bytes
    lease: int = NO_LEASE


class Delete(msgspec.Struct, frozen=True, tag="delete"):
    """Remove a key; a missing one is not an error and not a change."""

    key: str


Operation = Put | Delete


class Transaction(msgspec.Struct, frozen=True):
    """If all compares hold, do all operations. Transactions add up: `a + b` asks for both sets of conditions."""

    compares: tuple[Compare, ...] = ()
    operations: tuple[Operation, ...] = ()

    def __add__(self, other: Transaction) -> Transaction:
        compares = self.compares + tuple(compare for compare in other.compares if compare not in self.compares)
        return Transaction(compares, self.operations + other.operations)


class TransactionResult(msgspec.Struct, frozen=True):
    """`revision` is the store's after the transaction; when it changed something, that of its keys."""

    succeeded: bool
    revision: int


class Snapshot(msgspec.Struct, frozen=True):
    """Items sorted by key, as they all were at `revision`: watch after it to miss nothing."""

    items: tuple[Item, ...]
    revision: int


class Event(msgspec.Struct, frozen=True):
    """What became of a key: its new item, or None when it was deleted."""

    key: str
    item: Item | None


class WatchBatch(msgspec.Struct, frozen=True):
    """All events of one transaction under the watched prefix, in the transaction's order."""

    revision: int
    events: tuple[Event, ...]


class MetaStore(Protocol):
    """See the module's head.

    Any verb may raise UnavailableError (nothing was done) or StorageError (the store is dead); `transact` also
    OutcomeUnknownError: it was done, will be done, or never will be; read back before doing it again.
    """

    async def get(self, key: str) -> Item | None:
        """The item of a key. Linearizable."""
        ...

    async def range(self, prefix: str) -> list[Item]:
        """Items whose key starts with `prefix`, sorted by key, as they were at one revision. Linearizable."""
        ...

    async def snapshot(self, prefix: str) -> Snapshot:
        """As `range`, with the revision."""
        ...

    async def transact(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> TransactionResult:
        """If all compares hold do all operations, durably; without operations: a linearizable check.

        LeaseGoneError: a put names a lease that has ended. DiskFullError, MetaLimitError: nothing was done.
        """
        ...

    def watch(self, prefix: str, after_revision: int) -> AsyncIterator[WatchBatch]:
        """Changes with revision > `after_revision`, for ever, one batch per revision.

        CompactedError, at the start or when the reader falls too far behind: list again. UnavailableError: closed.
        """
        ...

    async def grant(self, ttl_s: float) -> int:
        """A new lease (> 0) that ends `ttl_s` seconds after its last `keep_alive`."""
        ...

    async def keep_alive(self, lease: int) -> None:
        """Begin the lease's time anew. LeaseGoneError when it has ended."""
        ...

    async def revoke(self, lease: int) -> None:
        """End the lease and delete its keys; durable on return. An ended lease is fine."""
        ...

    async def close(self) -> None:
        """Release everything; all leases end. Idempotent."""
        ...


def validate(compares: Iterable[Compare], operations: Sequence[Operation]) -> None:
    """Raise MetaLimitError unless the transaction keeps the port's bounds."""
    compares = tuple(compares)
    if max(len(compares), len(operations)) > META_TRANSACTION_OPERATIONS_MAX:
        raise MetaLimitError(f"a meta transaction of {len(compares)} compares and {len(operations)} operations")
    keys = [operation.key for operation in operations]
    check(len(set(keys)) == len(keys), f"a meta transaction writes a key twice: {keys}")
    for key in (*keys, *(compare.key for compare in compares)):
        if not key or len(key.encode()) > KEY_BYTES_MAX:
            raise MetaLimitError(f"a meta key must have 1 to {KEY_BYTES_MAX} bytes: {key[:64]!r}")
    sizes = [len(operation.value) for operation in operations if isinstance(operation, Put)]
    if sizes and max(sizes) > META_VALUE_BYTES_MAX:
        raise MetaLimitError(f"a meta value of {max(sizes)} bytes; at most {META_VALUE_BYTES_MAX} are stored")
    if sum(sizes) + sum(len(key.encode()) for key in keys) > TRANSACTION_BYTES_MAX:
        raise MetaLimitError(f"a meta transaction of {sum(sizes)} bytes; at most {TRANSACTION_BYTES_MAX} are stored")
