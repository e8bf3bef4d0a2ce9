"""Background work: compaction and index building, run at data nodes, committed as manifest edits.

One loop takes the collections that changed, asks `maintenance` what each shard wants, and runs it task by task. A task
is idempotent and invisible until its commit; when its inputs have changed meanwhile the commit is refused and the shard
is simply looked at again. Where rows have a time to live, a collection is looked at when half of a segment has outlived
it. Small merges wait until a shard has been calm for `CALM_S`, and builds on segments that such
a merge would replace wait with them.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec

from elanus.base.errors import Action, ElanusError
from elanus.index.errors import IndexBuildError
from elanus.index.registry import is_readable
from elanus.meta.catalog import elected
from elanus.meta.manifests import Refused, ShardEdit
from elanus.meta.records import Collection, CollectionState
from elanus.model.errors import SchemaMismatchError
from elanus.model.index import IndexDefinition
from elanus.model.requests import CompactionState
from elanus.model.segment import Manifest, SegmentEntry
from elanus.model.timestamp import compose, physical_ms
from elanus.model.types import CompactionStatus
from elanus.nodes.contracts import BuildTask, CompactTask
from elanus.nodes.coordinator.catalog import Catalog
from elanus.nodes.coordinator.ground import Surroundings
from elanus.nodes.coordinator.maintenance import (
    CompactionPolicy,
    add_index,
    drop_indexes,
    expiry_of,
    has_dropped,
    plan_builds,
    plan_clusterings,
    plan_compactions,
    replace_segments,
)
from elanus.nodes.coordinator.oracle import IdAllocator
from elanus.nodes.coordinator.placement import Placement, gather_all
from elanus.nodes.coordinator.workers import Workers

CALM_S: Final = 1.0
RETRY_S: Final = 1.0
COMPACTIONS_KEPT_MAX: Final = 1024
BUILD_FAILURES_MAX: Final = 1024
"""One that is forgotten is tried again."""
TTL_PROPERTY: Final = "collection.ttl.seconds"


class BackgroundLimits(msgspec.Struct, frozen=True):
    """`segment_bytes_max`: no merge makes a larger segment. `retention_ms`: how long deleted rows stay readable for
    reads at an older timestamp. `compacts`: whether compaction starts by itself. `merge_count_min` small segments are
    merged at once, two when the shard is calm. `deleted_ratio_min`: a segment with that share of deletes is rewritten.
    """

    segment_bytes_max: int
    retention_ms: int
    compacts: bool = True
    merge_count_min: int = 4
    deleted_ratio_min: float = 0.2


@dataclass(slots=True)
class _Compaction:
    """A manual compaction and how far it is."""

    planned: int
    completed: int = 0
    failed: int = 0
    merges: tuple[tuple[tuple[int, ...], int], ...] = ()


class _Merge(NamedTuple):
    """A merge that is planned, for a manual compaction (0: for none), and the field by which rows are dealt out."""

    compaction_id: int
    inputs: tuple[SegmentEntry, ...]
    clustered_by: int


class Background:
    """See the module's head."""

    def __init__(
        self,
        ground: Surroundings,
        catalog: Catalog,
        placement: Placement,
        ids: IdAllocator,
        workers: Workers,
        limits: BackgroundLimits,
    ) -> None:
        self._doors = ground.doors
        self._manifests = ground.manifests
        self._events = ground.events
        self._catalog = catalog
        self._placement = placement
        self._ids = ids
        self._guard = elected(placement.term)
        self._workers = workers
        self._working: set[int] = set()
        self._limits = limits
        self._dirty: dict[int, float] = {}
        self._expiries: dict[int, float] = {}
        self._wake = asyncio.Event()
        self._compactions: dict[int, _Compaction] = {}
        self._manual: dict[str, list[_Merge]] = {}
        self._failures: dict[tuple[int, int], str] = {}

    def start(self) -> None:
        """Begin to work."""
        self._doors.tasks.spawn(self._work_for_ever(), name="background work")

    def works_on(self, collection_id: int) -> bool:
        """Whether a task of the collection may be under way."""
        return collection_id in self._working

    def mark(self, collection_id: int) -> None:
        """The collection has changed; look at it."""
        self._dirty[collection_id] = self._doors.clock.monotonic_s()
        self._wake.set()

    # --- the loop ---------------------------------------------------------------------------------------------------
    async def _work_for_ever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while idle := [one for one in self._dirty if one not in self._working]:
                if len(self._working) >= self._workers.slots:
                    break
                collection_id = min(idle, key=lambda one: self._dirty[one])
                marked_s = self._dirty.pop(collection_id)
                self._working.add(collection_id)
                self._doors.tasks.spawn(self._work_in_turn(collection_id, marked_s), name="background turn")

    async def _work_in_turn(self, collection_id: int, marked_s: float) -> None:
        """One collection at a time for each slot there is."""
        try:
            await self._work_on(collection_id, marked_s)
        finally:
            self._working.discard(collection_id)
            self._wake.set()

    async def _work_on(self, collection_id: int, marked_s: float) -> None:
        collection = self._existing(collection_id)
        if collection is None:
            return
        calm = self._doors.clock.monotonic_s() - marked_s >= CALM_S
        again = False
        for vchannel in collection.vchannels:
            try:
                again |= await self._work_on_shard(collection, vchannel, calm)
            except ElanusError as error:
                if self._existing(collection_id) is None:
                    return  # Dropped while the task ran, and its files with it.
                self._events.warning("background.task_failed", shard=vchannel, error=error.message)
                again |= error.action in (Action.RETRY, Action.ELSEWHERE, Action.UNKNOWN)
        if again and collection_id not in self._dirty:
            self._doors.tasks.spawn(self._mark_later(collection_id, marked_s), name="background retry")

    def _existing(self, collection_id: int) -> Collection | None:
        stored = self._catalog.collections.get(collection_id)
        return None if stored is None or stored.record.state is not CollectionState.CREATED else stored.record

    async def _mark_later(self, collection_id: int, marked_s: float) -> None:
        await self._doors.clock.sleep(RETRY_S)
        self._dirty.setdefault(collection_id, marked_s)
        self._wake.set()

    async def _work_on_shard(self, collection: Collection, vchannel: str, calm: bool) -> bool:
        """One round on a shard; whether another is wanted without a further change."""
        state = await self._placement.shard_as_seen(vchannel)
        if state is None:
            return False
        manifest = state.manifest
        manual = self._manual.pop(vchannel, [])
        for one in manual:
            try:
                await self._run_compaction(collection, manifest, one)
            except ElanusError as error:
                # Counted as failed; the others of the same request go on.
                self._events.warning("background.compaction_failed", shard=vchannel, error=error.message)
        if manual:
            return True
        await self._drop_indexes(collection, manifest)
        policy = self._policy(collection, 2 if calm else self._limits.merge_count_min)
        plans = plan_compactions(manifest, policy) if self._limits.compacts else []
        for plan in plans:
            await self._run_compaction(collection, manifest, _Merge(0, plan, 0))
        if plans:
            return True
        waiting = plan_compactions(manifest, self._policy(collection, 2)) if self._limits.compacts else []
        held = {entry.segment_id for plan in waiting for entry in plan}
        builds = [
            self._build(collection, vchannel, entry, definition)
            for entry, definition in plan_builds(manifest, collection.indexes, collection.schema)
            if entry.segment_id not in held and not self.build_failure(entry.segment_id, definition.index_id)
        ]
        await gather_all(builds)
        if self._limits.compacts:
            self._await_expiry(collection, manifest)
        return bool(held)

    def _policy(self, collection: Collection, merge_count_min: int) -> CompactionPolicy:
        limits = self._limits
        return CompactionPolicy(
            limits.segment_bytes_max, merge_count_min, limits.deleted_ratio_min, self._expire_before(collection)
        )

    # --- time to live -----------------------------------------------------------------------------------------------
    def _expire_before(self, collection: Collection) -> int:
        """Rows with a timestamp below it have outlived their time; 0 where rows live for ever."""
        ttl_ms = _ttl_ms(collection)
        return compose(max(0, self._doors.clock.now_ms() - ttl_ms)) if ttl_ms else 0

    def _await_expiry(self, collection: Collection, manifest: Manifest) -> None:
        """Look at the collection again when the next of its segments has outlived its time."""
        ttl_ms = _ttl_ms(collection)
        if not ttl_ms or not manifest.segments:
            return
        first_ms = min(physical_ms(expiry_of(entry)) for entry in manifest.segments) + ttl_ms
        wait_s = max(1.0, (first_ms - self._doors.clock.now_ms()) / 1000 + 1)
        due_s = self._doors.clock.monotonic_s() + wait_s
        if due_s < self._expiries.get(collection.collection_id, float("inf")):
            self._expiries[collection.collection_id] = due_s
            self._doors.tasks.spawn(self._mark_at(collection.collection_id, due_s), name="expiry")

    async def _mark_at(self, collection_id: int, due_s: float) -> None:
        await self._doors.clock.sleep(max(0.0, due_s - self._doors.clock.monotonic_s()))
        if self._expiries.get(collection_id) == due_s:
            del self._expiries[collection_id]
            self.mark(collection_id)

    # --- tasks ------------------------------------------------------------------------------------------------------
    async def _build(
        self, collection: Collection, vchannel: str, entry: SegmentEntry, definition: IndexDefinition
    ) -> None:
        task = BuildTask(
            vchannel=vchannel,
            collection_id=collection.collection_id,
            entry=entry,
            definition=definition,
            schema=collection.schema,
            token="",
        )
        try:
            file = await self._workers.run(
                vchannel, lambda node, token: node.build(msgspec.structs.replace(task, token=token))
            )
        except IndexBuildError as error:
            # The segment is searched without it; whoever asks for the index's state is told.
            self._note_failure(vchannel, entry.segment_id, definition.index_id, error.message)
            return
        if not is_readable(file):
            # Built by a node of another release: what it builds would be built again for ever.
            reason = f"the coordinator does not read version {file.version} of {file.resolved_type} files"
            self._note_failure(vchannel, entry.segment_id, definition.index_id, reason)
            self._workers.give_up(vchannel, (file.file,))
            return
        definitions = self._definitions(collection.collection_id)
        if all(known.index_id != definition.index_id for known in definitions):
            self._workers.give_up(vchannel, (file.file,))
            return
        edit = ShardEdit(vchannel, add_index(entry.segment_id, file, definitions))
        outcome = await self._manifests.commit((edit,), (self._guard,))
        if isinstance(outcome, Refused):
            self._workers.give_up(vchannel, (file.file,))
        self._events.info("index.built", shard=vchannel, segment=entry.segment_id, refused=isinstance(outcome, Refused))

    def _note_failure(self, vchannel: str, segment_id: int, index_id: int, reason: str) -> None:
        self._events.warning("index.build_failed", shard=vchannel, segment=segment_id, error=reason)
        self._failures[segment_id, index_id] = reason
        while len(self._failures) > BUILD_FAILURES_MAX:
            del self._failures[next(iter(self._failures))]

    async def _drop_indexes(self, collection: Collection, manifest: Manifest) -> None:
        """Files of indexes that were dropped leave the manifest, and so the nodes and the store."""
        if has_dropped(manifest, collection.indexes):
            edit = ShardEdit(manifest.vchannel, drop_indexes(self._definitions(collection.collection_id)))
            await self._manifests.commit((edit,), (self._guard,))

    def _definitions(self, collection_id: int) -> tuple[IndexDefinition, ...]:
        stored = self._catalog.collections.get(collection_id)
        return () if stored is None else stored.record.indexes

    async def _run_compaction(self, collection: Collection, manifest: Manifest, asked: _Merge) -> None:
        compaction_id, inputs, clustered_by = asked
        job = self._compactions.get(compaction_id)
        if any(manifest.segment(entry.segment_id) is None for entry in inputs):
            # Something else has replaced them since they were planned: what was asked for is done.
            if job is not None:
                job.completed += 1
            return
        try:
            outputs = await self._compact(collection, manifest, inputs, clustered_by)
        except ElanusError:
            if job is not None:
                job.failed += 1
            raise
        if job is not None:
            job.completed += 1
            sources = tuple(entry.segment_id for entry in inputs)
            job.merges = (*job.merges, *((sources, output) for output in outputs))

    async def _compact(
        self, collection: Collection, manifest: Manifest, inputs: tuple[SegmentEntry, ...], clustered_by: int
    ) -> tuple[int, ...]:
        """The ids of the new segments."""
        now_ms = self._doors.clock.now_ms()
        purge_before = compose(max(0, now_ms - self._limits.retention_ms))
        size = sum(entry.size_bytes for entry in inputs)
        count = -(-size // self._limits.segment_bytes_max) if clustered_by else 1
        ids = await self._ids.allocate(max(1, count))
        task = CompactTask(
            collection_id=collection.collection_id,
            manifest=manifest,
            inputs=tuple(entry.segment_id for entry in inputs),
            output_ids=tuple(range(ids.first, ids.end)),
            schema=collection.schema,
            purge_before=purge_before,
            expire_before=self._expire_before(collection),
            token="",
            clustered_by=clustered_by,
        )
        outputs = await self._workers.run(
            manifest.vchannel, lambda node, token: node.compact(msgspec.structs.replace(task, token=token))
        )
        edit = ShardEdit(manifest.vchannel, replace_segments(inputs, outputs, purge_before))
        outcome = await self._manifests.commit((edit,), (self._guard,))
        if isinstance(outcome, Refused):
            self._workers.give_up(manifest.vchannel, [entry.scalars for entry in outputs])
            raise SchemaMismatchError(outcome.reason)
        self._events.info("segments.compacted", shard=manifest.vchannel, inputs=len(inputs), outputs=len(outputs))
        return tuple(entry.segment_id for entry in outputs)

    def build_failure(self, segment_id: int, index_id: int) -> str:
        """Why an index could not be built; empty where nothing failed. Tried again after a start."""
        return self._failures.get((segment_id, index_id), "")

    # --- manual compaction ------------------------------------------------------------------------------------------
    async def compact(self, collection: Collection, compaction_id: int, clustered_by: int = 0) -> int:
        """Plan everything that helps now, or dealing out all rows anew by a field; the number of merges planned."""
        planned = 0
        policy = self._policy(collection, 2)
        for vchannel in collection.vchannels:
            state = await self._placement.shard(vchannel)
            plans: list[tuple[SegmentEntry, ...]] = []
            if state is not None and clustered_by:
                plans = plan_clusterings(state.manifest, clustered_by, policy.segment_bytes_max)
            elif state is not None:
                plans = plan_compactions(state.manifest, policy, manual=True)
            self._manual.setdefault(vchannel, []).extend(_Merge(compaction_id, plan, clustered_by) for plan in plans)
            planned += len(plans)
        if planned:
            self._compactions[compaction_id] = _Compaction(planned)
            while len(self._compactions) > COMPACTIONS_KEPT_MAX:
                del self._compactions[next(iter(self._compactions))]
            self.mark(collection.collection_id)
        return planned

    def compaction_state(self, compaction_id: int) -> CompactionState:
        """Progress of a manual compaction; completed where nothing is known of it."""
        job = self._compactions.get(compaction_id)
        if job is None:
            return CompactionState(CompactionStatus.COMPLETED)
        executing = job.planned - job.completed - job.failed
        status = CompactionStatus.EXECUTING if executing else CompactionStatus.COMPLETED
        return CompactionState(status, executing, job.completed, job.failed, job.merges)


def _ttl_ms(collection: Collection) -> int:
    """Time to live of the collection's rows in milliseconds; 0 where they live for ever."""
    return max(0, 1000 * int(collection.properties.get(TTL_PROPERTY, "0") or 0))
