"""What background work a shard wants, decided from its manifest alone.

Compaction aims at few, large segments, because a query pays per segment: small segments of one partition are merged
once there are enough of them, and a segment is rewritten when deletes that it has not folded in might cover a good
part of it, or when delete files pile up. Indexes are built for segments that no merge is about to replace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from elanus.index.registry import is_readable, resolve
from elanus.meta.manifests import Refused
from elanus.model.index import IndexDefinition
from elanus.model.schema import CollectionSchema
from elanus.model.segment import DeleteFile, IndexFile, Manifest, SegmentEntry

INDEX_ROWS_MIN: Final = 1024
"""Segments with fewer rows are searched exactly; their index counts as finished."""
DELETE_FILES_MAX: Final = 16
SIZE_RATIO_MAX: Final = 4
CLUSTERED_SEGMENTS_MAX: Final = 4
"""Full segments that one clustering takes at most."""


class CompactionPolicy(msgspec.Struct, frozen=True):
    """`segment_bytes_max`: no merge makes a larger segment. `merge_count_min`: small segments that call for one.
    `deleted_ratio_min`: share of deletes not folded in that calls for a rewrite. `expire_before`: rows with a timestamp
    below it have outlived their time."""

    segment_bytes_max: int
    merge_count_min: int = 4
    deleted_ratio_min: float = 0.2
    expire_before: int = 0


def plan_compactions(
    manifest: Manifest, policy: CompactionPolicy, *, manual: bool = False
) -> list[tuple[SegmentEntry, ...]]:
    """Groups of segments, each of one partition, to be merged into one segment each.

    `manual` asks for whatever helps: any two segments that fit together, any segment with deletes not folded in."""
    plans: list[tuple[SegmentEntry, ...]] = []
    for partition_id in sorted({entry.partition_id for entry in manifest.segments}):
        entries = [entry for entry in manifest.segments if entry.partition_id == partition_id]
        group = _mergeable(entries, policy, manual)
        if group:
            plans.append(group)
        plans += [(e,) for e in entries if e not in group and _wants_rewrite(e, manifest, policy, manual)]
    return plans


def plan_clusterings(manifest: Manifest, field_id: int, segment_bytes_max: int) -> list[tuple[SegmentEntry, ...]]:
    """Groups of segments, each of one partition, to be dealt out anew by the values of a field, so that a filter on it
    finds its rows in few of them. Groups are bounded, since a data node holds one in memory; a partition whose rows are
    all dealt out by the field is left as it is."""
    plans: list[tuple[SegmentEntry, ...]] = []
    for partition_id in sorted({entry.partition_id for entry in manifest.segments}):
        entries = [entry for entry in manifest.segments if entry.partition_id == partition_id]
        if all(entry.clustered_by == field_id and not unfolded(entry, manifest) for entry in entries):
            continue
        group: list[SegmentEntry] = []
        size = 0
        for entry in entries:
            if group and size + entry.size_bytes > CLUSTERED_SEGMENTS_MAX * segment_bytes_max:
                plans.append(tuple(group))
                group, size = [], 0
            group.append(entry)
            size += entry.size_bytes
        plans.append(tuple(group))
    return plans


def _mergeable(entries: Sequence[SegmentEntry], policy: CompactionPolicy, manual: bool) -> tuple[SegmentEntry, ...]:
    """The smallest segments that fit together into one, if they are enough. Unless asked for by hand, a segment much
    larger than all smaller ones together stays out, so that it is not rewritten for every small one that comes."""
    group: list[SegmentEntry] = []
    size = 0
    for entry in sorted(entries, key=lambda one: (one.size_bytes, one.segment_id)):
        lopsided = bool(group) and not manual and entry.size_bytes > SIZE_RATIO_MAX * size
        if size + entry.size_bytes > policy.segment_bytes_max or lopsided:
            break
        group.append(entry)
        size += entry.size_bytes
    return tuple(group) if len(group) >= (2 if manual else policy.merge_count_min) else ()


def unfolded(entry: SegmentEntry, manifest: Manifest) -> list[DeleteFile]:
    """Delete files that the segment has not folded in."""
    return [file for file in manifest.deletes if file.through > entry.deletes_through]


def _wants_rewrite(entry: SegmentEntry, manifest: Manifest, policy: CompactionPolicy, manual: bool) -> bool:
    files = unfolded(entry, manifest)
    deleted = sum(file.row_count for file in files)
    if policy.expire_before > (entry.timestamp_min if manual else expiry_of(entry)):
        return True
    if manual:
        return deleted > 0
    return deleted > policy.deleted_ratio_min * entry.row_count or len(files) > DELETE_FILES_MAX


def expiry_of(entry: SegmentEntry) -> int:
    """A segment is rewritten once rows up to this timestamp have outlived their time: half of them, as far as its first
    and last timestamp tell. What is left is rewritten when half of that has, so that a row is copied a few times."""
    return (entry.timestamp_min + entry.timestamp_max) // 2


def plan_builds(
    manifest: Manifest, definitions: Sequence[IndexDefinition], schema: CollectionSchema
) -> list[tuple[SegmentEntry, IndexDefinition]]:
    """Segments that lack an index they should have, largest first."""
    missing = [
        (entry, definition)
        for entry in manifest.segments
        for definition in definitions
        if needs_index(entry, definition, schema)
    ]
    return sorted(missing, key=lambda pair: (-pair[0].row_count, pair[0].segment_id, pair[1].index_id))


def needs_index(entry: SegmentEntry, definition: IndexDefinition, schema: CollectionSchema) -> bool:
    """Whether this segment should have a file of this index and has none that can be read."""
    field = schema.field_by_id(definition.field_id)
    if field is None or entry.row_count < INDEX_ROWS_MIN:
        return False
    if field.data_type.is_vector and definition.field_id not in entry.vectors:
        return False
    if not resolve(definition.params, field).needs_file:
        return False
    return all(file.index_id != definition.index_id or not is_readable(file) for file in entry.indexes)


def replace_segments(
    inputs: Sequence[SegmentEntry], outputs: Sequence[SegmentEntry], purge_before: int
) -> Callable[[Manifest], Manifest | Refused]:
    """The edit of a finished compaction: all inputs present and unchanged but for indexes, then outputs for inputs."""

    def edit(manifest: Manifest) -> Manifest | Refused:
        names = {entry.segment_id for entry in inputs}
        present = {entry.segment_id for entry in manifest.segments}
        if not names <= present:
            return Refused(f"segments {sorted(names - present)} are gone")
        kept = tuple(entry for entry in manifest.segments if entry.segment_id not in names)
        segments = (*kept, *outputs)
        folded = min((entry.deletes_through for entry in segments), default=manifest.flushed_through)
        return msgspec.structs.replace(
            manifest,
            segments=segments,
            deletes=tuple(file for file in manifest.deletes if file.through > folded),
            # Nothing deleted is above what the manifest covers, so that a pinned read of an idle shard stays possible.
            readable_from=max(manifest.readable_from, min(purge_before, manifest.timestamp_max)),
        )

    return edit


def add_index(
    segment_id: int, file: IndexFile, definitions: Sequence[IndexDefinition]
) -> Callable[[Manifest], Manifest | Refused]:
    """The edit of a finished build; a file that could not be read and dropped indexes leave with it."""

    def edit(manifest: Manifest) -> Manifest | Refused:
        entry = manifest.segment(segment_id)
        if entry is None:
            return Refused(f"segment {segment_id} is gone")
        if any(known.index_id == file.index_id and is_readable(known) for known in entry.indexes):
            return manifest
        wanted = {definition.index_id for definition in definitions} - {file.index_id}
        indexes = (*(known for known in entry.indexes if known.index_id in wanted), file)
        changed = msgspec.structs.replace(entry, indexes=indexes)
        segments = tuple(changed if one.segment_id == segment_id else one for one in manifest.segments)
        return msgspec.structs.replace(manifest, segments=segments)

    return edit


def has_dropped(manifest: Manifest, definitions: Sequence[IndexDefinition]) -> bool:
    """Whether a segment has an index whose definition is gone."""
    wanted = {definition.index_id for definition in definitions}
    return any(file.index_id not in wanted for entry in manifest.segments for file in entry.indexes)


def drop_indexes(definitions: Sequence[IndexDefinition]) -> Callable[[Manifest], Manifest | Refused]:
    """The edit by which indexes leave whose definition is gone."""

    def edit(manifest: Manifest) -> Manifest | Refused:
        wanted = {definition.index_id for definition in definitions}
        segments = tuple(
            msgspec.structs.replace(entry, indexes=tuple(file for file in entry.indexes if file.index_id in wanted))
            for entry in manifest.segments
        )
        return msgspec.structs.replace(manifest, segments=segments)

    return edit
