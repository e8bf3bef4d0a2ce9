"""The contract between scalar index types and those who use them.

Rows are offsets in the column. Flat values are NumPy arrays (BOOL as uint8) or large_string; places are those of
distinct values in their order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

from elanus.expr.indexed import Lookup
from elanus.expr.tree import RowLeaf
from elanus.model.columns import Mask, Rows, Values
from elanus.model.types import DataType

Places: TypeAlias = range | Rows
"""Distinct values by their places: consecutive ones, or any, ascending."""
Path: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Indexed:
    """What of a column is indexed: value i is of row `owners[i]`, ascending.

    `value_type` is the type of one value; `is_list`: a row may own many. `path` is where in a JSON document they stand,
    None of other fields; `numeric_texts`: strings that spell numbers are among them as these. `valid`: the rows whose
    field is not NULL (None: all). `solid`: the rows where EXISTS holds, of JSON paths.
    """

    row_count: int
    value_type: DataType
    values: Values
    owners: Rows
    is_list: bool = False
    path: Path | None = None
    numeric_texts: bool = False
    valid: Mask | None = None
    solid: Mask | None = None


class ScalarIndex(Protocol):
    """A built index, mapped. Immutable; any number of threads may ask it at once."""

    @property
    def index_type(self) -> str:
        """The concrete type's name."""
        ...

    @property
    def row_count(self) -> int:
        """Rows of the column it was built over."""
        ...

    @property
    def size_bytes(self) -> int:
        """Bytes of the file it is mapped from."""
        ...

    def lookup(self, leaf: RowLeaf) -> Lookup | None:
        """Its answer to a leaf over its field, without `!=`; None where it has none."""
        ...
