"""Parse tree and schema to a bound tree: names become fields, constants are folded, templates filled in, types checked.

Milvus's texts are kept where its clients match on them, typing errors of its own included.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import tzinfo
from typing import Any, Final, NamedTuple

from elanus.expr import predicates, syntax
from elanus.expr.constants import COMPARISONS, is_number, wrap
from elanus.expr.errors import FilterError, UnknownFunctionError
from elanus.expr.geometry import SPATIAL, Meeting, Validity, nearness, shape_of
from elanus.expr.like import LikePattern, LikeShape
from elanus.expr.sets import NumberSet, StringSet
from elanus.expr.terms import (
    Constant,
    IntervalTerm,
    LengthTerm,
    Names,
    Predicate,
    Term,
    TimeTerm,
    label,
    template_value,
)
from elanus.expr.timestamps import iso_microseconds, parse_interval
from elanus.expr.tree import (
    Always,
    Compare,
    Exists,
    InSet,
    IsNull,
    Like,
    Not,
    Operand,
    OperandKind,
    Spatial,
    Tree,
    conjunction,
    disjunction,
    negate,
)
from elanus.model.columns import NUMPY_DTYPES
from elanus.model.schema import CollectionSchema
from elanus.model.types import DataType

DEPTH_MAX: Final = 180
SAMPLE_MARGIN: Final = 1e-10

_BLANKS: Final = re.compile(r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|\s+""")
_CONTAINS: Final = {
    f"{prefix}_contains{suffix}": suffix.removeprefix("_")
    for prefix in ("json", "array")
    for suffix in ("", "_all", "_any")
}
_NOT_SERVED: Final = frozenset(
    (
        "text_match", "phrase_match", "text_match_fuzzy", "element_filter", "match_any", "match_all", "match_least",
        "match_most", "match_exact",
    )
)  # fmt: skip
_FUNCTIONS: Final = frozenset(
    (*_CONTAINS, *SPATIAL, "array_length", "random_sample", "empty", "starts_with", "st_dwithin", "st_isvalid")
)
_UNSUPPORTED_OPERATORS: Final = {
    "&": "BitAnd", "|": "BitOr", "^": "BitXor", "<<": "shift", ">>": "shift",
}  # fmt: skip


class Context(NamedTuple):
    """What a text is bound against; `zone` is that of ISO literals without an offset."""

    schema: CollectionSchema
    templates: Mapping[str, object]
    zone: tzinfo


def bind(node: syntax.Node, text: str, context: Context) -> Term:
    """The bound term of a whole filter. Raises FilterError with the bare reason."""
    return _Binder(text, context).term(node)


