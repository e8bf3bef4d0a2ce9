"""Vector columns in the form that searches take."""

from __future__ import annotations

import numpy as np

from elanus.index.binary import BinaryVectors
from elanus.index.declaration import DENSE_TYPES
from elanus.index.multi import MultiVectors
from elanus.index.scored import ScoredVectors
from elanus.index.sparse import SparseVectors
from elanus.index.vectors import Vectors, as_float32
from elanus.model.columns import Values
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType


def searchable(values: Values, field: FieldSchema) -> Vectors | ScoredVectors:
    """A whole column; nothing is copied, and what is computed at first need is kept in it."""
    data_type = field.data_type
    if data_type is DataType.ARRAY_OF_VECTOR:
        return MultiVectors(values, field.dimension)
    if data_type is DataType.SPARSE_FLOAT_VECTOR:
        return SparseVectors(values)
    dense = np.asarray(values)
    return BinaryVectors(dense) if data_type is DataType.BINARY_VECTOR else Vectors(dense)


def query_array(queries: np.ndarray, data_type: DataType) -> np.ndarray:
    """Queries in a field's storage dtype as its search takes them."""
    return as_float32(queries) if data_type in DENSE_TYPES else queries
