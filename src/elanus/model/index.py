"""Index definitions: what a user asked to be built on a field.

A JSON field, the dynamic one included, takes one index for each path. `parse_path` reads a path as users write it: a
name and any number of keys in quotes and positions, each in brackets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from elanus.model.errors import RequestError
from elanus.model.schema import FieldSchema

JSON_PATH: Final = "json_path"
CAST_FUNCTION: Final = "json_cast_function"
MMAP: Final = "mmap.enabled"
_NAME: Final = re.compile(r"(?:[A-Za-z_]\w*|\$meta)", re.ASCII)
_STEP: Final = re.compile(r"""\[\s*(?:"([^"]*)"|'([^']*)'|(\d+))\s*\]""", re.ASCII)


def parse_path(text: str) -> tuple[str, ...]:
    """The steps of a path, the name first; positions are told from keys by their brackets. RequestError."""
    return tuple(f"[{step}]" if isinstance(step, int) else step for step in parse_steps(text))


def parse_steps(text: str) -> tuple[str | int, ...]:
    """The steps of a path: its name, then keys and positions. RequestError."""
    name = _NAME.match(text)
    steps: list[str | int] = [name.group()] if name else []
    at = name.end() if name else 0
    while name and at < len(text):
        step = _STEP.match(text, at)
        if step is None:
            break
        double, single, position = step.groups()
        steps.append(int(position) if position is not None else double if double is not None else single)
        at = step.end()
    if name is None or at < len(text):
        raise RequestError(f"cannot parse identifier: {text}")
    return tuple(steps)


def is_mapped(params: Mapping[str, str]) -> bool:
    """What `mmap.enabled` says; files are mapped where it is not given."""
    return params.get(MMAP, "true").lower() != "false"


def path_in(params: Mapping[str, str], field_name: str) -> tuple[str, ...]:
    """Which part of the field the definition is about: its name alone where it says nothing."""
    return parse_path(params[JSON_PATH]) if JSON_PATH in params else (field_name,)


class CastPath(msgspec.Struct, frozen=True):
    """A path in a JSON field whose strings are compared as the numbers that they spell."""

    field_id: int
    path: tuple[str | int, ...]


class IndexDefinition(msgspec.Struct, frozen=True, omit_defaults=True):
    """`params` holds every user parameter as given (strings), `index_type` and `metric_type` included."""

    index_id: int
    name: str
    field_id: int
    field_name: str
    params: dict[str, str]

    @property
    def path(self) -> tuple[str, ...]:
        """What of the field is indexed; see `path_in`."""
        return path_in(self.params, self.field_name)

    @property
    def steps(self) -> tuple[str | int, ...]:
        """The same as keys and positions, the name first."""
        return parse_steps(self.params[JSON_PATH]) if JSON_PATH in self.params else (self.field_name,)

    def document_path(self, field: FieldSchema) -> tuple[str | int, ...]:
        """Where in the documents of its JSON field the index looks."""
        return self.steps[1:] if self.steps[0] == field.name or not field.is_dynamic else self.steps

    @property
    def casts_texts(self) -> bool:
        """Whether it makes numbers of strings that spell them."""
        return CAST_FUNCTION in self.params

    @property
    def index_type(self) -> str:
        """As the user named it; AUTOINDEX where nothing was named."""
        return self.params.get("index_type", "AUTOINDEX")

    @property
    def is_mapped(self) -> bool:
        """Whether its files are mapped, and so shared and given back when memory is short; `mmap.enabled` says."""
        return is_mapped(self.params)

    @property
    def metric_type(self) -> str:
        """Empty for scalar indexes."""
        return self.params.get("metric_type", "")
