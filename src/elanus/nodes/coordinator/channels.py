"""Owners of pchannels: one keeper per channel compares who should own it with who does, and mends the difference.

A channel is given to a node in three steps: its record is written with the next term and the node's id, under the
election; the node opens the log under that term, which fences every lower one; the proxies are told. The first step
alone decides: whoever opens under a lower term fails, and an old owner that was told nothing is fenced by the log.

Leases only say whom to replace, and `reach` whom the coordinator cannot speak to. A node that stopped for longer than
its lease loses its channels and is fenced when it wakes; a node that left and came back under the same id keeps those
that were not given away meanwhile. A node that lives and has let go of a channel all the same says so when it is asked,
and gets it back under a new term.

A new coordinator adopts owners: it asks each living one to own its channel under the term it has, which changes nothing
where that is so. A call that will never be answered, because the node died or sleeps, is given up when the node leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, TypeVar

from elanus.base.backoff import Backoff
from elanus.base.errors import Action, ElanusError, UnavailableError
from elanus.meta.catalog import assign, elected, fetch_channel, run
from elanus.meta.store import Transaction
from elanus.nodes.contracts import Streaming
from elanus.nodes.coordinator.ground import Surroundings
from elanus.nodes.coordinator.reach import Reach
from elanus.nodes.membership import Peers

T = TypeVar("T")

RETRY_S: Final = 0.5
RETRY_S_MAX: Final = 4.0
PART_S: Final = 2.0


def plan_owners(
    names: Sequence[str],
    current: Mapping[str, int],
    nodes: Sequence[int],
    followers: Mapping[str, Collection[int]] = MappingProxyType({}),
) -> dict[str, int]:
    """Who should own each channel: who owns it now, unless that node is gone or has two more than another. A channel
    whose owner is gone goes to one who follows it, if there is one."""
    if not nodes:
        return {}
    wanted = {name: current[name] for name in names if current.get(name) in nodes}
    held: dict[int, list[str]] = {node_id: [] for node_id in nodes}
    for name, node_id in wanted.items():
        held[node_id].append(name)
    for name in names:
        if name not in wanted:
            standbys = [one for one in nodes if one in followers.get(name, ())] or nodes
            wanted[name] = min(standbys, key=lambda one: (len(held[one]), one))
            held[wanted[name]].append(name)
    while True:
        most = max(nodes, key=lambda one: (len(held[one]), -one))
        least = min(nodes, key=lambda one: (len(held[one]), one))
        if len(held[most]) - len(held[least]) < 2:
            return wanted
        moved = held[most].pop()
        held[least].append(moved)
        wanted[moved] = least


def plan_followers(
    owners: Mapping[str, int], copies: Mapping[str, int], current: Mapping[str, Collection[int]], nodes: Sequence[int]
) -> dict[str, set[int]]:
    """Who should follow each channel, so that it has as many delegators as `copies` says, the owner being one."""
    counts = {node_id: list(owners.values()).count(node_id) for node_id in nodes}
    wanted: dict[str, set[int]] = {}
    for name, owner in sorted(owners.items()):
        others = [one for one in nodes if one != owner]
        count = min(len(others), copies.get(name, 1) - 1)
        keep = current.get(name, ())
        others.sort(key=lambda one: (one not in keep, counts[one], one))
        wanted[name] = set(others[:count])
        for one in wanted[name]:
            counts[one] += 1
    return wanted


class Channels:
    """See the module's head."""

    def __init__(self, ground: Surroundings, peers: Peers, term: int, names: tuple[str, ...], adopts: bool) -> None:
        self.names = names
        self.owners: dict[str, int] = {}
        self._ground = ground
        self._peers = peers
        self._term = term
        self._guard = elected(term)
        self._adopts = adopts
        self._unknown = set(names) if adopts else set[str]()
        self._start_errors: list[ElanusError] = []
        self._terms: dict[str, int] = {}
        self._wanted: dict[str, int] = {}
        self._needing_term: set[str] = set()
        """Channels that are not open before they have a new term: the handle is dead, or a term may be written."""
        self._wake = {name: asyncio.Event() for name in names}
        self._settled = {name: asyncio.Event() for name in names}
        self.followers: dict[str, set[int]] = {name: set() for name in names}
        self._copies: dict[str, int] = {}
        self._mending: set[tuple[str, int]] = set()
        self._parting: set[tuple[str, int]] = set()
        self._moved: Callable[[str, int], Awaitable[None]] | None = None
        self._opened: Callable[[str], None] | None = None
        self._leave: Callable[[], None] | None = None
        self._reach = Reach(ground.doors, peers.streaming, self._ping, lambda: self._plan(self._wanted))

    # --- for others -------------------------------------------------------------------------------------------------
    def owner_of(self, pchannel: str) -> Streaming:
        """The streaming node that owns a channel. UnavailableError while nobody does."""
        node = self._peers.streaming.get(self.owners.get(pchannel, 0))
        if node is None:
            raise UnavailableError(f"{pchannel} has no owner now")
        return node

    def open_term(self, pchannel: str) -> int:
        """The term under which the channel is open for writes; 0 while it is not, as far as is known here."""
        return self._terms[pchannel] if pchannel in self.owners and pchannel not in self._needing_term else 0

    async def ask(self, pchannel: str, call: Callable[[Streaming], Coroutine[Any, Any, T]]) -> T:
        """The owner's answer. UnavailableError while nobody owns the channel; ReplyLostError when the owner left."""
        node_id = self.owners.get(pchannel, 0)
        return await self._peers.while_there(self._ground.doors.tasks, node_id, call(self.owner_of(pchannel)))

    def report_failed(self, pchannel: str, term: int) -> None:
        """The owner's handle of this term is dead: it gets a new term."""
        if self._terms.get(pchannel) == term:
            self._needing_term.add(pchannel)
            self._wake[pchannel].set()

    def delegators(self, pchannel: str) -> tuple[int, ...]:
        """The nodes that serve the channel's shards, the owner first; none while nobody owns it."""
        owner = self.owners.get(pchannel)
        return () if owner is None else (owner, *sorted(self.followers[pchannel] - {owner}))

    async def ask_node(self, node_id: int, call: Callable[[Streaming], Coroutine[Any, Any, T]]) -> T:
        """As `ask`, of any streaming node."""
        node = self._peers.streaming.get(node_id)
        if node is None:
            raise UnavailableError(f"node {node_id} has left")
        return await self._peers.while_there(self._ground.doors.tasks, node_id, call(node))

    def want_copies(self, copies: dict[str, int]) -> None:
        """How many delegators each channel should have; 1 where nothing is said."""
        if copies != self._copies:
            self._copies = copies
            self._mend_followers()

    def lost_follower(self, pchannel: str, node_id: int) -> None:
        """The node says that it serves the channel no longer."""
        if self.owners.get(pchannel) != node_id:
            self.followers[pchannel].discard(node_id)
            self._mend_followers()

    async def start(self, moved: Callable[[str, int], Awaitable[None]], opened: Callable[[str], None]) -> None:
        """Begin to keep owners, and wait until every channel has one. `moved` is told of each node that serves a
        channel from now on, or no longer; `opened` of each channel that is open under another term than was known.

        Where this is the only coordinator there can be, what keeps a channel from being opened is raised."""
        self._moved, self._opened = moved, opened
        current = {}
        for name in self.names:
            channel = await fetch_channel(self._ground.meta, name)
            if channel is not None:
                current[name] = channel.owner.record.owner
        self._plan(current)
        self._leave = self._peers.changes.subscribe(lambda: self._plan(self._wanted))
        spawn = self._ground.doors.tasks.spawn
        for name in self.names:
            spawn(self._keep(name), name=f"keep {name}")
        if self._adopts:
            spawn(self._reach.watch(), name="reach of streaming nodes")
        for event in self._settled.values():
            await event.wait()
        if self._start_errors:
            raise self._start_errors[0]

    def stop(self) -> None:
        """Follow the nodes no longer."""
        if self._leave is not None:
            self._leave()

    # --- keeping ----------------------------------------------------------------------------------------------------
    def _plan(self, current: Mapping[str, int]) -> None:
        streaming = self._peers.streaming
        for known in self.followers.values():
            known.intersection_update(streaming)
        nodes = self._reach.within(self._peers.lasting(streaming) or sorted(streaming))
        self._wanted = plan_owners(self.names, current, nodes, self.followers)
        for event in self._wake.values():
            event.set()
        self._mend_followers()

    async def _ping(self, node_id: int, node: Streaming) -> None:
        """Ask what the node holds. A channel that it should own and has let go of is nobody's; of one that is another's
        by now it may not have heard."""
        terms = {name: term for name in self.names if (term := self.open_term(name))}
        held = await node.ping()
        for name, term in terms.items():
            if self.open_term(name) != term or (name in held) == (self.owners[name] == node_id):
                continue
            if name in held:
                self._start_to_part(name, node_id, term)
            else:
                self._ground.events.warning("channel.lost", pchannel=name, node=node_id)
                del self.owners[name]
                self._wake[name].set()

    # --- followers --------------------------------------------------------------------------------------------------
    def _mend_followers(self) -> None:
        """Begin what is missing; each step looks again when it ends."""
        nodes = self._reach.within(self._peers.lasting(self._peers.streaming))
        wanted = plan_followers(self.owners, self._copies, self.followers, nodes)
        for name, chosen in wanted.items():
            for node_id in chosen ^ (self.followers[name] - {self.owners[name]}):
                if (name, node_id) not in self._mending:
                    self._mending.add((name, node_id))
                    self._ground.doors.tasks.spawn(
                        self._mend_follower(name, node_id, node_id in chosen), name=f"follower of {name}"
                    )

    async def _mend_follower(self, name: str, node_id: int, follows: bool) -> None:
        try:
            if follows:
                await self.ask_node(node_id, lambda node: node.follow(name, self._term))
                self.followers[name].add(node_id)
            else:
                self.followers[name].discard(node_id)
                await self.ask_node(node_id, lambda node: node.unfollow(name, self._term))
            if self._moved is not None:
                await self._moved(name, node_id)
        except ElanusError as error:
            self._ground.events.warning("channel.follow_failed", pchannel=name, node=node_id, error=error.message)
            await self._check_leading()
            if error.action is Action.UNSUPPORTED:
                return  # No log of this kind is ever followed: trying again changes nothing.
            await self._ground.doors.clock.sleep(RETRY_S)
        finally:
            self._mending.discard((name, node_id))
        self._mend_followers()

    async def _keep(self, name: str) -> None:
        backoff, trouble = Backoff(self._ground.doors.random, RETRY_S, RETRY_S_MAX), ""
        while True:
            self._wake[name].clear()
            wanted = self._wanted.get(name)
            if wanted is not None and (self.owners.get(name) != wanted or name in self._needing_term):
                try:
                    await self._give(name, wanted)
                except ElanusError as error:
                    if not self._adopts and not self._settled[name].is_set():
                        self._start_errors.append(error)
                        self._settled[name].set()
                        return
                    if error.message != trouble:
                        self._ground.events.warning("channel.reopen_failed", pchannel=name, error=error.message)
                    trouble = error.message
                    if not self._adopts and error.action in (Action.CORRUPTED, Action.UNSUPPORTED):
                        raise
                    await self._check_leading()
                    await self._woken(name, backoff.next_s())
                continue
            backoff.reset()
            trouble = ""
            if wanted is not None:
                self._settled[name].set()
            await self._wake[name].wait()

    async def _woken(self, name: str, seconds: float) -> None:
        """Wait until something has changed, but not for ever."""
        try:
            await self._ground.doors.tasks.timeout(seconds, self._wake[name].wait())
        except TimeoutError:
            return

    async def _check_leading(self) -> None:
        """FencedError, which ends this coordinator's lead, if another was elected; a fenced node is none of that."""
        try:
            await run(self._ground.meta, Transaction(), (self._guard,))
        except ElanusError as error:
            if error.action is Action.FENCED:
                raise

    async def _give(self, name: str, node_id: int) -> None:
        node = self._peers.streaming.get(node_id)
        if node is None:
            raise UnavailableError(f"node {node_id} has left")
        channel = await fetch_channel(self._ground.meta, name)
        before = self.owners.get(name)
        if name in self._unknown and channel is not None and channel.owner.record.owner == node_id:
            self._unknown.discard(name)
            term = channel.owner.record.term
        else:
            transaction, term = assign(channel, name, node_id)
            # Nobody may ever know whether this is written, which takes it from its owner, and the plan may change.
            self._needing_term.add(name)
            await run(self._ground.meta, transaction, (self._guard,))
        self._terms[name] = term
        if before != node_id:
            self.owners.pop(name, None)
        await self._peers.while_there(self._ground.doors.tasks, node_id, node.assign(name, term))
        self._needing_term.discard(name)
        self.owners[name] = node_id
        self.followers[name].discard(node_id)
        self._settled[name].set()
        if self._opened is not None:
            self._opened(name)
        if before is not None and before != node_id:
            self._start_to_part(name, before, term)
        if self._moved is not None:
            # Also of one that had it before: if others were given terms in between, it has forgotten what it served.
            await self._moved(name, node_id)
        self._mend_followers()

    def _start_to_part(self, name: str, node_id: int, term: int) -> None:
        if (name, node_id) not in self._parting:
            self._parting.add((name, node_id))
            self._ground.doors.tasks.spawn(self._part(name, node_id, term), name=f"resign {name}")

    async def _part(self, name: str, node_id: int, term: int) -> None:
        """Tell the owner before, for as long as it is there: the log has fenced it, and it can let go."""
        try:
            while (node := self._peers.streaming.get(node_id)) is not None and self.owners.get(name) != node_id:
                try:
                    await self._peers.while_there(self._ground.doors.tasks, node_id, node.resign(name, term))
                    return
                except ElanusError as error:
                    self._ground.events.info("channel.resign_failed", pchannel=name, error=error.message)
                    if error.action not in (Action.RETRY, Action.UNKNOWN):
                        return
                await self._ground.doors.clock.sleep(PART_S)
        finally:
            self._parting.discard((name, node_id))
