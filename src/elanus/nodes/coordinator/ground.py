"""What a coordinator stands on."""

from __future__ import annotations

from dataclasses import dataclass

from elanus.base.doors import Doors
from elanus.base.events import Events
from elanus.meta.manifests import Manifests
from elanus.meta.store import MetaStore
from elanus.objects.store import ObjectStore


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
