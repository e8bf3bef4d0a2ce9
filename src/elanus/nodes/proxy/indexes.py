"""Index calls: what can be refused without the coordinator is refused here."""

from __future__ import annotations

import msgspec

from elanus.index.errors import IndexParameterError, IndexTypeNotServedError
from elanus.index.registry import validate_definition
from elanus.model.errors import BadParameterError, RequestError, UnsupportedError
from elanus.model.index import path_in
from elanus.model.requests import CreateIndexRequest
from elanus.model.schema import FieldSchema
from elanus.nodes.proxy.entry import CollectionEntry
from elanus.nodes.proxy.isolation import check_isolated_index
from elanus.nodes.proxy.names import check_index_name


def checked_index(entry: CollectionEntry, request: CreateIndexRequest) -> CreateIndexRequest:
    """The request with its name settled and its parameters in canonical form."""
    check_index_name(request.index_name)
    field = entry.fields.get(request.field) or entry.dynamic
    if field is None:
        raise RequestError(f"cannot create index on non-exist field: {request.field}")
    try:
        params = validate_definition(request.params, field)
    except IndexTypeNotServedError as error:
        raise UnsupportedError(error.message) from None
    except IndexParameterError as error:
        if "invalid parameter" in error.message:
            raise
        raise BadParameterError(error.message, expected="valid index params", actual="invalid index params") from None
    if field.data_type.is_vector:
        check_isolated_index(entry, params.get("index_type", ""))
    path = path_in(params, request.field)
    name = request.index_name or _default_name(entry, field, path)
    return msgspec.structs.replace(request, index_name=name, params=params)


def _default_name(entry: CollectionEntry, field: FieldSchema, path: tuple[str, ...]) -> str:
    """The name that the index of the same path has already, else the path."""
    if field.struct_name:
        return field.name
    known = (index.name for index in entry.view.indexes if index.field_id == field.field_id and index.path == path)
    base = (field.name,) if field.is_dynamic else ()
    return next(known, "/".join(step.strip("[]") for step in (*base, *path)))
