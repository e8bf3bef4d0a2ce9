"""Parse tree and schema to a bound tree: names become fields, constants are folded, templates filled in, types checked.

Milvus's texts are kept where its clients match on them, typing errors of its own included.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import tzinfo
from typing import Any, Final, NamedTuple

from elanus.expr import predicates, syntax
from elanus.expr.calls import call
from elanus.expr.constants import COMPARISONS, is_number, wrap
from elanus.expr.errors import FilterError
from elanus.expr.sets import NumberSet, StringSet
from elanus.expr.terms import (
    Constant,
    IntervalTerm,
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
    Not,
    Operand,
    OperandKind,
    Tree,
    conjunction,
    disjunction,
    negate,
)
from elanus.model.columns import NUMPY_DTYPES
from elanus.model.index import CastPath
from elanus.model.schema import CollectionSchema
from elanus.model.types import DataType

DEPTH_MAX: Final = 180

_SHIFTS: Final = ("<<", ">>")
_BLANKS: Final = re.compile(r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|\s+""")


class Context(NamedTuple):
    """What a text is bound against; `zone` is that of ISO literals without an offset, `casts` are the paths whose
    strings are compared as the numbers that they spell."""

    schema: CollectionSchema
    templates: Mapping[str, object]
    zone: tzinfo
    casts: tuple[CastPath, ...] = ()


def bind(node: syntax.Node, text: str, context: Context) -> Term:
    """The bound term of a whole filter. Raises FilterError with the bare reason."""
    return _Binder(text, context).term(node)


