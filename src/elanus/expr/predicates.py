"""Typing rules of comparisons, arithmetic, ranges, membership, LIKE and the contains family."""

from __future__ import annotations

from typing import Any

from elanus.expr.constants import (
    ARITHMETIC_NAMES,
    BITWISE,
    FLIPPED,
    bits_of,
    cast,
    fold_arithmetic,
    fold_comparison,
    is_number,
    shown,
)
from elanus.expr.errors import FilterError
from elanus.expr.like import compile_like, compile_regex
from elanus.expr.sets import BoolSet, NumberSet, StringSet, ValueSet
from elanus.expr.terms import (
    ArithmeticTerm,
    Constant,
    IntervalTerm,
    LengthTerm,
    Predicate,
    ShiftedTerm,
    Term,
    TimeTerm,
    label,
)
from elanus.expr.timestamps import Interval
from elanus.expr.tree import (
    Arithmetic,
    Between,
    ColumnCompare,
    Compare,
    Contains,
    InSet,
    LengthCompare,
    Like,
    Operand,
    OperandKind,
    ShiftedCompare,
    Tree,
)
from elanus.model.columns import NUMPY_DTYPES
from elanus.model.types import DataType

_EQUALITIES = ("==", "!=")


def compare(left: Term, symbol: str, right: Term, text: str) -> Term:
    """`left symbol right` as a predicate, or as a constant where both are."""
    if isinstance(left, Constant) and isinstance(right, Constant):
        _refuse_templates(left, right, symbol)
        return Constant(fold_comparison(left.value, symbol, right.value, text))
    names = (label(left), label(right))
    if isinstance(left, Constant | TimeTerm):
        left, symbol, right = right, FLIPPED[symbol], left
    match left, right:
        case _, TimeTerm(microseconds):
            return Predicate(_compare_time(left, symbol, microseconds))
        case Operand(), Constant(value):
            return Predicate(_compare_constant(left, symbol, value, names))
        case (ArithmeticTerm(is_reversed=True), _) | (_, ArithmeticTerm(is_reversed=True)):
            raise FilterError("module field is not yet supported")
        case ArithmeticTerm(operand, arithmetic, constant), Constant(value):
            target = cast_number(value, operand.value_type, names)
            return Predicate(Arithmetic(operand, arithmetic, constant, symbol, target))
        case LengthTerm(operand, width), Constant(value):
            if isinstance(value, bool) or not isinstance(value, int):
                raise FilterError(f"cannot cast value to Int64, value: {shown(value)}")
            return Predicate(LengthCompare(operand, symbol, value, width))
        case Operand(), Operand():
            return Predicate(_compare_columns(left, symbol, right, names))
        case (ShiftedTerm(), _) | (_, ShiftedTerm()):
            raise FilterError("a shifted timestamptz field can only be compared with an ISO literal")
        case (Predicate(), _) | (_, Predicate()):
            raise FilterError(f"comparisons between {names[0]} and {names[1]} are not supported")
    raise FilterError("not supported to do arithmetic operations between multiple fields")


def _refuse_templates(left: Constant, right: Constant, symbol: str) -> None:
    if left.is_template or right.is_template:
        raise FilterError(f"placeholder was not supported between two constants with operator: {symbol}")


def _compare_time(left: Term, symbol: str, microseconds: int) -> Tree:
    if isinstance(left, ShiftedTerm):
        return ShiftedCompare(left.operand, left.interval, symbol, microseconds)
    if not isinstance(left, Operand):
        raise FilterError("ISO literals can only be compared with a timestamptz field")
    if left.value_type is not DataType.TIMESTAMPTZ:
        raise FilterError(f"field '{left.name}' is not a timestamptz datatype")
    return Compare(left, symbol, microseconds)


def _compare_constant(operand: Operand, symbol: str, value: Any, names: tuple[str, str]) -> Tree:
    incomparable = FilterError(f"comparisons between {names[0]} and {names[1]} are not supported")
    if operand.is_array:
        if symbol not in _EQUALITIES:
            raise FilterError("can not comparisons array fields directly")
        if not isinstance(value, list) or not value:
            raise incomparable
        return Compare(operand, symbol, [cast(item, operand.element_type) for item in value])
    if isinstance(value, bool | list) and symbol not in _EQUALITIES:
        raise incomparable
    kind = operand.value_type
    if kind is DataType.JSON:
        return Compare(operand, symbol, value)
    if not _same_class(kind, value):
        raise incomparable
    return Compare(operand, symbol, cast(value, kind))


def _same_class(kind: DataType, value: object) -> bool:
    if kind.is_number:
        return is_number(value)
    if kind.is_string:
        return isinstance(value, str)
    return kind is DataType.BOOL and isinstance(value, bool)


