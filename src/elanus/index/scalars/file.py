"""The file of a scalar index: arrays, then a trailer that says what they are; laid out as `index.file` says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from elanus.index.file import Section, read_array, read_trailer_as, write_arrays
from elanus.index.scalars.contract import Indexed, Path
from elanus.index.scalars.values import packed, unpacked
from elanus.model.columns import Mask, Values
from elanus.model.types import DataType

MAGIC: Final = b"ELNSSCL1"
VALID: Final = "valid"
SOLID: Final = "solid"


class DocumentPath(msgspec.Struct, frozen=True):
    """A path in an index of documents. Of each section of values the keys that stand there, from and to, and so of the
    rows where EXISTS holds of something else."""

    path: Path
    spans: tuple[tuple[int, int], ...]


class ScalarTrailer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a scalar index file holds; see `contract.Indexed`. `gram_lengths`: bytes of the grams that have postings.
    `level_count`: levels of a tree of boxes. `is_documents`: of all that stands beneath `path`; `paths` are
    those that it knows, and with `knows_all` there is nothing at others."""

    index_type: str
    row_count: int
    value_type: int
    is_list: bool = False
    path: Path | None = None
    numeric_texts: bool = False
    gram_lengths: tuple[int, ...] = ()
    level_count: int = 0
    is_documents: bool = False
    paths: tuple[DocumentPath, ...] = ()
    knows_all: bool = False
    sections: dict[str, Section] = {}


def trailer_of(index_type: str, indexed: Indexed) -> ScalarTrailer:
    """What every kind says."""
    return ScalarTrailer(
        index_type, indexed.row_count, int(indexed.value_type), indexed.is_list, indexed.path, indexed.numeric_texts
    )


def written(arrays: Mapping[str, npt.NDArray[Any]], trailer: ScalarTrailer, indexed: Indexed) -> Sequence[memoryview]:
    """The parts of the file, with the rows that have a value."""
    masks = {name: mask for name, mask in ((VALID, indexed.valid), (SOLID, indexed.solid)) if mask is not None}
    return write_arrays({**arrays, **{name: packed(mask) for name, mask in masks.items()}}, trailer, MAGIC)


def is_of_documents(data: memoryview) -> bool:
    """Whether a file is that of an index of documents. `CorruptedError` if it is not one of ours."""
    return read_trailer_as(data, ScalarTrailer, MAGIC).is_documents


class MappedFile:
    """A mapped file. `CorruptedError` if it is not one of ours."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.trailer = read_trailer_as(data, ScalarTrailer, MAGIC)
        self.value_type = DataType(self.trailer.value_type)

    def array(self, name: str) -> npt.NDArray[Any]:
        """A section."""
        return read_array(self.data, self.trailer, name)

    def has(self, name: str) -> bool:
        """Whether there is such a section."""
        return name in self.trailer.sections

    def mask(self, name: str) -> Mask | None:
        """A section of one bit a row; None where there is none."""
        return unpacked(self.array(name), self.trailer.row_count) if self.has(name) else None

    def texts(self, name: str) -> pa.Array:
        """Texts that `text_arrays` laid out, viewing the file."""
        offsets, data = self.array(f"{name}_offsets"), self.array(f"{name}_bytes")
        return pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data))

    def values(self, name: str) -> Values:
        """Values that `value_arrays` laid out."""
        return self.array(name) if self.has(name) else self.texts(name)


def value_arrays(name: str, values: Values) -> dict[str, npt.NDArray[Any]]:
    """Values as sections."""
    if isinstance(values, np.ndarray):
        return {name: values}
    if not len(values):
        return {f"{name}_offsets": np.zeros(1, np.int64), f"{name}_bytes": np.zeros(0, np.uint8)}
    _, offset_buffer, data_buffer = values.buffers()
    offsets = np.frombuffer(offset_buffer, np.int64, len(values) + 1, values.offset * 8)
    data = np.frombuffer(data_buffer or b"", np.uint8)[offsets[0] : offsets[-1]]
    return {f"{name}_offsets": offsets - offsets[0], f"{name}_bytes": data}
