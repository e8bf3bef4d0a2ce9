"""What leaves of a filter make of distinct values in order and the rows that hold each.

A comparison is a span of keys, membership some of them, LIKE a span (a prefix), or the texts that pass among those that
can (`grams`) or among all distinct ones. Answers are exact: whatever a JSON path leads to that is not of the keys' type
is FALSE for a constant of that type. What cannot be told from the keys (whole numbers that doubles cannot hold,
constants of another type) is not answered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

import numpy as np

from elanus.expr.constants import is_number
from elanus.expr.indexed import Lookup
from elanus.expr.like import LikePattern, LikeShape
from elanus.expr.sets import BoolSet, NumberSet, StringSet, ValueSet
from elanus.expr.tree import Between, Compare, Contains, InSet, Like
from elanus.index.scalars.contract import Places
from elanus.index.scalars.holders import SCATTER_COST, Holders
from elanus.index.scalars.keys import EXACT_MAX, in_relation, members, with_prefix, within
from elanus.index.scalars.mapped import MASK_COST
from elanus.model.columns import Mask, Values
from elanus.model.types import DataType

_TEXT_COST: Final = 24.0
"""Of a distinct text that a pattern is matched with."""
_MEMBER_COST: Final = 400.0
"""Of finding a constant among the keys."""
_MEMBERS_FOUND_MAX: Final = 256
"""So many are looked for while the price is asked; of more it is estimated."""


@dataclass(frozen=True, slots=True)
class KeyAnswers:
    """`keys` are distinct values of `value_type`, ascending. `of_json`: they stand beside values of other types.
    `known`: the rows on which a predicate is not UNKNOWN."""

    index_type: str
    row_count: int
    value_type: DataType
    of_json: bool
    keys: Values
    holders: Holders
    known: Callable[[], Mask | None]

    # --- one value a row --------------------------------------------------------------------------------------------
    def of_values(self, leaf: Compare | Between | InSet | Like) -> Lookup | None:
        """Of a leaf over the one value that a row has."""
        if isinstance(leaf, Like):
            return self._like(leaf.pattern)
        if isinstance(leaf, InSet) and _is_large(leaf.values):
            return self._of_many(leaf.values) if self._fits_all(leaf.values) else None
        places = self._places(leaf)
        return None if places is None else self.answer(places)

    def answer(self, places: Places) -> Lookup:
        """The rows that hold one of these keys."""
        holders = self.holders
        return Lookup(
            self.index_type, holders.cost(places), holders.count(places), lambda: holders.mask(places), self.known
        )

    def _of_many(self, wanted: NumberSet | StringSet) -> Lookup:
        """The rows that hold one of many constants, which are not looked for before."""
        members_max = min(len(wanted.values), len(self.keys))
        rows = min(self.row_count, members_max * -(-self.row_count // max(1, len(self.keys))))
        cost = _MEMBER_COST * len(wanted.values) + MASK_COST * self.row_count + SCATTER_COST * rows
        return Lookup(self.index_type, cost, rows, lambda: self.holders.mask(members(self.keys, wanted)), self.known)

    def _places(self, leaf: Compare | Between | InSet) -> Places | None:
        """The keys on which the leaf is TRUE; None where they do not tell."""
        match leaf:
            case Compare(_, symbol, value):
                return in_relation(self.keys, symbol, _key(value)) if self._fits(value) else None
            case InSet(_, wanted):
                return members(self.keys, wanted) if self._fits_all(wanted) else None
        if not self._fits(leaf.lower) or not self._fits(leaf.upper):
            return None
        lower = in_relation(self.keys, ">=" if leaf.lower_inclusive else ">", leaf.lower)
        return within(lower, in_relation(self.keys, "<=" if leaf.upper_inclusive else "<", leaf.upper))

    def _fits(self, value: Any) -> bool:
        """Whether a constant is of the keys' type, and compares with them as it does with what was stored."""
        kind = self.value_type
        if isinstance(value, list) or value != value:
            return False
        if not self.of_json:
            return True  # the filter was bound to the field's type
        if kind.is_string or kind is DataType.BOOL:
            return isinstance(value, str if kind.is_string else bool)
        return is_number(value) and (isinstance(value, float) or -EXACT_MAX < value < EXACT_MAX)

    def _fits_all(self, wanted: ValueSet) -> bool:
        kind = self.value_type
        if not self.of_json:
            return True
        if not isinstance(wanted, NumberSet):
            return isinstance(wanted, StringSet if kind.is_string else BoolSet) and kind is not DataType.DOUBLE
        if kind is not DataType.DOUBLE:
            return False
        values = wanted.values
        return values.dtype.kind == "f" or bool(((values < EXACT_MAX) & (values > -EXACT_MAX)).all())

    # --- texts ------------------------------------------------------------------------------------------------------
    def _like(self, pattern: LikePattern) -> Lookup | None:
        if not self.value_type.is_string:
            return None
        match pattern.shape:
            case LikeShape.ALL:
                return self.answer(range(len(self.keys)))
            case LikeShape.EQUAL:
                return self.answer(in_relation(self.keys, "==", pattern.text))
            case LikeShape.PREFIX:
                return self.answer(with_prefix(self.keys, pattern.text))
        return self.matching(pattern)

    def matching(self, pattern: LikePattern) -> Lookup:
        """The rows whose text passes: every distinct text is looked at."""
        count = self.row_count
        return Lookup(
            self.index_type,
            _TEXT_COST * len(self.keys) + count,
            count,
            lambda: self.holders.mask(np.flatnonzero(pattern.matches(self.keys))),
            self.known,
        )

    # --- lists ------------------------------------------------------------------------------------------------------
    def of_lists(self, leaf: Contains) -> Lookup | None:
        """Of a leaf over the values of a list."""
        if not all(self._fits(value) for value in leaf.values):
            return None
        spans = [in_relation(self.keys, "==", _key(value)) for value in leaf.values]
        if not leaf.every:
            return self.answer(np.unique(np.array([place for span in spans for place in span], np.int64)))
        answers = sorted((self.answer(span) for span in spans), key=lambda one: one.row_estimate)
        return Lookup(
            self.index_type,
            sum(one.cost for one in answers),
            answers[0].row_estimate,
            lambda: np.logical_and.reduce([one.mask() for one in answers]),
            self.known,
        )


def _is_large(wanted: ValueSet) -> TypeGuard[NumberSet | StringSet]:
    return not isinstance(wanted, BoolSet) and len(wanted.values) > _MEMBERS_FOUND_MAX


def _key(value: Any) -> Any:
    """A constant as keys are kept: truth values as numbers."""
    return int(value) if isinstance(value, bool) else value
