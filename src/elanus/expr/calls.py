"""Function calls of the filter language: by name to what they check and mean.

A name is all lower or all UPPER case. What takes another number of arguments than written is refused when it is bound;
a function that does not exist, as in Milvus, only when the filter would run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Final, NamedTuple, Protocol

from elanus.expr import predicates, syntax
from elanus.expr.errors import FilterError, UnknownFunctionError
from elanus.expr.geometry import SPATIAL, Meeting, Validity, nearness, shape_of
from elanus.expr.like import LikePattern, LikeShape
from elanus.expr.terms import Constant, LengthTerm, Names, Predicate, Term, label
from elanus.expr.tree import Compare, Like, MatchElements, Operand, OperandKind, Quantity, Spatial
from elanus.model.types import DataType

SAMPLE_MARGIN: Final = 1e-10
_NOT_SERVED: Final = frozenset(("text_match", "phrase_match", "text_match_fuzzy"))


class Binder(Protocol):
    """What binds the arguments."""

    @property
    def names(self) -> Names:
        """The schema's names."""
        ...

    def term(self, node: syntax.Node) -> Term:
        """The bound term of a node."""
        ...

    def source(self, node: syntax.Node) -> str:
        """The node's text."""
        ...

    def elements_of(self, struct: str) -> AbstractContextManager[None]:
        """Within it `$[part]` can be bound."""
        ...


class _Function(NamedTuple):
    """`option`: the name of the integer that must be given as `name=integer` behind the arguments."""

    argument_count: int
    bind: Callable[[Binder, syntax.Call], Term]
    option: str = ""


def call(binder: Binder, node: syntax.Call) -> Term:
    """The bound term of a call. Raises FilterError."""
    name = folded(node.name)
    if name in _NOT_SERVED:
        raise FilterError(f"{name} is not supported yet: {binder.source(node)}")
    function = _FUNCTIONS.get(name)
    count = len(node.arguments)
    if function is None:
        raise UnknownFunctionError(f"function {node.name} with {count} arguments is not supported")
    if count != function.argument_count or folded(node.option_name) != function.option:
        option = f" and {function.option}=<integer>" if function.option else ""
        raise FilterError(
            f"function {node.name} with {count} arguments is not supported, "
            f"it takes {function.argument_count}{option}: {binder.source(node)}"
        )
    return function.bind(binder, node)


def folded(word: str) -> str:
    """A keyword in lower case; mixed case stays what it is."""
    return word.lower() if word.isupper() else word


def _contains(mode: str) -> Callable[[Binder, syntax.Call], Term]:
    def bind(binder: Binder, node: syntax.Call) -> Term:
        target, values = binder.term(node.arguments[0]), binder.term(node.arguments[1])
        if not isinstance(values, Constant):
            source = binder.source(node.arguments[1])
            raise FilterError(f"contains operation element must be a constant, got: {source}")
        return Predicate(predicates.contains(target, values.value, mode, binder.source(node.arguments[0])))

    return bind


def _length(binder: Binder, node: syntax.Call) -> Term:
    argument = node.arguments[0]
    if isinstance(argument, syntax.Name) and not argument.path and binder.names.is_struct(argument.name):
        return LengthTerm(*binder.names.counted(argument.name))
    operand = binder.term(argument)
    if isinstance(operand, Operand) and (operand.kind is OperandKind.JSON or operand.is_array):
        return LengthTerm(operand)
    raise FilterError(f"array_length operation are only supported on json or array fields now, got: {label(operand)}")


def _sample(binder: Binder, node: syntax.Call) -> Term:
    argument = node.arguments[0]
    factor = argument.value if isinstance(argument, syntax.Literal) else None
    if not isinstance(factor, float) or not SAMPLE_MARGIN < factor < 1 - SAMPLE_MARGIN:
        raise FilterError(
            "the sample factor should be between 0 and 1 and not too close to 0 or 1"
            f"(the difference should be larger than 1e-10), but got {binder.source(argument)}"
        )
    return Predicate(None, factor)


def _empty(binder: Binder, node: syntax.Call) -> Term:
    return Predicate(Compare(_string_argument(binder, node), "==", ""))


def _starts_with(binder: Binder, node: syntax.Call) -> Term:
    operand = _string_argument(binder, node)
    prefix = binder.term(node.arguments[1])
    if not isinstance(prefix, Constant) or not isinstance(prefix.value, str):
        raise FilterError(f"function {node.name} needs a constant prefix: {binder.source(node)}")
    return Predicate(Like(operand, LikePattern(LikeShape.PREFIX, prefix.value)))


