"""Index types by name, and the two checks that every definition and every search passes.

Serving a type takes a module with an `IndexType` and a line in one of the two tuples; a type of somebody else's comes
from their package (`extensions`). A type that Milvus has and we do not is known here by name, so that its refusal
says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from elanus.base.doors import ReadFile
from elanus.base.errors import ElanusError, InvariantError
from elanus.base.pieces import copied
from elanus.index.auto import Auto, auto_metric
from elanus.index.binary import BINARY_METRICS, BinFlat
from elanus.index.binary_ivf import BinIvfFlat
from elanus.index.contract import DiskIndexType, FileIndexType, IndexType, ResolvedIndex, SearchParams, VectorIndex
from elanus.index.declaration import DENSE_TYPES, FLOAT_METRICS, FLOAT_TYPES
from elanus.index.diskann import DiskAnn
from elanus.index.errors import IndexBuildError, IndexParameterError, IndexTypeNotServedError, SearchParameterError
from elanus.index.extensions import find_extension
from elanus.index.file import read_trailer
from elanus.index.flat import Flat
from elanus.index.hnsw import Hnsw
from elanus.index.hnsw_pq import HnswPq
from elanus.index.hnsw_prq import HnswPrq
from elanus.index.hnsw_sq import HnswSq
from elanus.index.ivf_flat import IvfFlat
from elanus.index.ivf_pq import IvfPq
from elanus.index.ivf_rabitq import IvfRabitq
from elanus.index.ivf_sq8 import IvfSq8
from elanus.index.lists import ListIndex, build_lists, is_of_lists
from elanus.index.multi import MULTI_METRICS, MultiVectors
from elanus.index.parameters import NumberParameter
from elanus.index.scalar import SCALAR_TYPES
from elanus.index.scalars.contract import ScalarIndex
from elanus.index.scann import Scann
from elanus.index.sparse_index import SparseInverted, SparseWand
from elanus.model.columns import Column
from elanus.model.index import IndexDefinition
from elanus.model.metrics import find_metric_extension
from elanus.model.schema import FieldSchema
from elanus.model.segment import IndexFile
from elanus.model.types import DataType, Metric

INDEX_ROWS_MIN: Final = 1024
"""Segments with fewer rows get no index file: scanning them is faster."""

_FILE_TYPES: Final[tuple[FileIndexType, ...]] = (
    Hnsw(),
    HnswSq(),
    HnswPq(),
    HnswPrq(),
    IvfFlat(),
    IvfSq8(),
    IvfPq(),
    IvfRabitq(),
    Scann(),
    BinIvfFlat(),
    DiskAnn(),
    SparseInverted(),
    SparseWand(),
)
_OTHER_TYPES: Final[tuple[IndexType, ...]] = (
    Auto(),
    Flat(),
    BinFlat(),
    *SCALAR_TYPES,
)
INDEX_TYPES: Final[Mapping[str, IndexType]] = {one.name.upper(): one for one in (*_FILE_TYPES, *_OTHER_TYPES)}
_ALIASES: Final = {"MARISA-TRIE": "TRIE", "": "AUTOINDEX"}
_BY_FILE: Final = {one.name: one for one in _FILE_TYPES}
_SCALARS: Final = {one.name: one for one in SCALAR_TYPES}

NOT_SERVED: Final[Mapping[str, frozenset[DataType]]] = {
    **dict.fromkeys(("AISAQ",), FLOAT_TYPES),
    "MINHASH_LSH": frozenset({DataType.BINARY_VECTOR}),
}
"""By name, the field types that each would take."""
GPU_TYPES: Final = frozenset({"GPU_BRUTE_FORCE", "GPU_IVF_FLAT", "GPU_IVF_PQ", "GPU_CAGRA"})

_METRICS_OF: Final = {
    DataType.BINARY_VECTOR: BINARY_METRICS,
    DataType.SPARSE_FLOAT_VECTOR: frozenset({Metric.IP}),
    DataType.ARRAY_OF_VECTOR: MULTI_METRICS | FLOAT_METRICS,
    **dict.fromkeys(DENSE_TYPES, FLOAT_METRICS),
}
_VECTOR_LABELS: Final = {DataType.BINARY_VECTOR: "binary", DataType.INT8_VECTOR: "int"}
_RANGE_PARAMETERS: Final = tuple(
    NumberParameter(name, float("-inf"), float("inf")) for name in ("radius", "range_filter")
)


def find_index_type(name: str) -> IndexType:
    """The type of that name, in any spelling of case; `IndexParameterError` if there is none."""
    upper = name.upper()
    if upper in GPU_TYPES:
        raise IndexTypeNotServedError(
            f"invalid parameter[expected=valid index][actual=invalid index type: {name}]: "
            "it needs a GPU, and this server uses none"
        )
    found = INDEX_TYPES.get(_ALIASES.get(upper, upper))
    if found is not None:
        return found
    if upper in NOT_SERVED:
        raise IndexTypeNotServedError(f"index type {name} is not served yet")
    foreign = find_extension(upper)
    if foreign is not None:
        return foreign
    raise IndexParameterError(f"invalid parameter[expected=valid index][actual=invalid index type: {name}]")


def validate_definition(params: Mapping[str, str], field: FieldSchema) -> dict[str, str]:
    """What CreateIndex stores: `params` with the type and the metric filled in and in canonical spelling.

    `params` are flat: `index_type`, `metric_type` and the build parameters together; unknown keys are kept.
    """
    kind = _find_for(params.get("index_type", ""), field)
    stored = {**params, "index_type": kind.name}
    kind.check_field(stored, field)
    if field.data_type.is_vector:
        stored["metric_type"] = _checked_metric(kind, stored, field)
    if "dim" in stored and field.dimension and stored["dim"] != str(field.dimension):
        raise IndexParameterError(
            f"dimension mismatch, dimension in schema: {field.dimension}, dimension: {stored['dim']}"
        )
    if "mmap.enabled" in stored:
        check_mmap(kind.name, stored["mmap.enabled"])
    for parameter in kind.build_parameters:
        if parameter.name in stored:
            parameter.parse(stored[parameter.name])
    return stored


def resolve(params: Mapping[str, str], field: FieldSchema) -> ResolvedIndex:
    """What a stored definition really builds."""
    return find_index_type(params.get("index_type", "")).resolve(params, field)


def validate_search(index_type: str, metric: Metric, params: Mapping[str, object], k: int) -> dict[str, object]:
    """The search parameters that the index reads, checked; unknown keys are left out.

    `index_type` is the definition's: an AUTOINDEX ignores engine parameters. `radius` and `range_filter` are checked
    and returned as floats. Raises `SearchParameterError`.
    """
    kind = find_index_type(index_type)
    known = (*kind.search_parameters, *_RANGE_PARAMETERS)
    checked: dict[str, object] = {one.name: one.check(params[one.name]) for one in known if one.name in params}
    kind.check_search(checked, k)
    _check_range(metric, checked)
    return checked


def build(resolved: ResolvedIndex, vectors: Any, threads: int) -> Sequence[memoryview]:
    """The index file of vectors as `contract.FileIndexType` wants them, as parts to be written one after the other.
    Runs for long: seconds per ten thousand rows; uses up to `threads` cores. IndexBuildError, whatever it was that the
    type's own code or its library raised."""
    kind = _file_type(resolved.index_type)
    try:
        if isinstance(vectors, MultiVectors):
            return build_lists(kind, resolved, vectors, threads)
        return kind.build(resolved, vectors, threads)
    except ElanusError:
        raise
    except Exception as error:
        raise IndexBuildError(f"{resolved.index_type}: {type(error).__name__}: {error}") from error


