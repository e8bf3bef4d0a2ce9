"""Proof, before a store is trusted, that a name in it is really taken once.

Some stores ignore the condition of a conditional write, and some gateways look first and write then. On either, two
owners of a log could both believe that they hold a slot, so such a store is refused.
"""

from __future__ import annotations

import asyncio
from typing import Final

from elanus.base.errors import Action, ElanusError
from elanus.objects.store import ObjectExistsError, ObjectStore

WRITERS: Final = 8
_CONTENT_BYTES: Final = 10_000


class UnsafeStoreError(ElanusError):
    """The object store takes a second write of different bytes under one name. Nothing was started."""

    code = 1001
    action = Action.UNSUPPORTED


async def probe(store: ObjectStore, key: str) -> None:
    """Let `WRITERS` put different bytes under a free key at once, and then one more.

    UnsafeStoreError unless exactly one succeeds and its bytes are what is stored. The key is deleted afterwards.
    """
    contents = [bytes([writer]) * _CONTENT_BYTES for writer in range(WRITERS)]
    outcomes = await asyncio.gather(*(store.put(key, content) for content in contents), return_exceptions=True)
    for outcome in outcomes:
        if outcome is not None and not isinstance(outcome, ObjectExistsError):
            raise outcome
    winners = [writer for writer, outcome in enumerate(outcomes) if outcome is None]
    if len(winners) != 1:
        raise UnsafeStoreError(f"conditional writes do not work: {len(winners)} of {WRITERS} writers won one name")
    try:
        await store.put(key, b"second")
    except ObjectExistsError:
        pass
    else:
        raise UnsafeStoreError("conditional writes do not work: a name was taken twice")
    if await store.get(key) != contents[winners[0]]:
        raise UnsafeStoreError("conditional writes do not work: the loser's bytes are stored")
    await store.delete(key)
