"""What a filter may ask of a source that has indexes: the rows of one leaf, without looking at the column.

`lookup_of` decides leaf by leaf whether to ask: an index is taken where its answer costs less than a pass over the
values in the scope. A lookup is made without reading more of the index than its price needs; the mask comes later, or
never.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Final, NamedTuple, Protocol, TypeGuard, runtime_checkable

import numpy as np

from elanus.base.metrics import METRICS
from elanus.expr.leaves import Truth, truth
from elanus.expr.source import Scope, Source
from elanus.expr.tree import Compare, Leaf, MatchElements, Not, OperandKind, RowLeaf, Tree, cost
from elanus.model.columns import Mask

_LEAVES: Final = METRICS.counter(
    "elanus_filter_leaves_total", "Predicates of filters evaluated over a segment, by what answered.", ("by",)
)
SCANNED: Final = _LEAVES.of("scan")
INDEXED: Final = _LEAVES.of("index")


@dataclass(frozen=True, slots=True)
class Lookup:
    """How an index would answer a leaf.

    `cost` is in numeric comparisons, as `tree.cost` counts. `row_estimate`: about so many rows are named. `mask` makes
    the mask of the rows on which the leaf is TRUE, of all the rows; where the answer is not `is_exact`, of rows
    on which it may be, and the leaf has to be evaluated there. `known` makes the mask of the rows on which it is not
    UNKNOWN; None: everywhere.
    """

    index_type: str
    cost: float
    row_estimate: int
    mask: Callable[[], Mask]
    known: Callable[[], Mask | None]
    is_exact: bool = True


@runtime_checkable
class IndexedSource(Protocol):
    """A source that never changes and has indexes on some of its fields."""

    def lookup(self, leaf: RowLeaf) -> Lookup | None:
        """The cheapest answer to a leaf that compares nothing with `!=`; None where no index has one. Touches nothing
        that changes, so that any thread may ask."""
        ...


class Asked(NamedTuple):
    """A leaf, or the opposite of one, as indexes are asked for it."""

    leaf: Leaf
    negated: bool


def asked(tree: Leaf | Not) -> Asked:
    """Without `!=`, which is the opposite of `==` wherever an index can answer."""
    leaf, negated = (tree.leaf, True) if isinstance(tree, Not) else (tree, False)
    if isinstance(leaf, Compare) and leaf.operator == "!=" and leaf.operand.kind is not OperandKind.ELEMENT:
        return Asked(Compare(leaf.operand, "==", leaf.value), not negated)
    return Asked(leaf, negated)


def lookup_of(tree: Tree, scope: Scope) -> Lookup | None:
    """How an index answers this leaf, where one does and a scan would cost more."""
    if not isinstance(tree, Leaf | Not) or not _has_indexes(scope.source):
        return None
    leaf = asked(tree).leaf
    if isinstance(leaf, MatchElements):
        return None
    found = scope.source.lookup(leaf)
    return found if found is not None and found.cost < cost(leaf) * scope.count else None


def _has_indexes(source: Source) -> TypeGuard[IndexedSource]:
    return _is_indexed(type(source))


@cache
def _is_indexed(kind: type) -> bool:
    """Asked once for each class: a check against a protocol looks at every name that it has."""
    return issubclass(kind, IndexedSource)


def looked_up(tree: Leaf | Not, lookup: Lookup, scope: Scope) -> Mask:
    """The rows of the scope on which the leaf, or its opposite, is TRUE."""
    leaf, negated = asked(tree)
    scope.note(lookup.index_type)
    INDEXED.inc()
    found = lookup.mask() if scope.rows is None else lookup.mask()[scope.rows]
    if not lookup.is_exact:
        found = _confirmed(leaf, found, scope)
    if not negated:
        return found
    known = lookup.known()
    if known is not None and scope.rows is not None:
        known = known[scope.rows]
    return ~found if known is None else known & ~found


def scanned(leaf: RowLeaf, scope: Scope) -> Truth:
    """The truth of a leaf by a pass over the column."""
    scope.note("scan")
    SCANNED.inc()
    return truth(leaf, scope)


def _confirmed(leaf: Leaf, candidates: Mask, scope: Scope) -> Mask:
    """Those of the candidates on which the leaf is TRUE."""
    assert not isinstance(leaf, MatchElements)
    places = np.flatnonzero(candidates)
    found = truth(leaf, scope.narrow(places))
    passed = found.value if found.known is None else found.value & found.known
    mask = scope.full(False)
    mask[places[passed]] = True
    return mask
