"""The filter language: text to a typed tree, tree to a mask of the rows on which it is TRUE."""

from __future__ import annotations

from elanus.expr.errors import FilterError
from elanus.expr.evaluate import effort, element_mask, element_places, evaluate
from elanus.expr.filters import field_values, parse_filter, primary_key_values
from elanus.expr.indexed import IndexedSource, Lookup
from elanus.expr.source import ShredCache, ShredSource, SortedSource, Source
from elanus.expr.tree import Filter

__all__ = [
    "Filter",
    "FilterError",
    "IndexedSource",
    "Lookup",
    "ShredCache",
    "ShredSource",
    "SortedSource",
    "Source",
    "effort",
    "element_mask",
    "element_places",
    "evaluate",
    "field_values",
    "parse_filter",
    "primary_key_values",
]
