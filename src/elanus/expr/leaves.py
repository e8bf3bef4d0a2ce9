"""Truth of one leaf on every row of a scope: what is TRUE, and what is known at all.

`value` is True only where the leaf is TRUE; `known` (None: everywhere) is False where a NULL makes it UNKNOWN. A
missing JSON path, a JSON value of another type and an array index past the end are FALSE, never UNKNOWN; for `!=` a
missing path or another type is TRUE.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from elanus.expr import shred
from elanus.expr.arrays import ListView, compare_values, sorted_span
from elanus.expr.constants import BITWISE, COMPARISONS, is_number
from elanus.expr.geometry import Shapes
from elanus.expr.sets import BoolSet, NumberSet, StringSet
from elanus.expr.source import Scope, ShredSource
from elanus.expr.timestamps import shifted
from elanus.expr.tree import (
    Arithmetic,
    Between,
    ColumnCompare,
    Compare,
    Contains,
    Exists,
    InSet,
    IsNull,
    LengthCompare,
    Like,
    Operand,
    OperandKind,
    RowLeaf,
    ShiftedCompare,
    Spatial,
)
from elanus.model.columns import Mask, Values

_WHOLE_SHARE: Final = 8
"""All shapes of a source are decoded once at least one in so many is wanted."""


class Truth(NamedTuple):
    """Kleene truth per row; `value` is meaningful where `known`."""

    value: Mask
    known: Mask | None


class _Loaded(NamedTuple):
    """A FIELD or ELEMENT operand: values, validity of the row, and (elements only) whether the index exists."""

    values: Values
    known: Mask | None
    present: Mask | None


def truth(leaf: RowLeaf, scope: Scope) -> Truth:
    """Evaluate one leaf; both masks have shape (scope.count,)."""
    match leaf:
        case Compare():
            return _compare(leaf, scope)
        case InSet():
            return _in_set(leaf, scope)
        case Between():
            return _between(leaf, scope)
        case Like():
            return _like(leaf, scope)
        case Contains():
            return _contains(leaf, scope)
        case Arithmetic():
            return _arithmetic(leaf, scope)
        case LengthCompare():
            return _length(leaf, scope)
        case ColumnCompare():
            return _columns(leaf, scope)
        case ShiftedCompare():
            return _shifted(leaf, scope)
        case Spatial(operand, test):
            return Truth(test.matches(_shapes(operand, scope)), _valid(operand, scope))
        case IsNull(operand):
            valid = _valid(operand, scope)
            return Truth(scope.full(False) if valid is None else ~valid, None)
    return _exists(leaf, scope)


def _load(operand: Operand, scope: Scope) -> _Loaded:
    column = scope.column(operand.field_id)
    if operand.kind is OperandKind.FIELD:
        return _Loaded(column.values, column.valid, None)
    values, present = ListView.of(column.values).element(operand.index)
    return _Loaded(values, column.valid, present)


def _present(mask: Mask, loaded: _Loaded) -> Truth:
    return Truth(mask if loaded.present is None else mask & loaded.present, loaded.known)


def _json(operand: Operand, scope: Scope, constant: Any) -> tuple[shred.Shred, Mask | None]:
    """The values as they are compared with this constant or set; None: as they stand."""
    texts = isinstance(constant, str | StringSet)
    numbers = operand.numeric_texts and (is_number(constant) or isinstance(constant, NumberSet))
    values = shred.scalars(scope, operand.field_id, operand.path, texts=texts, numeric_texts=numbers)
    return values, _valid(operand, scope)


def _valid(operand: Operand, scope: Scope) -> Mask | None:
    valid = scope.source.column(operand.field_id).valid
    return valid if valid is None or scope.rows is None else valid[scope.rows]


def _compare(leaf: Compare, scope: Scope) -> Truth:
    operand = leaf.operand
    if operand.kind is OperandKind.JSON:
        if isinstance(leaf.value, list):
            return _compare_json_list(leaf, scope)
        values, known = _json(operand, scope, leaf.value)
        if leaf.operator == "!=":
            return Truth(~_json_compare(values, "==", leaf.value), known)
        return Truth(_json_compare(values, leaf.operator, leaf.value), known)
    if operand.is_array:
        column = scope.column(operand.field_id)
        equal = ListView.of(column.values).equals(leaf.value)
        return Truth(equal if leaf.operator == "==" else ~equal, column.valid)
    if scope.is_sorted_by(operand.field_id) and leaf.operator != "!=":
        column = scope.column(operand.field_id)
        if isinstance(column.values, np.ndarray) and column.valid is None:
            return Truth(_sorted_compare(column.values, leaf.operator, leaf.value), None)
    loaded = _load(operand, scope)
    return _present(compare_values(loaded.values, leaf.operator, leaf.value), loaded)


def _sorted_compare(values: npt.NDArray[Any], symbol: str, value: Any) -> Mask:
    """A comparison on ascending values: two binary searches and a fill."""
    mask = np.zeros(len(values), np.bool_)
    start, stop = sorted_span(values, symbol, value)
    mask[start:stop] = True
    return mask


def _json_compare(values: shred.Shred, symbol: str, value: Any) -> Mask:
    compare = COMPARISONS[symbol]
    if isinstance(value, bool):
        return np.asarray((values.kinds == shred.BOOL) & compare(values.integers, int(value)))
    if isinstance(value, str):
        strings = values.kinds == shred.STRING
        return np.asarray(strings & compare_values(values.strings, symbol, value) if strings.any() else strings)
    if isinstance(value, float):
        return np.asarray(_is_numeric(values) & compare(values.numbers, value))
    # An integer is compared exactly with stored integers, as a double with stored doubles.
    exact = (values.kinds == shred.INTEGER) & compare(values.integers, value)
    return np.asarray(exact | ((values.kinds == shred.FLOAT) & compare(values.numbers, float(value))))


def _is_numeric(values: shred.Shred) -> Mask:
    return np.asarray((values.kinds == shred.INTEGER) | (values.kinds == shred.FLOAT))


def _compare_json_list(leaf: Compare, scope: Scope) -> Truth:
    """`path == [list]`: strict types and order. A missing path is neither equal nor unequal."""
    operand = leaf.operand
    view = shred.lists(scope, operand.field_id, operand.path)
    equal = view.is_list & (np.diff(view.offsets) == len(leaf.value))
    rows = np.flatnonzero(equal)
    for place, value in enumerate(leaf.value):
        rows = rows[_is_same(view.elements.take(view.offsets[rows] + place), value)]
    equal = np.zeros(scope.count, np.bool_)
    equal[rows] = True
    return Truth(equal if leaf.operator == "==" else ~equal & ~view.is_missing, _valid(operand, scope))


def _is_same(elements: shred.Shred, value: Any) -> Mask:
    """Elements of the very type and value of a literal."""
    if isinstance(value, list):
        if elements.lists is None:
            return np.zeros(len(elements), np.bool_)
        return np.asarray((elements.kinds == shred.LIST) & compare_values(elements.lists, "==", shred.canonical(value)))
    same = _json_compare(elements, "==", value)
    if not is_number(value):
        return same
    return np.asarray(same & (elements.kinds == (shred.FLOAT if isinstance(value, float) else shred.INTEGER)))


def _between(leaf: Between, scope: Scope) -> Truth:
    first = ">=" if leaf.lower_inclusive else ">"
    second = "<=" if leaf.upper_inclusive else "<"
    if leaf.operand.kind is OperandKind.JSON:
        values, known = _json(leaf.operand, scope, leaf.lower)
        return Truth(_json_compare(values, first, leaf.lower) & _json_compare(values, second, leaf.upper), known)
    if scope.is_sorted_by(leaf.operand.field_id):
        lower = _compare(Compare(leaf.operand, first, leaf.lower), scope)
        upper = _compare(Compare(leaf.operand, second, leaf.upper), scope)
        return Truth(lower.value & upper.value, lower.known)
    loaded = _load(leaf.operand, scope)
    mask = compare_values(loaded.values, first, leaf.lower)
    mask &= compare_values(loaded.values, second, leaf.upper)
    return _present(mask, loaded)


def _in_set(leaf: InSet, scope: Scope) -> Truth:
    operand, wanted = leaf.operand, leaf.values
    if operand.kind is OperandKind.JSON:
        values, known = _json(operand, scope, wanted)
        return Truth(_json_in_set(values, wanted), known)
    if operand.is_array:
        return Truth(scope.full(False), scope.column(operand.field_id).valid)
    loaded = _load(operand, scope)
    return _present(_probe(wanted, loaded.values), loaded)


def _probe(wanted: NumberSet | StringSet | BoolSet, values: Values) -> Mask:
    return wanted.contains(values)


def _json_in_set(values: shred.Shred, wanted: NumberSet | StringSet | BoolSet) -> Mask:
    if isinstance(wanted, StringSet):
        return np.asarray((values.kinds == shred.STRING) & wanted.contains(values.strings))
    if isinstance(wanted, BoolSet):
        return np.asarray((values.kinds == shred.BOOL) & wanted.contains(values.integers == 1))
    if wanted.values.dtype.kind == "f":
        return _is_numeric(values) & wanted.contains(values.numbers)
    exact: Mask = (values.kinds == shred.INTEGER) & wanted.contains(values.integers)
    real = values.kinds == shred.FLOAT
    if not real.any():
        return exact
    return np.asarray(exact | (real & np.isin(values.numbers, wanted.values.astype(np.float64))))


def _like(leaf: Like, scope: Scope) -> Truth:
    if leaf.operand.kind is OperandKind.JSON:
        values, known = _json(leaf.operand, scope, leaf.pattern.text)
        return Truth((values.kinds == shred.STRING) & leaf.pattern.matches(values.strings), known)
    loaded = _load(leaf.operand, scope)
    return _present(leaf.pattern.matches(loaded.values), loaded)


def _shapes(operand: Operand, scope: Scope) -> Shapes:
    """The field's shapes in this scope; those of an unchanging source are decoded once, unless few are wanted."""
    source = scope.source
    key = ("shapes", operand.field_id)
    shapes = source.shreds.get(key, Shapes) if isinstance(source, ShredSource) else None
    if shapes is None:
        if not isinstance(source, ShredSource) or _WHOLE_SHARE * scope.count < source.row_count:
            return Shapes.of(scope.column(operand.field_id).values)
        shapes = Shapes.of(source.column(operand.field_id).values)
        source.shreds.put(key, shapes)
    return shapes if scope.rows is None else shapes.take(scope.rows)


