"""What stands in the log: writes, and DDL changes of a shard."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from elanus.model.columns import Batch, Column, Rows
from elanus.model.schema import CollectionSchema


class ShardChange(msgspec.Struct, frozen=True, kw_only=True):
    """A DDL record of one shard. `kind`: create, drop, create_partition, drop_partition, replace_partitions
    (`partition_ids` come, `dropped_partition_ids` go), alter_schema.
    `intent_id` makes it idempotent: a shard ignores ids not above the last it applied."""

    vchannel: str
    collection_id: int
    kind: str
    intent_id: int
    schema: CollectionSchema | None = None
    partition_ids: tuple[int, ...] = ()
    dropped_partition_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class WriteRecord:
    """One request's part for one shard, at one timestamp. The deletes (of `delete_keys`, in one partition or in all: 0)
    take effect just before the rows of `batch`, whose partitions are `partition_ids`."""

    vchannel: str
    timestamp: int
    schema_version: int
    batch: Batch | None = None
    partition_ids: Rows | None = None
    delete_keys: Column | None = None
    delete_partition_id: int = 0


@dataclass(frozen=True, slots=True)
class ChangeRecord:
    """A DDL change at its place among the writes."""

    vchannel: str
    timestamp: int
    change: ShardChange


Record = WriteRecord | ChangeRecord
