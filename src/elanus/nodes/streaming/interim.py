"""Builds interim indexes of growing segments, for the fields and metrics that are searched.

A segment that nobody searches gets none. One that is let go while a build runs takes its result with it.
"""

from __future__ import annotations

from collections.abc import Sequence

from elanus.base.doors import Doors
from elanus.base.events import Events
from elanus.index.interim import build_head
from elanus.index.vectors import Vectors
from elanus.model.reads import VectorQuery
from elanus.model.types import Metric
from elanus.segment.growing import GrowingReader
from elanus.segment.interim import InterimHeads


class InterimBuilds:
    """See the module's head."""

    def __init__(self, doors: Doors, events: Events, *, enabled: bool) -> None:
        self._doors = doors
        self._events = events
        self._enabled = enabled

    async def consider(self, readers: Sequence[GrowingReader], vector: VectorQuery) -> None:
        """These rows are searched so: begin to build what would pay. A segment's first index is waited for, by the
        search that found it missing: it takes about as long as thirty searches without."""
        if not self._enabled:
            return
        metric = Metric(vector.metric)
        for reader in readers:
            vectors, heads = reader.vectors(vector.field_id), reader.segment.interim
            if isinstance(vectors, Vectors) and heads.begin(vector.field_id, vectors, metric):
                is_first = heads.index(vector.field_id, vectors) is None
                build = self._build(heads, vector.field_id, vectors, metric)
                job = self._doors.tasks.spawn(build, name=f"interim index of field {vector.field_id}")
                if is_first:
                    await job.wait()

    async def _build(self, heads: InterimHeads, field_id: int, vectors: Vectors, metric: Metric) -> None:
        head = await self._doors.compute.run(build_head, vectors, metric)
        heads.end(field_id, head)
        self._events.info("index.interim_built", field=field_id, rows=len(vectors), used=head is not None)
