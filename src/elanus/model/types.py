"""Milvus's enumerations, by its numbers, and what follows from them alone."""

from __future__ import annotations

from enum import IntEnum, StrEnum

from elanus.model.errors import BadParameterError
from elanus.model.metrics import MetricExtension, find_metric_extension


class DataType(IntEnum):
    """Field types, numbered as on the wire."""

    NONE = 0
    BOOL = 1
    INT8 = 2
    INT16 = 3
    INT32 = 4
    INT64 = 5
    FLOAT = 10
    DOUBLE = 11
    STRING = 20
    VARCHAR = 21
    ARRAY = 22
    JSON = 23
    GEOMETRY = 24
    TEXT = 25
    TIMESTAMPTZ = 26
    BINARY_VECTOR = 100
    FLOAT_VECTOR = 101
    FLOAT16_VECTOR = 102
    BFLOAT16_VECTOR = 103
    SPARSE_FLOAT_VECTOR = 104
    INT8_VECTOR = 105
    ARRAY_OF_VECTOR = 106
    ARRAY_OF_STRUCT = 200
    STRUCT = 201

    @property
    def label(self) -> str:
        """The name in Milvus's messages: `Int64`, `VarChar`, `FloatVector`."""
        return _LABELS[self]

    @property
    def is_vector(self) -> bool:
        """Whether values are vectors of any kind."""
        return DataType.BINARY_VECTOR <= self <= DataType.ARRAY_OF_VECTOR

    @property
    def is_integer(self) -> bool:
        """INT8 to INT64."""
        return DataType.INT8 <= self <= DataType.INT64

    @property
    def is_floating(self) -> bool:
        """FLOAT or DOUBLE."""
        return self in (DataType.FLOAT, DataType.DOUBLE)

    @property
    def is_number(self) -> bool:
        """Integer or floating."""
        return self.is_integer or self.is_floating

    @property
    def is_string(self) -> bool:
        """VARCHAR or TEXT."""
        return self in (DataType.VARCHAR, DataType.TEXT, DataType.STRING)


_LABELS = {
    DataType.NONE: "None",
    DataType.BOOL: "Bool",
    DataType.INT8: "Int8",
    DataType.INT16: "Int16",
    DataType.INT32: "Int32",
    DataType.INT64: "Int64",
    DataType.FLOAT: "Float",
    DataType.DOUBLE: "Double",
    DataType.STRING: "String",
    DataType.VARCHAR: "VarChar",
    DataType.ARRAY: "Array",
    DataType.JSON: "JSON",
    DataType.GEOMETRY: "Geometry",
    DataType.TEXT: "Text",
    DataType.TIMESTAMPTZ: "Timestamptz",
    DataType.BINARY_VECTOR: "BinaryVector",
    DataType.FLOAT_VECTOR: "FloatVector",
    DataType.FLOAT16_VECTOR: "Float16Vector",
    DataType.BFLOAT16_VECTOR: "BFloat16Vector",
    DataType.SPARSE_FLOAT_VECTOR: "SparseFloatVector",
    DataType.INT8_VECTOR: "Int8Vector",
    DataType.ARRAY_OF_VECTOR: "ArrayOfVector",
    DataType.ARRAY_OF_STRUCT: "ArrayOfStruct",
    DataType.STRUCT: "Struct",
}


class Metric(StrEnum):
    """Vector metrics, by Milvus's names. `Metric(name)` also gives the one metric of that name that another package
    brings; it is no member to iterate over. UnknownMetricError if nobody has it."""

    L2 = "L2"
    IP = "IP"
    COSINE = "COSINE"
    HAMMING = "HAMMING"
    JACCARD = "JACCARD"
    SUBSTRUCTURE = "SUBSTRUCTURE"
    SUPERSTRUCTURE = "SUPERSTRUCTURE"
    BM25 = "BM25"
    MAX_SIM = "MAX_SIM"
    MAX_SIM_COSINE = "MAX_SIM_COSINE"
    MAX_SIM_IP = "MAX_SIM_IP"
    MAX_SIM_L2 = "MAX_SIM_L2"

    @classmethod
    def _missing_(cls, value: object) -> Metric:
        name = str(value)
        extension = find_metric_extension(name) if name.isupper() else None
        if extension is None:
            raise UnknownMetricError(name)
        made = str.__new__(cls, name)
        made._name_ = made._value_ = name
        return _FOREIGN.setdefault(name, made)

    @property
    def extension(self) -> MetricExtension | None:
        """What computes it, for a metric of another package."""
        return find_metric_extension(self.value) if self.value in _FOREIGN else None

    @property
    def larger_is_better(self) -> bool:
        """Direction of the score."""
        extension = self.extension
        return self in _SIMILARITIES if extension is None else extension.larger_is_better

    @property
    def compares_lists(self) -> bool:
        """Whether a score is of a list of vectors with a list, not of two vectors."""
        return self.startswith("MAX_SIM")


class UnknownMetricError(BadParameterError):
    """1100: no metric of that name, here or in an installed package."""

    def __init__(self, name: str) -> None:
        super().__init__(f"metric type {name} is not known, and no installed package brings it")


_FOREIGN: dict[str, Metric] = {}
"""Those of other packages, each made once: metrics are compared by identity."""
_SIMILARITIES = frozenset(
    {Metric.IP, Metric.COSINE, Metric.BM25, Metric.MAX_SIM, Metric.MAX_SIM_COSINE, Metric.MAX_SIM_IP}
)


class ConsistencyLevel(IntEnum):
    """How fresh a read must be."""

    STRONG = 0
    SESSION = 1
    BOUNDED = 2
    EVENTUALLY = 3
    CUSTOMIZED = 4


class LoadStatus(IntEnum):
    """Whether a collection, or some of its partitions, can be searched."""

    NOT_EXIST = 0
    NOT_LOADED = 1
    LOADING = 2
    LOADED = 3


class IndexStatus(IntEnum):
    """How far an index is built over the rows there are."""

    UNISSUED = 1
    IN_PROGRESS = 2
    FINISHED = 3
    FAILED = 4


class CompactionStatus(IntEnum):
    """How far a compaction that was asked for has got."""

    EXECUTING = 1
    COMPLETED = 2


class SegmentStatus(IntEnum):
    """Where the rows of a segment are."""

    GROWING = 2
    SEALED = 3
    FLUSHED = 4
