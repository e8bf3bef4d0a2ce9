"""Bound filters: typed, constants folded, negations pushed down to the leaves.

A bound tree is in negation normal form: `And` and `Or` above, leaves or `Not(leaf)` below. Kleene logic obeys
De Morgan's laws, so the push is exact; and because nothing above a leaf negates, the rows on which a tree is TRUE
are the intersection or union of the rows on which its children are TRUE. Only leaves know of UNKNOWN.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Final, TypeAlias

import msgspec

from elanus.expr.geometry import SpatialTest
from elanus.expr.like import LikePattern
from elanus.expr.sets import ValueSet
from elanus.expr.syntax import PathStep
from elanus.expr.timestamps import Interval
from elanus.model.types import DataType

_ELEMENT_COST: Final = 10


class OperandKind(Enum):
    """What a name in a filter stands for."""

    FIELD = "field"
    ELEMENT = "array element"
    JSON = "json path"


class Operand(msgspec.Struct, frozen=True):
    """A named thing with one value per row: a field, one element of an ARRAY field, or a path in a JSON field.

    `numeric_texts`: strings at the path that spell a number are that number where numbers are compared.
    """

    kind: OperandKind
    field_id: int
    name: str
    data_type: DataType
    element_type: DataType = DataType.NONE
    path: tuple[PathStep, ...] = ()
    index: int = 0
    is_primary: bool = False
    numeric_texts: bool = False

    @property
    def value_type(self) -> DataType:
        """The type that is compared."""
        return self.element_type if self.kind is OperandKind.ELEMENT else self.data_type

    @property
    def is_array(self) -> bool:
        """Whether this is a whole ARRAY field."""
        return self.kind is OperandKind.FIELD and self.data_type is DataType.ARRAY


class Always(msgspec.Struct, frozen=True, eq=False):
    """TRUE or FALSE on every row."""

    value: bool


class Compare(msgspec.Struct, frozen=True, eq=False):
    """`operand operator value`; the value is narrowed to the operand's type (np.float32 for FLOAT, list for lists)."""

    operand: Operand
    operator: str
    value: Any


class Arithmetic(msgspec.Struct, frozen=True, eq=False):
    """`(operand arithmetic constant) operator value`."""

    operand: Operand
    arithmetic: str
    constant: Any
    operator: str
    value: Any


class LengthCompare(msgspec.Struct, frozen=True, eq=False):
    """`array_length(operand) operator value`; `operand` may be a list of vectors, whose elements have `width` bytes."""

    operand: Operand
    operator: str
    value: int
    width: int = 0


class Between(msgspec.Struct, frozen=True, eq=False):
    """`lower < operand < upper`, each side inclusive or not."""

    operand: Operand
    lower: Any
    lower_inclusive: bool
    upper: Any
    upper_inclusive: bool


class InSet(msgspec.Struct, frozen=True, eq=False):
    """`operand in values`."""

    operand: Operand
    values: ValueSet


class ColumnCompare(msgspec.Struct, frozen=True, eq=False):
    """`left operator right`, both columns."""

    left: Operand
    operator: str
    right: Operand


class ShiftedCompare(msgspec.Struct, frozen=True, eq=False):
    """`(timestamptz field + interval) operator value`, value in microseconds."""

    operand: Operand
    interval: Interval
    operator: str
    value: int


class Like(msgspec.Struct, frozen=True, eq=False):
    """`operand like pattern`."""

    operand: Operand
    pattern: LikePattern


class IsNull(msgspec.Struct, frozen=True, eq=False):
    """The whole field has no value."""

    operand: Operand


class Exists(msgspec.Struct, frozen=True, eq=False):
    """A JSON path leads to something that is not empty."""

    operand: Operand


class Contains(msgspec.Struct, frozen=True, eq=False):
    """An ARRAY or JSON array holds all (`every`) or at least one of `values`."""

    operand: Operand
    values: tuple[Any, ...]
    every: bool


class Spatial(msgspec.Struct, frozen=True, eq=False):
    """A GEOMETRY field passes a test."""

    operand: Operand
    test: SpatialTest


class Quantity(Enum):
    """How many elements of a struct array must pass, beside `MatchElements.threshold`."""

    ALL = "all"
    AT_LEAST = "at least"
    AT_MOST = "at most"
    EXACTLY = "exactly"


