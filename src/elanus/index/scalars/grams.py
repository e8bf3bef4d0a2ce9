"""Grams: the parts of a fixed number of bytes of all distinct texts, and which texts hold each.

A text that holds a pattern holds all the grams of it, so that the texts to be looked at are those in all the lists of
the pattern's grams (Zobel and Moffat, 1995); the shortest lists are enough. Kept are grams of two lengths, the
definition's `min_gram` and `max_gram` (in bytes, at most 8, so that a gram is a number): a pattern is looked up by the
longer ones it can have. Milvus's grams are of characters; texts that pass are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from elanus.base.pieces import repeated
from elanus.expr.arrays import take_values
from elanus.expr.indexed import Lookup
from elanus.expr.like import LikePattern, LikeShape
from elanus.index.scalars.answers import KeyAnswers
from elanus.index.scalars.contract import Indexed
from elanus.index.scalars.file import MappedFile, trailer_of, value_arrays, written
from elanus.index.scalars.holders import Groups, grouped, joined
from elanus.index.scalars.keyed import KeyedIndex, keyed_arrays
from elanus.index.scalars.keys import distinct
from elanus.index.scalars.mapped import MASK_COST
from elanus.model.columns import Rows

GRAM_BYTES_MAX: Final = 8
PASS_WINDOWS_MAX: Final = 1 << 25
"""Grams that are sorted at once, about 40 bytes of memory each."""
SAMPLE_WINDOWS: Final = 1 << 16
NUMBERS_END: Final = (1 << 64) - 1
"""Above all grams: no text in UTF-8 holds eight bytes 0xFF."""
LISTS_MAX: Final = 4
"""Lists that are intersected; more of them rule out few texts that these leave."""
_FIXED_COST: Final = 50_000.0
"""Of a look-up, in numeric comparisons."""
_TEXT_COST: Final = 40.0
"""Of a text that is fetched and looked at."""


def gram_file(index_type: str, indexed: Indexed, lengths: Sequence[int]) -> Sequence[memoryview]:
    """The file of an index of these texts, with grams of these lengths in bytes."""
    found = distinct(indexed.values)
    arrays = keyed_arrays(indexed, found)
    used = tuple(sorted({min(length, GRAM_BYTES_MAX) for length in lengths}))
    text = value_arrays("", found.keys)
    for length in used:
        arrays |= _gram_arrays(text["_bytes"], text["_offsets"], length)
    return written(arrays, msgspec.structs.replace(trailer_of(index_type, indexed), gram_lengths=used), indexed)


def _gram_arrays(data: npt.NDArray[np.uint8], offsets: Rows, length: int) -> dict[str, npt.NDArray[Any]]:
    """The sections of the grams of one length."""
    found = gram_lists(data, offsets, length)
    lists, texts = found.narrowed()
    return {f"grams_{length}": found.labels, f"gram_starts_{length}": lists, f"gram_texts_{length}": texts}


def gram_lists(data: npt.NDArray[np.uint8], offsets: Rows, length: int, windows_max: int = PASS_WINDOWS_MAX) -> Groups:
    """The grams of texts data[offsets[i]:offsets[i + 1]], as numbers, and the texts that hold each.

    Many are found in several passes over the texts, each for a range of numbers, so that `windows_max` of them are in
    memory at once."""
    counts = np.maximum(np.diff(offsets) - length + 1, 0)
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    cuts = np.searchsorted(ends, np.arange(windows_max, total, windows_max)).tolist()
    blocks = list(pairwise([0, *cuts, len(counts)]))
    if len(blocks) == 1:
        return _grams_of(data, offsets, length, blocks[0])
    sample = np.sort(_numbers(data, np.linspace(0, len(data) - length, SAMPLE_WINDOWS).astype(np.int64), length))
    bounds = np.unique(sample[np.arange(1, len(blocks)) * len(sample) // len(blocks)])
    parts = []
    for span in pairwise([0, *bounds[bounds > 0].tolist(), NUMBERS_END]):
        found = [_grams_of(data, offsets, length, block, span) for block in blocks]
        labels = np.concatenate([repeated(one.labels, np.diff(one.starts)) for one in found])
        parts.append(grouped(labels, np.concatenate([one.rows for one in found])))
    return joined(parts)


def _grams_of(
    data: npt.NDArray[np.uint8],
    offsets: Rows,
    length: int,
    block: tuple[int, int],
    span: tuple[int, int] = (0, NUMBERS_END),
) -> Groups:
    """The grams of some texts, from and to, those in a span of numbers."""
    first, last = block
    counts = np.maximum(np.diff(offsets[first : last + 1]) - length + 1, 0)
    texts = repeated(np.arange(first, last), counts)
    # A text's grams begin at its first byte and at those that follow.
    starts = np.arange(len(texts)) + repeated(offsets[first:last] - np.cumsum(counts) + counts, counts)
    numbers = _numbers(data, starts, length)
    if span != (0, NUMBERS_END):
        chosen = np.flatnonzero((numbers >= np.uint64(span[0])) & (numbers < np.uint64(span[1])))
        numbers, texts = numbers[chosen], texts[chosen]
    return grouped(numbers, texts)


def _numbers(data: npt.NDArray[np.uint8], starts: Rows, length: int) -> npt.NDArray[np.uint64]:
    """The bytes data[start:start + length] as numbers."""
    numbers = np.zeros(len(starts), np.uint64)
    for place in range(length):
        numbers = (numbers << np.uint64(8)) | data[starts + place].astype(np.uint64)
    return numbers


@dataclass(frozen=True, slots=True)
class GramAnswers(KeyAnswers):
    """`file` holds the grams."""

    file: MappedFile

    def matching(self, pattern: LikePattern) -> Lookup:
        """The rows whose text passes: looked at are the texts that hold the pattern's grams, where it has some."""
        text = pattern.text.encode()
        length = max((one for one in self.file.trailer.gram_lengths if one <= len(text)), default=0)
        if not length or pattern.shape not in (LikeShape.INFIX, LikeShape.SUFFIX):
            return KeyAnswers.matching(self, pattern)
        lists = GramLists(self.file, length, text)
        count = self.row_count
        rows = min(count, lists.count_max * max(1, count // max(1, len(self.keys))))

        def mask() -> npt.NDArray[np.bool_]:
            texts = lists.texts()
            return self.holders.mask(texts[pattern.matches(take_values(self.keys, texts))])

        cost = _FIXED_COST + _TEXT_COST * lists.count_max + MASK_COST * count
        return Lookup(self.index_type, cost, rows, mask, self.known)


class GramIndex(KeyedIndex):
    """A mapped file of `gram_file`."""

    def answers(self) -> KeyAnswers:
        """By the grams too."""
        keys = super().answers()
        return GramAnswers(
            keys.index_type,
            keys.row_count,
            keys.value_type,
            keys.of_json,
            keys.keys,
            keys.holders,
            keys.known,
            self.file,
        )


class GramLists:
    """The lists of the grams of one pattern."""

    def __init__(self, file: MappedFile, length: int, text: bytes) -> None:
        grams = file.array(f"grams_{length}")
        data = np.frombuffer(text, np.uint8)
        wanted = np.unique(_numbers(data, np.arange(len(data) - length + 1), length))
        places = np.searchsorted(grams, wanted)
        inside = np.minimum(places, max(0, len(grams) - 1))
        starts = file.array(f"gram_starts_{length}")
        self._texts = file.array(f"gram_texts_{length}")
        if not len(grams) or (grams[inside] != wanted).any():
            self._spans = [(0, 0)]
        else:
            spans = [(int(starts[place]), int(starts[place + 1])) for place in places.tolist()]
            self._spans = sorted(spans, key=lambda span: span[1] - span[0])[:LISTS_MAX]

    @property
    def count_max(self) -> int:
        """No more texts hold all grams."""
        start, stop = self._spans[0]
        return stop - start

    def texts(self) -> Rows:
        """Texts that hold the grams of the shortest lists, ascending."""
        lists = [self._texts[start:stop].astype(np.int64) for start, stop in self._spans]
        return reduce(lambda left, right: np.intersect1d(left, right, assume_unique=True), lists)