class _Binder:
    __slots__ = ("_depth", "_names", "_templates", "_text", "_zone")

    def __init__(self, text: str, context: Context) -> None:
        self._text = text
        self._names = Names(context.schema)
        self._templates = context.templates
        self._zone = context.zone
        self._depth = 0

    def term(self, node: syntax.Node) -> Term:
        """The bound term of one node."""
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise FilterError(f"expression nests deeper than {DEPTH_MAX} levels")
        result = self._term(node)
        self._depth -= 1
        return result

    def _term(self, node: syntax.Node) -> Term:
        match node:
            case syntax.Literal():
                return Constant(node.value, is_bare_bool=isinstance(node.value, bool))
            case syntax.ListLiteral():
                return Constant(node.values)
            case syntax.ListNode():
                return Constant([self._list_item(item) for item in node.items])
            case syntax.Template():
                return Constant(template_value(node.name, self._templates), is_template=True)
            case syntax.TimeLiteral():
                return TimeTerm(iso_microseconds(node.text, self._zone))
            case syntax.IntervalLiteral():
                return IntervalTerm(parse_interval(node.text))
            case syntax.Name():
                return self._names.resolve(node, self._text)
            case syntax.Unary():
                return self._unary(node)
            case syntax.Logical():
                return self._logical(node)
            case syntax.Binary():
                return self._binary(node)
            case syntax.Between():
                return self._between(node)
            case syntax.Membership():
                return self._membership(node)
            case syntax.LikeNode():
                return self._like(node)
            case syntax.ExistsNode():
                return self._exists(node)
            case syntax.NullTest():
                return self._null_test(node)
            case syntax.Call():
                return self._call(node)
        raise FilterError(f"invalid expression: {self._source(node)}")

    def _source(self, node: syntax.Node) -> str:
        """The node's text as ANTLR gives it back: without blanks, except in strings."""
        return _BLANKS.sub(r"\1", self._text[node.start : node.end])

    def _list_item(self, node: syntax.Node) -> object:
        if isinstance(node, syntax.Template):
            raise FilterError("expression elements can only be scalars")
        term = self.term(node)
        if not isinstance(term, Constant):
            raise FilterError(f"array element type must be generic value, but got: {self._source(node)}")
        return term.value

    def _unary(self, node: syntax.Unary) -> Term:
        term = self.term(node.operand)
        if node.operator == "not":
            return self._not(term)
        if node.operator == "~":
            raise FilterError(f"BNOT is not supported: {self._source(node)}")
        if not isinstance(term, Constant) or term.is_template or not is_number(term.value):
            raise FilterError(f"unary operator {node.operator} can only be applied on numbers: {self._source(node)}")
        if node.operator == "+":
            return term
        value = -term.value
        return Constant(wrap(value) if isinstance(value, int) else value)

    def _not(self, term: Term) -> Term:
        if isinstance(term, Constant) and isinstance(term.value, bool):
            return Constant(not term.value)
        if isinstance(term, Constant):
            raise FilterError("not can only apply on boolean")
        if not isinstance(term, Predicate):
            raise FilterError("not op can only be applied on boolean expression")
        if term.sample is not None or term.tree is None:
            raise FilterError("random sample expression cannot be used in unary expression")
        return Predicate(negate(term.tree))

    def _logical(self, node: syntax.Logical) -> Term:
        terms = [self.term(term) for term in node.terms]
        if all(isinstance(term, Constant) and isinstance(term.value, bool) for term in terms):
            values = [term.value for term in terms if isinstance(term, Constant)]
            return Constant(all(values) if node.operator == "and" else any(values))
        last = len(terms) - 1
        trees: list[Tree] = []
        sample: float | None = None
        for place, term in enumerate(terms):
            tree, part = self._operand_of_logic(term, node.operator)
            if part is not None:
                if node.operator == "or":
                    raise FilterError("random sample expression cannot be used in logical and expression")
                if place != last:
                    raise FilterError(
                        "random sample expression can only be the last expression in the logical and expression"
                    )
                sample = part
            if tree is not None:
                trees.append(tree)
        if node.operator == "and":
            return Predicate(conjunction(trees), sample)
        return Predicate(disjunction(_merge_equalities(trees)))

    def _operand_of_logic(self, term: Term, operator: str) -> tuple[Tree | None, float | None]:
        match term:
            case Predicate(tree, sample):
                return tree, sample
            case Constant(bool() as value, _, False):
                return Always(value), None
        raise FilterError(f"'{operator}' can only be used between boolean expressions")

    def _binary(self, node: syntax.Binary) -> Term:
        refused = _UNSUPPORTED_OPERATORS.get(node.operator)
        if refused is not None:
            raise FilterError(f"{refused} is not supported: {self._source(node)}")
        left, right = self.term(node.left), self.term(node.right)
        if node.operator in COMPARISONS:
            return predicates.compare(left, node.operator, right, self._source(node))
        return predicates.arithmetic(left, node.operator, right, self._source(node))

    def _between(self, node: syntax.Between) -> Term:
        operand = self._names.resolve(node.target, self._text)
        lower, upper = self.term(node.lower), self.term(node.upper)
        return predicates.between(operand, lower, upper, node.lower_inclusive, node.upper_inclusive)

    def _membership(self, node: syntax.Membership) -> Term:
        target = self.term(node.target)
        if isinstance(target, Constant):
            raise FilterError(f"'term' can only be used on non-const expression, but got: {self._source(node.target)}")
        if not isinstance(target, Operand):
            raise FilterError(f"'term' can only be used on single field, but got: {self._source(node.target)}")
        values = self.term(node.values)
        if isinstance(node.values, syntax.Template) and isinstance(values, Constant):
            if not isinstance(values.value, list):
                raise FilterError(f"the value of term expression template variable {{{node.values.name}}} is not array")
        elif not isinstance(values, Constant) or not isinstance(values.value, list):
            raise FilterError(f"the right-hand side of 'in' must be a list, but got: {self._source(node.values)}")
        tree = predicates.membership(target, values.value)
        return Predicate(negate(tree) if node.negated else tree)

    def _like(self, node: syntax.LikeNode) -> Term:
        target, pattern = self.term(node.target), self.term(node.pattern)
        if not isinstance(pattern, Constant) or not isinstance(pattern.value, str):
            source = self._source(node.pattern)
            raise FilterError(f"like pattern should be a string literal or template variable, got: {source}")
        return Predicate(predicates.like(target, pattern.value))

    def _exists(self, node: syntax.ExistsNode) -> Term:
        operand = self.term(node.target)
        if not isinstance(operand, Operand) or operand.kind is not OperandKind.JSON:
            raise FilterError(f"exists operations are only supportted on json field, got:{label(operand)}")
        return Predicate(Exists(operand))

    def _null_test(self, node: syntax.NullTest) -> Term:
        operand = self._names.resolve(node.target, self._text)
        source = self._source(node.target)
        if operand.data_type.is_vector:
            raise FilterError("IsNull/IsNotNull operations are not supported on vector fields")
        if operand.kind is OperandKind.ELEMENT:
            raise FilterError(f"IsNull/IsNotNull operations are not supported on array element access, got: {source}")
        if operand.path:
            present = Exists(operand)
            return Predicate(present if node.negated else Not(present))
        absent = IsNull(operand)
        return Predicate(Not(absent) if node.negated else absent)

    def _call(self, node: syntax.Call) -> Term:
        name = node.name.lower() if node.name.isupper() else node.name
        if name in _NOT_SERVED:
            raise FilterError(f"{name} is not supported yet: {self._source(node)}")
        arguments = node.arguments
        if node.option is None:
            if name in _CONTAINS and len(arguments) == 2:
                return self._contains(node, _CONTAINS[name])
            if name == "array_length" and len(arguments) == 1:
                return self._length(arguments[0])
            if name == "random_sample" and len(arguments) == 1:
                return self._sample(arguments[0])
            if name == "empty" and len(arguments) == 1:
                return Predicate(Compare(self._string_argument(arguments[0], node), "==", ""))
            if name == "starts_with" and len(arguments) == 2:
                return self._starts_with(node)
            if name in SPATIAL and len(arguments) == 2:
                shape = self._text_argument(arguments[1])
                return Predicate(Spatial(self._geometry(arguments[0], SPATIAL[name]), Meeting(name, shape_of(shape))))
            if name == "st_dwithin" and len(arguments) == 3:
                return self._near(arguments)
            if name == "st_isvalid" and len(arguments) == 1:
                return Predicate(Spatial(self._geometry(arguments[0], "STIsValid"), Validity()))
        fault = FilterError if name in _FUNCTIONS else UnknownFunctionError
        raise fault(f"function {node.name} with {len(arguments)} arguments is not supported")

    def _contains(self, node: syntax.Call, mode: str) -> Term:
        target, values = self.term(node.arguments[0]), self.term(node.arguments[1])
        if not isinstance(values, Constant):
            source = self._source(node.arguments[1])
            raise FilterError(f"contains operation element must be a constant, got: {source}")
        return Predicate(predicates.contains(target, values.value, mode, self._source(node.arguments[0])))

    def _length(self, argument: syntax.Node) -> Term:
        operand = self.term(argument)
        if isinstance(operand, Operand) and (operand.kind is OperandKind.JSON or operand.is_array):
            return LengthTerm(operand)
        raise FilterError(
            f"array_length operation are only supported on json or array fields now, got: {label(operand)}"
        )

    def _sample(self, argument: syntax.Node) -> Term:
        factor = argument.value if isinstance(argument, syntax.Literal) else None
        if not isinstance(factor, float) or not SAMPLE_MARGIN < factor < 1 - SAMPLE_MARGIN:
            raise FilterError(
                "the sample factor should be between 0 and 1 and not too close to 0 or 1"
                f"(the difference should be larger than 1e-10), but got {self._source(argument)}"
            )
        return Predicate(None, factor)

    def _string_argument(self, argument: syntax.Node, call: syntax.Call) -> Operand:
        operand = self.term(argument)
        if not isinstance(operand, Operand) or not operand.value_type.is_string:
            raise FilterError(f"function {call.name} needs a VarChar field, got: {self._source(argument)}")
        return operand

    def _starts_with(self, node: syntax.Call) -> Term:
        operand = self._string_argument(node.arguments[0], node)
        prefix = self.term(node.arguments[1])
        if not isinstance(prefix, Constant) or not isinstance(prefix.value, str):
            raise FilterError(f"function {node.name} needs a constant prefix: {self._source(node)}")
        return Predicate(Like(operand, LikePattern(LikeShape.PREFIX, prefix.value)))

    def _near(self, arguments: tuple[syntax.Node, ...]) -> Term:
        operand = self._geometry(arguments[0], "STDWithin")
        point, metres = self._text_argument(arguments[1]), self.term(arguments[2])
        if not isinstance(metres, Constant):
            source = self._source(arguments[2])
            raise FilterError(f"distance parameter must be a numeric value (int or float), got: {source}")
        return Predicate(Spatial(operand, nearness(point, metres.value)))

    def _geometry(self, argument: syntax.Node, operation: str) -> Operand:
        operand = self.term(argument)
        if not isinstance(operand, Operand) or operand.data_type is not DataType.GEOMETRY:
            raise FilterError(
                f"{operation} operation are only supported on geometry fields now, got: {self._source(argument)}"
            )
        return operand

    def _text_argument(self, argument: syntax.Node) -> str:
        term = self.term(argument)
        if not isinstance(term, Constant) or not isinstance(term.value, str):
            raise FilterError(f"a geometry must be given as WKT text, got: {self._source(argument)}")
        return term.value


def _merge_equalities(trees: list[Tree]) -> list[Tree]:
    """`f == 1 or f == 2 or …` as one set per field; paths and elements keep their own rules and are left alone."""
    groups: dict[Operand, list[Compare]] = {}
    for tree in trees:
        if isinstance(tree, Compare) and tree.operator == "==" and _is_mergeable(tree.operand):
            groups.setdefault(tree.operand, []).append(tree)
    merged = {operand: group for operand, group in groups.items() if len(group) > 1}
    if not merged:
        return trees
    gone = {id(tree) for group in merged.values() for tree in group}
    rest = [tree for tree in trees if id(tree) not in gone]
    return rest + [_equalities(operand, [tree.value for tree in group]) for operand, group in merged.items()]


def _is_mergeable(operand: Operand) -> bool:
    kind = operand.data_type
    return operand.kind is OperandKind.FIELD and (kind.is_number or kind is DataType.VARCHAR)


def _equalities(operand: Operand, values: list[Any]) -> Tree:
    kind = operand.data_type
    if kind.is_string:
        return InSet(operand, StringSet.of(str(value) for value in values))
    return InSet(operand, NumberSet.of(values, NUMPY_DTYPES[kind] if kind.is_floating else "<i8"))
