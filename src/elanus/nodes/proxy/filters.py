"""Filters as the proxy needs them: checked before anything is sent, and looked into for primary keys.

A filter that is nothing but `pk == v` or `pk in [...]` names its rows: a delete needs no read for it. A filter that
names keys among other things lets a read ask only the shards that own them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from elanus.expr.errors import FilterError
from elanus.expr.filters import parse_filter, primary_key_values
from elanus.expr.tree import Always, Filter
from elanus.model.columns import Column
from elanus.model.errors import BadParameterError
from elanus.nodes.proxy.entry import CollectionEntry


def checked_filter(entry: CollectionEntry, text: str, templates: Mapping[str, Any], plan: str = "query") -> Filter:
    """The bound filter; `plan` is the word Milvus uses in the refusal."""
    try:
        return parse_filter(text, entry.schema, templates)
    except FilterError as error:
        raise BadParameterError(f"failed to create {plan} plan: {error.message}") from None


def is_always_true(bound: Filter) -> bool:
    """Whether the filter leaves nothing out."""
    return bound.sample is None and (bound.root is None or (isinstance(bound.root, Always) and bound.root.value))


def listed_keys(entry: CollectionEntry, bound: Filter, *, exact: bool) -> Column | None:
    """The distinct primary keys that the filter lists, None when it names none. With `exact` the filter is nothing but
    that list, otherwise it may say more."""
    keys = primary_key_values(bound, entry.schema, exact=exact)
    if keys is None:
        return None
    return Column(keys if isinstance(keys, np.ndarray) else pa.array(keys, pa.large_string()))
