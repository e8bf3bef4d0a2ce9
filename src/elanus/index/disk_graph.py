"""The nodes of DISKANN on a disk: how they lie in groups, where these are read from, and the walk over them.

A group is as many whole sectors of `SECTOR_BYTES` as one record needs, with as many records as fit; a record is as
`compiled.beam` says. What is in memory are the codes of all nodes and the groups near the entry, which every walk
passes; neither grows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec
import numpy as np

from elanus.base.doors import ReadFile
from elanus.index.compiled.beam import Asked, Records, Walk, begun, step
from elanus.index.compiled.vamana import Adjacency
from elanus.index.contract import Floats, Rows
from elanus.index.file import ALIGNMENT

SECTOR_BYTES: Final = ALIGNMENT
WORD_BYTES: Final = 4


class Groups(Protocol):
    """Where groups of nodes are read from."""

    def read(self, groups: Sequence[int], into: Sequence[memoryview]) -> None:
        """Fill one buffer with each group."""
        ...


class MappedGroups:
    """Groups in memory: while an index is built, and where it is no local file."""

    def __init__(self, nodes: np.ndarray) -> None:
        self._nodes = nodes

    def read(self, groups: Sequence[int], into: Sequence[memoryview]) -> None:
        for group, buffer in zip(groups, into, strict=True):
            buffer[:] = self._nodes[group].view(np.uint8).data


class FileGroups:
    """Groups in a file, from an offset on."""

    def __init__(self, file: ReadFile, offset: int, group_bytes: int) -> None:
        self._file = file
        self._offset = offset
        self._group_bytes = group_bytes

    def read(self, groups: Sequence[int], into: Sequence[memoryview]) -> None:
        self._file.read_pieces([self._offset + group * self._group_bytes for group in groups], into)


class Layout(msgspec.Struct, frozen=True):
    """How nodes lie in groups."""

    dimension: int
    degree: int

    @property
    def record_words(self) -> int:
        """Vector, count, neighbours."""
        return self.dimension + 1 + self.degree

    @property
    def group_words(self) -> int:
        """Of one group: whole sectors."""
        return -(-self.record_words * WORD_BYTES // SECTOR_BYTES) * SECTOR_BYTES // WORD_BYTES

    @property
    def group_nodes(self) -> int:
        """Records in one group."""
        return self.group_words // self.record_words

    def starts(self, nodes: Rows) -> Rows:
        """Where nodes begin in an array of all words."""
        groups, places = np.divmod(nodes, self.group_nodes)
        return np.asarray(groups * self.group_words + places * self.record_words)


def pack(layout: Layout, vectors: Floats, graph: Adjacency) -> np.ndarray:
    """The section `nodes`."""
    count = len(vectors)
    groups = -(-count // layout.group_nodes)
    words = np.zeros((groups, layout.group_words), np.uint32)
    used = words[:, : layout.group_nodes * layout.record_words].reshape(groups, layout.group_nodes, -1)
    places = np.divmod(np.arange(count), layout.group_nodes)
    dimension = layout.dimension
    used[places[0], places[1], :dimension] = vectors.view(np.uint32)
    used[places[0], places[1], dimension] = graph.degrees
    used[places[0], places[1], dimension + 1 :] = graph.neighbours[:, : layout.degree].view(np.uint32)
    return words


class DiskGraph:
    """The searchable part: codes in memory, groups behind a reader. Any number of threads may search it at once."""

    def __init__(self, layout: Layout, books: Floats, codes: np.ndarray, groups: Groups, kept_groups: int) -> None:
        self._layout = layout
        self._books = books
        self._book_squares = np.einsum("mcd,mcd->mc", books, books)
        self._codes = codes.view()
        self._codes.flags.writeable = False
        self._groups = groups
        self._kept_count = min(kept_groups * layout.group_nodes, len(codes))
        self._kept_groups = kept_groups
        self._kept: np.ndarray | None = None

    def walk(self, queries: Floats, list_size: int, beam: int, is_distance: bool, compiles: bool = False) -> Walk:
        """Walks of queries (q, dim) that kept `list_size` nodes each, to their ends. Unless it `compiles`, the kernel's
        twin serves where the kernel is not ready: numba takes more memory than the codes of a million vectors."""
        asked = Asked(queries, self._tables(queries, is_distance), is_distance)
        walk = begun(len(queries), len(self._codes), min(list_size, len(self._codes)), beam)
        walk.distances[:, 0] = asked.tables[:, np.arange(len(self._books)), self._codes[0]].sum(axis=1)
        words = np.empty((walk.frontier.size, self._layout.group_words), np.uint32)
        buffers = [memoryview(row.view(np.uint8).data) for row in words]
        flat, kept = words.reshape(-1), self._kept_words()
        floats, integers, kept_floats, kept_integers = (
            flat.view(np.float32),
            flat.view(np.int32),
            kept.view(np.float32),
            kept.view(np.int32),
        )
        advance = step if compiles else step.now
        remaining = len(queries)
        while remaining:
            starts = self._fetch(walk, words.shape[1], buffers)
            remaining = advance(
                self._codes,
                asked,
                Records(floats, integers, kept_floats, kept_integers, starts, self._layout.degree),
                walk,
            )
        return walk

    def _fetch(self, walk: Walk, group_words: int, buffers: Sequence[memoryview]) -> Rows:
        """Read the frontier's groups that are not kept, each once; where the records are, as `Records.starts`."""
        layout, frontier = self._layout, walk.frontier.astype(np.int64)
        starts = -1 - layout.starts(frontier)
        wanted = np.arange(frontier.shape[1]) < walk.frontier_counts[:, None]
        away = np.nonzero(wanted & (frontier >= self._kept_count))
        nodes = frontier[away]
        if len(nodes):
            groups, slots = np.unique(nodes // layout.group_nodes, return_inverse=True)
            self._groups.read(groups.tolist(), buffers[: len(groups)])
            starts[away] = slots * group_words + nodes % layout.group_nodes * layout.record_words
        return starts

    def _kept_words(self) -> np.ndarray:
        """The groups near the entry, read at the first search. Two threads may both read them."""
        if self._kept is None:
            words = np.zeros((max(1, self._kept_groups), self._layout.group_words), np.uint32)
            if self._kept_groups:
                self._groups.read(range(self._kept_groups), [memoryview(row.view(np.uint8).data) for row in words])
            self._kept = words.reshape(-1)
        return self._kept

    def _tables(self, queries: Floats, is_distance: bool) -> Floats:
        """What each code of each part adds to a query's distance, less what is the same for all, (q, m, 256)."""
        part_count, _, width = self._books.shape
        padded = np.zeros((len(queries), part_count * width), np.float32)
        padded[:, : queries.shape[1]] = queries
        parts = padded.reshape(len(queries), part_count, width).transpose(1, 2, 0)
        products = np.matmul(self._books, parts).transpose(2, 0, 1)
        return np.ascontiguousarray(self._book_squares - 2 * products if is_distance else -products, np.float32)
