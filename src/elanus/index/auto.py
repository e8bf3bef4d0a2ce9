"""AUTOINDEX: a name for what we think best; the definition goes on saying AUTOINDEX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from elanus.index.binary import BINARY_METRICS
from elanus.index.contract import ResolvedIndex
from elanus.index.declaration import FLOAT_METRICS, FLOAT_TYPES, LIST_TYPES, Declaration
from elanus.index.errors import IndexParameterError, IndexTypeNotServedError
from elanus.index.scalar import auto_scalar
from elanus.index.sparse_index import SparseInverted
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType, Metric

AUTO_METRIC: Final = Metric.COSINE
_OTHER_METRICS: Final = {
    DataType.BINARY_VECTOR: Metric.HAMMING,
    DataType.SPARSE_FLOAT_VECTOR: Metric.IP,
    DataType.ARRAY_OF_VECTOR: Metric.MAX_SIM_COSINE,
}
_SCANNED: Final = {DataType.BINARY_VECTOR: "BIN_FLAT"}
HNSW_PARAMS: Final = {"M": 18, "efConstruction": 240}
ALLOWED_KEYS: Final = frozenset({"index_type", "metric_type", "mmap.enabled", "dim"})


def auto_metric(field: FieldSchema) -> Metric:
    """The metric of a definition that names none."""
    return _OTHER_METRICS.get(field.data_type, AUTO_METRIC)


class Auto(Declaration):
    """For dense vectors HNSW over raw floats, for sparse ones postings, for binary ones the exact search; for scalars
    whatever fits the field."""

    name = "AUTOINDEX"
    data_types = FLOAT_TYPES | LIST_TYPES | {DataType.INT8_VECTOR, DataType.BINARY_VECTOR, DataType.SPARSE_FLOAT_VECTOR}
    metrics = FLOAT_METRICS | BINARY_METRICS

    def check_field(self, params: Mapping[str, str], field: FieldSchema) -> None:
        """Vectors take nothing but a metric; scalars must have an index type of their own."""
        if not field.data_type.is_vector:
            auto_scalar(field).check_field(params, field)
            return
        if set(params) - ALLOWED_KEYS:
            raise IndexParameterError("only metric type can be passed when use AutoIndex")
        if field.data_type not in self.data_types:
            raise IndexTypeNotServedError(f"index type AUTOINDEX on {field.data_type.label} field is not served yet")

    def resolve(self, params: Mapping[str, str], field: FieldSchema) -> ResolvedIndex:
        """The concrete type."""
        if not field.data_type.is_vector:
            return auto_scalar(field).resolve(params, field)
        if field.data_type in _SCANNED:
            return ResolvedIndex(_SCANNED[field.data_type], Metric(params["metric_type"]), {}, needs_file=False)
        if field.data_type is DataType.SPARSE_FLOAT_VECTOR:
            return SparseInverted().resolve(params, field)
        return ResolvedIndex("HNSW", Metric(params["metric_type"]), dict(HNSW_PARAMS), needs_file=True)
