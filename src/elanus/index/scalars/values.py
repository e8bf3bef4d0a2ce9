"""From a column to what of it is indexed: NULLs left out, JSON paths read, lists laid flat."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from elanus.base.pieces import repeated
from elanus.expr import shred
from elanus.expr.arrays import ListView, take_values
from elanus.index.scalars.contract import Indexed, Path
from elanus.model.columns import Column, Mask, Rows, Values
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType

JSON_TYPES: Final = {"BOOL": DataType.BOOL, "DOUBLE": DataType.DOUBLE, "VARCHAR": DataType.VARCHAR}
"""Casts of a JSON path index, by the name of one value's type; ARRAY_ before it for lists of them."""
LIST_PREFIX: Final = "ARRAY_"


class Cast(NamedTuple):
    """What a JSON path index holds; `numeric_texts`: strings that spell a number are among the numbers."""

    path: Path
    value_type: DataType
    is_list: bool
    numeric_texts: bool = False


def column_values(column: Column, field: FieldSchema) -> Indexed:
    """The values of a field, or the elements of an ARRAY field."""
    count = len(column)
    if field.data_type is DataType.ARRAY:
        view = ListView.of(column.values)
        owners = repeated(np.arange(count), view.lengths)
        kept = None if column.valid is None else column.valid[owners]
        return _kept(
            Indexed(count, field.element_type, _flat(view.flat), owners, is_list=True, valid=column.valid), kept
        )
    return _kept(
        Indexed(count, field.data_type, _flat(column.values), np.arange(count), valid=column.valid), column.valid
    )


def path_values(column: Column, cast: Cast) -> Indexed:
    """The values at a JSON path that are of the cast's type, no others."""
    if cast.is_list:
        return _list_values(column, cast)
    found = shred.shred_column(column, cast.path)
    if cast.numeric_texts:
        found = shred.with_numbers(found)
    solid = found.solid if column.valid is None else found.solid & column.valid
    kept = of_type(found, cast.value_type)
    if column.valid is not None:
        kept &= column.valid
    owners = np.arange(len(column))
    values = shredded(found, cast.value_type)
    indexed = Indexed(
        len(column), cast.value_type, values, owners, False, cast.path, cast.numeric_texts, column.valid, solid
    )
    return _kept(indexed, kept)


def _list_values(column: Column, cast: Cast) -> Indexed:
    found = shred.shred_lists(column, cast.path)
    owners = repeated(np.arange(len(column)), np.diff(found.offsets))
    kept = of_type(found.elements, cast.value_type)
    if column.valid is not None:
        kept &= column.valid[owners]
    values = shredded(found.elements, cast.value_type)
    indexed = Indexed(len(column), cast.value_type, values, owners, is_list=True, path=cast.path, valid=column.valid)
    return _kept(indexed, kept)


def of_type(found: shred.Shred, value_type: DataType) -> Mask:
    """Which of decoded values are of a cast's type."""
    match value_type:
        case DataType.BOOL:
            return np.asarray(found.kinds == shred.BOOL)
        case DataType.DOUBLE:
            return np.asarray((found.kinds == shred.INTEGER) | (found.kinds == shred.FLOAT))
    return np.asarray(found.kinds == shred.STRING)


def shredded(found: shred.Shred, value_type: DataType) -> Values:
    """Decoded values of that type; fillers where they are not."""
    match value_type:
        case DataType.BOOL:
            return found.integers.astype(np.uint8)
        case DataType.DOUBLE:
            return found.numbers
    return found.strings


def _flat(values: Values) -> Values:
    return values.view(np.uint8) if isinstance(values, np.ndarray) and values.dtype == np.bool_ else values


def _kept(indexed: Indexed, kept: Mask | None) -> Indexed:
    """Without the values that are not kept, and without NaN, to which nothing compares equal, less or greater."""
    values: Values = indexed.values
    if isinstance(values, np.ndarray) and values.dtype.kind == "f":
        numbers = ~np.isnan(values)
        kept = numbers if kept is None else kept & numbers
    if kept is None or kept.all():
        return indexed
    places: Rows = np.flatnonzero(kept)
    return replace(indexed, values=take_values(values, places), owners=indexed.owners[places])


def packed(mask: Mask) -> npt.NDArray[Any]:
    """One bit a row, least significant first."""
    return np.packbits(mask, bitorder="little")


def unpacked(bits: npt.NDArray[np.uint8], count: int) -> Mask:
    """The inverse of `packed`."""
    return np.unpackbits(bits, count=count, bitorder="little").view(np.bool_)
