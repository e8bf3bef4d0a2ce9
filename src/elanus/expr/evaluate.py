"""Run a bound filter over a source: TRUE rows only, one vectorised pass per leaf.

Trees are in negation normal form, so the TRUE rows of `And` and `Or` follow from the TRUE rows of their children.
Children come cheapest first, those that an index answers before all others; once few rows are left to decide, the next
child sees only those.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa

from elanus.base.doors import Random
from elanus.base.errors import check
from elanus.base.pieces import repeated
from elanus.expr.elements import ElementSource, enough
from elanus.expr.indexed import Lookup, looked_up, lookup_of, scanned
from elanus.expr.leaves import Truth
from elanus.expr.source import Scope, Source
from elanus.expr.tree import Always, And, Filter, Leaf, MatchElements, Not, Or, Tree, cost
from elanus.model.columns import Mask, Rows

_CHEAP: Final = 2
_CHEAP_SHARE: Final = 16
_DEAR_SHARE: Final = 2


def evaluate(
    filter: Filter,
    source: Source,
    rows: Rows | None = None,
    chance: Random | None = None,
    among: Mask | None = None,
    trace: list[str] | None = None,
) -> Mask:
    """Mask of the rows of `source` (or of `rows`, in their order) on which `filter` is TRUE, those of `among` only.

    `chance` is needed by filters with `random_sample`, which keeps a share of the rows that pass the rest. `trace` is
    told what answered each leaf.
    """
    scope = Scope(source, rows, trace)
    mask = scope.full(True) if filter.root is None else _true_rows(filter.root, scope)
    mask = mask if among is None else mask & among
    if filter.sample is None:
        return mask
    check(chance is not None, "random_sample needs a source of chance")
    return _sampled(mask, filter, chance) if chance is not None else mask


def effort(filter: Filter, source: Source) -> float:
    """About what `evaluate` takes over all rows, in numeric comparisons."""
    return 0.0 if filter.root is None else _effort(filter.root, Scope(source, None))


def _effort(tree: Tree, scope: Scope) -> float:
    match tree:
        case And(children) | Or(children):
            return sum(_effort(child, scope) for child in children)
    lookup = lookup_of(tree, scope)
    return cost(tree) * scope.count if lookup is None else lookup.cost


def _true_rows(tree: Tree, scope: Scope) -> Mask:
    match tree:
        case And(children):
            return _all(children, scope)
        case Or(children):
            return _any(children, scope)
        case Always(value):
            return scope.full(value)
    lookup = lookup_of(tree, scope)
    return _scanned(tree, scope) if lookup is None else looked_up(tree, lookup, scope)


def _scanned(tree: Leaf | Not, scope: Scope) -> Mask:
    if isinstance(tree, Not):
        found = _truth(tree.leaf, scope)
        return ~found.value if found.known is None else found.known & ~found.value
    found = _truth(tree, scope)
    return found.value if found.known is None else found.value & found.known


def _truth(leaf: Leaf, scope: Scope) -> Truth:
    if not isinstance(leaf, MatchElements):
        return scanned(leaf, scope)
    source = ElementSource(scope, leaf.operand.field_id)
    passing = _true_rows(leaf.predicate, Scope(source, None))
    return Truth(enough(leaf, source, passing), scope.column(leaf.operand.field_id).valid)


def element_mask(leaf: MatchElements, source: Source) -> Mask:
    """Which elements of all rows, row after row, pass."""
    elements = ElementSource(Scope(source, None), leaf.operand.field_id)
    return _true_rows(leaf.predicate, Scope(elements, None))


def element_places(leaf: MatchElements, source: Source, rows: Rows) -> pa.Array:
    """For each of these rows the places of its elements that pass, ascending, as large_list<int64>."""
    elements = ElementSource(Scope(source, rows), leaf.operand.field_id)
    passing = _true_rows(leaf.predicate, Scope(elements, None))
    counts = elements.counts(passing)
    places = np.flatnonzero(passing) - repeated(elements.offsets[:-1], counts)
    offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(places))


def _all(children: tuple[Tree, ...], scope: Scope) -> Mask:
    first, *others = _ordered(children, scope)
    mask = _step(first, scope)
    for step in others:
        survivors = int(np.count_nonzero(mask))
        if survivors == 0:
            return mask
        if survivors * _share(step.child) > scope.count:
            mask = mask & _step(step, scope)
            continue
        places = np.flatnonzero(mask)
        passed = places[_true_rows(step.child, scope.narrow(places))]
        mask = scope.full(False)
        mask[passed] = True
    return mask


def _any(children: tuple[Tree, ...], scope: Scope) -> Mask:
    first, *others = _ordered(children, scope)
    mask = _step(first, scope)
    for step in others:
        undecided = scope.count - int(np.count_nonzero(mask))
        if undecided == 0:
            return mask
        if undecided * _share(step.child) > scope.count:
            mask = mask | _step(step, scope)
            continue
        places = np.flatnonzero(~mask)
        passed = places[_true_rows(step.child, scope.narrow(places))]
        mask = mask.copy()
        mask[passed] = True
    return mask


class _Step(NamedTuple):
    """A child, and how an index answers it where one does."""

    child: Tree
    lookup: Lookup | None


def _ordered(children: tuple[Tree, ...], scope: Scope) -> list[_Step]:
    """Children in the order in which they are evaluated: answers of indexes, those of few rows first; then the rest as
    it stands, which is cheapest first."""
    steps = [_Step(child, lookup_of(child, scope)) for child in children]
    return sorted(steps, key=lambda step: scope.count + 1 if step.lookup is None else step.lookup.row_estimate)


def _step(step: _Step, scope: Scope) -> Mask:
    if step.lookup is None or not isinstance(step.child, Leaf | Not):
        return _true_rows(step.child, scope)
    return looked_up(step.child, step.lookup, scope)


def _share(child: Tree) -> int:
    """A child is given the remaining rows alone once they are at most one in this many."""
    return _CHEAP_SHARE if cost(child) <= _CHEAP else _DEAR_SHARE


def _sampled(mask: Mask, filter: Filter, chance: Random) -> Mask:
    """Keep max(1, floor(n * p)) of the n TRUE rows; alone and above one half, drop max(1, floor(n * (1 - p)))."""
    candidates = np.flatnonzero(mask)
    share = 0.0 if filter.sample is None else filter.sample
    count = len(candidates)
    if count == 0:
        return mask
    if filter.root is None and share > 0.5:
        kept = count - max(1, int(count * (1 - share)))
    else:
        kept = max(1, int(count * share))
    generator = np.random.default_rng(chance.below(1 << 62))
    result = np.zeros(len(mask), np.bool_)
    result[generator.choice(candidates, kept, replace=False, shuffle=False)] = True
    return result
