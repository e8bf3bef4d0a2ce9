"""The call table covers the protocol, and refusals go out in each call's own response type."""

from __future__ import annotations

import inspect

import pytest

from elanus.base import errors as base_errors
from elanus.base.errors import ElanusError
from elanus.model import errors as model_errors
from elanus.model.errors import CollectionNotFoundError, RequestError, UnsupportedError
from elanus.model.requests import CollectionRequest, InsertRequest
from elanus.wire.messages import messages
from elanus.wire.status import describe_status_of, in_response, legacy_code, status_field, status_of
from elanus.wire.table import ABSENT, CALLS


def test_every_method_is_in_the_table_or_known_to_be_absent() -> None:
    known = set(messages().methods)
    assert known <= set(CALLS) | ABSENT
    assert set(CALLS) <= known
    assert not set(CALLS) & ABSENT


@pytest.mark.parametrize("name", sorted(CALLS))
def test_refusals_are_read_as_the_calls_own_response(name: str) -> None:
    response = messages().methods[name].response
    number = status_field(response)
    assert number is not None
    error = UnsupportedError(name)
    call = CALLS[name]
    raw = call.refuse(None, error) if call.refuse else in_response(number, status_of(error))
    message = response.FromString(raw)
    status = message if number == 0 else message.status
    assert (status.code, status.error_code) == (10, 1)
    assert status.reason == f"{name}: service unimplemented"
    assert status.detail == status.reason


def every_error() -> list[type[ElanusError]]:
    found = {
        kind
        for module in (base_errors, model_errors)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, ElanusError) and not kind.__name__.startswith("_")
    }
    return sorted(found, key=lambda kind: kind.__name__)


def argument_count(kind: type[ElanusError]) -> int:
    """How many values an error is made from: its template's, or those that its constructor names."""
    parameters = inspect.signature(kind).parameters.values()
    if any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in parameters):
        return max(1, len(getattr(kind, "keys", ("only",))))
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(each.kind in positional for each in parameters)


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_every_error_has_a_status(kind: type[ElanusError]) -> None:
    error = kind(*["x"] * argument_count(kind))
    status = status_of(error)
    assert (status.code, status.reason, status.detail) == (kind.code, error.message, error.message)
    assert status.code != 0
    assert status.error_code != 0
    assert status.retriable == (kind.action is base_errors.Action.RETRY)
    assert (status.extra_info.get("is_input_error") == "true") == (kind.action is base_errors.Action.FIX_REQUEST)


@pytest.mark.parametrize(
    ("code", "legacy"),
    [
        *[(0, 0), (1, 56), (3, 52), (7, 54), (8, 49), (9, 48), (11, 55), (505, 55), (700, 25), (100, 4), (600, 47)],
        *[(109, 62), (904, 50), (200, 15), (400, 15), (501, 15), (401, 46), (503, 46), (506, 46), (905, 46)],
        *[(1100, 5), (2, 1), (65535, 1), (10, 1), (101, 1)],
    ],
)
def test_legacy_codes(code: int, legacy: int) -> None:
    assert legacy_code(code) == legacy


def test_describe_tells_of_a_missing_collection_in_its_own_words() -> None:
    error = CollectionNotFoundError("default", "c")
    status = describe_status_of(CollectionRequest(collection="c"), error)
    assert (status.code, status.error_code) == (100, 1)
    assert status.reason == "can't find collection[database=default][collection=c]"
    assert describe_status_of(CollectionRequest(collection_id=5), error).reason.endswith("[collection=5]")
    assert status_of(error).error_code == 4
    assert describe_status_of(CollectionRequest(collection="c"), RequestError("else")).reason == "else"


def test_a_refused_insert_lists_its_rows() -> None:
    refuse = CALLS["Insert"].refuse
    assert refuse is not None
    message = messages().MutationResult.FromString(refuse(InsertRequest(row_count=3), RequestError("no")))
    assert list(message.err_index) == [0, 1, 2]
    assert message.status.code == 65535
    absurd = messages().MutationResult.FromString(refuse(InsertRequest(row_count=1 << 32), RequestError("no")))
    assert not absurd.err_index