def _exists(leaf: Exists, scope: Scope) -> Truth:
    values, known = _json(leaf.operand, scope, None)
    return Truth(values.solid if known is None else values.solid & known, None)


def _contains(leaf: Contains, scope: Scope) -> Truth:
    operand = leaf.operand
    if not leaf.values:
        # Decided without looking at the row, NULL or not.
        return Truth(scope.full(leaf.every), None)
    if operand.kind is OperandKind.JSON:
        view = shred.lists(scope, operand.field_id, operand.path)
        hits = [_holds(view.elements, value) for value in leaf.values]
        rows = ListView(view.offsets, view.elements.kinds)
        known = _valid(operand, scope)
    else:
        column = scope.column(operand.field_id)
        rows = ListView.of(column.values)
        hits = [compare_values(rows.flat, "==", value) for value in leaf.values]
        known = column.valid
    if leaf.every:
        return Truth(np.logical_and.reduce([rows.any(hit) for hit in hits]), known)
    return Truth(rows.any(np.logical_or.reduce(hits)), known)


def _holds(elements: shred.Shred, value: Any) -> Mask:
    return _is_same(elements, value) if isinstance(value, list) else _json_compare(elements, "==", value)


def _length(leaf: LengthCompare, scope: Scope) -> Truth:
    operand = leaf.operand
    if leaf.width:
        column = scope.column(operand.field_id)
        counts = np.asarray(pc.binary_length(column.values)) // leaf.width
        return Truth(compare_values(counts, leaf.operator, leaf.value), column.valid)
    if operand.kind is OperandKind.JSON:
        lengths = np.diff(shred.lists(scope, operand.field_id, operand.path).offsets)
        known = _valid(operand, scope)
    else:
        column = scope.column(operand.field_id)
        lengths, known = ListView.of(column.values).lengths, column.valid
    return Truth(compare_values(lengths, leaf.operator, leaf.value), known)


