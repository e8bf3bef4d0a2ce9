"""Partition key isolation: a collection whose searches each look at one value of the partition key.

Where the property is set, the filter of every search must pin the key with one `==`, and vector indexes are graphs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from elanus.expr.tree import And, Compare, Filter, Not, OperandKind, Or, Tree, operands
from elanus.model.errors import BadParameterError, RequestError
from elanus.model.schema import CollectionSchema
from elanus.nodes.proxy.entry import CollectionEntry

ISOLATION_PROPERTY: Final = "partitionkey.isolation"
_INDEX_TYPES: Final = ("HNSW", "AUTOINDEX")
_UNPINNED: Final = "partition key not found in expr or the expr is invalid when validating partition key isolation"


class IsolatedIndexError(RequestError):
    """702: the mode cannot change over a vector index."""

    code = 702


def is_isolated(properties: Mapping[str, str]) -> bool:
    """Whether the property is set."""
    return properties.get(ISOLATION_PROPERTY, "false").lower() == "true"


def check_isolation(properties: Mapping[str, str], schema: CollectionSchema) -> None:
    """Isolation needs a partition key."""
    if is_isolated(properties) and schema.partition_key is None:
        raise BadParameterError(
            "partition key isolation mode is enabled but no partition key field is set. "
            "Please set the partition key first"
        )


def check_isolation_change(entry: CollectionEntry, properties: Mapping[str, str], keys: tuple[str, ...]) -> None:
    """The mode of a collection with a vector index is fixed."""
    old = is_isolated(entry.view.description.properties)
    new = is_isolated(properties) if ISOLATION_PROPERTY in properties else old and ISOLATION_PROPERTY not in keys
    check_isolation(properties, entry.schema)
    if new != old and any(field.field_id in entry.indexes for field in entry.schema.vector_fields):
        raise IsolatedIndexError(
            "can not alter partition key isolation mode if the collection already has a vector index. "
            "Please drop the index first"
        )


def check_isolated_index(entry: CollectionEntry, index_type: str) -> None:
    """Vector indexes of such a collection are graphs."""
    if is_isolated(entry.view.description.properties) and index_type.upper() not in _INDEX_TYPES:
        raise BadParameterError(
            f"partition key isolation mode is enabled, only HNSW is supported, but got index type {index_type}"
        )


def check_pinned(entry: CollectionEntry, bound: Filter | None) -> None:
    """Refuse a search of an isolated collection whose filter does not pin the key."""
    key = entry.partition_key
    if key is None or not is_isolated(entry.view.description.properties):
        return
    root = None if bound is None else bound.root
    if root is None or not _pins(root, key.field_id):
        raise RequestError(_UNPINNED)


def _pins(tree: Tree, field_id: int) -> bool:
    """Whether the tree is TRUE only where the key has one value; refuses other uses of the key."""
    if isinstance(tree, And):
        pinned = [_pins(child, field_id) for child in tree.children]
        return any(pinned)
    if all(operand.field_id != field_id for operand in operands(tree)):
        return False
    match tree:
        case Compare(operand, "==", _) if operand.kind is OperandKind.FIELD:
            return True
        case Or():
            word = "OR"
        case Not():
            word = "NOT"
        case Compare(_, symbol, _):
            word = symbol
        case _:
            word = "IN"
    raise RequestError(f"partition key isolation does not support {word}")
