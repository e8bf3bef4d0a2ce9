"""From what a client says about scoring to rankers and boosts, with Milvus's refusals.

Functions come typed `Rerank`, with a parameter `reranker` that names the kind. `boost` acts on each segment's hits, at
most one of the others on the merged hits. The older form of a hybrid search, a strategy and its JSON parameters, is
turned into the same rankers. Rerankers that ask a model over the network are checked and then refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from elanus.functions.rankers import AVERAGE, MAX, RRF_K_DEFAULT, SUM, AnyRanker, Decay, ReciprocalRank, Weighted
from elanus.model.errors import BadParameterError, FieldNotFoundError, RequestError, UnsupportedError
from elanus.model.reads import Boost, Boosting
from elanus.model.requests import FunctionScore
from elanus.model.schema import CollectionSchema, FieldSchema, FunctionSchema
from elanus.model.types import DataType

RERANK_FUNCTION_TYPE: Final = 3
_TYPE_NAMES: Final = {0: "Unknown", 1: "BM25", 2: "TextEmbedding", 3: "Rerank"}
_K_MAX: Final = 16384
_PROVIDERS: Final = frozenset(("vllm", "tei", "siliconflow", "cohere", "voyageai", "ali", "zilliz"))
_SELF_HOSTED: Final = frozenset(("vllm", "tei"))
"""Providers that have no address of their own."""
_SHAPES: Final = ("gauss", "linear", "exp")
_TRUTHS: Final = {
    **dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True),
    **dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False),
}


def ranker_of(score: FunctionScore, schema: CollectionSchema, query_count: int) -> AnyRanker | None:
    """The one function that ranks merged hits; None where there are only boosts."""
    found: AnyRanker | None = None
    for function in score.functions:
        ranker = _ranker(function, schema, query_count)
        if ranker is not None and found is not None:
            raise RequestError("currently only supports one rerank")
        found = ranker or found
    return found


def kind_of(function: FunctionSchema) -> str:
    """The function's `reranker`, in lower case."""
    return _lowered(function.params).get("reranker", "").lower()


def _lowered(params: Mapping[str, str]) -> dict[str, str]:
    return {key.lower(): value for key, value in params.items()}


def _ranker(function: FunctionSchema, schema: CollectionSchema, query_count: int) -> AnyRanker | None:
    if function.function_type != RERANK_FUNCTION_TYPE:
        label = _TYPE_NAMES.get(function.function_type, str(function.function_type))
        raise RequestError(f"{label} is not rerank function")
    if function.output_field_names:
        count = len(function.output_field_names)
        raise RequestError(f"rerank function should not have output field, but now is {count}")
    kind, params = kind_of(function), _lowered(function.params)
    match kind:
        case "rrf":
            return _reciprocal_rank(function, _inputs(function, schema), params)
        case "weighted":
            return _weighted(function, _inputs(function, schema), params)
        case "decay":
            return _decay(function, _inputs(function, schema), params)
        case "model":
            _refuse_model(function, _inputs(function, schema), query_count)
        case "boost":
            return None
    raise RequestError(f"unsupported rerank function: [{kind}] , list of supported [decay,model,rrf,weighted]")


def _inputs(function: FunctionSchema, schema: CollectionSchema) -> list[FieldSchema]:
    names = function.input_field_names
    fields = []
    for name in names:
        if not name:
            raise RequestError("rerank input field name cannot be empty string")
        if names.count(name) > 1:
            raise RequestError(
                f"each function input field should be used exactly once in the same function, input field: {name}"
            )
        field = schema.field(name)
        if field is None:
            raise RequestError(f"function input field not found: {name}")
        if field.nullable:
            raise RequestError(f"function input field cannot be nullable: field {name}")
        fields.append(field)
    return fields


def _listed(function: FunctionSchema) -> str:
    return f"[{' '.join(function.input_field_names)}]"


def _number(params: Mapping[str, str], key: str, default: float | None = None) -> float | None:
    """A number; `default` where it is not given."""
    text = params.get(key)
    if text is None:
        return default
    try:
        return float(text)
    except ValueError:
        raise RequestError(f"param {key}:{text} is not a number") from None


def _truth(params: Mapping[str, str], key: str) -> bool:
    text = params.get(key, "false")
    if text not in _TRUTHS:
        raise RequestError(f"{key} params must be true/false, bug got {text}")
    return _TRUTHS[text]


# --- fusion ---------------------------------------------------------------------------------------------------------
def _reciprocal_rank(
    function: FunctionSchema, inputs: Sequence[FieldSchema], params: Mapping[str, str]
) -> ReciprocalRank:
    if inputs:
        raise RequestError(f"the rrf function does not support input parameters, but got {_listed(function)}")
    return _checked_k(_number(params, "k", RRF_K_DEFAULT))


