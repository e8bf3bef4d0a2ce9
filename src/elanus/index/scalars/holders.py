"""Which rows hold each key: lists of rows, or one bit for every row where keys are few.

Both make the mask of any keys' rows. Where most rows hold one of them the mask is made of the others, which is only
possible where every row holds exactly one key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from elanus.base.pieces import repeated
from elanus.index.scalars.contract import Indexed, Places
from elanus.index.scalars.file import MappedFile
from elanus.index.scalars.keys import Distinct
from elanus.index.scalars.mapped import MASK_COST
from elanus.index.scalars.values import packed, unpacked
from elanus.model.columns import Mask, Rows

BITMAP_KEYS_MAX: Final = 64
"""More distinct values get lists of rows: bitmaps of so many take twice the room, and few rows are soon listed."""
SCATTER_COST: Final = 8.0
"""Of setting one row, in numeric comparisons (of half a nanosecond each)."""
_BITS_COST: Final = 1 / 64
"""Of a row of one bitmap."""


class Holders(Protocol):
    """The rows of each key."""

    def count(self, places: Places) -> int:
        """How many rows hold these keys; of lists, each row as often as it does."""
        ...

    def cost(self, places: Places) -> float:
        """Of `mask`, in numeric comparisons."""
        ...

    def mask(self, places: Places) -> Mask:
        """The rows that hold one of these keys."""
        ...


class Groups(NamedTuple):
    """`labels` ascending, each once; rows[starts[i]:starts[i + 1]] are those of labels[i], ascending, each once."""

    labels: npt.NDArray[Any]
    starts: Rows
    rows: Rows

    def narrowed(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Starts and rows in as few bytes as hold them."""
        few = len(self.rows) <= np.iinfo(np.uint32).max
        return self.starts.astype(np.uint32 if few else np.int64), self.rows.astype(np.uint32)


def joined(parts: Sequence[Groups]) -> Groups:
    """Groups of ascending labels, one after the other."""
    counts = np.concatenate([np.diff(part.starts) for part in parts])
    starts = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))
    return Groups(np.concatenate([one.labels for one in parts]), starts, np.concatenate([one.rows for one in parts]))


def grouped(labels: npt.NDArray[Any], owners: Rows) -> Groups:
    """Rows by their labels, integers of at least zero; `owners` ascend where labels are equal."""
    order = stable_order(labels)
    labels, rows = labels[order], owners[order]
    other = np.ones(len(rows), np.bool_)
    other[1:] = labels[1:] != labels[:-1]
    fresh = other.copy()
    fresh[1:] |= rows[1:] != rows[:-1]
    labels, rows, other = labels[fresh], rows[fresh], other[fresh]
    firsts = np.flatnonzero(other)
    return Groups(labels[firsts], np.append(firsts, len(rows)), rows)


def stable_order(labels: npt.NDArray[Any]) -> Rows:
    """What sorts integers of at least zero, equal ones in their given order: a radix sort, least significant digits
    first (Knuth, volume 3, 5.2.5). Digits have 16 bits, which NumPy itself sorts by radix, several times faster than
    what it does with wider numbers."""
    width = labels.dtype.itemsize // 2
    digits = np.ascontiguousarray(labels).view(np.uint16).reshape(len(labels), width)
    order: Rows = np.arange(len(labels))
    for place in range(width):
        digit = digits[:, place]
        if digit.any():
            order = order[np.argsort(digit[order], kind="stable")]
    return order


