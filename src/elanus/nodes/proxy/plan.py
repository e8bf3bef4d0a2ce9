"""Search parameters: from strings as sent to a plan that is made once and reused.

A plan depends on the collection entry and on the request's parameters, vector type, partitions and output fields; it
hangs on the entry (`CollectionEntry.plans`), so a changed schema or index drops it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from elanus.base.limits import RESULT_WINDOW_MAX, TOP_K_MAX
from elanus.index.registry import validate_search
from elanus.index.sparse import packed_queries
from elanus.model.columns import Column
from elanus.model.errors import BadParameterError, RequestError, UnsupportedError
from elanus.model.reads import Grouping
from elanus.model.requests import SearchRequest
from elanus.model.schema import FieldSchema
from elanus.model.types import DataType, Metric
from elanus.nodes.proxy.entry import CollectionEntry
from elanus.nodes.proxy.forms import Clock, clock_of
from elanus.nodes.proxy.grouping import grouping_of
from elanus.nodes.proxy.outputs import Outputs, expanded
from elanus.nodes.proxy.values import check_finite, check_finite_vectors, checked_values

_CONTROL_KEYS: Final = frozenset(
    [
        "anns_field",
        "topk",
        "limit",
        "offset",
        "metric_type",
        "params",
        "round_decimal",
        "ignore_growing",
        "hints",
        "iterator",
        "search_iter_v2",
        "search_iter_batch_size",
        "search_iter_last_bound",
        "search_iter_id",
        "collection_id",
        "page_retain_order",
        "level",
        "reduce_stop_for_best",
        "cluster_id",
        "analyzer_name",
        "timezone",
        "time_fields",
        "group_by_field",
        "group_size",
        "strict_group_size",
        "json_path",
        "json_type",
        "strict_cast",
    ]
)
_HINTS: Final = ("", "iterative_filter", "disable")
_REFUSED_KEYS: Final = ("group_by_fields", "order_by_fields", "analyzer_name")
_QUERY_CONVERSIONS: Final = (DataType.FLOAT16_VECTOR, DataType.BFLOAT16_VECTOR)


class IteratorPage(NamedTuple):
    """One page of a search iterator: `token` names it; only hits strictly worse than `last_bound` belong to it."""

    token: str
    last_bound: float | None


class SearchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """All of a search but its vectors, filter and freshness. `k` is what shards are asked for: limit and offset."""

    field: FieldSchema
    metric: str
    larger_is_better: bool
    limit: int
    offset: int
    k: int
    params: dict[str, Any]
    radius: float | None
    range_filter: float | None
    round_decimal: int
    ignore_growing: bool
    partition_ids: tuple[int, ...] | None
    outputs: Outputs
    clock: Clock
    iterator: IteratorPage | None
    grouping: Grouping | None

    @property
    def finds_elements(self) -> bool:
        """Whether lists of vectors are searched element by element."""
        return self.field.data_type is DataType.ARRAY_OF_VECTOR and not Metric(self.metric).compares_lists


def search_plan(entry: CollectionEntry, request: SearchRequest) -> SearchPlan:
    """The remembered plan, or a new one."""
    key = (tuple(request.params.items()), request.partitions, request.output_fields)
    plan = entry.plans.get(key)
    if plan is None:
        plan = _new_plan(entry, request)
        if plan.iterator is None:
            entry.remember_plan(key, plan)
    found: SearchPlan = plan
    return found


def _new_plan(entry: CollectionEntry, request: SearchRequest) -> SearchPlan:
    entry.check_partitions(request.partitions)
    entry.require_loaded("search")
    params = request.params
    engine = _engine_params(params)
    for name in _REFUSED_KEYS:
        if params.get(name) or engine.get(name):
            raise UnsupportedError(f"search option {name}")
    _check_collection_id(entry, params)
    _check_hints(str(params.get("hints") or engine.get("hints") or ""))
    iterator = _iterator(params)
    limit, offset = _window(params, is_iterator=iterator is not None)
    field = _anns_field(entry, params.get("anns_field", ""))
    entry.require_field(field)
    index = entry.indexes.get(field.field_id)
    if index is None:
        raise RequestError(f"field {field.name} is not loaded, please reload the collection")
    metric = _metric(params.get("metric_type") or str(engine.get("metric_type") or ""), index.metric_type)
    checked = validate_search(index.index_type, metric, engine, limit + offset)
    if field.data_type is DataType.ARRAY_OF_VECTOR:
        _check_vector_list(request, checked)
    grouping = grouping_of(entry, params)
    if grouping is not None:
        _check_grouped(field, params, engine, iterator)
    return SearchPlan(
        field=field,
        metric=str(metric),
        larger_is_better=metric.larger_is_better,
        limit=limit,
        offset=offset,
        k=limit + offset,
        radius=_number(checked.pop("radius", None)),
        range_filter=_number(checked.pop("range_filter", None)),
        params=checked,
        round_decimal=check_round_decimal(params.get("round_decimal", "-1")),
        ignore_growing=boolean(params, engine, "ignore_growing", "parse ignore growing field failed"),
        partition_ids=entry.partitions_to_read(request.partitions, "search"),
        outputs=expanded(entry, request.output_fields, with_primary=False),
        clock=clock_of(params, entry.timezone),
        iterator=iterator,
        grouping=grouping,
    )


def _check_grouped(
    field: FieldSchema, params: Mapping[str, str], engine: Mapping[str, Any], iterator: IteratorPage | None
) -> None:
    """Refuse what does not go together with grouping."""
    if iterator is not None or params.get("iterator", "").lower() == "true":
        raise BadParameterError("Not allowed to do groupBy when doing iteration")
    if "radius" in engine:
        raise BadParameterError("Not allowed to do range-search when doing search-group-by")
    if field.data_type is DataType.ARRAY_OF_VECTOR:
        raise BadParameterError(
            f"group by search is not supported for vector array (embedding list) fields, fieldName:{field.name}"
        )
    if field.data_type is DataType.BINARY_VECTOR:
        raise RequestError("not support search_group_by operation based on binary vector column")


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _engine_params(params: Mapping[str, str]) -> dict[str, Any]:
    """The index's parameters: the JSON in `params`, which wins, over what older clients spread beside it."""
    spread = {key: _literal(value) for key, value in params.items() if key not in _CONTROL_KEYS}
    text = params.get("params", "")
    if not text:
        return spread
    try:
        inner = json.loads(text)
    except ValueError:
        raise BadParameterError(f"search params in wrong format: {text}") from None
    if not isinstance(inner, dict):
        raise BadParameterError(f"search params in wrong format: {text}")
    if isinstance(inner.get("params"), dict):
        inner = {**inner, **inner.pop("params")}
    return {**spread, **inner}


