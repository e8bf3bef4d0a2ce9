"""Constants of the filter language: folding at parse time, narrowing to a column's type, and how messages show them.

Integers are 64 bits and wrap; `/` truncates toward zero and `%` takes the dividend's sign, as in Go and C.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from elanus.expr.errors import FilterError
from elanus.model.types import DataType

COMPARISONS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
FLIPPED: Final = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
ARITHMETIC_NAMES: Final = {"+": "add", "-": "subtract", "*": "multiply", "/": "divide", "%": "modulo"}
BITWISE: Final[dict[str, Callable[[Any, Any], Any]]] = {"&": operator.and_, "|": operator.or_, "^": operator.xor}
"""Integers only."""


def wrap(value: int) -> int:
    """`value` as a signed 64-bit integer."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def is_number(value: object) -> bool:
    """An int or float, not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def type_of(value: object) -> DataType:
    """The type a literal has in messages."""
    match value:
        case bool():
            return DataType.BOOL
        case int():
            return DataType.INT64
        case float():
            return DataType.DOUBLE
        case str():
            return DataType.VARCHAR
    return DataType.ARRAY


def shown(value: object) -> str:
    """A constant as Milvus's messages print it: `int64_val:5`."""
    match value:
        case bool():
            return f"bool_val:{str(value).lower()}"
        case int():
            return f"int64_val:{value}"
        case float():
            return f"float_val:{value:g}"
        case str():
            return f'string_val:"{value}"'
        case list():
            return f"array_val:{{{' '.join(f'array:{{{shown(item)}}}' for item in value[:8])}}}"
    return repr(value)


def cast(value: object, data_type: DataType) -> Any:
    """`value` narrowed to `data_type`, or FilterError; np.float32 for FLOAT, unchanged for JSON."""
    if data_type is DataType.JSON:
        return value
    if data_type is DataType.BOOL and isinstance(value, bool):
        return value
    if data_type.is_integer and isinstance(value, int) and not isinstance(value, bool):
        return value
    if data_type.is_floating and is_number(value):
        if data_type is DataType.DOUBLE:
            return float(value)  # type: ignore[arg-type]
        with np.errstate(over="ignore"):
            return np.float32(value)  # type: ignore[arg-type]
    if data_type.is_string and isinstance(value, str):
        return value
    raise FilterError(f"cannot cast value to {data_type.label}, value: {shown(value)}")


def fold_comparison(left: Any, symbol: str, right: Any, text: str) -> bool:
    """`left symbol right` between constants."""
    ordered = (is_number(left) and is_number(right)) or (isinstance(left, str) and isinstance(right, str))
    equality = symbol in ("==", "!=") and isinstance(left, bool) and isinstance(right, bool)
    if not ordered and not equality:
        raise FilterError(f"comparison operations cannot be applied to two incompatible operands: {text}")
    if isinstance(left, str):
        left, right = left.encode(), right.encode()
    return bool(COMPARISONS[symbol](left, right))


def fold_arithmetic(left: Any, symbol: str, right: Any) -> int | float:
    """`left symbol right` between constants."""
    if symbol in BITWISE:
        return int(BITWISE[symbol](bits_of(left), bits_of(right)))
    if not is_number(left) or not is_number(right):
        name = ARITHMETIC_NAMES.get(symbol, "power")
        raise FilterError(f"'{name}' can only be used between integer or floating or json field expressions")
    match symbol:
        case "**":
            return _power(left, right)
        case "/":
            return _divide(left, right)
        case "%":
            return _modulo(left, right)
    result: int | float = {"+": operator.add, "-": operator.sub, "*": operator.mul}[symbol](left, right)
    return wrap(result) if isinstance(result, int) else result


def bits_of(value: object) -> int:
    """An operand of a bitwise operation. Raises FilterError unless it is an integer."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise FilterError("bitwise operations can only apply on integer types")
    return value


def _divide(left: int | float, right: int | float) -> int | float:
    if right == 0:
        raise FilterError("cannot divide by zero")
    if isinstance(left, int) and isinstance(right, int):
        quotient = abs(left) // abs(right)
        return wrap(quotient if (left < 0) == (right < 0) else -quotient)
    return left / right


def _modulo(left: int | float, right: int | float) -> int:
    if not isinstance(left, int) or not isinstance(right, int):
        raise FilterError("modulo can only apply on integer types")
    if right == 0:
        raise FilterError("cannot modulo by zero")
    remainder = abs(left) % abs(right)
    return -remainder if left < 0 else remainder


def _power(left: int | float, right: int | float) -> int | float:
    try:
        result = math.pow(left, right)
    except OverflowError:
        return math.inf
    except ValueError:
        return math.inf if left == 0 else math.nan
    if isinstance(left, int) and isinstance(right, int) and right >= 0 and abs(result) < 2.0**64:
        exact: int = left**right
        return exact if wrap(exact) == exact else result
    return result
