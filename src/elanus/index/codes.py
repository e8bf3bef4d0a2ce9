"""Codes that stand for vectors in an index: scalar codes by name, and how many candidates are scored again.

Scores of codes are only near those of the vectors. A segment keeps its vectors, mapped, so candidates are refined with
the vectors themselves, which is at least as good as any code kept for it: `refine_type` is checked and described, and
costs no memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np

from elanus.index.contract import Floats, ResolvedIndex, SearchParams
from elanus.index.errors import IndexParameterError
from elanus.index.kernels import library
from elanus.index.parameters import FLOAT32_MAX, ChoiceParameter, FlagParameter, NumberParameter, Setting
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType, Metric

CANDIDATES: Final = "candidates"
"""The search parameter by which `params_for` hands a number of candidates to `candidates`."""

_QUANTIZERS: Final = {
    "SQ4U": "QT_4bit_uniform",
    "SQ6": "QT_6bit",
    "SQ8": "QT_8bit",
    "BF16": "QT_bf16",
    "FP16": "QT_fp16",
    "INT8": "QT_8bit_direct_signed",
}

SCALAR_CODE: Final = ChoiceParameter(
    "sq_type", ("SQ4U", "SQ6", "SQ8", "BF16", "FP16"), "SQ8", "invalid scalar quantizer type"
)
REFINE: Final = FlagParameter("refine", False)
REFINE_K: Final = NumberParameter("refine_k", 1.0, FLOAT32_MAX, 1.0)
PQ_NITER: Final = 12
"""Rounds of k-means for each part of a vector; more change recall by less than noise."""


def refine_type(*others: str) -> ChoiceParameter:
    """The parameter, for an index type that takes these codes beside those that all take."""
    choices = (*others, "SQ6", "SQ8", "FP16", "BF16", "FP32", "FLAT")
    listed = ", ".join(choice.lower() for choice in choices)
    return ChoiceParameter("refine_type", choices, None, f"invalid refine type : {{}}, optional types are [{listed}]")


def natively_coded(resolved: ResolvedIndex, field: FieldSchema) -> ResolvedIndex:
    """With the parameter `code`, the code that holds the field's own numbers without a loss; none where that takes
    floats."""
    code = _native_code(field.data_type, resolved.metric)
    return resolved if code is None else msgspec.structs.replace(resolved, params=resolved.params | {"code": code})


def _native_code(data_type: DataType, metric: Metric | None) -> str | None:
    """Under COSINE, vectors are normalised first, which whole numbers do not survive."""
    match data_type:
        case DataType.FLOAT16_VECTOR:
            return "FP16"
        case DataType.BFLOAT16_VECTOR:
            return "BF16"
        case DataType.INT8_VECTOR:
            return "FP16" if metric is Metric.COSINE else "INT8"
    return None


def quantizer(code: str) -> int:
    """faiss's number of a scalar code."""
    return int(getattr(library().ScalarQuantizer, _QUANTIZERS[code]))


def scalar_codes(values: Floats, metric: int, code: str) -> Any:
    """A faiss index of scalar codes of all vectors, row by row."""
    index = library().IndexScalarQuantizer(values.shape[1], quantizer(code), metric)
    index.train(training_rows(values, 1))
    if len(values):
        index.add(values)
    return index


def candidate_count(k: int, params: SearchParams, built: Mapping[str, Setting]) -> int:
    """How many rows by code a search for k takes: what the planner says, or `refine_k` times k of an index built with
    `refine`, or `reorder_k`."""
    planned, reorder = params.get(CANDIDATES, 0), params.get("reorder_k", 0)
    refine_k = params.get("refine_k", 1.0)
    factor = float(refine_k) if built.get("refine") and isinstance(refine_k, int | float) else 1.0
    given = [value for value in (planned, reorder) if isinstance(value, int)]
    return max(k, math.ceil(k * factor), *given)


def check_product_code(params: Mapping[str, Setting], field: FieldSchema) -> None:
    """IndexParameterError unless the parts of a vector are equally long."""
    parts = int(params.get("m", 1))
    if field.dimension and field.dimension % parts:
        raise IndexParameterError(
            "The dimension of the vector (dim) should be a multiple of the number of subquantizers (m). "
            f"dimension:{field.dimension}, m:{parts}"
        )


def code_bits(wanted: Setting, row_count: int) -> int:
    """Bits of a product code: there are never more centroids than rows."""
    return max(1, min(int(wanted), max(row_count, 2).bit_length() - 1))


def training_rows(values: Floats, least: int) -> Floats:
    """At least that many rows to learn from: all of them, again and again where they are fewer, shorter each time, so
    that there are as many centroids."""
    if len(values) >= least:
        return values
    if not len(values):
        return np.zeros((least, values.shape[1]), np.float32)
    factors = np.linspace(1, 0.5, least, dtype=np.float32)
    return np.ascontiguousarray(np.resize(values, (least, values.shape[1])) * factors[:, None])


def quiet_clustering(clustering: Any) -> None:
    """k-means of few points is no fault worth a line on standard error."""
    clustering.min_points_per_centroid = 1
