"""Bytes of the part of etcd's public gRPC interface that `meta.etcd` uses (etcd v3: KV, Watch, Lease, Auth).

Protocol buffers, written and read by hand: an integer field is a varint, strings and messages are length-prefixed. A
request is built from `integer` and `chunk` pieces; a reply is split by `fields` into lists of values by field number,
where unknown numbers are ignored, so that newer servers are understood. Field numbers stand beside their use.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from elanus.base.errors import CorruptedError
from elanus.meta.store import Compare, Delete, Event, Field, Item, Operation, Put, WatchBatch

RANGE: Final = "/etcdserverpb.KV/Range"
TXN: Final = "/etcdserverpb.KV/Txn"
WATCH: Final = "/etcdserverpb.Watch/Watch"
LEASE_GRANT: Final = "/etcdserverpb.Lease/LeaseGrant"
LEASE_REVOKE: Final = "/etcdserverpb.Lease/LeaseRevoke"
LEASE_KEEP_ALIVE: Final = "/etcdserverpb.Lease/LeaseKeepAlive"
AUTHENTICATE: Final = "/etcdserverpb.Auth/Authenticate"

_VARINT, _FIXED64, _CHUNK, _FIXED32 = 0, 1, 2, 5
_WORD: Final = (1 << 64) - 1
_TARGETS: Final = {Field.CREATE_REVISION: (1, 5), Field.MOD_REVISION: (2, 6), Field.VALUE: (3, 7)}
"""Of a compare: the target's number in the enumeration, and the number of the field with the operand."""

Fields = dict[int, list[int | bytes]]


# --- pieces ---------------------------------------------------------------------------------------------------------
def _varint(value: int) -> bytes:
    value &= _WORD
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def integer(number: int, value: int) -> bytes:
    """An integer, boolean or enumeration field; written even when zero, as the members of a `oneof` must be."""
    return _varint(number << 3 | _VARINT) + _varint(value)


def chunk(number: int, value: bytes) -> bytes:
    """A bytes, string or message field."""
    return _varint(number << 3 | _CHUNK) + _varint(len(value)) + value


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _WORD, place
        shift += 7


def fields(data: bytes) -> Fields:
    """Values by field number. CorruptedError for bytes that are no message."""
    found: Fields = {}
    place = 0
    try:
        while place < len(data):
            tag, place = _read_varint(data, place)
            kind, value = tag & 7, 0
            if kind == _VARINT:
                value, place = _read_varint(data, place)
                found.setdefault(tag >> 3, []).append(value)
            elif kind == _CHUNK:
                length, place = _read_varint(data, place)
                if place + length > len(data):
                    raise IndexError
                found.setdefault(tag >> 3, []).append(data[place : place + length])
                place += length
            elif kind in (_FIXED64, _FIXED32):
                place += 8 if kind == _FIXED64 else 4
            else:
                raise IndexError
    except IndexError:
        raise CorruptedError("a reply of etcd is no protocol buffer message") from None
    return found


def number(message: Fields, field: int) -> int:
    """An int64 field; 0 when absent."""
    value = message.get(field, [0])[-1]
    if not isinstance(value, int):
        raise CorruptedError(f"field {field} of a reply of etcd is not an integer")
    return value - (1 << 64) if value >> 63 else value


def content(message: Fields, field: int) -> bytes:
    """A bytes or message field; empty when absent."""
    value = message.get(field, [b""])[-1]
    if not isinstance(value, bytes):
        raise CorruptedError(f"field {field} of a reply of etcd is not a string of bytes")
    return value


def contents(message: Fields, field: int) -> Iterator[bytes]:
    """A repeated bytes or message field."""
    for value in message.get(field, ()):
        if not isinstance(value, bytes):
            raise CorruptedError(f"field {field} of a reply of etcd is not a string of bytes")
        yield value


def revision_of(message: Fields) -> int:
    """The store's revision in a reply's header (1), where it is field 3."""
    return number(fields(content(message, 1)), 3)