def _compare_columns(left: Operand, symbol: str, right: Operand, names: tuple[str, str]) -> Tree:
    kinds = (left.value_type, right.value_type)
    if DataType.JSON in kinds:
        raise FilterError("two column comparison with JSON type is not supported")
    both_bool = kinds[0] is kinds[1] is DataType.BOOL and symbol in _EQUALITIES
    both_time = kinds[0] is kinds[1] is DataType.TIMESTAMPTZ
    both_strings = all(kind.is_string for kind in kinds)
    both_numbers = all(kind.is_number for kind in kinds)
    if not (both_bool or both_time or both_strings or both_numbers):
        if symbol not in _EQUALITIES and (left.is_array or right.is_array):
            raise FilterError("can not comparisons array fields directly")
        raise FilterError(f"comparisons between {names[0]} and {names[1]} are not supported")
    return ColumnCompare(left, symbol, right)


def cast_number(value: object, kind: DataType, names: tuple[str, str]) -> Any:
    """A numeric constant narrowed to a numeric or JSON operand's type."""
    if not is_number(value):
        raise FilterError(f"comparisons between {names[0]} and {names[1]} are not supported")
    return cast(value, kind)


def arithmetic(left: Term, symbol: str, right: Term, text: str) -> Term:
    """`left symbol right` for `+ - * / % ** & | ^`."""
    if isinstance(left, Constant) and isinstance(right, Constant):
        _refuse_templates(left, right, symbol)
        return Constant(fold_arithmetic(left.value, symbol, right.value))
    if symbol == "**":
        raise FilterError(f"power can only apply on constants: {text}")
    if isinstance(right, IntervalTerm):
        return _shift(left, symbol, right.interval)
    if symbol in BITWISE:
        return _bitwise(left, symbol, right)
    name = ARITHMETIC_NAMES[symbol]
    for term in (left, right):
        if isinstance(term, ArithmeticTerm):
            raise FilterError("complicated arithmetic operations are not supported")
        if isinstance(term, LengthTerm):
            raise FilterError("arithmetic on array_length is not supported")
    if isinstance(left, Operand) and isinstance(right, Operand):
        raise FilterError("not supported to do arithmetic operations between multiple fields")
    if isinstance(left, Constant) and isinstance(right, Operand):
        _check_arithmetic(right, left.value, name)
        if symbol not in "+*":
            return ArithmeticTerm(right, symbol, left.value, is_reversed=True)
        left, right = right, left
    if not isinstance(left, Operand) or not isinstance(right, Constant):
        raise FilterError(f"'{name}' can only be used between integer or floating or json field expressions")
    return _arithmetic_term(left, symbol, right.value)


def _bitwise(left: Term, symbol: str, right: Term) -> Term:
    if isinstance(left, Constant):
        left, right = right, left
    if not isinstance(left, Operand) or not isinstance(right, Constant) or not left.value_type.is_integer:
        raise FilterError("bitwise operations can only apply on integer types")
    return ArithmeticTerm(left, symbol, bits_of(right.value))


def _shift(left: Term, symbol: str, interval: Interval) -> Term:
    if not isinstance(left, Operand) or symbol not in "+-":
        raise FilterError("INTERVAL can only be added to or subtracted from a timestamptz field")
    if left.value_type is not DataType.TIMESTAMPTZ:
        raise FilterError(f"field '{left.name}' is not a timestamptz datatype")
    return ShiftedTerm(left, interval if symbol == "+" else interval.negated())


def _check_arithmetic(operand: Operand, value: object, name: str) -> None:
    kind = operand.value_type
    if not (kind.is_number or kind is DataType.JSON) or not is_number(value):
        raise FilterError(f"'{name}' can only be used between integer or floating or json field expressions")


def _arithmetic_term(operand: Operand, symbol: str, value: Any) -> Term:
    kind, name = operand.value_type, ARITHMETIC_NAMES[symbol]
    _check_arithmetic(operand, value, name)
    if symbol == "%" and (kind.is_floating or isinstance(value, float)):
        raise FilterError("modulo can only apply on integer types")
    if kind.is_integer and isinstance(value, float):
        raise FilterError(f"'{name}' cannot perform arithmetic between {kind.label} field and Double constant")
    if symbol in "/%" and value == 0:
        raise FilterError("division or modulus by zero")
    return ArithmeticTerm(operand, symbol, cast(value, kind))