def _columns(leaf: ColumnCompare, scope: Scope) -> Truth:
    left, right = _load(leaf.left, scope), _load(leaf.right, scope)
    masks = [mask for mask in (left.known, right.known) if mask is not None]
    value = compare_values(left.values, leaf.operator, right.values)
    for present in (left.present, right.present):
        if present is not None:
            value = value & present
    return Truth(value, np.logical_and.reduce(masks) if masks else None)


def _shifted(leaf: ShiftedCompare, scope: Scope) -> Truth:
    """Milvus ignores NULLs here: such a row counts as the epoch, and the answer as known."""
    column = scope.column(leaf.operand.field_id)
    values = column.values if column.valid is None else np.where(column.valid, column.values, 0)
    return Truth(compare_values(shifted(values, leaf.interval), leaf.operator, leaf.value), None)


def _arithmetic(leaf: Arithmetic, scope: Scope) -> Truth:
    if leaf.operand.kind is OperandKind.JSON:
        return _arithmetic_json(leaf, scope)
    loaded = _load(leaf.operand, scope)
    values = loaded.values
    if leaf.operand.value_type.is_integer:
        values = values.astype(np.int64, copy=False)
    result = _apply(values, leaf.arithmetic, leaf.constant)
    return _present(compare_values(result, leaf.operator, leaf.value), loaded)