def _checked_k(k: float | None) -> ReciprocalRank:
    if k is None or not 0 < k < _K_MAX:
        raise RequestError(f"the rank params k should be in range (0, {_K_MAX})")
    return ReciprocalRank(k)


def _weighted(function: FunctionSchema, inputs: Sequence[FieldSchema], params: Mapping[str, str]) -> Weighted:
    if inputs:
        raise RequestError(f"the weighted function does not support input parameters, but got {_listed(function)}")
    text = params.get("weights", "[]")
    try:
        weights = json.loads(text)
    except (ValueError, RecursionError):
        weights = None
    return _checked_weights(weights, text, _truth(params, "norm_score"))


def _checked_weights(weights: Any, text: str, normalises: bool) -> Weighted:
    if not isinstance(weights, list) or not all(_is_number(weight) for weight in weights):
        raise RequestError(f"parse weights param failed, weight should be []float, bug got: {text}")
    if not all(0 <= weight <= 1 for weight in weights):
        raise RequestError("rank param weight should be in range [0, 1]")
    if not weights:
        raise RequestError("weights not found")
    return Weighted(tuple(float(weight) for weight in weights), normalises)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def legacy_ranker(rank_params: Mapping[str, str]) -> AnyRanker:
    """The ranker of `strategy` and `params` of a hybrid search; reciprocal ranks where nothing is said."""
    strategy = rank_params.get("strategy")
    if strategy is None:
        return ReciprocalRank()
    if strategy not in ("rrf", "weighted"):
        raise RequestError(f"unsupported rank type {strategy}")
    if "params" not in rank_params:
        raise RequestError("params not found in rank_params")
    try:
        params = json.loads(rank_params["params"])
    except (ValueError, RecursionError) as error:
        raise RequestError(f"parse rerank params failed, err: {error}") from None
    if not isinstance(params, dict):
        raise RequestError("parse rerank params failed, err: not a JSON object")
    if strategy == "rrf":
        k = params.get("k", RRF_K_DEFAULT)
        if not _is_number(k):
            raise RequestError("the type of rank param k should be float")
        return _checked_k(k)
    normalises = params.get("norm_score", False)
    if not isinstance(normalises, bool):
        raise RequestError(
            "weighted rerank err, norm_score should been bool type, "
            f"but [norm_score:{normalises}]'s type is {type(normalises).__name__}"
        )
    weights = params.get("weights", [])
    return _checked_weights(weights, json.dumps(weights), normalises)


def check_search_count(ranker: AnyRanker | None, count: int) -> None:
    """Refuse weights whose number is not that of the searches."""
    if isinstance(ranker, Weighted) and len(ranker.weights) != count:
        raise BadParameterError(
            "the length of weights param mismatch with ann search requests", expected=count, actual=len(ranker.weights)
        )


# --- one field, or a model ------------------------------------------------------------------------------------------
def _decay(function: FunctionSchema, inputs: Sequence[FieldSchema], params: Mapping[str, str]) -> Decay:
    if len(inputs) != 1:
        raise RequestError(f"decay function only supports single input, but gets [{_listed(function)}] input")
    kind = inputs[0].data_type
    if not kind.is_number and kind is not DataType.TIMESTAMPTZ:
        raise RequestError(f"decay rerank: unsupported input field type:{kind.label}, only support numeric field")
    origin, scale = _number(params, "origin"), _number(params, "scale")
    offset, decay = _number(params, "offset", 0.0), _number(params, "decay", 0.5)
    normalises = _truth(params, "norm_score")
    mode = params.get("score_mode", MAX)
    if mode not in (MAX, AVERAGE, SUM):
        raise RequestError(f"unsupport score mode: [{mode}], only supports: [max, avg, sum]")
    if origin is None or math.isnan(origin):
        raise RequestError("decay function lost param: origin")
    if scale is None:
        raise RequestError("decay function lost param: scale")
    if not scale > 0:
        raise RequestError(f"decay function param: scale must > 0, but got {scale:f}")
    if offset is None or not offset >= 0:
        raise RequestError(f"decay function param: offset must >= 0, but got {offset:f}")
    if decay is None or not 0 < decay < 1:
        raise RequestError(f"decay function param: decay must 0 < decay < 1, but got {decay:f}")
    shape = params.get("function", "")
    if shape not in _SHAPES:
        raise RequestError(f"invalid decay function: decay, only support [{','.join(_SHAPES)}]")
    return Decay(
        shape=shape,
        origin=origin,
        scale=scale,
        offset=offset,
        decay=decay,
        normalises=normalises,
        merge=mode,
        input_field_id=inputs[0].field_id,
    )