class _Binder:
    __slots__ = ("_depth", "_struct", "_templates", "_text", "_zone", "names")

    def __init__(self, text: str, context: Context) -> None:
        self._text = text
        self.names = Names(context.schema, context.casts)
        self._templates = context.templates
        self._zone = context.zone
        self._depth = 0
        self._struct = ""

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
                return self._name(node)
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
            case syntax.RegexNode():
                return self._regex(node)
            case syntax.Part():
                return self._part(node)
            case syntax.StructPart():
                self._refuse_names(node)
                return self.names.struct_part(node, self._text)
            case syntax.Call():
                return call(self, node)
        raise FilterError(f"invalid expression: {self.source(node)}")

    def source(self, node: syntax.Node) -> str:
        """The node's text as ANTLR gives it back: without blanks, except in strings."""
        return _BLANKS.sub(r"\1", self._text[node.start : node.end])

    def _list_item(self, node: syntax.Node) -> object:
        if isinstance(node, syntax.Template):
            raise FilterError("expression elements can only be scalars")
        term = self.term(node)
        if not isinstance(term, Constant):
            raise FilterError(f"array element type must be generic value, but got: {self.source(node)}")
        return term.value

    def _unary(self, node: syntax.Unary) -> Term:
        term = self.term(node.operand)
        if node.operator == "not":
            return self._not(term)
        if node.operator == "~":
            raise FilterError(f"BNOT is not supported: {self.source(node)}")
        if not isinstance(term, Constant) or term.is_template or not is_number(term.value):
            raise FilterError(f"unary operator {node.operator} can only be applied on numbers: {self.source(node)}")
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
        if term.elements is not None:
            raise FilterError("element filter expression cannot be used in unary expression")
        return Predicate(negate(term.tree))

    def _logical(self, node: syntax.Logical) -> Term:
        terms = [self.term(term) for term in node.terms]
        if all(isinstance(term, Constant) and isinstance(term.value, bool) for term in terms):
            values = [term.value for term in terms if isinstance(term, Constant)]
            return Constant(all(values) if node.operator == "and" else any(values))
        parts = [self._operand_of_logic(term, node.operator) for term in terms]
        for part in parts[:-1] if node.operator == "and" else parts:
            _refuse_limiters(part, node.operator)
        trees = [part.tree for part in parts if part.tree is not None]
        if node.operator == "and":
            return Predicate(conjunction(trees), parts[-1].sample, parts[-1].elements)
        return Predicate(disjunction(_merge_equalities(trees)))

    def _operand_of_logic(self, term: Term, operator: str) -> Predicate:
        match term:
            case Predicate():
                return term
            case Constant(bool() as value, _, False):
                return Predicate(Always(value))
        raise FilterError(f"'{operator}' can only be used between boolean expressions")

    def _binary(self, node: syntax.Binary) -> Term:
        if node.operator in _SHIFTS:
            raise FilterError(f"shift is not supported: {self.source(node)}")
        left, right = self.term(node.left), self.term(node.right)
        if node.operator in COMPARISONS:
            return predicates.compare(left, node.operator, right, self.source(node))
        return predicates.arithmetic(left, node.operator, right, self.source(node))

    def _between(self, node: syntax.Between) -> Term:
        operand = self._part(node.target) if isinstance(node.target, syntax.Part) else self._name(node.target)
        lower, upper = self.term(node.lower), self.term(node.upper)
        return predicates.between(operand, lower, upper, node.lower_inclusive, node.upper_inclusive)

    def _membership(self, node: syntax.Membership) -> Term:
        target = self.term(node.target)
        if isinstance(target, Constant):
            raise FilterError(f"'term' can only be used on non-const expression, but got: {self.source(node.target)}")
        if not isinstance(target, Operand):
            raise FilterError(f"'term' can only be used on single field, but got: {self.source(node.target)}")
        values = self.term(node.values)
        if isinstance(node.values, syntax.Template) and isinstance(values, Constant):
            if not isinstance(values.value, list):
                raise FilterError(f"the value of term expression template variable {{{node.values.name}}} is not array")
        elif not isinstance(values, Constant):
            shown = self.source(node.values)
            shown = f"({shown})" if self._text[: node.values.start].rstrip().endswith("(") else shown
            raise FilterError(f"value '{shown}' in list cannot be a non-const expression")
        elif not isinstance(values.value, list):
            raise FilterError(f"the right-hand side of 'in' must be a list, but got: {self.source(node.values)}")
        tree = predicates.membership(target, values.value)
        return Predicate(negate(tree) if node.negated else tree)

    def _like(self, node: syntax.LikeNode) -> Term:
        target, pattern = self.term(node.target), self.term(node.pattern)
        if not isinstance(pattern, Constant) or not isinstance(pattern.value, str):
            source = self.source(node.pattern)
            raise FilterError(f"like pattern should be a string literal or template variable, got: {source}")
        return Predicate(predicates.like(target, pattern.value))

    def _regex(self, node: syntax.RegexNode) -> Term:
        target, pattern = self.term(node.target), self.term(node.pattern)
        if not isinstance(pattern, Constant) or not isinstance(pattern.value, str):
            source = self.source(node.pattern)
            raise FilterError(f"regex pattern should be a string literal or template variable, got: {source}")
        tree = predicates.regex(target, pattern.value)
        return Predicate(negate(tree) if node.negated else tree)

    def _name(self, node: syntax.Name) -> Operand:
        self._refuse_names(node)
        return self.names.resolve(node, self._text)

    def _part(self, node: syntax.Part) -> Operand:
        if not self._struct:
            raise FilterError(f"$[{node.name}] syntax can only be used inside ElementFilter or MATCH_*")
        return self.names.element(self._struct, node.name)

    def _refuse_names(self, node: syntax.Node) -> None:
        if self._struct:
            raise FilterError(f"only $[...] of struct {self._struct} can be used here, got: {self.source(node)}")

    def _exists(self, node: syntax.ExistsNode) -> Term:
        operand = self.term(node.target)
        if not isinstance(operand, Operand) or operand.kind is not OperandKind.JSON:
            raise FilterError(f"exists operations are only supportted on json field, got:{label(operand)}")
        return Predicate(Exists(operand))

    def _null_test(self, node: syntax.NullTest) -> Term:
        operand = self._name(node.target)
        source = self.source(node.target)
        if operand.data_type.is_vector:
            raise FilterError("IsNull/IsNotNull operations are not supported on vector fields")
        if operand.kind is OperandKind.ELEMENT:
            raise FilterError(f"IsNull/IsNotNull operations are not supported on array element access, got: {source}")
        if operand.path:
            present = Exists(operand)
            return Predicate(present if node.negated else Not(present))
        absent = IsNull(operand)
        return Predicate(Not(absent) if node.negated else absent)

    @contextmanager
    def elements_of(self, struct: str) -> Iterator[None]:
        """Within it `$[part]` stands for a part of that struct array's elements, and nothing else has a name."""
        if self._struct:
            raise FilterError("nested ElementFilter is not supported, and so are MATCH_* in one another")
        self._struct = struct
        yield
        self._struct = ""


def _refuse_limiters(part: Predicate, operator: str) -> None:
    """What narrows the outcome of all the rest has to be and-ed to it, last."""
    for is_there, name in ((part.sample is not None, "random sample"), (part.elements is not None, "element filter")):
        if is_there and operator == "or":
            raise FilterError(f"{name} expression cannot be used in logical and expression")
        if is_there:
            raise FilterError(f"{name} expression can only be the last expression in the logical and expression")


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