def range_end(prefix: bytes) -> bytes:
    """The first key after all that start with `prefix`, which must not consist of 0xff alone."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1])


# --- key space ------------------------------------------------------------------------------------------------------
class KeySpace(NamedTuple):
    """All keys of a store begin with `root` (ending in '/')."""

    root: bytes

    def full(self, key: str) -> bytes:
        """The key as etcd has it."""
        return self.root + key.encode()

    def item(self, key_value: bytes) -> Item:
        """KeyValue: key 1, create_revision 2, mod_revision 3, value 5, lease 6."""
        message = fields(key_value)
        key = content(message, 1)[len(self.root) :].decode()
        return Item(key, content(message, 5), number(message, 2), number(message, 3), number(message, 6))

    # --- requests ---------------------------------------------------------------------------------------------------
    def compare(self, condition: Compare) -> bytes:
        """Compare: result 1 (0: equal), target 2, key 3, operand."""
        target, operand = _TARGETS[condition.field]
        value = condition.operand
        last = integer(operand, value) if isinstance(value, int) else chunk(operand, value)
        return integer(1, 0) + integer(2, target) + chunk(3, self.full(condition.key)) + last

    def operation(self, operation: Operation) -> bytes:
        """RequestOp: put 2 (key 1, value 2, lease 3) or delete 3 (key 1)."""
        match operation:
            case Put(key, value, lease):
                return chunk(2, chunk(1, self.full(key)) + chunk(2, value) + integer(3, lease))
            case Delete(key):
                return chunk(3, chunk(1, self.full(key)))


def transaction(compares: Iterable[bytes], success: Iterable[bytes], failure: Iterable[bytes] = ()) -> bytes:
    """TxnRequest: compare 1, success 2, failure 3."""
    parts = [*(chunk(1, one) for one in compares), *(chunk(2, one) for one in success)]
    return b"".join([*parts, *(chunk(3, one) for one in failure)])


def range_request(key: bytes, end: bytes = b"", limit: int = 0, revision: int = 0) -> bytes:
    """RangeRequest: key 1, range_end 2, limit 3, revision 4; linearizable. Without an end, one key (etcd takes an end
    that is there but empty for "all keys from here on")."""
    return chunk(1, key) + (chunk(2, end) if end else b"") + integer(3, limit) + integer(4, revision)


def watch_request(prefix: bytes, start_revision: int) -> bytes:
    """WatchRequest: create 1 (key 1, range_end 2, start_revision 3, progress_notify 4)."""
    create = chunk(1, prefix) + chunk(2, range_end(prefix)) + integer(3, start_revision) + integer(4, 1)
    return chunk(1, create)


# --- replies --------------------------------------------------------------------------------------------------------
class RangeReply(NamedTuple):
    """One page of items."""

    items: list[Item]
    revision: int
    more: bool


def decode_range(space: KeySpace, data: bytes) -> RangeReply:
    """RangeResponse: header 1, kvs 2, more 3."""
    message = fields(data)
    return RangeReply([space.item(one) for one in contents(message, 2)], revision_of(message), number(message, 3) == 1)


class TransactionReply(NamedTuple):
    """Outcome of a transaction, and the items read by the first operation of the branch taken, if it was a range."""

    succeeded: bool
    revision: int
    read: list[Item]


def decode_transaction(space: KeySpace, data: bytes) -> TransactionReply:
    """TxnResponse: header 1, succeeded 2, responses 3 (range 1: kvs 2)."""
    message = fields(data)
    first = fields(next(contents(message, 3), b""))
    read = [space.item(one) for one in contents(fields(content(first, 1)), 2)]
    return TransactionReply(number(message, 2) == 1, revision_of(message), read)


class WatchReply(NamedTuple):
    """What a watch stream says: changes, that all up to `revision` was told, or its end."""

    batches: Sequence[WatchBatch]
    revision: int
    created: bool
    ended: bool
    compacted_below: int
    reason: str


def decode_watch(space: KeySpace, data: bytes) -> WatchReply:
    """WatchResponse: header 1, created 3, canceled 4, compact_revision 5, cancel_reason 6, events 11."""
    message = fields(data)
    grouped: dict[int, list[Event]] = {}
    for one in contents(message, 11):
        event = fields(one)  # Event: type 1 (1: delete), kv 2
        item = space.item(content(event, 2))
        told = Event(item.key, None if number(event, 1) == 1 else item)
        grouped.setdefault(item.mod_revision, []).append(told)
    batches = [WatchBatch(revision, tuple(events)) for revision, events in grouped.items()]
    created, ended = number(message, 3) == 1, number(message, 4) == 1
    reason = content(message, 6).decode(errors="replace")
    return WatchReply(batches, revision_of(message), created, ended, number(message, 5), reason)


def decode_lease(data: bytes) -> tuple[int, int]:
    """(id, seconds left) of LeaseGrantResponse and LeaseKeepAliveResponse: both have ID 2, TTL 3."""
    message = fields(data)
    return number(message, 2), number(message, 3)


def authenticate_request(user: str, password: str) -> bytes:
    """AuthenticateRequest: name 1, password 2."""
    return chunk(1, user.encode()) + chunk(2, password.encode())


def decode_token(data: bytes) -> str:
    """AuthenticateResponse: token 2."""
    return content(fields(data), 2).decode()
