"""Errors a client can cause or meet, with Milvus's codes and texts.

`reason` is the client's text. Classes with fields build Milvus's `template[key=value]` form; `BadParameterError` adds
its ': invalid parameter' tail. A plain Go error of Milvus (code 65535, no tail) is `RequestError`.
"""

from __future__ import annotations

from typing import ClassVar

from elanus.base.errors import Action, ElanusError


class RequestError(ElanusError):
    """A refusal that Milvus sends without a code of its own (65535)."""

    code = 65535
    action = Action.FIX_REQUEST


class BadParameterError(ElanusError):
    """1100: the text, then ': invalid parameter', then what was expected and found where known."""

    code = 1100
    action = Action.FIX_REQUEST

    def __init__(self, text: str, *, expected: object = None, actual: object = None) -> None:
        tail = "" if expected is None and actual is None else f"[expected={expected}][actual={actual}]"
        super().__init__(f"{text}: invalid parameter{tail}" if text else f"invalid parameter{tail}")


class UnsupportedError(ElanusError):
    """10: a call or option that this server does not serve yet. Nothing was done."""

    code = 10
    action = Action.UNSUPPORTED

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: service unimplemented")


class _NamedError(ElanusError):
    """`[prefix: ]template[key=value]...`"""

    template: ClassVar[str] = ""
    keys: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *values: object, prefix: str = "") -> None:
        fields = "".join(f"[{key}={value}]" for key, value in zip(self.keys, values, strict=True))
        super().__init__(f"{prefix}: {self.template}{fields}" if prefix else f"{self.template}{fields}")


class CollectionNotFoundError(_NamedError):
    """100."""

    code = 100
    template = "collection not found"
    keys: ClassVar[tuple[str, ...]] = ("database", "collection")


class AliasedCollectionNotFoundError(CollectionNotFoundError):
    """100, as told of the collection that an alias should go to."""

    keys = ("collection",)


class CollectionNotLoadedError(_NamedError):
    """101."""

    code = 101
    template = "collection not loaded"
    keys = ("collection",)


class CollectionLimitError(_NamedError):
    """102."""

    code = 102
    template = "exceeded the limit number of collections"
    keys = ("limit",)


class CollectionNotFullyLoadedError(_NamedError):
    """103: loading; ask again."""

    code = 103
    action = Action.RETRY
    template = "collection not fully loaded"
    keys = ("collection",)


class CollectionLoadedError(_NamedError):
    """104."""

    code = 104
    template = "collection already loaded"
    keys = ("collection",)


class SchemaMismatchError(_NamedError):
    """109: the client's cached schema is old; pymilvus drops its cache and sends again."""

    code = 109
    template = "collection schema mismatch"
    keys = ("collection",)


class PartitionNotFoundError(_NamedError):
    """200."""

    code = 200
    template = "partition not found"
    keys = ("partition",)


class PartitionNotLoadedError(_NamedError):
    """201."""

    code = 201
    template = "partition not loaded"
    keys = ("partition",)


class ChannelNotAvailableError(_NamedError):
    """503: the shard has no owner here now; the route is refreshed and the request sent again."""

    code = 503
    action = Action.ELSEWHERE
    template = "channel not available"
    keys = ("channel",)


class SegmentNotFoundError(_NamedError):
    """600: the segment is not on this node; the caller repeats the shard on its newest view."""

    code = 600
    action = Action.ELSEWHERE
    template = "segment not found"
    keys = ("segment",)


class IndexNotFoundError(_NamedError):
    """700, by index name."""

    code = 700
    template = "index not found"
    keys = ("indexName",)


class NoIndexError(_NamedError):
    """700, by collection."""

    code = 700
    template = "index not found"
    keys = ("collection",)


class DatabaseNotFoundError(_NamedError):
    """800."""

    code = 800
    template = "database not found"
    keys = ("database",)


class DatabaseLimitError(_NamedError):
    """801."""

    code = 801
    template = "exceeded the limit number of database"
    keys = ("limit",)


class DatabaseNameError(_NamedError):
    """802."""

    code = 802
    template = "invalid database name"
    keys = ("database",)


class AliasNotFoundError(_NamedError):
    """1600."""

    code = 1600
    template = "alias not found"
    keys = ("database", "alias")


class AliasNameConflictError(_NamedError):
    """1601."""

    code = 1601
    template = "alias and collection name conflict"
    keys = ("database", "alias")


class AliasExistsError(_NamedError):
    """1602."""

    code = 1602
    template = "alias already exist"
    keys = ("database", "alias")


class FieldNotFoundError(_NamedError):
    """1700."""

    code = 1700
    template = "field not found"
    keys = ("field",)


class FieldNameError(_NamedError):
    """1701."""

    code = 1701
    template = "field name invalid"
    keys = ("field",)


class DeniedError(_NamedError):
    """9: reading or writing is switched off for a database."""

    code = 9
    action = Action.FIX_REQUEST
    template = "quota exceeded"
    keys = ("reason",)

    def __init__(self) -> None:
        super().__init__("access has been disabled by the administrator")


class MemoryLimitError(ElanusError):
    """What is to be loaded does not fit the memory there is: release something, or load less."""

    code = 3

    def __init__(self, predicted_bytes: int, limit_bytes: int) -> None:
        super().__init__(f"memory limit exceeded[predict={predicted_bytes}][limit={limit_bytes}]")


class ReadTimeoutError(ElanusError):
    """10001: the shard did not become readable in time."""

    code = 10001
    action = Action.RETRY


class WriteConflictError(ElanusError):
    """A key of a guarded write was written since it was read. Nothing was done: read again, then write again."""

    code = 2200
    action = Action.RETRY


class DeletesBehindError(ElanusError):
    """A query node has not applied all deletes that a read needs; the message carries nothing the caller must parse:
    it sends the missing range, or loads the segment anew, and asks again."""

    code = 600
    action = Action.ELSEWHERE
