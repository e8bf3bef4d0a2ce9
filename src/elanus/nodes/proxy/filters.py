"""Filters as the proxy needs them: checked before anything is sent, and looked into for primary keys.

A filter that is nothing but `pk == v` or `pk in [...]` names its rows: a delete needs no read for it. A filter that
names keys among other things lets a read ask only the shards that own them, and one that names partition keys only the
partitions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from elanus.expr.errors import FilterError, UnknownFunctionError
from elanus.expr.filters import field_values, parse_filter
from elanus.expr.tree import Always, Filter
from elanus.model.columns import Column
from elanus.model.errors import BadParameterError, RequestError
from elanus.model.schema import DYNAMIC_FIELD_NAME
from elanus.nodes.proxy.entry import CollectionEntry
from elanus.nodes.proxy.plan import SearchPlan
from elanus.nodes.proxy.routing import hashed_partitions, numbered_partitions


def checked_filter(
    entry: CollectionEntry, text: str, templates: Mapping[str, Any], plan: str = "query", zone: str = ""
) -> Filter:
    """The bound filter; `plan` is the word Milvus uses in the refusal. Times without an offset are read in `zone`,
    which is the collection's unless given."""
    try:
        bound = parse_filter(text, entry.schema, templates, zone or entry.timezone, entry.casts)
    except UnknownFunctionError as error:
        raise RequestError(f"failed to query: Create retrieve plan by expr failed: {error.message}") from None
    except FilterError as error:
        raise BadParameterError(f"failed to create {plan} plan: {error.message}") from None
    unloaded = entry.unloaded_field_ids & bound.field_ids
    if unloaded:
        name = next(field.name for field in entry.schema.fields if field.field_id in unloaded)
        reason = "dynamic field is not loaded" if name == DYNAMIC_FIELD_NAME else f"field {name} is not loaded"
        raise BadParameterError(f"failed to create {plan} plan: cannot parse expression: {text}, error: {reason}")
    return bound


def check_searched_elements(plan: SearchPlan, bound: Filter) -> None:
    """A search with `element_filter` finds elements of that same struct array."""
    if bound.elements is None:
        return
    struct = bound.elements.operand.name
    if not plan.finds_elements or plan.field.struct_name != struct:
        raise BadParameterError(
            f"element_filter over {struct} needs a search of one of its vectors element by element, "
            f"got: {plan.field.name} by {plan.metric}"
        )


def is_always_true(bound: Filter) -> bool:
    """Whether the filter leaves nothing out."""
    return bound.sample is None and (bound.root is None or (isinstance(bound.root, Always) and bound.root.value))


def listed_keys(entry: CollectionEntry, bound: Filter, *, exact: bool) -> Column | None:
    """The distinct primary keys that the filter lists, None when it names none. With `exact` the filter is nothing but
    that list, otherwise it may say more."""
    return _column(field_values(bound, entry.primary.field_id, exact=exact))


def pinned_partitions(
    entry: CollectionEntry, bound: Filter, partition_ids: tuple[int, ...] | None
) -> tuple[int, ...] | None:
    """Of `partition_ids` (None: all) those that can hold rows with the partition keys the filter names; at least one,
    since a read of none is no read."""
    if entry.partition_key is None:
        return partition_ids
    keys = _column(field_values(bound, entry.partition_key.field_id))
    if keys is None or not len(keys):
        return partition_ids
    pinned = tuple(np.unique(hashed_partitions(keys, numbered_partitions(entry.partitions))).tolist())
    if partition_ids is None:
        return pinned
    return tuple(one for one in partition_ids if one in pinned) or partition_ids[:1]


def _column(values: npt.NDArray[np.int64] | list[str] | None) -> Column | None:
    if values is None:
        return None
    return Column(values if isinstance(values, np.ndarray) else pa.array(values, pa.large_string()))
