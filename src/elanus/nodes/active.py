"""The way to the active coordinator, whichever process that is.

The election record carries its address. It is read when it is needed and kept until a call fails; then it is read again
and the call is repeated, as long as patience lasts, where that is safe:

1. `UnavailableError`: nothing was done (a standby, a process that is gone), so every call may be repeated.
2. A lost reply, or the word of a coordinator that was deposed under the call: it may have been done, or be carried to
   its end by the successor. A call whose repetition comes to the same is repeated; of any other the outcome is unknown.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from elanus.base.doors import Clock
from elanus.base.errors import FencedError, OutcomeUnknownError, ReplyLostError, UnavailableError
from elanus.meta.catalog import fetch
from elanus.meta.records import ELECTION, Election
from elanus.meta.store import MetaStore
from elanus.nodes.codec import methods
from elanus.nodes.contracts import Coordinator
from elanus.nodes.transport import Transport

PATIENCE_S: Final = 5.0
IMPATIENT: Final = frozenset({"describe"})
"""Calls whose callers may go on with what they know: these are not repeated for longer than `PATIENCE_S`."""
PAUSE_S: Final = 0.1

REPEATABLE: Final = frozenset(
    (
        *("describe", "segments", "allocate_ids", "allocate_timestamps", "report_failed"),
        *("list_collections", "list_aliases", "list_databases", "describe_alias", "describe_index"),
        *("load_state", "compaction_state", "compact", "load", "release"),
        *("create_collection", "create_partition", "create_alias", "create_index"),
        *("drop_collection", "drop_partition", "drop_alias", "drop_index"),
    )
)
"""Calls that come to the same when they are made twice."""


class _Finder:
    """Implements `contracts.Coordinator`, call by call."""

    def __init__(self, clock: Clock, meta: MetaStore, transport: Transport, patience_s: float) -> None:
        self._clock = clock
        self._meta = meta
        self._transport = transport
        self._patience_s = patience_s
        self._found: Coordinator | None = None
        for name in methods(Coordinator):
            setattr(self, name, self._call(name))

    def _call(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*positional: Any, **named: Any) -> Any:
            patience_s = min(PATIENCE_S, self._patience_s) if name in IMPATIENT else self._patience_s
            end_s = self._clock.monotonic_s() + patience_s
            while True:
                found = self._found
                try:
                    if found is None:
                        found = self._found = await self._find()
                    return await getattr(found, name)(*positional, **named)
                except UnavailableError:
                    if self._clock.monotonic_s() >= end_s:
                        raise
                except (ReplyLostError, FencedError) as error:
                    if name not in REPEATABLE or self._clock.monotonic_s() >= end_s:
                        raise OutcomeUnknownError(f"{name}: {error.message}") from error
                if self._found is found:
                    self._found = None
                await self._clock.sleep(PAUSE_S)

        return call

    async def _find(self) -> Coordinator:
        stored = await fetch(self._meta, Election, ELECTION)
        if stored is None or not stored.record.address:
            raise UnavailableError("no coordinator is active now")
        return self._transport.connect(stored.record.address, Coordinator)


def active_coordinator(
    clock: Clock, meta: MetaStore, transport: Transport, patience_s: float = PATIENCE_S
) -> Coordinator:
    """A client that always finds the active coordinator. See the module's head."""
    return cast("Coordinator", _Finder(clock, meta, transport, patience_s))
