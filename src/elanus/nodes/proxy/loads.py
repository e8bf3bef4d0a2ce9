"""What a load may ask for."""

from __future__ import annotations

from elanus.model.errors import BadParameterError, RequestError
from elanus.model.requests import LoadRequest
from elanus.model.schema import FieldSchema
from elanus.nodes.proxy.entry import CollectionEntry


def check_load_fields(entry: CollectionEntry, request: LoadRequest) -> None:
    """A list of fields must hold all keys and a vector. What is left out cannot be used until it is loaded; it costs no
    memory either way, since columns are mapped and decoded when they are first used."""
    if request.partitions and entry.partition_key is not None:
        raise RequestError("disable load partitions if partition key mode is used")
    if not request.load_fields:
        return
    wanted = set(request.load_fields)
    known = {*entry.fields, *(struct.name for struct in entry.schema.structs)}
    missing = next((name for name in request.load_fields if name not in known), None)
    if missing is not None:
        raise RequestError(f"failed to get field schema by name: fieldName({missing}) not found")
    for field in entry.schema.fields:
        role = _role(field)
        if role and field.name not in wanted:
            raise BadParameterError(
                f"load field list {list(request.load_fields)} does not contain {role} field {field.name}"
            )
    if not any(field.name in wanted for field in entry.schema.vector_fields):
        raise BadParameterError(f"load field list {list(request.load_fields)} does not contain vector field")


def _role(field: FieldSchema) -> str:
    if field.is_primary:
        return "primary key"
    if field.is_partition_key:
        return "partition key"
    return "clustering key" if field.is_clustering_key else ""
