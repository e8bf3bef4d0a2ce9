"""The distinct values of an index in ascending order, texts by their bytes; where a constant stands among them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from elanus.base.pieces import repeated
from elanus.expr.arrays import compare_values, sorted_span, take_values
from elanus.expr.sets import BoolSet, NumberSet, StringSet, ValueSet
from elanus.index.scalars.contract import Places
from elanus.model.columns import Rows, Values

EXACT_MAX = 1 << 53
"""Integers below it in size are the same as doubles, and no other integer becomes one of them."""


class Distinct(NamedTuple):
    """The distinct values ascending, and of each value given its place among them."""

    keys: Values
    places: Rows


def distinct(values: Values) -> Distinct:
    """Without NaN."""
    if isinstance(values, np.ndarray):
        return _distinct_numbers(values)
    encoded = pc.dictionary_encode(values)
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    words = encoded.dictionary
    order = np.asarray(pc.array_sort_indices(words)).astype(np.int64)
    ranks: Rows = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    codes = np.asarray(encoded.indices).astype(np.int64)
    return Distinct(take_values(words, order), ranks[codes] if len(order) else codes)


def _distinct_numbers(values: npt.NDArray[Any]) -> Distinct:
    """What `np.unique` finds, which holds the interpreter's lock for 100 ms on its way through a million values."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    other = np.ones(len(values), np.bool_)
    other[1:] = ordered[1:] != ordered[:-1]
    firsts = np.flatnonzero(other)
    places: Rows = np.empty(len(values), np.int64)
    places[order] = repeated(np.arange(len(firsts)), np.diff(np.append(firsts, len(values))))
    return Distinct(ordered[firsts], places)


def in_relation(keys: Values, symbol: str, value: Any) -> range:
    """The keys that stand in that relation (not `!=`) to a constant of their type."""
    return range(*sorted_span(keys, symbol, value))


def within(first: range, second: range) -> range:
    """The places in both."""
    start = max(first.start, second.start)
    return range(start, max(start, min(first.stop, second.stop)))


def with_prefix(keys: pa.Array, prefix: str) -> range:
    """The texts that begin so: UTF-8 has no byte 0xFF, so they lie below the prefix with one behind."""
    start, _ = sorted_span(keys, ">=", prefix)
    beyond = pa.array([prefix.encode() + b"\xff"], pa.large_binary())
    stop = pc.search_sorted(keys.cast(pa.large_binary()), beyond, side="left")
    return range(start, int(stop[0].as_py()))


def members(keys: Values, wanted: ValueSet) -> Places:
    """The keys that are in the set, whose members are of the keys' type."""
    if isinstance(wanted, StringSet):
        return _found(keys, wanted.values)
    if isinstance(wanted, BoolSet):
        return _found(keys, np.array([0] * wanted.has_false + [1] * wanted.has_true, np.uint8))
    return _found(keys, _narrowed(wanted, np.asarray(keys).dtype))


def _narrowed(wanted: NumberSet, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The members that the dtype can hold."""
    values = wanted.values
    if dtype.kind == "i" and values.dtype != dtype:
        limits = np.iinfo(dtype)
        values = values[(values >= limits.min) & (values <= limits.max)]
    return values.astype(dtype)


def _found(keys: Values, wanted: Values) -> Places:
    if isinstance(keys, np.ndarray):
        places = np.searchsorted(keys, wanted).astype(np.int64)
    else:
        places = np.asarray(pc.search_sorted(keys, wanted, side="left")).astype(np.int64)
    inside = np.flatnonzero(places < len(keys))
    places, wanted = places[inside], take_values(wanted, inside)
    found: Rows = places[compare_values(take_values(keys, places), "==", wanted)]
    return found
