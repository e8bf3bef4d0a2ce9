"""Promises about the meta store and the bucket that must hold at every moment, looked at as things change.

T8: whoever was deposed changes nothing. A shard's pointer is moved by the owner of its channel or by the elected
coordinator, the start of replay by the owner, everything else by the elected coordinator; who that is, the meta store
itself says at the moment of the change, however long the change was on its way. Announcements, node ids and
candidacies are everybody's.

T9: a committed manifest names only objects that are there, and nothing is deleted that the newest manifest of its
shard names, or the one before.

What is found is told at once and not raised: the process that did it may be on its way elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from elanus.meta.records import (
    ELECTION,
    NODE_ID_BOUND,
    NODES,
    SHARDS,
    Election,
    NodeRecord,
    Pchannel,
    ShardPointer,
    decode,
    owner_key,
    replay_key,
)
from elanus.meta.store import Item, WatchBatch
from elanus.model.channel import pchannel_of
from elanus.model.segment import Manifest
from elanus.nodes.coordinator.collector import files_of
from elanus.objects import paths
from elanus.testing.history import BrokenPromise
from elanus.testing.sim.bucket import Bucket

NOBODY: Final = ""
"""Who changes the meta store when a lease ends."""


class Onlooker:
    """See the module's head. `found` is told of each broken promise."""

    def __init__(self, items: Mapping[str, Item], bucket: Bucket, found: Callable[[BrokenPromise], None]) -> None:
        self._items = items
        self._bucket = bucket
        self._found = found
        self._lives: dict[int, str] = {}
        self._files: dict[str, set[str]] = {}
        """Manifest to the objects it names, itself among them."""
        self._named: dict[str, set[str]] = {}
        """Shard to what its newest manifest names, and the one before."""

    # --- the meta store ---------------------------------------------------------------------------------------------
    def changed(self, change: WatchBatch, by: str) -> None:
        """The meta store was changed by a life of a process."""
        for event in change.events:
            key, item = event.key, event.item
            if key.startswith(NODES):
                if item is not None:
                    record = decode(NodeRecord, item.value, key)
                    self._lives[record.node_id] = life_at(record.address)
            elif by != NOBODY and key not in (ELECTION, NODE_ID_BOUND) and by not in self._entitled(key):
                self._found(BrokenPromise(f"T8: {by}, which was deposed, changed {key} at revision {change.revision}"))
            if key.startswith(SHARDS) and item is not None:
                self._committed(decode(ShardPointer, item.value, key))

    def _entitled(self, key: str) -> list[str]:
        """The lives that may change the key now."""
        if key.startswith(SHARDS):
            return [self._owner(pchannel_of(key.removeprefix(SHARDS))), self._leader()]
        if key.endswith(_REPLAY_ENDING):
            # The coordinator makes it, together with the channel.
            return [self._owner(key.split("/")[1]), self._leader()]
        return [self._leader()]

    def _leader(self) -> str:
        item = self._items.get(ELECTION)
        return "nobody" if item is None else self._life(decode(Election, item.value, ELECTION).node_id)

    def _owner(self, pchannel: str) -> str:
        item = self._items.get(owner_key(pchannel))
        return "nobody" if item is None else self._life(decode(Pchannel, item.value, item.key).owner)

    def _life(self, node_id: int) -> str:
        return self._lives.get(node_id, f"node {node_id}")

    # --- the bucket -------------------------------------------------------------------------------------------------
    def _committed(self, pointer: ShardPointer) -> None:
        if pointer.dropped:
            self._named.pop(pointer.vchannel, None)
            return
        named = self._objects_of(pointer.file.key)
        gone = sorted(one for one in named if self._bucket.look(one) is None)
        if gone:
            self._found(BrokenPromise(f"T9: {pointer.vchannel} v{pointer.version} names {gone[:2]}, which are gone"))
        before = set() if pointer.previous is None else self._objects_of(pointer.previous.key)
        self._named[pointer.vchannel] = named | before

    def _objects_of(self, manifest_key: str) -> set[str]:
        if manifest_key not in self._files:
            data = self._bucket.look(manifest_key)
            manifest = None if data is None else decode(Manifest, data, manifest_key)
            self._files[manifest_key] = {manifest_key} | (set() if manifest is None else files_of(manifest))
        return self._files[manifest_key]

    def deleted(self, key: str, by: str) -> None:
        """An object was deleted."""
        vchannel = paths.shard_of(key)
        if vchannel is not None and key in self._named.get(vchannel, ()):
            self._found(BrokenPromise(f"T9: {by} deleted {key}, which a manifest names"))


_REPLAY_ENDING: Final = replay_key("").rpartition("/")[2]


def life_at(address: str) -> str:
    """The life that listens at an address of the simulated network (`SimTransport.serve`)."""
    name, _, served = address.partition(":")
    return f"{name}.{served.partition('.')[0]}"
