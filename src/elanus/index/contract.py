"""The contract between index types and those who use them, and the values that cross it.

Shapes and dtypes, everywhere in this package: vectors float32 (n, dim) C-contiguous, queries float32 (q, dim), scores
float32 (q, k), rows int64 (q, k); vectors of other kinds and their queries are as their modules say. A row is the
offset of a vector in its array; -1 pads a short answer, and its score is the worst one. Scores follow Milvus: L2 is the
squared distance and ascends, IP and COSINE descend. Equal scores are ordered by row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import msgspec
import numpy as np
import numpy.typing as npt

from elanus.base.doors import ReadFile
from elanus.index.parameters import Parameter, Setting
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType, Metric

Floats: TypeAlias = npt.NDArray[np.float32]
Rows: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]
Bytes: TypeAlias = npt.NDArray[np.uint8]
SearchParams: TypeAlias = Mapping[str, object]
"""Search parameters as `registry.validate_search` returned them."""


class Found(NamedTuple):
    """The best rows of each query, best first."""

    scores: Floats
    rows: Rows


@dataclass(frozen=True)
class RowMask:
    """Which rows may be found: `keep` is bool (n,) and never changes; `count` is how many are True."""

    keep: Bools
    count: int

    @classmethod
    def of(cls, keep: Bools) -> RowMask:
        """A mask from its bools alone; counts them."""
        return cls(keep, int(np.count_nonzero(keep)))

    @cached_property
    def bits(self) -> Bytes:
        """One bit a row, least significant first, uint8 (ceil(n / 8),)."""
        return np.packbits(self.keep, bitorder="little")

    @cached_property
    def rows(self) -> Rows:
        """The rows kept, ascending."""
        return np.flatnonzero(self.keep)


class ResolvedIndex(msgspec.Struct, frozen=True):
    """The concrete index behind a definition: AUTOINDEX replaced, defaults filled in.

    `needs_file` is False where nothing is built: FLAT scans the vector column.
    """

    index_type: str
    metric: Metric | None
    params: dict[str, Setting]
    needs_file: bool


class VectorIndex(Protocol):
    """A built index, mapped. Immutable; any number of threads may search it at once."""

    @property
    def index_type(self) -> str:
        """The concrete type's name."""
        ...

    @property
    def metric(self) -> Metric:
        """The metric it was built for."""
        ...

    @property
    def row_count(self) -> int:
        """Rows it holds: 0 .. row_count - 1."""
        ...

    @property
    def dimension(self) -> int:
        """Floats in a vector."""
        ...

    @property
    def size_bytes(self) -> int:
        """Bytes of the file it is mapped from."""
        ...

    @property
    def scores_exactly(self) -> bool:
        """Whether its scores are those of the vectors themselves. Where they are only near them, as scores of codes
        are, callers score again what they take from it."""
        ...

    def search(self, queries: np.ndarray, k: int, mask: RowMask | None, params: SearchParams) -> Found:
        """The k best rows that the index finds, kept rows only. May return fewer than exist, and miss some."""
        ...

    def candidates(self, k: int, params: SearchParams) -> int:
        """How many rows to ask for, so that the k best of them, scored exactly, are the answer to a search for k:
        k itself where `scores_exactly`."""
        ...

    def params_for(self, k: int, rank: int, params: SearchParams) -> SearchParams:
        """Enough to find the `rank` nearest rows with the recall of `calibrate.RECALL`, and with that which `params`
        give the k nearest; in as many rows as `candidates` then says, where more than there are means that the index
        cannot."""
        ...

    def cost_us(self, k: int, params: SearchParams) -> float:
        """Estimated microseconds on one core of one query for k rows, by the index's own scores."""
        ...


class IndexType(Protocol):
    """One kind of index, stateless. Adding a kind is one file with one of these and one line in `registry`."""

    @property
    def name(self) -> str:
        """As users write it."""
        ...

    @property
    def data_types(self) -> frozenset[DataType]:
        """Field types it can be defined on."""
        ...

    @property
    def metrics(self) -> frozenset[Metric]:
        """Metrics it can be built for; empty for scalar indexes."""
        ...

    @property
    def build_parameters(self) -> tuple[Parameter, ...]:
        """What a definition may say."""
        ...

    @property
    def search_parameters(self) -> tuple[Parameter, ...]:
        """What a search may say."""
        ...

    @property
    def supports_mmap(self) -> bool:
        """Whether `mmap.enabled` may be true."""
        ...

    @property
    def file_version(self) -> int:
        """The version of its file format, counted from 1. It grows with every change after which older files are not
        read: they are built again."""
        ...

    def check_field(self, params: Mapping[str, str], field: FieldSchema) -> None:
        """Raise `IndexParameterError` when the definition and the field do not go together."""
        ...

    def resolve(self, params: Mapping[str, str], field: FieldSchema) -> ResolvedIndex:
        """What is really built. `params` were validated."""
        ...

    def check_search(self, params: SearchParams, k: int) -> None:
        """Raise `SearchParameterError` when parameters that are each in range do not fit k."""
        ...


class FileIndexType(IndexType, Protocol):
    """A kind of index that lives in a file of its own."""

    @property
    def answers_alone(self) -> bool:
        """Whether searches touch the index only, and the vectors beside it never."""
        ...

    def build(self, resolved: ResolvedIndex, vectors: Any, threads: int) -> Sequence[memoryview]:
        """The file, as consecutive parts. Uses `threads` cores while it runs. `vectors` are float32 (n, dim) for dense
        types, uint8 (n, dim / 8) for binary, a large_binary array for sparse ones; of lists of vectors all vectors."""
        ...

    def resident_bytes(self, file_bytes: int, params: Mapping[str, str]) -> int:
        """How much memory an index of a file of that size takes when it is loaded and searched. `params` are those it
        was built with."""
        ...

    def load(self, data: memoryview) -> VectorIndex:
        """Open a file without copying it; `data` must stay unchanged and is kept alive."""
        ...


@runtime_checkable
class DiskIndexType(FileIndexType, Protocol):
    """A kind of index that does not want all of its file in memory."""

    def load_with(self, data: memoryview, file: ReadFile, in_memory: bool) -> VectorIndex:
        """As `load`; most of the index is read from `file`, of which `data` is the mapping. `in_memory`: the rest is
        copied into memory of this process."""
        ...
