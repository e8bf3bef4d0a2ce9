"""Rules for the properties of collections and fields.

Keys that this server does not know are kept and shown, as Milvus does. Keys that would change what a request means, and
that are not served, are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from elanus.base.limits import ARRAY_CAPACITY_MAX, VARCHAR_BYTES_MAX
from elanus.model.errors import BadParameterError, CollectionLoadedError, UnsupportedError
from elanus.model.requests import AlterPropertiesRequest
from elanus.model.types import ConsistencyLevel
from elanus.nodes.proxy.entry import ALLOW_INSERT_AUTO_ID_PROPERTY, TTL_PROPERTY, CollectionEntry
from elanus.nodes.proxy.forms import TIMEZONE_PROPERTY, check_timezone

TTL_S_MAX: Final = 3_155_760_000
BOOLEANS: Final = ("true", "false")
_BOOLEAN_KEYS: Final = ("mmap.enabled", "lazyload.enabled", ALLOW_INSERT_AUTO_ID_PROPERTY, "partitionkey.isolation")
_UNSERVED_KEYS: Final = {"namespace.enabled": "true", "query_mode": "large_topk"}
_FIELD_KEYS: Final = ("max_length", "max_capacity", "mmap.enabled", "field.description")
_INDEX_KEYS: Final = ("mmap.enabled", "indexoffsetcache.enabled", "warmup")
_HELD_KEYS: Final = ("mmap.enabled", "lazyload.enabled")
_LEVELS: Final = frozenset(level.name.lower() for level in ConsistencyLevel)


def check_collection_properties(properties: Mapping[str, str]) -> None:
    """Refuse values that cannot be."""
    if TTL_PROPERTY in properties:
        _check_ttl(properties[TTL_PROPERTY])
    for key in _BOOLEAN_KEYS:
        value = properties.get(key, "true")
        if value.lower() not in BOOLEANS:
            raise BadParameterError(f"invalid {key} value: {value}, expected: true, false")
    for key, value in _UNSERVED_KEYS.items():
        if properties.get(key, "").lower() == value:
            raise UnsupportedError(f"property {key}={value}")
    if TIMEZONE_PROPERTY in properties:
        check_timezone(properties[TIMEZONE_PROPERTY])
    level = properties.get("consistency_level", "Strong")
    if level.lower() not in _LEVELS and level not in ("0", "1", "2", "3", "4"):
        raise BadParameterError(f"invalid consistency level: {level}")


def _check_ttl(text: str) -> None:
    try:
        seconds = int(text)
    except ValueError:
        raise BadParameterError(f"collection TTL is not a valid positive integer, but got {text}") from None
    if not -1 <= seconds <= TTL_S_MAX:
        raise BadParameterError(f"collection TTL is out of range, expect [-1, {TTL_S_MAX}], but got {seconds}")


def check_alteration(request: AlterPropertiesRequest) -> None:
    """The rules that every alteration obeys, and those of collection properties."""
    if request.properties and request.delete_keys:
        raise BadParameterError("cannot provide both DeleteKeys and ExtraParams")
    if not request.properties and not request.delete_keys:
        raise BadParameterError("no properties or delete keys provided")
    if request.field or request.index_name:
        return
    if "dynamicfield.enabled" in request.delete_keys:
        raise BadParameterError("cannot delete key dynamicfield.enabled")
    if "dynamicfield.enabled" in request.properties and len(request.properties) > 1:
        raise BadParameterError("dynamic schema cannot be enabled together with other properties")
    check_collection_properties(request.properties)


def check_field_alteration(request: AlterPropertiesRequest, entry: CollectionEntry) -> None:
    """What may change about a field after its creation."""
    field = entry.fields.get(request.field)
    is_struct = any(struct.name == request.field for struct in entry.schema.structs)
    if not is_struct and (field is None or field.is_dynamic):
        raise BadParameterError(f"field {request.field} does not exist in collection {entry.name}")
    for key in (*request.properties, *request.delete_keys):
        if key not in _FIELD_KEYS and not key.startswith("warmup"):
            raise BadParameterError(f"{key} does not allow update in collection field param")
    is_text = field is not None and (field.data_type.is_string or field.element_type.is_string)
    if "max_length" in request.properties and not is_text:
        raise BadParameterError("can not modify the maxlength for non-string types")
    _check_bound(request, "max_length", VARCHAR_BYTES_MAX)
    _check_bound(request, "max_capacity", ARRAY_CAPACITY_MAX)


def _check_bound(request: AlterPropertiesRequest, key: str, largest: int) -> None:
    if key not in request.properties:
        return
    text = request.properties[key]
    if not text.isdecimal() or not 0 < int(text) <= largest:
        raise BadParameterError(
            f"the maximum value of {key} specified for the field({request.field}) should be in (0, {largest}], "
            f"but got {text} instead"
        )


def check_while_loaded(request: AlterPropertiesRequest, entry: CollectionEntry) -> None:
    """What cannot change: the dynamic field once it is there; and while the collection is loaded, anything of an index
    and how data is held."""
    turns_off = request.properties.get("dynamicfield.enabled", "true").lower() != "true"
    if turns_off and entry.dynamic is not None:
        raise BadParameterError("dynamic schema cannot supported to be disabled")
    if request.index_name:
        _check_index_keys(request)
        if entry.is_loaded:
            raise CollectionLoadedError(
                entry.name, prefix="can't alter index on loaded collection, please release the collection first"
            )
    touched = (*request.properties, *request.delete_keys)
    held = [key for key in touched if key in _HELD_KEYS or key.startswith("warmup")]
    if entry.is_loaded and held:
        raise CollectionLoadedError(entry.name, prefix=f"can not {_holding(request, held[0])} if collection loaded")


def _holding(request: AlterPropertiesRequest, key: str) -> str:
    if request.field:
        return "alter collection field properties"
    if request.delete_keys and key != "mmap.enabled":
        return f"delete {key} properties"
    return f"{'delete' if request.delete_keys else 'alter'} mmap properties"


def _check_index_keys(request: AlterPropertiesRequest) -> None:
    for key in (*request.properties, *request.delete_keys):
        if key not in _INDEX_KEYS:
            raise BadParameterError(f"{key} is not a configable index property")
    for key in ("mmap.enabled", "indexoffsetcache.enabled"):
        value = request.properties.get(key, "true")
        if value.lower() not in BOOLEANS:
            raise BadParameterError(f"invalid {key} value: {value}, expected: true, false")