def _arithmetic_json(leaf: Arithmetic, scope: Scope) -> Truth:
    """Stored integers stay integers only if both constants are; everything else is double."""
    values, known = _json(leaf.operand, scope, leaf.constant)
    symbol = "==" if leaf.operator == "!=" else leaf.operator
    whole = isinstance(leaf.constant, int) and isinstance(leaf.value, int)
    numbers = values.numbers
    if leaf.arithmetic == "%":
        numbers = _truncated(numbers).astype(np.float64)
    result = _apply(numbers, leaf.arithmetic, float(leaf.constant))
    mask = _is_numeric(values) & compare_values(result, symbol, float(leaf.value))
    if whole:
        exact = compare_values(_apply(values.integers, leaf.arithmetic, leaf.constant), symbol, leaf.value)
        mask = np.where(values.kinds == shred.INTEGER, exact, mask)
    return Truth(~mask if leaf.operator == "!=" else mask, known)


def _truncated(numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    return np.trunc(np.clip(numbers, -(2.0**63), 2.0**63 - 1024)).astype(np.int64)


def _apply(values: npt.NDArray[Any], symbol: str, constant: Any) -> npt.NDArray[Any]:
    """`values symbol constant` with C's integer division and remainder, and silent wrap-around."""
    with np.errstate(all="ignore"):
        match symbol:
            case "+":
                return np.asarray(np.add(values, constant))
            case "-":
                return np.asarray(np.subtract(values, constant))
            case "*":
                return np.asarray(np.multiply(values, constant))
            case "&" | "|" | "^":
                return np.asarray(BITWISE[symbol](values, constant))
            case "%":
                return np.asarray(np.fmod(values, constant))
        if values.dtype.kind != "i":
            return np.asarray(np.divide(values, constant))
        if constant == -1:
            return np.asarray(np.negative(values))
        quotient = values // constant
        inexact = (values % constant != 0) & ((values < 0) != (constant < 0))
        return np.asarray(quotient + inexact)