def build_scalar(definition: IndexDefinition, field: FieldSchema, column: Column) -> Sequence[memoryview]:
    """The index file of a scalar column, as parts to be written one after the other. IndexBuildError as of `build`."""
    kind = _SCALARS[resolve(definition.params, field).index_type]
    try:
        return kind.build(definition, field, column)
    except ElanusError:
        raise
    except Exception as error:
        raise IndexBuildError(f"{kind.name}: {type(error).__name__}: {error}") from error


def is_scalar(index_type: str) -> bool:
    """Whether a built index of that type answers filters."""
    return index_type in _SCALARS


def load_scalar(index_type: str, data: memoryview, in_memory: bool = False) -> ScalarIndex:
    """The scalar index in a file that the caller mapped; as `load`."""
    return _SCALARS[index_type].load(copied(data) if in_memory else data)


def file_version(index_type: str) -> int:
    """Of the files that a built index of that type is read from; 0 where nobody reads any."""
    try:
        kind = _SCALARS.get(index_type) or _BY_FILE.get(index_type) or find_extension(index_type.upper())
    except IndexParameterError:
        return 0
    return 0 if kind is None else kind.file_version


def is_readable(file: IndexFile) -> bool:
    """Whether a built index can be opened here. Files of another version of their type's format, older or newer, cannot
    be, nor those of a package that is gone: the segment is searched without them until they are built again."""
    return file.version == file_version(file.resolved_type)


def resident_bytes(index_type: str, file_bytes: int, params: Mapping[str, str]) -> int:
    """How much memory a built index takes once it is loaded and searched; see `contract.FileIndexType`."""
    return (_SCALARS.get(index_type) or _file_type(index_type)).resident_bytes(file_bytes, params)


