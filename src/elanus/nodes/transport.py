"""How roles in different processes reach one another: the port behind every call that crosses a process's border.

A process offers its roles at one address; others connect to that address, role by role, and get a client that looks
like the role itself (`nodes.codec.client`). An address names one process's life: nobody else ever answers there.

The three outcomes of a call, which every implementation keeps apart:

1. The answer: a result, or the `ElanusError` that the role raised.
2. `UnavailableError`: the call was surely not delivered, so it may be made again, here or elsewhere.
3. `ReplyLostError`: it was delivered, perhaps, and the answer is lost. A caller that is cancelled while it waits learns
   nothing either; the role at the other end goes on all the same, unless it only reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol, TypeVar

T = TypeVar("T")

CUT_WITH_CALLER: Final = frozenset({"search", "query", "hybrid_search", "status", "describe"})
"""Calls that change nothing and end when nobody waits for them any more. All others run to their end once begun."""


class Transport(Protocol):
    """One process's way to all others. See the module's head."""

    async def serve(self, offered: Mapping[type, object]) -> str:
        """Offer these roles, each under its contract protocol; the address at which others reach them. Called once."""
        ...

    def connect(self, address: str, protocol: type[T]) -> T:
        """A client of the role of that protocol at `address`; offers exactly the protocol's calls. Nothing is sent
        before the first call, and the same client goes on to work after a failed one."""
        ...

    async def close(self) -> None:
        """Offer nothing any more and release every connection. Idempotent."""
        ...