class Postings:
    """Lists of rows, one after the other in the order of the keys."""

    def __init__(self, starts: npt.NDArray[Any], rows: npt.NDArray[Any], row_count: int, is_partition: bool) -> None:
        """`is_partition`: every row holds exactly one key."""
        self._starts = starts
        self._rows = rows
        self._row_count = row_count
        self._is_partition = is_partition

    @staticmethod
    def arrays(indexed: Indexed, found: Distinct) -> dict[str, npt.NDArray[Any]]:
        """The sections of a file."""
        starts, rows = grouped(found.places, indexed.owners).narrowed()
        return {"starts": starts, "rows": rows}

    @classmethod
    def of(cls, file: MappedFile) -> Postings:
        """As they are in a file."""
        rows, count = file.array("rows"), file.trailer.row_count
        return cls(file.array("starts"), rows, count, not file.trailer.is_list and len(rows) == count)

    def count(self, places: Places) -> int:
        if isinstance(places, range):
            return int(self._starts[places.stop]) - int(self._starts[places.start])
        return int((self._starts[places + 1].astype(np.int64) - self._starts[places]).sum())

    def cost(self, places: Places) -> float:
        count = self.count(places)
        if self._turned(places, count):
            count = self._row_count - count
        return MASK_COST * self._row_count + SCATTER_COST * count

    def mask(self, places: Places) -> Mask:
        if isinstance(places, range) and self._turned(places, self.count(places)):
            mask = np.ones(self._row_count, np.bool_)
            mask[self._rows[: self._starts[places.start]]] = False
            mask[self._rows[self._starts[places.stop] :]] = False
            return mask
        mask = np.zeros(self._row_count, np.bool_)
        mask[self.rows(places)] = True
        return mask

    def rows(self, places: Places) -> npt.NDArray[Any]:
        """The rows that hold these keys, key after key."""
        if isinstance(places, range):
            return self._rows[self._starts[places.start] : self._starts[places.stop]]
        if len(places) == 1:
            return self._rows[self._starts[places[0]] : self._starts[places[0] + 1]]
        starts = self._starts[places].astype(np.int64)
        lengths = self._starts[places + 1] - starts
        ends = np.cumsum(lengths)
        places = np.arange(int(ends[-1]) if len(ends) else 0) + repeated(starts - ends + lengths, lengths)
        return np.asarray(self._rows[places])

    def _turned(self, places: Places, count: int) -> bool:
        return self._is_partition and isinstance(places, range) and 2 * count > self._row_count


class Bitmaps:
    """One bit for every row and key: bits is uint8 (keys, ceil(rows / 8)), counts (keys,)."""

    def __init__(self, bits: npt.NDArray[Any], counts: npt.NDArray[Any], row_count: int) -> None:
        self._bits = bits
        self._counts = counts
        self._row_count = row_count

    @staticmethod
    def arrays(indexed: Indexed, found: Distinct) -> dict[str, npt.NDArray[Any]]:
        """The sections of a file."""
        _, starts, rows = grouped(found.places, indexed.owners)
        bits = np.zeros((len(found.keys), -(-indexed.row_count // 8)), np.uint8)
        for place in range(len(found.keys)):  # few, by `BITMAP_KEYS_MAX`
            mask = np.zeros(indexed.row_count, np.bool_)
            mask[rows[starts[place] : starts[place + 1]]] = True
            bits[place] = packed(mask)
        return {"bits": bits, "counts": np.diff(starts).astype(np.uint32)}

    @classmethod
    def of(cls, file: MappedFile) -> Bitmaps:
        """As they are in a file."""
        return cls(file.array("bits"), file.array("counts"), file.trailer.row_count)

    def count(self, places: Places) -> int:
        return int(self._counts[_chosen(places)].sum(dtype=np.int64))

    def cost(self, places: Places) -> float:
        return self._row_count * (MASK_COST + _BITS_COST * len(places))

    def mask(self, places: Places) -> Mask:
        joined: npt.NDArray[np.uint8] = np.bitwise_or.reduce(self._bits[_chosen(places)], axis=0)
        return unpacked(joined, self._row_count)


def _chosen(places: Places) -> slice | Rows:
    return slice(places.start, places.stop) if isinstance(places, range) else places


def holder_arrays(indexed: Indexed, found: Distinct, bitmap_keys_max: int) -> Mapping[str, npt.NDArray[Any]]:
    """Bitmaps where there are few keys, else lists."""
    kind = Bitmaps if len(found.keys) <= bitmap_keys_max else Postings
    return kind.arrays(indexed, found)


def holders_of(file: MappedFile) -> Holders:
    """Whichever of them a file holds."""
    return Bitmaps.of(file) if file.has("bits") else Postings.of(file)
