"""The file of an index: what faiss wrote, or arrays of our own, then a trailer that says what it is.

    faiss bytes or arrays | trailer (JSON) | trailer length, u32 | CRC-32 of trailer, u32 | magic, 8 bytes

The trailer comes last so that faiss finds its own format at offset 0 and the file maps as it is. The magic carries the
version of all this; each type has one of its own (`contract.IndexType.file_version`), which the manifest names with the
file: the former changes only together with all of the latter. Reading maps: nothing of the vectors is copied. The
checksum of the whole file is the manifest's affair.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from elanus.base.errors import CorruptedError
from elanus.index.kernels import library
from elanus.index.parameters import Setting
from elanus.model.types import Metric

MAGIC: Final = b"ELNSIDX1"
ALIGNMENT: Final = 4096
"""Of sections, in bytes: a page of memory and a sector of a disk."""
FOOTER: Final = struct.Struct("<II8s")


class Effort(msgspec.Struct, frozen=True):
    """A calibration point: the search parameter's value that finds the `rank` nearest rows among the best `candidates`
    by the index's own scores; 0 where these are exact, and as many as `rank` are enough."""

    rank: int
    value: int
    candidates: int = 0


class Section(msgspec.Struct, frozen=True):
    """An array within the file: NumPy's name of its dtype, its shape, and where its bytes begin."""

    dtype: str
    shape: tuple[int, ...]
    offset: int


class Trailer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an index file holds. `sections` are the arrays of an index of our own, by name."""

    index_type: str
    metric: Metric
    row_count: int
    dimension: int
    params: dict[str, Setting] = {}
    efforts: tuple[Effort, ...] = ()
    sections: dict[str, Section] = {}


class Sectioned(Protocol):
    """A trailer of any kind of index that is arrays."""

    @property
    def sections(self) -> Mapping[str, Section]:
        """See `Trailer`."""
        ...


T = TypeVar("T", bound=msgspec.Struct)


def write(index: Any, trailer: Trailer) -> Sequence[memoryview]:
    """The parts of the file of a faiss index, to be written one after the other."""
    return write_parts([memoryview(library().serialize_index(index))], trailer)


def write_parts(body: Sequence[memoryview], trailer: msgspec.Struct, magic: bytes = MAGIC) -> Sequence[memoryview]:
    """The parts of the file of any index: what it says of itself comes last."""
    text = msgspec.json.encode(trailer)
    return [*body, memoryview(text + FOOTER.pack(len(text), zlib.crc32(text), magic))]


def write_arrays(
    arrays: Mapping[str, npt.NDArray[Any]], trailer: msgspec.Struct, magic: bytes = MAGIC
) -> Sequence[memoryview]:
    """The parts of the file of an index that is arrays, each at a multiple of `ALIGNMENT`."""
    body: list[memoryview] = []
    sections: dict[str, Section] = {}
    offset = 0
    for name, array in arrays.items():
        flat = np.ascontiguousarray(array)
        sections[name] = Section(flat.dtype.str, flat.shape, offset)
        padding = -flat.nbytes % ALIGNMENT
        body += [memoryview(flat.reshape(-1).view(np.uint8).data), memoryview(bytes(padding))]
        offset += flat.nbytes + padding
    return write_parts(body, msgspec.structs.replace(trailer, sections=sections), magic)


def read_array(data: memoryview, trailer: Sectioned, name: str) -> npt.NDArray[Any]:
    """An array that `write_arrays` wrote, viewing `data`, never writable (a kernel is compiled for either kind);
    `CorruptedError` if the file is too short for it."""
    section = trailer.sections.get(name)
    if section is None:
        raise CorruptedError(f"index file: no section {name}")
    dtype = np.dtype(section.dtype)
    count = math.prod(section.shape)
    if section.offset + count * dtype.itemsize > len(data):
        raise CorruptedError(f"index file: section {name} reaches beyond the end")
    return np.frombuffer(data.toreadonly(), dtype, count, section.offset).reshape(section.shape)


def read_trailer(data: memoryview) -> Trailer:
    """The trailer of a vector index's file; `CorruptedError` if this is none."""
    return read_trailer_as(data, Trailer, MAGIC)


def read_trailer_as(data: memoryview, kind: type[T], magic: bytes) -> T:
    """The trailer of a file that ends in this magic; `CorruptedError` if it does not."""
    if len(data) < FOOTER.size:
        raise CorruptedError(f"index file: {len(data)} bytes are too few")
    length, checksum, found = FOOTER.unpack(data[-FOOTER.size :])
    if found != magic:
        raise CorruptedError(f"index file: ends in {found!r}, not in {magic!r}")
    text = bytes(data[max(0, len(data) - FOOTER.size - length) : len(data) - FOOTER.size])
    if len(text) != length or zlib.crc32(text) != checksum:
        raise CorruptedError("index file: the trailer's checksum does not match")
    return msgspec.json.decode(text, type=kind)


def map_faiss(data: memoryview) -> tuple[Any, object]:
    """The faiss index that views `data`, and what must be kept alive with it."""
    faiss = library()
    view = np.frombuffer(data, np.uint8)
    reader = faiss.ZeroCopyIOReader(faiss.swig_ptr(view), view.nbytes)
    return faiss.read_index(reader, faiss.IO_FLAG_MMAP_IFC), (view, reader)
