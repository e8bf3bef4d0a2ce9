"""Boosts: the scores of a segment's hits changed by filters, weights and chance, and the hits put in order again.

Only what the search of the segment found is looked at: a boost reorders candidates, it fetches none. Rows that no
boost's filter passes keep their score. Random fractions are a function of the seed and of a field's value (or the row's
place in the segment), by the finalizer of splitmix64 (Steele, Lea, Flood 2014).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from elanus.base.doors import Random
from elanus.expr import Filter, evaluate
from elanus.index.contract import Found as Nearest
from elanus.model.columns import Rows
from elanus.model.reads import Boost, Boosting
from elanus.segment.reader import Reader

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_FIRST: Final = np.uint64(0xBF58476D1CE4E5B9)
_SECOND: Final = np.uint64(0x94D049BB133111EB)


def boosted(
    nearest: Nearest, reader: Reader, boosting: Boosting, filters: Sequence[Filter], chance: Random, larger: bool
) -> Nearest:
    """The hits with their new scores, in order; `filters` are those of the boosts."""
    found = nearest.rows >= 0
    rows = nearest.rows[found]
    distinct, inverse = np.unique(rows, return_inverse=True)
    total = np.zeros(len(distinct), np.float64) if boosting.adds_boosts else np.ones(len(distinct), np.float64)
    touched = np.zeros(len(distinct), np.bool_)
    for boost, filter_ in zip(boosting.boosts, filters, strict=True):
        passes = evaluate(filter_, reader, distinct, chance) if filter_.root is not None else np.ones_like(touched)
        factors = boost.weight * _fractions(boost, reader, distinct)
        combined = total + factors if boosting.adds_boosts else total * factors
        total = np.where(passes, combined, total)
        touched |= passes
    scores = nearest.scores.astype(np.float64)
    old, factor = scores[found], total[inverse]
    changed = old + factor if boosting.adds_to_score else old * factor
    scores[found] = np.where(touched[inverse], changed, old)
    return _in_order(scores.astype(np.float32), nearest.rows, larger)


def _in_order(scores: npt.NDArray[np.float32], rows: Rows, larger: bool) -> Nearest:
    costs = np.where(rows < 0, np.inf, -scores if larger else scores)
    order = np.lexsort((rows, costs, rows < 0), axis=-1)
    return Nearest(np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1))


def _fractions(boost: Boost, reader: Reader, rows: Rows) -> npt.NDArray[np.float64]:
    """One for each row, or in [0, 1) by chance."""
    if boost.random_seed is None:
        return np.ones(len(rows))
    values = rows
    if boost.random_field_id:
        values = np.asarray(reader.column(boost.random_field_id).take(rows).values, np.int64)
    with np.errstate(over="ignore"):
        mixed = values.astype(np.uint64) + np.uint64(boost.random_seed) * _GOLDEN + _GOLDEN
        mixed = (mixed ^ (mixed >> np.uint64(30))) * _FIRST
        mixed = (mixed ^ (mixed >> np.uint64(27))) * _SECOND
        mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53
