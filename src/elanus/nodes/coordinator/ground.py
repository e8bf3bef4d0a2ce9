"""What a coordinator stands on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from elanus.base.doors import Doors
from elanus.base.events import Events
from elanus.meta.manifests import Manifests, RecentHeads
from elanus.meta.store import MetaStore
from elanus.objects.paths import LEAD, Right
from elanus.objects.store import ObjectStore

NOT_ELECTED: Final = Right(LEAD, 0)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Doors, stores and the event sink of one coordinator process; in office, the right by which it commits."""

    node_id: int
    doors: Doors
    meta: MetaStore
    objects: ObjectStore
    events: Events
    right: Right = NOT_ELECTED
    recent_heads: RecentHeads = field(default_factory=RecentHeads)

    @property
    def manifests(self) -> Manifests:
        """Reads and commits of shard manifests."""
        return Manifests(self.doors, self.meta, self.objects, self.right, self.recent_heads)

    def token(self) -> str:
        """A fresh token for files that this coordinator may commit."""
        return self.right.token(self.doors.random.token())