class MatchElements(msgspec.Struct, frozen=True, eq=False):
    """So many elements of a struct array pass `predicate`, whose operands are the parts of one element.

    `operand` is one of the parts, by which the elements are counted.
    """

    operand: Operand
    predicate: Tree
    quantity: Quantity
    threshold: int = 0


RowLeaf: TypeAlias = (
    Compare
    | Arithmetic
    | LengthCompare
    | Between
    | InSet
    | ColumnCompare
    | ShiftedCompare
    | Like
    | IsNull
    | Exists
    | Contains
    | Spatial
)
Leaf: TypeAlias = RowLeaf | MatchElements


class Not(msgspec.Struct, frozen=True, eq=False):
    """TRUE where the leaf is FALSE."""

    leaf: Leaf


class And(msgspec.Struct, frozen=True, eq=False):
    """Two or more children, cheapest first."""

    children: tuple[Tree, ...]


class Or(msgspec.Struct, frozen=True, eq=False):
    """Two or more children, cheapest first."""

    children: tuple[Tree, ...]


Tree: TypeAlias = Always | Leaf | Not | And | Or


class Filter(msgspec.Struct, frozen=True, eq=False):
    """A filter ready to run. `root` None matches every row.

    `sample` keeps that share of the rows on which `root` is TRUE. `elements` is the leaf of `root` that was written as
    `element_filter`: of the rows found, only the elements that pass it are meant. `cache_key` names the filter's result
    on immutable data; None where the result is not a function of the data.
    """

    text: str
    root: Tree | None
    field_ids: frozenset[int]
    cache_key: str | None
    sample: float | None = None
    elements: MatchElements | None = None


def operands(tree: Tree) -> tuple[Operand, ...]:
    """Every operand named in `tree`."""
    match tree:
        case And(children) | Or(children):
            return tuple(operand for child in children for operand in operands(child))
        case Not(leaf):
            return operands(leaf)
        case ColumnCompare(left, _, right):
            return (left, right)
        case MatchElements(operand, predicate):
            return (operand, *operands(predicate))
        case Always():
            return ()
    return (tree.operand,)


def cost(tree: Tree) -> int:
    """Rough price of one row, in numeric comparisons."""
    match tree:
        case And(children) | Or(children):
            return sum(cost(child) for child in children)
        case Not(leaf):
            return cost(leaf)
        case Always() | IsNull():
            return 1
        case ColumnCompare(left, _, right):
            return _operand_cost(left) + _operand_cost(right)
        case MatchElements(_, predicate):
            return _ELEMENT_COST * cost(predicate)
        case Like(operand) | Contains(operand):
            return 3 * _operand_cost(operand)
        case InSet(operand) | Arithmetic(operand) | ShiftedCompare(operand):
            return 2 * _operand_cost(operand)
    return _operand_cost(tree.operand)


def _operand_cost(operand: Operand) -> int:
    if operand.kind is OperandKind.JSON or operand.data_type is DataType.GEOMETRY:
        return 40
    if operand.data_type is DataType.ARRAY:
        return 6 if operand.value_type is not DataType.VARCHAR else 20
    return 8 if operand.data_type.is_string else 1


def negate(tree: Tree) -> Tree:
    """NOT `tree`, pushed down to the leaves."""
    match tree:
        case Always(value):
            return Always(not value)
        case And(children):
            return Or(tuple(negate(child) for child in children))
        case Or(children):
            return And(tuple(negate(child) for child in children))
        case Not(leaf):
            return leaf
    return Not(tree)


def conjunction(terms: list[Tree]) -> Tree:
    """AND of the terms: nested ones spliced in, constants gone, cheapest first."""
    children: list[Tree] = []
    for term in terms:
        if isinstance(term, And):
            children.extend(term.children)
        elif not isinstance(term, Always):
            children.append(term)
        elif not term.value:
            return term
    return _joined(children, And, Always(True))


def disjunction(terms: list[Tree]) -> Tree:
    """OR of the terms: nested ones spliced in, constants gone, cheapest first."""
    children: list[Tree] = []
    for term in terms:
        if isinstance(term, Or):
            children.extend(term.children)
        elif not isinstance(term, Always):
            children.append(term)
        elif term.value:
            return term
    return _joined(children, Or, Always(False))


def _joined(children: list[Tree], join: type[And] | type[Or], empty: Always) -> Tree:
    if not children:
        return empty
    if len(children) == 1:
        return children[0]
    return join(tuple(sorted(children, key=cost)))