def between(operand: Operand, lower: Term, upper: Term, lower_inclusive: bool, upper_inclusive: bool) -> Term:
    """`lower < operand < upper`."""
    if not isinstance(lower, Constant):
        raise FilterError("lowerbound cannot be a non-const expression")
    if not isinstance(upper, Constant):
        raise FilterError("upperbound cannot be a non-const expression")
    if operand.is_array:
        raise FilterError("can not comparisons array fields directly")
    low, high = lower.value, upper.value
    kind = operand.value_type
    if isinstance(low, bool) or isinstance(high, bool) or kind is DataType.BOOL:
        raise FilterError("invalid range operations on boolean expr")
    numbers = is_number(low) and is_number(high)
    strings = isinstance(low, str) and isinstance(high, str)
    fits = numbers if kind.is_number else strings if kind.is_string else kind is DataType.JSON and (numbers or strings)
    if not fits or (kind.is_integer and (isinstance(low, float) or isinstance(high, float))):
        raise FilterError("invalid range operations")
    keys = (low.encode(), high.encode()) if strings else (low, high)
    if keys[0] > keys[1] or (keys[0] == keys[1] and not (lower_inclusive and upper_inclusive)):
        raise FilterError("invalid range: lowerbound is greater than upperbound")
    return Predicate(Between(operand, cast(low, kind), lower_inclusive, cast(high, kind), upper_inclusive))


def membership(operand: Operand, values: list[Any]) -> Tree:
    """`operand in values`."""
    kind = operand.value_type
    if operand.is_array and values:
        raise FilterError(f"value '{shown(values[0])}' in list cannot be casted to {kind.label}")
    if kind is DataType.JSON:
        return InSet(operand, _json_set(values))
    if not operand.is_array and not (kind.is_number or kind.is_string or kind is DataType.BOOL):
        raise FilterError(f"'term' can not be used on {kind.label} field")
    if not _all_fit(values, kind):
        wrong = next(value for value in values if not _fits(value, kind))
        raise FilterError(f"value '{shown(wrong)}' in list cannot be casted to {kind.label}")
    if kind.is_string:
        return InSet(operand, StringSet.of(values))
    if kind is DataType.BOOL:
        return InSet(operand, BoolSet(False in values, True in values))
    return InSet(operand, NumberSet.of(values, NUMPY_DTYPES[kind] if kind.is_floating else "<i8"))


def _all_fit(values: list[Any], kind: DataType) -> bool:
    kinds = set(map(type, values))
    if kind.is_number:
        return kinds <= ({int} if kind.is_integer else {int, float})
    return kinds <= ({str} if kind.is_string else {bool})


def _fits(value: object, kind: DataType) -> bool:
    return _all_fit([value], kind)


def _json_set(values: list[Any]) -> ValueSet:
    """JSON lists take the class of their first value; a mix of integers and floats becomes all floats."""
    nested = next((value for value in values if isinstance(value, list)), None)
    if nested is not None:
        raise FilterError(f"value '{shown(nested)}' in list cannot be casted to JSON")
    if not values or is_number(values[0]):
        numbers = [value for value in values if is_number(value)]
        return NumberSet.of(numbers, "<f8" if any(isinstance(value, float) for value in numbers) else "<i8")
    if isinstance(values[0], str):
        return StringSet.of(value for value in values if isinstance(value, str))
    truths = [value for value in values if isinstance(value, bool)]
    return BoolSet(False in truths, True in truths)


def like(target: Term, pattern: object) -> Tree:
    """`target like pattern`."""
    if not isinstance(target, Operand):
        raise FilterError("like operation on complicated expr is unsupported")
    kind = target.value_type
    if target.is_array or not (kind.is_string or kind is DataType.JSON):
        raise FilterError("like operation on non-string or no-json field is unsupported")
    if not isinstance(pattern, str):
        raise FilterError(f"like pattern should be a string literal or template variable, got: {shown(pattern)}")
    return Like(target, compile_like(pattern))


def regex(target: Term, pattern: str) -> Tree:
    """`target =~ pattern`."""
    kind = target.value_type if isinstance(target, Operand) else DataType.NONE
    if not isinstance(target, Operand) or target.is_array or not (kind.is_string or kind is DataType.JSON):
        raise FilterError("regex match on non-string or non-json field is unsupported")
    return Like(target, compile_regex(pattern))


def contains(target: Term, values: object, mode: str, text: str) -> Tree:
    """`json_contains` / `array_contains`; `mode` is "", "all" or "any"."""
    searchable = isinstance(target, Operand) and (target.kind is OperandKind.JSON or target.is_array)
    if not isinstance(target, Operand) or not searchable:
        raise FilterError(f"contains operation are only supported on json or array fields now, got: {text}")
    if mode and not isinstance(values, list):
        raise FilterError(f"Contains{mode.capitalize()} operation element must be an array")
    wanted = list(values) if mode and isinstance(values, list) else [values]
    if target.is_array:
        wanted = [_element(value, target.element_type) for value in wanted]
    return Contains(target, tuple(wanted), mode == "all")


def _element(value: object, kind: DataType) -> Any:
    if not _fits(value, kind):
        name = label(Constant(value))
        raise FilterError(f"Contains operation can't compare between array element type: {kind.label} and {name}")
    return cast(value, kind)
