"""Errors as Milvus's `Status` message, in the response type of the call that failed."""

from __future__ import annotations

from typing import Any, Final

from elanus.base.errors import Action, ElanusError
from elanus.model.errors import CollectionNotFoundError
from elanus.model.requests import CollectionRequest
from elanus.model.schema import DEFAULT_DATABASE
from elanus.wire import pack
from elanus.wire.messages import STATUS, messages

INTERNAL_CODE: Final = 5
INTERNAL_TEXT: Final = "service internal error"
_UNEXPECTED_ERROR: Final = 1
_LEGACY_CODES: Final = {
    0: 0,
    1: 56,
    3: 52,
    7: 54,
    8: 49,
    9: 48,
    11: 55,
    100: 4,
    109: 62,
    200: 15,
    400: 15,
    401: 46,
    501: 15,
    503: 46,
    505: 55,
    506: 46,
    600: 47,
    700: 25,
    904: 50,
    905: 46,
    1100: 5,
}
"""The deprecated `error_code` that goes with a code; all others are UnexpectedError."""


def legacy_code(code: int) -> int:
    """The deprecated `error_code` for a merr code."""
    return _LEGACY_CODES.get(code, _UNEXPECTED_ERROR)


def status_of(error: ElanusError) -> Any:
    """The `Status` that tells this error."""
    status = messages().Status(
        code=error.code,
        error_code=legacy_code(error.code),
        reason=error.message,
        detail=error.message,
        retriable=error.action is Action.RETRY,
    )
    if error.action is Action.FIX_REQUEST:
        status.extra_info["is_input_error"] = "true"
    return status


def internal_status() -> Any:
    """What a client reads when the server met a fault of its own; the fault itself goes to the supervisor."""
    return messages().Status(
        code=INTERNAL_CODE, error_code=_UNEXPECTED_ERROR, reason=INTERNAL_TEXT, detail=INTERNAL_TEXT
    )


def describe_status_of(request: CollectionRequest | None, error: ElanusError) -> Any:
    """DescribeCollection's own text for a missing collection, by which clients' has_collection knows it."""
    status = status_of(error)
    if isinstance(error, CollectionNotFoundError) and request is not None:
        name = request.collection or request.collection_id
        text = f"can't find collection[database={request.database or DEFAULT_DATABASE}][collection={name}]"
        status.error_code, status.reason, status.detail = _UNEXPECTED_ERROR, text, text
    return status


def status_field(response: Any) -> int | None:
    """Number of the `Status` field in a response class; 0 when the response is a Status itself, None without one."""
    descriptor = response.DESCRIPTOR
    if descriptor.full_name == STATUS:
        return 0
    for field in descriptor.fields:
        if field.message_type is not None and field.message_type.full_name == STATUS:
            return int(field.number)
    return None


def in_response(number: int, status: Any) -> bytes:
    """A serialized response that holds nothing but this status."""
    serialized: bytes = status.SerializeToString()
    return pack.chunk(number, serialized) if number else serialized
