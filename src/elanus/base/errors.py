"""The root of every error Elanus raises, and what the caller is told to do about it.

An error belongs to one `Action`. Milvus's numeric codes hang on the concrete classes (here for the machine's own
faults, in `model.errors` for everything a client can cause); `wire.status` renders them by walking the class.
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar


class Action(Enum):
    """What the one who receives an error should do next."""

    FIX_REQUEST = "fix the request"
    RETRY = "retry"
    ELSEWHERE = "ask elsewhere"
    UNKNOWN = "outcome unknown: read before writing again"
    CORRUPTED = "stop and repair the data"
    FENCED = "stop: somebody newer owns this"
    UNSUPPORTED = "not served"


class ElanusError(Exception):
    """Base of all typed errors. `code` is Milvus's merr code; the message is what the client reads."""

    code: ClassVar[int] = 65535
    action: ClassVar[Action] = Action.FIX_REQUEST

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvariantError(ElanusError):
    """A broken invariant. The role that meets it stops; nobody continues on a state that cannot be."""

    code = 5
    action = Action.CORRUPTED


class CorruptedError(ElanusError):
    """Stored bytes are not what was written. The message names the file."""

    code = 5
    action = Action.CORRUPTED


class FencedError(ElanusError):
    """A higher term owns the resource; this holder must never act on it again."""

    code = 904
    action = Action.FENCED


class OutcomeUnknownError(ElanusError):
    """The write may or may not have happened. No SDK retries this code."""

    code = 5
    action = Action.UNKNOWN


class ReplyLostError(OutcomeUnknownError):
    """A call between roles was sent and its answer never came: it was done, will be done, or never will be. A read is
    simply asked again."""


class UnavailableError(ElanusError):
    """Not now: starting, moving, or waiting for a dependency. Nothing was done; the request may be sent again."""

    code = 2
    action = Action.RETRY


class OverloadedError(ElanusError):
    """A bounded queue is full. Nothing was done."""

    code = 8
    action = Action.RETRY


class DiskFullError(ElanusError):
    """No room on the disk. Nothing was done; writes succeed again once there is room."""

    code = 7
    action = Action.RETRY


class StorageError(ElanusError):
    """The disk or store answered with an error other than 'full'; the handle that met it is dead."""

    code = 1001
    action = Action.RETRY


class InUseError(ElanusError):
    """Another live process holds the folder or the port; the message names it."""

    code = 5
    action = Action.FIX_REQUEST


def check(condition: bool, message: str) -> None:
    """Raise `InvariantError` unless `condition`; stays on in production, unlike `assert`."""
    if not condition:
        raise InvariantError(message)