def _literal(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def result_window(params: Mapping[str, str]) -> tuple[int, int]:
    """`limit` and `offset`, which together reach no further than the result window."""
    fault = "invalid max query result window, "
    limit, offset = integer(params, "limit", 0), integer(params, "offset", 0)
    if limit <= 0:
        raise RequestError(f"{fault}limit [{limit}] is invalid, should be greater than 0")
    if offset < 0:
        raise RequestError(f"{fault}offset [{offset}] is invalid, should be gte than 0")
    if limit + offset > RESULT_WINDOW_MAX:
        raise RequestError(
            f"{fault}(offset+limit) should be in range [1, {RESULT_WINDOW_MAX}], but got {limit + offset}"
        )
    return limit, offset


def integer(params: Mapping[str, str], key: str, default: int | None) -> int:
    """An integer parameter; `default` None means that it must be there."""
    text = params.get(key)
    if text is None or text == "":
        if default is None:
            raise RequestError(f"{key} is required")
        return default
    try:
        return int(text)
    except ValueError:
        raise RequestError(f"{key} [{text}] is invalid") from None


def boolean(params: Mapping[str, str], engine: Mapping[str, Any], key: str, fault: str) -> bool:
    """A truth value in any spelling of case, from the parameters or from the JSON inside them."""
    text = str(params.get(key) or engine.get(key) or "false").lower()
    if text not in ("true", "false", "1", "0"):
        raise RequestError(f"{fault}, value: {text}")
    return text in ("true", "1")


def _window(params: Mapping[str, str], *, is_iterator: bool) -> tuple[int, int]:
    if is_iterator:
        return integer(params, "search_iter_batch_size", None), 0
    limit = integer(params, "topk", None)
    if params.get("iterator", "").lower() == "true":
        limit = min(limit, TOP_K_MAX)
    if not 1 <= limit <= TOP_K_MAX:
        raise RequestError(f"topk [{limit}] is invalid, it should be in range [1, {TOP_K_MAX}], but got {limit}")
    offset = integer(params, "offset", 0)
    if not 0 <= offset <= TOP_K_MAX:
        raise RequestError(f"offset [{offset}] is invalid, it should be in range [0, {TOP_K_MAX}], but got {offset}")
    if limit + offset > TOP_K_MAX:
        raise RequestError(
            f"offset+topk [{limit + offset}] is invalid, it should be in range [1, {TOP_K_MAX}], "
            f"but got {limit + offset}"
        )
    return limit, offset


def _iterator(params: Mapping[str, str]) -> IteratorPage | None:
    """A page of the iterator that the server pages; the older form is an ordinary range search."""
    if params.get("search_iter_v2", "").lower() != "true":
        return None
    fault = "parse iterator v2 info failed: "
    if params.get("iterator", "").lower() != "true":
        raise RequestError(fault + "both iterator and search_iter_v2 must be set in the SDK")
    size = integer(params, "search_iter_batch_size", 0)
    if "search_iter_batch_size" not in params:
        raise RequestError(fault + "batch size is required")
    if not 1 <= size <= TOP_K_MAX:
        raise RequestError(f"{fault}batch size is invalid, it should be in range [1, {TOP_K_MAX}], but got {size}")
    if integer(params, "offset", 0):
        raise RequestError("Setting an offset is not permitted when using a search iterator v2")
    token = params.get("search_iter_id", "")
    if token and not _is_token(token):
        raise RequestError(fault + "invalid token format")
    bound = params.get("search_iter_last_bound", "")
    try:
        return IteratorPage(token, float(bound) if bound else None)
    except ValueError:
        raise RequestError(fault + "failed to parse input last bound") from None


def _is_token(token: str) -> bool:
    return len(token) <= 64 and token.replace("-", "").isalnum()


def _check_vector_list(request: SearchRequest, params: Mapping[str, object]) -> None:
    """What cannot be asked of lists of vectors."""
    if "radius" in params:
        raise RequestError("range search is not supported for vector array")
    if request.ids is not None:
        raise RequestError("array of vector is not supported for search by IDs")
    if request.params.get("iterator", "").lower() == "true":
        raise RequestError("search iterator is not supported for vector array")


def _check_hints(hint: str) -> None:
    """How a filter is to be applied; the answer is the same."""
    if hint not in _HINTS:
        raise RequestError(f"Create Plan by expr failed:  => hints: {hint} not supported")


def _check_collection_id(entry: CollectionEntry, params: Mapping[str, str]) -> None:
    asked = params.get("collection_id", "")
    if asked and asked != str(entry.collection_id):
        raise BadParameterError(
            f"collection id:{asked} in the request is not consistent to that in the search context, "
            f"alias or database may have been changed: {entry.collection_id}"
        )


def _anns_field(entry: CollectionEntry, name: str) -> FieldSchema:
    if not name:
        vectors = entry.schema.vector_fields
        if len(vectors) > 1:
            raise RequestError("multiple anns_fields exist, please specify a anns_field in search_params")
        return vectors[0]
    field = entry.fields.get(name)
    if field is None:
        raise BadParameterError(
            f"failed to create query plan: failed to get field schema by name: fieldName({name}) not found"
        )
    if not field.data_type.is_vector:
        raise BadParameterError(f"failed to create query plan: field ({name}) to search is not of vector data type")
    return field


def _metric(asked: str, built: str) -> Metric:
    if asked and asked.upper() != built.upper():
        raise MetricMismatchError(built, asked)
    return Metric(built.upper())


class MetricMismatchError(BadParameterError):
    """1100: a search names another metric than the index."""

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__("metric type not match", expected=expected, actual=actual)


def check_round_decimal(text: str) -> int:
    """Decimals of scores, -1 for all."""
    valid = text.lstrip("-").isdecimal() and -1 <= int(text) <= 6
    if not valid:
        raise RequestError(f"round_decimal [{text}] is invalid, should be -1 or an integer in range [0, 6]")
    return int(text)


def checked_queries(plan: SearchPlan, request: SearchRequest) -> np.ndarray:
    """The query vectors in the field's storage dtype."""
    field, queries = plan.field, request.queries
    kind = field.element_type if plan.finds_elements else field.data_type
    if request.query_type is not kind:
        if request.query_type is not DataType.FLOAT_VECTOR or kind not in _QUERY_CONVERSIONS:
            raise RequestError(
                f"vector type must be the same, field {field.name} - type {kind.label}, "
                f"search info type {request.query_type.label}"
            )
        check_finite(queries)
        queries = as_float16(queries) if kind is DataType.FLOAT16_VECTOR else as_bfloat16(queries)
    if kind is DataType.SPARSE_FLOAT_VECTOR:
        return _sparse_queries(field, queries)
    if kind is DataType.ARRAY_OF_VECTOR:
        _check_lists(field, queries)
        return queries
    width = field.dimension // 8 if kind is DataType.BINARY_VECTOR else field.dimension
    if queries.ndim != 2 or queries.shape[1] != width:
        raise RequestError(
            f"vector dimension mismatch, expected vector size(byte) {width * queries.dtype.itemsize}, "
            f"actual {queries[:1].nbytes}."
        )
    check_finite_vectors(queries, kind)
    return queries


def _check_lists(field: FieldSchema, queries: np.ndarray) -> None:
    """Every query is whole vectors."""
    floats = np.count_nonzero(~np.isnan(queries), axis=1)
    broken = np.flatnonzero(floats % field.dimension)
    if len(broken):
        raise RequestError(
            f"vector dimension mismatch, expected vector size(byte) {field.dimension * queries.dtype.itemsize}, "
            f"actual {floats[broken[0]] * queries.dtype.itemsize}."
        )


def _sparse_queries(field: FieldSchema, queries: np.ndarray) -> np.ndarray:
    """Rows of entries, checked as stored rows are, in the layout that crosses to the shards."""
    rows = queries.tolist()
    checked_values(field, Column(pa.array(rows, pa.large_binary())))
    return packed_queries(rows)


def as_float16(queries: np.ndarray) -> np.ndarray:
    """Rounded to the nearest half-precision number; too large becomes infinity."""
    with np.errstate(over="ignore"):
        return queries.astype("<f2")


def as_bfloat16(queries: np.ndarray) -> np.ndarray:
    """Rounded to the nearest bfloat16, ties to even, as uint16 (n, width)."""
    bits = np.ascontiguousarray(queries, "<f4").view("<u4")
    rounded: np.ndarray = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return rounded
