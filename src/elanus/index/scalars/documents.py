"""The index of whole JSON documents: the values at every path beneath one, by their types.

Documents are laid flat: the members of all objects at a path make one list of keys and one of values, which are told
apart by key, and so on down. A list is of its elements, as `json_contains` asks; what objects in lists hold is not
indexed, nor what stands at a place of a list. The values of all paths stand in one section for each type (see
`SECTIONS`), path after path, ascending within each, and a path knows its part of it. At a path that no document has
nothing compares equal, less or greater, so that the index answers there too, unless documents had more than
`PATHS_MAX` paths and it does not know all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from itertools import chain, compress, count
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from elanus.base.pieces import repeated
from elanus.expr import shred
from elanus.expr.arrays import take_values
from elanus.expr.indexed import Lookup
from elanus.expr.tree import Between, Compare, Contains, Exists, InSet, IsNull, Like, Operand, OperandKind, RowLeaf
from elanus.index.scalars.answers import KeyAnswers
from elanus.index.scalars.contract import Indexed, Path
from elanus.index.scalars.file import DocumentPath, ScalarTrailer, value_arrays, written
from elanus.index.scalars.holders import SCATTER_COST, Postings, grouped
from elanus.index.scalars.keys import distinct
from elanus.index.scalars.mapped import MASK_COST, MappedIndex
from elanus.index.scalars.values import of_type, shredded
from elanus.model.columns import Column, Mask, Rows, Values
from elanus.model.types import DataType

PATHS_MAX: Final = 1024
"""Paths that an index knows. Documents with more keep maps in them, whose keys few documents share."""


Spans: TypeAlias = tuple[tuple[int, int], ...]
"""See `file.DocumentPath`."""


class _Section(NamedTuple):
    """Values of one type: those that stand at a path, or in a list there."""

    name: str
    value_type: DataType
    is_list: bool


SECTIONS: Final = tuple(
    _Section(f"{label}{'s' if is_list else ''}", value_type, is_list)
    for is_list in (False, True)
    for label, value_type in (("bool", DataType.BOOL), ("double", DataType.DOUBLE), ("text", DataType.VARCHAR))
)
OTHERS: Final = "others"
"""The last span of a path, of the rows themselves: where something else stands that EXISTS holds of, as an object."""
_NO_ROWS: Final[Rows] = np.zeros(0, np.int64)
_EMPTY: Final[dict[DataType, Values]] = {
    DataType.BOOL: np.zeros(0, np.uint8),
    DataType.DOUBLE: np.zeros(0, np.float64),
    DataType.VARCHAR: pa.nulls(0, pa.large_string()),
}


class _Values(NamedTuple):
    """Some values of a section, value i of row owners[i], ascending."""

    values: Values
    owners: Rows


class _Laid:
    """What stands at one path: values by section, and the rows of whatever else EXISTS holds of."""

    def __init__(self) -> None:
        self.parts: list[list[_Values]] = [[] for _ in SECTIONS]
        self.others: list[Rows] = []

    def add(self, rows: Rows, found: shred.Shred, values: list[Any]) -> None:
        """The values at this path in some documents, as they are and as columns."""
        lists = found.kinds == shred.LIST
        self.others.append(rows[found.solid & ~self._add(rows, found, is_list=False)])
        if lists.any():
            owned = list(compress(values, lists.tobytes()))
            owners = repeated(rows[lists], np.fromiter(map(len, owned), np.int64, len(owned)))
            self._add(owners, shred.classified(list(chain.from_iterable(owned))), is_list=True)

    def _add(self, owners: Rows, found: shred.Shred, *, is_list: bool) -> Mask:
        """Which of them are values of a section; no NaN is, to which nothing compares equal, less or greater."""
        added = np.zeros(len(found), np.bool_)
        for parts, section in zip(self.parts, SECTIONS, strict=True):
            if section.is_list is is_list:
                fitting = of_type(found, section.value_type) & ~np.isnan(found.numbers)
                places = np.flatnonzero(fitting)
                if len(places):
                    values = take_values(shredded(found, section.value_type), places)
                    parts.append(_Values(values, owners[places]))
                    added |= fitting
        return added


class _Members(NamedTuple):
    """The values at a path: the rows that have one, ascending, and the values."""

    path: Path
    rows: Rows
    values: list[Any]


def _laid_flat(column: Column, prefix: Path) -> tuple[dict[Path, _Laid], bool]:
    """What stands at the paths beneath `prefix`, and whether these are all. Of each block of rows the paths that most
    documents have come first."""
    laid: defaultdict[Path, _Laid] = defaultdict(_Laid)
    knows_all = True
    for start in range(0, len(column), shred.BLOCK_ROWS):
        block = column.slice(start, min(start + shred.BLOCK_ROWS, len(column)))
        numbers = count()
        first = _Members(prefix, start + np.arange(len(block)), shred.decoded_values(block, prefix))
        pending = [(-len(block), next(numbers), first)]
        while pending:
            at = heappop(pending)[-1]
            if at.path not in laid and len(laid) >= PATHS_MAX:
                knows_all = False
                continue
            found = shred.classified(at.values)
            laid[at.path].add(at.rows, found, at.values)
            for beneath in _members(at, found.kinds == shred.OBJECT):
                heappush(pending, (-len(beneath.rows), next(numbers), beneath))
    return laid, knows_all


def _members(at: _Members, is_object: Mask) -> Iterator[_Members]:
    """What the objects there hold, by key."""
    objects: list[dict[str, Any]] = list(compress(at.values, is_object.tobytes()))
    if not objects:
        return
    owners = repeated(at.rows[is_object], np.fromiter(map(len, objects), np.int64, len(objects)))
    values = list(chain.from_iterable(map(dict.values, objects)))
    coded = pa.array(list(chain.from_iterable(objects)), pa.large_string()).dictionary_encode()
    codes = np.asarray(coded.indices).astype(np.int64)
    order = np.argsort(codes, kind="stable")
    stops = np.cumsum(np.bincount(codes, minlength=len(coded.dictionary)))
    starts = np.concatenate((np.zeros(1, np.int64), stops[:-1]))
    names = coded.dictionary.to_pylist()
    for code in range(len(names)):
        places = order[starts[code] : stops[code]]
        yield _Members((*at.path, names[code]), owners[places], [values[place] for place in places.tolist()])


def document_file(index_type: str, column: Column, prefix: Path) -> Sequence[memoryview]:
    """The file of an index of all that stands beneath a path of a JSON column."""
    laid, knows_all = _laid_flat(column, prefix)
    arrays: dict[str, npt.NDArray[Any]] = {}
    bounds = []
    for number, section in enumerate(SECTIONS):
        keyed = [_keyed(one.parts[number], section.value_type) for one in laid.values()]
        bounds.append(np.cumsum([0, *(len(one.keys) for one in keyed)]))
        arrays |= _section_arrays(section, keyed)
    rows = [np.concatenate(one.others) for one in laid.values()]
    bounds.append(np.cumsum([0, *map(len, rows)]))
    arrays[OTHERS] = np.concatenate([_NO_ROWS, *rows]).astype(np.uint32)
    known = tuple(
        DocumentPath(path, tuple((int(ends[at]), int(ends[at + 1])) for ends in bounds)) for at, path in enumerate(laid)
    )
    trailer = ScalarTrailer(
        index_type, len(column), int(DataType.JSON), path=prefix, is_documents=True, paths=known, knows_all=knows_all
    )
    return written(arrays, trailer, Indexed(len(column), DataType.JSON, np.zeros(0), _NO_ROWS, valid=column.valid))


class _Keyed(NamedTuple):
    """The distinct values at a path, ascending, how many rows hold each, and these rows."""

    keys: Values
    counts: Rows
    rows: Rows


def _keyed(parts: Sequence[_Values], value_type: DataType) -> _Keyed:
    if not parts:
        return _Keyed(_EMPTY[value_type], _NO_ROWS, _NO_ROWS)
    found = distinct(_joined([one.values for one in parts]))
    groups = grouped(found.places, np.concatenate([one.owners for one in parts]))
    return _Keyed(found.keys, np.diff(groups.starts), groups.rows)


def _section_arrays(section: _Section, keyed: Sequence[_Keyed]) -> dict[str, npt.NDArray[Any]]:
    """The values of a type at all paths, where the rows of each begin, and the rows."""
    keys = _joined([_EMPTY[section.value_type], *(one.keys for one in keyed)])
    starts = np.cumsum(np.concatenate([np.zeros(1, np.int64), *(one.counts for one in keyed)]))
    rows = np.concatenate([_NO_ROWS, *(one.rows for one in keyed)]).astype(np.uint32)
    return {**value_arrays(section.name, keys), f"{section.name}_starts": starts, f"{section.name}_rows": rows}


def _joined(parts: Sequence[Values]) -> Values:
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else pa.concat_arrays(parts)


class DocumentIndex(MappedIndex):
    """A mapped file of `document_file`; implements `contract.ScalarIndex`."""

    def __init__(self, data: memoryview) -> None:
        super().__init__(data)
        self._prefix = self.trailer.path or ()
        self._spans = {one.path: one.spans for one in self.trailer.paths}
        self._nowhere = tuple((0, 0) for _ in (*SECTIONS, OTHERS))
        self._keys = [self.file.values(section.name) for section in SECTIONS]
        self._starts = [self.file.array(f"{section.name}_starts") for section in SECTIONS]
        self._rows = [self.file.array(f"{section.name}_rows") for section in SECTIONS]
        self._others = self.file.array(OTHERS)

    def lookup(self, leaf: RowLeaf) -> Lookup | None:
        """See `contract.ScalarIndex`."""
        match leaf:
            case IsNull():
                return self.flags(self.null_rows)
            case Exists(operand):
                spans = self._spans_at(operand)
                return None if spans is None else self._existing(spans)
            case Compare(operand) | Between(operand) | InSet(operand) | Like(operand):
                asked = (one.of_values(leaf) for one in self._answers(operand, is_list=False))
            case Contains(operand, values) if values:
                asked = (one.of_lists(leaf) for one in self._answers(operand, is_list=True))
            case _:
                return None
        return next((one for one in asked if one is not None), None)

    def _spans_at(self, operand: Operand) -> Spans | None:
        """Where the operand's values stand; None where the index does not know."""
        if operand.kind is not OperandKind.JSON or operand.path[: len(self._prefix)] != self._prefix:
            return None
        beneath = operand.path[len(self._prefix) :]
        if any(isinstance(step, int) for step in beneath):
            return None
        return self._spans.get(operand.path, self._nowhere if self.trailer.knows_all else None)

    def _answers(self, operand: Operand, *, is_list: bool) -> Iterator[KeyAnswers]:
        """By the values of each type. Strings that count as numbers are no number here."""
        spans = self._spans_at(operand)
        for number, section in enumerate(SECTIONS if spans is not None else ()):
            casts = operand.numeric_texts and section.value_type is DataType.DOUBLE and not is_list
            if section.is_list is is_list and not casts:
                assert spans is not None
                first, last = spans[number]
                holders = Postings(
                    self._starts[number][first : last + 1], self._rows[number], self.row_count, is_partition=False
                )
                keys = self._keys[number][first:last]
                yield KeyAnswers(self.index_type, self.row_count, section.value_type, True, keys, holders, self.known)

    def _existing(self, spans: Spans) -> Lookup:
        """The rows that have a value there, which is not empty."""
        parts = [self._others[slice(*spans[-1])]]
        for number, section in enumerate(SECTIONS):
            if not section.is_list:
                first, last = spans[number]
                starts = self._starts[number]
                parts.append(self._rows[number][starts[first] : starts[last]])

        def mask() -> Mask:
            found = np.zeros(self.row_count, np.bool_)
            for rows in parts:
                found[rows] = True
            return found

        count = sum(map(len, parts))
        cost = MASK_COST * self.row_count + SCATTER_COST * count
        return Lookup(self.index_type, cost, min(count, self.row_count), mask, lambda: None)
