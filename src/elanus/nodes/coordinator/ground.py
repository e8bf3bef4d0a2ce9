"""What a coordinator stands on, and whom it commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from elanus.base.doors import Doors
from elanus.base.events import Events
from elanus.meta.manifests import Manifests
from elanus.meta.store import MetaStore
from elanus.nodes.contracts import Data, ProxyCache, Query, Streaming
from elanus.objects.store import ObjectStore


@dataclass(frozen=True, slots=True)
class Peers:
    """The other roles, by node id."""

    streaming: Mapping[int, Streaming]
    query: Mapping[int, Query]
    data: Sequence[Data]
    proxies: Sequence[ProxyCache]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Doors, stores and the event sink of one coordinator process."""

    node_id: int
    doors: Doors
    meta: MetaStore
    objects: ObjectStore
    events: Events

    @property
    def manifests(self) -> Manifests:
        """Reads and commits of shard manifests."""
        return Manifests(self.doors, self.meta, self.objects)
