"""Makes the roles of a process from what the process stands on: the same for one process of all and for one of each.

`Footing` is what differs between shapes (which stores, which doors); nothing below this module knows the shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from elanus.app.settings import Settings
from elanus.base.doors import Doors
from elanus.base.events import Events
from elanus.base.memory import machine_memory_bytes
from elanus.meta.store import MetaStore
from elanus.nodes.contracts import Coordinator, Streaming
from elanus.nodes.coordinator.background import BackgroundLimits
from elanus.nodes.coordinator.coordinator import Coordinator as CoordinatorRole
from elanus.nodes.coordinator.election import Office
from elanus.nodes.coordinator.ground import Surroundings
from elanus.nodes.coordinator.leader import Leader, LeaderLimits
from elanus.nodes.data.node import DataNode
from elanus.nodes.membership import Peers
from elanus.nodes.proxy.proxy import Proxy
from elanus.nodes.proxy.routes import PATIENCE_S
from elanus.nodes.query.node import QueryNode
from elanus.nodes.spill import Spills
from elanus.nodes.streaming.flush import Storage
from elanus.nodes.streaming.node import StreamingLimits, StreamingNode
from elanus.objects.store import ObjectStore
from elanus.search.execute import Execution
from elanus.wal.log import Log

LOADED_SHARE: Final = 9
"""Tenths of the memory there is that loaded segments may take."""


@dataclass(frozen=True, slots=True)
class Footing:
    """What one process stands on. `free_bytes`: room left on the disk of the log, where it has one. `threads`: how many
    serve, and how many build."""

    doors: Doors
    meta: MetaStore
    objects: ObjectStore
    log: Log
    events: Events
    settings: Settings
    free_bytes: Callable[[], int]
    serving_threads: int = 1
    building_threads: int = 1


class Roles:
    """The roles of one process; tests override a method to break one."""

    def __init__(self, footing: Footing) -> None:
        self.footing = footing
        self.execution = Execution(footing.doors.compute, footing.doors.random, footing.serving_threads)

    def streaming(self, node_id: int) -> StreamingNode:
        """A streaming node; still to be connected."""
        footing = self.footing
        settings = footing.settings
        storage = Storage(footing.doors, footing.meta, footing.objects, footing.free_bytes)
        limits = StreamingLimits(
            growing_bytes_max=settings.segment.flush_bytes_max,
            growing_bytes_stop=settings.segment.growing_bytes_max,
            growing_idle_s=settings.segment.flush_idle_s,
            free_bytes_min=settings.storage.free_bytes_min,
            retention_ms=settings.compaction.retention_ms,
            interim_indexes=settings.index.interim_enabled,
        )
        return StreamingNode(node_id, storage, footing.log, self.execution, limits, footing.events)

    def query(self) -> QueryNode:
        """A query node."""
        allowed = self.footing.settings.segment.loaded_bytes_max or LOADED_SHARE * machine_memory_bytes() // 10
        return QueryNode(self.footing.doors, self.footing.objects, self.execution, allowed)

    def data(self) -> DataNode:
        """A data node."""
        return DataNode(self.footing.doors, self.footing.objects, self.footing.building_threads)

    def proxy(
        self, coordinator: Coordinator, streaming: Mapping[int, Streaming], patience_s: float = PATIENCE_S
    ) -> Proxy:
        """A proxy that repeats for so long what waits for a shard."""
        return Proxy(self.footing.doors, coordinator, streaming, patience_s=patience_s)

    def spills(self) -> Spills:
        """How large results reach other processes."""
        cluster = self.footing.settings.cluster
        return Spills(self.footing.doors, self.footing.objects, cluster.reply_bytes_max, cluster.spill_ttl_s)

    def coordinator(self, peers: Peers, *, adopts: bool) -> CoordinatorRole:
        """A coordinator that leads once it is elected. `adopts`: owners may live on from an earlier lead."""
        settings = self.footing.settings
        compaction = settings.compaction
        background = BackgroundLimits(
            segment_bytes_max=settings.segment.segment_bytes_max,
            retention_ms=compaction.retention_ms,
            compacts=compaction.enabled,
            merge_count_min=compaction.segment_count_min,
            deleted_ratio_min=compaction.deleted_ratio_min,
        )
        limits = LeaderLimits(background, settings.log.pchannel_count, adopts)
        return CoordinatorRole(lambda office: self.leader(office, peers, limits))

    def leader(self, office: Office, peers: Peers, limits: LeaderLimits) -> Leader:
        """What leads in that office."""
        return Leader(office, peers, limits)

    def surroundings(self, node_id: int) -> Surroundings:
        """What a coordinator stands on."""
        footing = self.footing
        return Surroundings(node_id, footing.doors, footing.meta, footing.objects, footing.events)
