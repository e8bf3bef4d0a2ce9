"""A collection as the proxy remembers it: the coordinator's view with everything a request looks up made ready.

An entry is never changed; a new view makes a new entry. Plans of searches hang on the entry they were made for, so they
vanish with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from elanus.model.errors import CollectionNotLoadedError, PartitionNotLoadedError, RequestError
from elanus.model.index import CastPath, IndexDefinition
from elanus.model.schema import CollectionSchema, FieldSchema
from elanus.model.timestamp import compose
from elanus.nodes.contracts import CollectionView, Shard
from elanus.nodes.proxy.forms import DEFAULT_TIMEZONE, TIMEZONE_PROPERTY

PLAN_COUNT_MAX: Final = 256
TTL_PROPERTY: Final = "collection.ttl.seconds"
ALLOW_INSERT_AUTO_ID_PROPERTY: Final = "allow_insert_auto_id"
PARTITION_NAMED_TEXT: Final = "not support manually specifying the partition names if partition key mode is used"


class CollectionEntry:
    """One cached collection. `plans` is bounded by whoever fills it, with `remember_plan`."""

    __slots__ = (
        "allows_given_ids",
        "casts",
        "collection_id",
        "denied",
        "dynamic",
        "fields",
        "indexes",
        "is_loaded",
        "name",
        "partition_key",
        "partitions",
        "plans",
        "primary",
        "readable_partition_ids",
        "schema",
        "shards",
        "timezone",
        "ttl_ms",
        "unloaded_field_ids",
        "view",
    )

    def __init__(self, view: CollectionView) -> None:
        description = view.description
        schema: CollectionSchema = description.schema
        self.view = view
        self.name = description.name
        self.collection_id = description.collection_id
        self.schema = schema
        self.fields: Mapping[str, FieldSchema] = {field.name: field for field in schema.fields}
        self.primary = schema.primary
        self.dynamic = schema.dynamic
        self.partition_key = schema.partition_key
        self.partitions: Mapping[str, int] = {info.name: info.partition_id for info in description.partitions}
        self.shards: Sequence[Shard] = view.shards
        self.indexes: Mapping[int, IndexDefinition] = {index.field_id: index for index in view.indexes}
        self.casts = _casts(view.indexes, schema)
        self.is_loaded = view.loaded_partition_ids is not None
        loaded = view.loaded_partition_ids or ()
        whole = set(self.partitions.values()) <= set(loaded)
        self.readable_partition_ids: tuple[int, ...] | None = None if whole else tuple(loaded)
        loaded_fields = view.loaded_field_ids or [field.field_id for field in schema.fields]
        self.unloaded_field_ids = frozenset(field.field_id for field in schema.fields).difference(loaded_fields)
        self.ttl_ms = ttl_ms(description.properties)
        self.timezone = description.properties.get(TIMEZONE_PROPERTY, DEFAULT_TIMEZONE)
        allowed = description.properties.get(ALLOW_INSERT_AUTO_ID_PROPERTY, "false")
        self.allows_given_ids = allowed.lower() == "true"
        self.denied = view.denied
        self.plans: dict[Any, Any] = {}

    def remember_plan(self, key: Any, plan: Any) -> None:
        """Keep a plan; the oldest makes room when there are too many."""
        if len(self.plans) >= PLAN_COUNT_MAX:
            del self.plans[next(iter(self.plans))]
        self.plans[key] = plan

    def expire_before(self, now_ms: int) -> int:
        """The timestamp below which rows have outlived their time; 0 without a time to live."""
        return compose(max(now_ms - self.ttl_ms, 0)) if self.ttl_ms else 0

    def require_loaded(self, action: str) -> None:
        """Refuse `action` ("search", "query", …) on a collection that is not loaded."""
        if not self.is_loaded:
            raise CollectionNotLoadedError(self.name, prefix=f"failed to {action}")

    def require_field(self, field: FieldSchema) -> None:
        """Refuse a field that is not loaded."""
        if field.field_id in self.unloaded_field_ids:
            raise RequestError(f"field {field.name} is not loaded")

    def check_partitions(self, names: Sequence[str]) -> None:
        """Refuse partitions that do not exist, before anything is said of what is loaded."""
        unknown = next((name for name in names if name not in self.partitions), None)
        if unknown is not None and self.partition_key is None:
            raise UnknownPartitionNameError(unknown)

    def partitions_to_read(self, names: Sequence[str], action: str) -> tuple[int, ...] | None:
        """Ids of the loaded partitions a read covers; None means all of the collection."""
        if not names:
            return self.readable_partition_ids
        if self.partition_key is not None:
            raise RequestError(PARTITION_NAMED_TEXT)
        unknown = next((name for name in names if name not in self.partitions), None)
        if unknown is not None:
            raise UnknownPartitionNameError(unknown)
        ids = tuple(dict.fromkeys(self.partitions[name] for name in names))
        readable = self.readable_partition_ids
        if readable is not None and not set(ids) <= set(readable):
            missing = next(name for name in names if self.partitions[name] not in readable)
            raise PartitionNotLoadedError(missing, prefix=f"failed to {action}")
        return ids


class UnknownPartitionNameError(RequestError):
    """65535: reads name partitions in this form."""

    def __init__(self, name: str) -> None:
        super().__init__(f"partition name {name} not found")


def ttl_ms(properties: Mapping[str, str]) -> int:
    """Time to live in milliseconds; 0 where rows live for ever."""
    return max(int(properties.get(TTL_PROPERTY, "0") or "0"), 0) * 1000


def _casts(indexes: Sequence[IndexDefinition], schema: CollectionSchema) -> tuple[CastPath, ...]:
    """The paths whose strings are compared as numbers: Milvus makes an index with a cast function mean that, and here
    it means so of rows that are not indexed yet, too."""
    fields = {field.field_id: field for field in schema.fields}
    casting = (index for index in indexes if index.casts_texts)
    return tuple(CastPath(index.field_id, index.document_path(fields[index.field_id])) for index in casting)
