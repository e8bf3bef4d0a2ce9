"""Data nodes and the tasks that run on them: each takes as many at once as it has slots.

A task whose node dies, or sleeps until its lease has ended, is run again on another one under another token, which is
in the names of the files it writes: the first attempt may still go on, and nobody will ever name what it wrote.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final, TypeVar

from elanus.base.errors import ElanusError, ReplyLostError, UnavailableError
from elanus.model.segment import FileRef
from elanus.nodes.contracts import Data
from elanus.nodes.coordinator.ground import Surroundings
from elanus.nodes.membership import Peers
from elanus.objects import paths

T = TypeVar("T")

ATTEMPTS_MAX: Final = 8
RETRY_S: Final = 0.5


class Workers:
    """See the module's head."""

    def __init__(self, ground: Surroundings, peers: Peers, given_up: Callable[[str, str], None]) -> None:
        """`given_up` hears the shard and token of an attempt whose files nobody will ever name."""
        self._ground = ground
        self._given_up = given_up
        self._doors = ground.doors
        self._events = ground.events
        self._peers = peers
        self._running: dict[int, int] = {}
        self._freed = asyncio.Event()

    @property
    def slots(self) -> int:
        """How many tasks can run at once; at least 1."""
        return max(1, sum(self._slots_of(node_id) for node_id in self._peers.lasting(self._peers.data)))

    async def run(self, vchannel: str, begin: Callable[[Data, str], Coroutine[Any, Any, T]]) -> T:
        """The outcome of a task on a shard: `begin` starts it on a node under a token. UnavailableError when there is
        no node, or every one that was tried has left."""
        for _ in range(ATTEMPTS_MAX):
            node_id = await self._take()
            token = self._ground.token()
            try:
                call = begin(self._peers.data[node_id], token)
                return await self._peers.while_there(self._doors.tasks, node_id, call)
            except (UnavailableError, ReplyLostError) as error:
                self._given_up(vchannel, token)
                self._events.warning("task.node_failed", node=node_id, error=error.message)
            except ElanusError:
                self._given_up(vchannel, token)
                raise
            finally:
                self._running[node_id] -= 1
                self._freed.set()
            await self._doors.clock.sleep(RETRY_S)
        raise UnavailableError("every data node that was given the task has left")

    def give_up(self, vchannel: str, files: Iterable[FileRef]) -> None:
        """The commit of a task's files was refused for good."""
        for token in {paths.token_of(file.key) for file in files}:
            if token is not None:
                self._given_up(vchannel, token)

    async def _take(self) -> int:
        """A node with a free slot, the least busy one; waits for it."""
        leave = self._peers.changes.subscribe(self._freed.set)
        try:
            while True:
                nodes = self._peers.lasting(self._peers.data)
                if not nodes:
                    raise UnavailableError("there is no data node now")
                node_id = min(nodes, key=lambda one: (self._running.get(one, 0) / self._slots_of(one), one))
                if self._running.get(node_id, 0) < self._slots_of(node_id):
                    self._running[node_id] = self._running.get(node_id, 0) + 1
                    return node_id
                self._freed.clear()
                await self._freed.wait()
        finally:
            leave()

    def _slots_of(self, node_id: int) -> int:
        record = self._peers.records.get(node_id)
        return 1 if record is None else max(1, record.capacity)