def _refuse_model(function: FunctionSchema, inputs: Sequence[FieldSchema], query_count: int) -> None:
    """Check everything that can be checked without asking the model, then say that none is asked."""
    params = function.params
    if len(inputs) != 1:
        raise RequestError(f"rerank model only supports single input, but gets [{_listed(function)}] input")
    if inputs[0].data_type is not DataType.VARCHAR:
        raise RequestError(f"rerank model only support varchar, bug got [{inputs[0].data_type.label}]")
    named = _lowered(params).get("provider")
    if named is None:
        raise RequestError("lost rerank params:provider ")
    if named.lower() not in _PROVIDERS:
        raise RequestError(f"unknown rerank model provider:{named}")
    endpoint = params.get("endpoint", "" if named.lower() in _SELF_HOSTED else None)
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        raise RequestError(f"endpoint: [{endpoint}] is not a valid http/https link")
    _check_batch(params.get("max_client_batch_size", "1"))
    try:
        queries = json.loads(params.get("queries", "[]"))
    except (ValueError, RecursionError) as error:
        raise RequestError(f"parse rerank params [queries] failed, err: {error}") from None
    if not isinstance(queries, list) or not all(isinstance(query, str) for query in queries):
        raise RequestError("parse rerank params [queries] failed, err: not a list of strings")
    if not queries:
        raise RequestError("rerank function lost params queries")
    if len(queries) != query_count:
        raise RequestError(
            f"nq must equal to queries size, but got nq [{query_count}], queries size [{len(queries)}], "
            f"queries: [{queries}]"
        )
    raise UnsupportedError("reranking by a model service")


def _check_batch(text: str) -> None:
    if not text.lstrip("-").isdecimal():
        raise RequestError(f"[max_client_batch_size param's value: {text}] is not a valid number")
    if int(text) <= 0:
        raise RequestError(f"[max_client_batch_size param's value: {text}] must be greater than 0")


# --- boosts ---------------------------------------------------------------------------------------------------------
def boosting_of(score: FunctionScore, schema: CollectionSchema, seed: int) -> Boosting | None:
    """The boosts among the functions; `seed` is for random scores that name none."""
    boosts = tuple(_boost(function, schema, seed) for function in score.functions if kind_of(function) == "boost")
    if not boosts:
        return None
    return Boosting(
        boosts=boosts,
        adds_boosts=_adds(score.params, "function_mode", "function mode"),
        adds_to_score=_adds(score.params, "boost_mode", "boost mode"),
    )


def _adds(params: Mapping[str, str], key: str, label: str) -> bool:
    mode = params.get(key, "multiply").lower()
    if mode not in ("multiply", SUM):
        raise BadParameterError(f"unknown {label}: {mode}")
    return mode == SUM


def _boost(function: FunctionSchema, schema: CollectionSchema, seed: int) -> Boost:
    params = function.params
    if "weight" not in params:
        raise RequestError("must set weight params for weight scorer")
    try:
        weight = float(params["weight"])
    except ValueError as error:
        raise RequestError(f"parse function scorer weight params failed with error: {error}") from None
    if not math.isfinite(weight):
        raise RequestError(f"parse function scorer weight params failed with error: {weight} is not finite")
    if "random_score" not in params:
        return Boost(weight=weight, filter=params.get("filter", ""))
    given_seed, field_id = _random_score(params["random_score"], schema)
    return Boost(
        weight=weight,
        filter=params.get("filter", ""),
        random_seed=seed if given_seed is None else given_seed,
        random_field_id=field_id,
    )


def _random_score(text: str, schema: CollectionSchema) -> tuple[int | None, int]:
    try:
        params = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadParameterError(f"random_score is not a JSON object: {error}") from None
    if not isinstance(params, dict):
        raise BadParameterError("random_score is not a JSON object")
    seed, name = params.get("seed"), params.get("field")
    if seed is not None and not (_is_number(seed) and math.isfinite(seed)):
        raise BadParameterError("random seed must be number")
    if name is None:
        return _seed(seed), 0
    if not isinstance(name, str):
        raise BadParameterError("random seed field name must be string")
    field = schema.field(name)
    if field is None:
        raise FieldNotFoundError(name, prefix="random seed field not found")
    if field.data_type is not DataType.INT64:
        raise BadParameterError(f"only support int64 field as random seed, but got {field.data_type.label}")
    return _seed(seed), field.field_id


def _seed(seed: float | None) -> int | None:
    return None if seed is None else int(seed) % (1 << 63)
