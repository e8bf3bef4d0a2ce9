"""What all mapped scalar indexes share: the file's own words, and the rows whose field is NULL."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Final

import numpy as np

from elanus.expr.indexed import Lookup
from elanus.index.scalars.file import VALID, MappedFile, ScalarTrailer
from elanus.model.columns import Mask

MASK_COST: Final = 1 / 4
"""Of a row of a mask that is made and read, in numeric comparisons."""


class MappedIndex:
    """A mapped file; see `contract.ScalarIndex`."""

    def __init__(self, data: memoryview) -> None:
        self.file = MappedFile(data)

    @property
    def trailer(self) -> ScalarTrailer:
        """What the file says of itself."""
        return self.file.trailer

    @property
    def index_type(self) -> str:
        """The concrete type's name."""
        return self.trailer.index_type

    @property
    def row_count(self) -> int:
        """Rows of the column."""
        return self.trailer.row_count

    @property
    def size_bytes(self) -> int:
        """Of the file."""
        return len(self.file.data)

    @cached_property
    def valid(self) -> Mask | None:
        """Rows whose field is not NULL; None where all."""
        return self.file.mask(VALID)

    def known(self) -> Mask | None:
        """Rows on which a predicate is not UNKNOWN."""
        return self.valid

    def null_rows(self) -> Mask:
        """Rows whose field is NULL."""
        return np.zeros(self.row_count, np.bool_) if self.valid is None else ~self.valid

    def flags(self, mask: Callable[[], Mask]) -> Lookup:
        """The answer of a mask that the file holds as bits, known of every row."""
        count = self.row_count
        return Lookup(self.index_type, MASK_COST * count, count, mask, lambda: None)
