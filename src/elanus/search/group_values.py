"""What a grouped search groups by: values of a field, or of a JSON path as values of one type."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from elanus.expr import shred
from elanus.expr.source import Scope
from elanus.model.columns import NUMPY_DTYPES, Column, Rows
from elanus.model.errors import RequestError
from elanus.model.reads import Grouping
from elanus.model.types import DataType
from elanus.segment.reader import Reader


def group_values(reader: Reader, grouping: Grouping, rows: Rows) -> Column:
    """The value of each of these rows; null where there is none of the wanted type."""
    if not grouping.path:
        return reader.column(grouping.field_id).take(rows)
    found = shred.scalars(Scope(reader, rows), grouping.field_id, grouping.path, texts=True)
    kinds = found.kinds
    if grouping.data_type is DataType.NONE:
        return _texts(found)
    if grouping.data_type.is_string:
        column = Column(found.strings, kinds == shred.STRING)
    else:
        wanted = shred.BOOL if grouping.data_type is DataType.BOOL else shred.INTEGER
        column = _numbers(found.integers, kinds == wanted, grouping.data_type)
    if grouping.is_strict_cast and column.valid is not None and not column.valid.all():
        raise RequestError(f"failed to cast json value to {grouping.data_type.label}, wrong json data inner type")
    return column


def _numbers(integers: npt.NDArray[np.int64], valid: npt.NDArray[np.bool_], data_type: DataType) -> Column:
    values = np.where(valid, integers, 0).astype(NUMPY_DTYPES[data_type])
    return Column(values, valid)


def _texts(found: shred.Shred) -> Column:
    """Any scalar as text: strings as they are, numbers and truth values as JSON writes them."""
    kinds = found.kinds
    truths = pa.array(["false", "true"], pa.large_string())
    texts = pc.if_else(pa.array(kinds == shred.STRING), found.strings, pa.scalar("", pa.large_string()))
    texts = pc.if_else(pa.array(kinds == shred.BOOL), truths.take(pa.array(found.integers & 1)), texts)
    texts = pc.if_else(pa.array(kinds == shred.INTEGER), pa.array(found.integers).cast(pa.large_string()), texts)
    texts = pc.if_else(pa.array(kinds == shred.FLOAT), pa.array(found.numbers).cast(pa.large_string()), texts)
    if found.lists is not None:
        return Column(texts, (kinds != shred.MISSING) & (kinds != shred.OBJECT) & (kinds != shred.LIST))
    return Column(texts, (kinds != shred.MISSING) & (kinds < shred.LIST))