def answers_alone(index_type: str) -> bool:
    """Whether searches of a field with a built index of that type do without its vectors."""
    return index_type not in _SCALARS and _file_type(index_type).answers_alone


def load(data: memoryview, file: ReadFile | None = None, in_memory: bool = False) -> VectorIndex:
    """The index in a file that the caller mapped; nothing is copied, unless `in_memory` asks for this process's memory.
    `file` is the same one, where it is local, for types that read it piece by piece. `CorruptedError` if it is not one
    of ours."""
    trailer = read_trailer(data)
    kind = _file_type(trailer.index_type)

    def open_one(inner: memoryview) -> VectorIndex:
        if file is not None and isinstance(kind, DiskIndexType):
            return kind.load_with(inner, file, in_memory)
        return kind.load(copied(inner) if in_memory else inner)

    return ListIndex(data, open_one) if is_of_lists(trailer) else open_one(data)


def lives_on_disk(index_type: str) -> bool:
    """Whether a built index of that type is read from its file piece by piece."""
    return isinstance(_file_type(index_type), DiskIndexType)


def _find_for(name: str, field: FieldSchema) -> IndexType:
    """The type of that name; what is not served and would not fit the field either is refused for the latter."""
    fitting = NOT_SERVED.get(name.upper())
    if fitting is not None and field.data_type not in fitting:
        raise IndexParameterError(f"data type {field.data_type.label} can't build with this index {name}")
    return find_index_type(name)


def _file_type(name: str) -> FileIndexType:
    found = _BY_FILE.get(name) or find_extension(name.upper())
    if found is None:
        raise InvariantError(f"index type {name} has no file")
    return found


def _checked_metric(kind: IndexType, params: Mapping[str, str], field: FieldSchema) -> str:
    given = params.get("metric_type", "").upper()
    if not given:
        if kind.name != "AUTOINDEX":
            raise IndexParameterError("metric type not set for vector index")
        return auto_metric(field).value
    if field.data_type is DataType.ARRAY_OF_VECTOR and given in MULTI_METRICS:
        return given
    if given not in Metric.__members__ and find_metric_extension(given) is not None:
        return _checked_extension(kind, given, field)
    if given not in _METRICS_OF.get(field.data_type, kind.metrics) & kind.metrics:
        if field.data_type is DataType.SPARSE_FLOAT_VECTOR:
            if given == Metric.BM25 and not field.is_function_output:
                raise IndexParameterError("only BM25 Function output field support BM25 metric type")
            raise IndexParameterError("only IP&BM25 is the supported metric type for sparse index")
        if given in _METRICS_OF.get(field.data_type, frozenset()):
            supported = " ".join(sorted(kind.metrics))
            raise IndexParameterError(f"metric type {given} not found or not supported, supported: [{supported}]")
        label = _VECTOR_LABELS.get(field.data_type, "float")
        raise IndexParameterError(f"{label} vector index does not support metric type: {params['metric_type']}")
    return given


def _checked_extension(kind: IndexType, metric: str, field: FieldSchema) -> str:
    """A metric of another package: exact search takes any, an index the ones it declares."""
    if field.data_type not in DENSE_TYPES:
        raise IndexParameterError(f"metric type {metric} compares dense vectors, not {field.data_type.label}")
    if metric not in kind.metrics and not isinstance(kind, Flat):
        raise IndexParameterError(
            f"metric type {metric} comes from another package, and index type {kind.name} does not know it: "
            "use FLAT or an index type of that package"
        )
    return metric


def check_mmap(index_type: str, value: str) -> None:
    """Raise `IndexParameterError` unless a definition of that type may have this value of `mmap.enabled`."""
    kind = find_index_type(index_type)
    if value.lower() not in ("true", "false"):
        raise IndexParameterError(f"invalid mmap.enabled value: {value}, expected: true, false")
    if value.lower() == "true" and not kind.supports_mmap:
        raise IndexParameterError(f"index type {kind.name} does not support mmap")


def _check_range(metric: Metric, params: SearchParams) -> None:
    radius, inner = params.get("radius"), params.get("range_filter")
    if not isinstance(radius, float) or not isinstance(inner, float):
        return
    if metric.larger_is_better and inner <= radius:
        raise SearchParameterError(
            f"metric type ({metric}), range_filter({inner:g}) must be greater than radius({radius:g})"
        )
    if not metric.larger_is_better and inner >= radius:
        raise SearchParameterError(
            f"metric type ({metric}), range_filter({inner:g}) must be less than radius({radius:g})"
        )
