"""The index of distinct values: keys in order, and the rows that hold each; see `answers`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from elanus.expr.indexed import Lookup
from elanus.expr.tree import Between, Compare, Contains, Exists, InSet, IsNull, Like, Operand, OperandKind, RowLeaf
from elanus.index.scalars.answers import KeyAnswers
from elanus.index.scalars.contract import Indexed
from elanus.index.scalars.file import SOLID, trailer_of, value_arrays, written
from elanus.index.scalars.holders import BITMAP_KEYS_MAX, holder_arrays, holders_of
from elanus.index.scalars.keys import Distinct, distinct
from elanus.index.scalars.mapped import MappedIndex
from elanus.model.columns import Mask

KEYS: Final = "keys"


def keyed_file(index_type: str, indexed: Indexed, *, has_bitmaps: bool = False) -> Sequence[memoryview]:
    """The file of an index of these values."""
    found = distinct(indexed.values)
    arrays = keyed_arrays(indexed, found, BITMAP_KEYS_MAX if has_bitmaps else -1)
    return written(arrays, trailer_of(index_type, indexed), indexed)


def keyed_arrays(indexed: Indexed, found: Distinct, bitmap_keys_max: int = -1) -> dict[str, npt.NDArray[Any]]:
    """The sections: keys, and their rows."""
    return {**value_arrays(KEYS, found.keys), **holder_arrays(indexed, found, bitmap_keys_max)}


class KeyedIndex(MappedIndex):
    """A mapped file of `keyed_file`; implements `contract.ScalarIndex`."""

    def __init__(self, data: memoryview) -> None:
        super().__init__(data)
        self._keys = self.file.values(KEYS)
        self._holders = holders_of(self.file)

    def answers(self) -> KeyAnswers:
        """What answers. Made for each leaf: what it knows the index by would hold the two, and the file, together."""
        of_json = self.trailer.path is not None
        return KeyAnswers(
            self.index_type, self.row_count, self.file.value_type, of_json, self._keys, self._holders, self.known
        )

    def lookup(self, leaf: RowLeaf) -> Lookup | None:
        """See `contract.ScalarIndex`."""
        match leaf:
            case IsNull():
                return self.flags(self.null_rows)
            case Exists(operand):
                return self.flags(self._solid_rows) if self._is_about(operand) and self.file.has(SOLID) else None
            case Compare(operand) | Between(operand) | InSet(operand) | Like(operand) if not self.trailer.is_list:
                return self.answers().of_values(leaf) if self._compares(operand) else None
            case Contains(operand, values) if self.trailer.is_list and values and self._is_about(operand):
                return self.answers().of_lists(leaf)
        return None

    def _is_about(self, operand: Operand) -> bool:
        if self.trailer.path is None:
            return operand.kind is OperandKind.FIELD
        return operand.kind is OperandKind.JSON and operand.path == self.trailer.path

    def _compares(self, operand: Operand) -> bool:
        """Whether the keys are the operand's values as they are compared."""
        return self._is_about(operand) and operand.numeric_texts == self.trailer.numeric_texts

    def _solid_rows(self) -> Mask:
        solid = self.file.mask(SOLID)
        return np.zeros(self.row_count, np.bool_) if solid is None else solid