def _string_argument(binder: Binder, node: syntax.Call) -> Operand:
    operand = binder.term(node.arguments[0])
    if not isinstance(operand, Operand) or not operand.value_type.is_string:
        raise FilterError(f"function {node.name} needs a VarChar field, got: {binder.source(node.arguments[0])}")
    return operand


# --- elements of struct arrays --------------------------------------------------------------------------------------
def _elements(quantity: Quantity, least: int, *, is_limiter: bool = False) -> Callable[[Binder, syntax.Call], Term]:
    """A predicate over the elements of a struct array; `least` is the smallest threshold that makes sense."""

    def bind(binder: Binder, node: syntax.Call) -> Term:
        struct, threshold = node.arguments[0], least
        if not isinstance(struct, syntax.Name) or struct.path or not binder.names.is_struct(struct.name):
            raise FilterError(f"{node.name} needs a struct array field, got: {binder.source(struct)}")
        if node.option is not None:
            threshold = _threshold(binder, node, least)
        with binder.elements_of(struct.name):
            found = binder.term(node.arguments[1])
        if not isinstance(found, Predicate) or found.tree is None or found.sample is not None:
            source = binder.source(node.arguments[1])
            raise FilterError(f"{node.name} needs a boolean expression over $[...], got: {source}")
        operand, _ = binder.names.counted(struct.name)
        leaf = MatchElements(operand, found.tree, quantity, threshold)
        return Predicate(leaf, elements=leaf if is_limiter else None)

    return bind


def _threshold(binder: Binder, node: syntax.Call, least: int) -> int:
    term = None if node.option is None else binder.term(node.option)
    value = term.value if isinstance(term, Constant) and not term.is_template else None
    if not isinstance(value, int) or isinstance(value, bool):
        raise FilterError(f"threshold in {node.name.upper()} must be an integer: {binder.source(node)}")
    if value < least:
        kind = "positive" if least else "non-negative"
        raise FilterError(f"count in {node.name.upper()} must be {kind}, got: {value}")
    return value


# --- geometry -------------------------------------------------------------------------------------------------------
def _meeting(binder: Binder, node: syntax.Call) -> Term:
    relation = folded(node.name)
    operand = _geometry(binder, node.arguments[0], SPATIAL[relation])
    return Predicate(Spatial(operand, Meeting(relation, shape_of(_text_argument(binder, node.arguments[1])))))


def _near(binder: Binder, node: syntax.Call) -> Term:
    operand = _geometry(binder, node.arguments[0], "STDWithin")
    point, metres = _text_argument(binder, node.arguments[1]), binder.term(node.arguments[2])
    if not isinstance(metres, Constant):
        source = binder.source(node.arguments[2])
        raise FilterError(f"distance parameter must be a numeric value (int or float), got: {source}")
    return Predicate(Spatial(operand, nearness(point, metres.value)))


def _valid(binder: Binder, node: syntax.Call) -> Term:
    return Predicate(Spatial(_geometry(binder, node.arguments[0], "STIsValid"), Validity()))


def _geometry(binder: Binder, argument: syntax.Node, operation: str) -> Operand:
    operand = binder.term(argument)
    if not isinstance(operand, Operand) or operand.data_type is not DataType.GEOMETRY:
        raise FilterError(
            f"{operation} operation are only supported on geometry fields now, got: {binder.source(argument)}"
        )
    return operand


def _text_argument(binder: Binder, argument: syntax.Node) -> str:
    term = binder.term(argument)
    if not isinstance(term, Constant) or not isinstance(term.value, str):
        raise FilterError(f"a geometry must be given as WKT text, got: {binder.source(argument)}")
    return term.value


_FUNCTIONS: Final[Mapping[str, _Function]] = {
    **{
        f"{prefix}_contains{suffix}": _Function(2, _contains(suffix.removeprefix("_")))
        for prefix in ("json", "array")
        for suffix in ("", "_all", "_any")
    },
    **dict.fromkeys(SPATIAL, _Function(2, _meeting)),
    "st_dwithin": _Function(3, _near),
    "st_isvalid": _Function(1, _valid),
    "array_length": _Function(1, _length),
    "random_sample": _Function(1, _sample),
    "empty": _Function(1, _empty),
    "starts_with": _Function(2, _starts_with),
    "element_filter": _Function(2, _elements(Quantity.AT_LEAST, 1, is_limiter=True)),
    "match_any": _Function(2, _elements(Quantity.AT_LEAST, 1)),
    "match_all": _Function(2, _elements(Quantity.ALL, 0)),
    "match_least": _Function(2, _elements(Quantity.AT_LEAST, 1), "threshold"),
    "match_most": _Function(2, _elements(Quantity.AT_MOST, 0), "threshold"),
    "match_exact": _Function(2, _elements(Quantity.EXACTLY, 0), "threshold"),
}
