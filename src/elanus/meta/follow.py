"""Following keys for ever: a list, then its changes, and a list again wherever changes were missed.

A consumer replaces what it knows by each `Snapshot` and amends it by each `WatchBatch`. So it never needs to know
that a watch was broken off, by compaction, by a lost connection, or because it read too slowly.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from elanus.base.doors import Clock
from elanus.base.errors import UnavailableError
from elanus.meta.store import CompactedError, MetaStore, Snapshot, WatchBatch

AGAIN_S: Final = 0.5


async def follow(clock: Clock, store: MetaStore, prefix: str) -> AsyncIterator[Snapshot | WatchBatch]:
    """See the module's head. StorageError when the store is dead."""
    while True:
        try:
            taken = await store.snapshot(prefix)
            yield taken
            async for batch in store.watch(prefix, taken.revision):
                yield batch
        except (CompactedError, UnavailableError):
            await clock.sleep(AGAIN_S)
