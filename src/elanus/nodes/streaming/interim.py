"""Builds interim indexes of growing segments in the background, for the fields and metrics that are searched.

A segment that nobody searches gets none. One that is let go while a build runs takes its result with it.
"""

from __future__ import annotations

from collections.abc import Sequence

from elanus.base.doors import Doors
from elanus.base.errors import ElanusError
from elanus.base.events import Events
from elanus.index.contract import VectorIndex
from elanus.index.interim import build_head
from elanus.index.vectors import Vectors
from elanus.model.reads import VectorQuery
from elanus.model.types import Metric
from elanus.segment.growing import GrowingReader, GrowingSegment


class InterimBuilds:
    """See the module's head."""

    def __init__(self, doors: Doors, events: Events, *, enabled: bool) -> None:
        self._doors = doors
        self._events = events
        self._enabled = enabled

    def consider(self, readers: Sequence[GrowingReader], vector: VectorQuery) -> None:
        """These rows are searched so: begin to build what would pay."""
        if not self._enabled:
            return
        metric = Metric(vector.metric)
        for reader in readers:
            vectors = reader.vectors(vector.field_id)
            if isinstance(vectors, Vectors) and reader.segment.interim.begin(vector.field_id, vectors, metric):
                build = self._build(reader.segment, vector.field_id, vectors, metric)
                self._doors.tasks.spawn(build, name=f"interim index of field {vector.field_id}")

    async def _build(self, segment: GrowingSegment, field_id: int, vectors: Vectors, metric: Metric) -> None:
        head: VectorIndex | None = None
        try:
            head = await self._doors.compute.run_background(build_head, vectors, metric, 1)
            self._events.info("index.interim_built", field=field_id, rows=len(vectors))
        except ElanusError as error:
            # The rows are searched without it.
            self._events.warning("index.interim_failed", field=field_id, error=error.message)
        segment.interim.end(field_id, head)
