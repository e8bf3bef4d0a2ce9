"""Which streaming nodes the coordinator can speak to.

A node's lease says that it reaches the meta store. Its way to the coordinator may be cut all the same: it then gets no
timestamps, so that its channels take no writes, and cannot even say so. So the coordinator asks each node now and then,
and one that has not answered for `UNREACHED_S` is given no channels while others answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from elanus.base.doors import Doors
from elanus.base.errors import OutcomeUnknownError, UnavailableError
from elanus.nodes.contracts import Streaming

PROBE_S: Final = 2.0
UNREACHED_S: Final = 6.0


class Reach:
    """Asks for ever, by `ping`; `changed` is called when a node is given up or answers again."""

    def __init__(
        self,
        doors: Doors,
        nodes: Mapping[int, Streaming],
        ping: Callable[[int, Streaming], Coroutine[Any, Any, None]],
        changed: Callable[[], None],
    ) -> None:
        self.lost: frozenset[int] = frozenset()
        self._doors = doors
        self._nodes = nodes
        self._ping = ping
        self._changed = changed
        self._answered_s: dict[int, float] = {}

    def within(self, node_ids: list[int]) -> list[int]:
        """Those that can be reached; all of them when none can, for then it is the coordinator that is cut off."""
        return [node_id for node_id in node_ids if node_id not in self.lost] or node_ids

    async def watch(self) -> None:
        """See the module's head."""
        while True:
            now_s = self._doors.clock.monotonic_s()
            self._answered_s = {node_id: self._answered_s.get(node_id, now_s) for node_id in self._nodes}
            await asyncio.gather(*(self._ask(node_id, node) for node_id, node in list(self._nodes.items())))
            now_s = self._doors.clock.monotonic_s()
            lost = frozenset(one for one, answered_s in self._answered_s.items() if now_s - answered_s >= UNREACHED_S)
            if lost != self.lost:
                self.lost = lost
                self._changed()
            await self._doors.clock.sleep(PROBE_S)

    async def _ask(self, node_id: int, node: Streaming) -> None:
        try:
            await self._doors.tasks.timeout(PROBE_S, self._ping(node_id, node))
        except (UnavailableError, OutcomeUnknownError, TimeoutError):
            return
        self._answered_s[node_id] = self._doors.clock.monotonic_s()
