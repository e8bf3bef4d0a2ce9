"""Rules for names, with Milvus's texts."""

from __future__ import annotations

import re
from typing import Final

from elanus.base.limits import NAME_LENGTH_MAX
from elanus.model.errors import BadParameterError, DatabaseNameError, FieldNameError, RequestError

_WORD: Final = re.compile(r"[A-Za-z0-9_]+\Z")
_INDEX: Final = re.compile(r"[A-Za-z0-9_\[\]]+\Z")
_PARTITION: Final = re.compile(r"[A-Za-z0-9_\-]+\Z")
_FIRST: Final = re.compile(r"[A-Za-z_]")
_FIRST_OF_PARTITION: Final = re.compile(r"[A-Za-z0-9_]")

SYSTEM_FIELD_NAMES: Final = frozenset({"RowID", "Timestamp", "$meta", "$namespace_id"})
_BOTH_CASES: Final = [
    "like",
    "exists",
    "and",
    "or",
    "not",
    "in",
    "json_contains",
    "json_contains_all",
    "json_contains_any",
    "array_contains",
    "array_contains_all",
    "array_contains_any",
    "array_length",
    "text_match",
    "phrase_match",
    "random_sample",
]
KEYWORDS: Final = frozenset(
    [word for keyword in _BOTH_CASES for word in (keyword, keyword.upper())]
    + ["true", "True", "TRUE", "false", "False", "FALSE"]
)


def _fault(kind: str, name: str) -> str:
    """What is wrong with a name of the ordinary form; empty when nothing is."""
    if len(name) > NAME_LENGTH_MAX:
        return f"the length of a {kind} name must be less than {NAME_LENGTH_MAX} characters"
    if not _FIRST.match(name):
        return f"the first character of a {kind} name must be an underscore or letter"
    if not _WORD.match(name):
        return f"{kind} name can only contain numbers, letters and underscores"
    return ""


def _sentence(fault: str) -> str:
    """A fault in the form that fields are told it in."""
    return fault and f"{fault[0].upper()}{fault[1:]}.".replace("letters and", "letters, and")


def check_collection_name(name: str) -> None:
    """1..255 letters, digits and underscores, the first not a digit."""
    if not name:
        raise BadParameterError("collection name should not be empty")
    fault = _fault("collection", name)
    if fault:
        raise BadParameterError(f"Invalid collection name: {name}. {fault}")


def check_alias(name: str) -> None:
    """As collection names."""
    if not name:
        raise BadParameterError("collection alias should not be empty")
    fault = _fault("collection", name).replace("collection name", "collection alias")
    if fault:
        raise BadParameterError(f"Invalid collection alias: {name}. {fault}")


def check_field_name(name: str) -> None:
    """As collection names, and not a word of the filter language."""
    fault = _sentence(_fault("field", name)) if name else "Field name should not be empty."
    if not fault and name in KEYWORDS | SYSTEM_FIELD_NAMES:
        fault = f"{name} is keyword in milvus."
    if fault:
        raise FieldNameError(name, prefix=f"Invalid field name: {name}. {fault}")


def check_partition_name(name: str) -> None:
    """May start with a digit and hold dashes."""
    fault = ""
    if not name.strip():
        fault = "Partition name should not be empty."
    elif len(name) > NAME_LENGTH_MAX:
        fault = f"The length of a partition name must be less than {NAME_LENGTH_MAX} characters."
    elif not _FIRST_OF_PARTITION.match(name):
        fault = "The first character of a partition name must be an underscore or letter."
    elif not _PARTITION.match(name):
        fault = "Partition name can only contain numbers, letters and underscores."
    if fault:
        raise RequestError(f"Invalid partition name: {name.strip()}. {fault}")


def check_index_name(name: str) -> None:
    """Empty is fine: the server chooses."""
    if not name:
        return
    if len(name) > NAME_LENGTH_MAX:
        raise BadParameterError(
            f"Invalid index name: {name}. The length of a index name must be less than {NAME_LENGTH_MAX} characters."
        )
    if not _FIRST.match(name):
        raise BadParameterError(
            f"Invalid index name: {name}. The first character of a index name must be an underscore or letter."
        )
    if not _INDEX.match(name):
        raise BadParameterError(
            f"Invalid index name: {name}. Index name can only contain numbers, letters, underscores and brackets."
        )


def check_database_name(name: str) -> None:
    """As collection names, with a code of its own."""
    fault = _fault("database", name) if name else "database name couldn't be empty"
    if fault:
        raise DatabaseNameError(name, prefix=fault)
