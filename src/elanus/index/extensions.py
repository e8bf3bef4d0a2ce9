"""Index types from other packages: the entry points of the group `elanus.indexes`.

An entry point's name is the index type's, in any spelling of case; its value is a class that is built without arguments
and answers as `contract.FileIndexType` says. Nothing is imported before a definition or a file names it. Types of ours
cannot be replaced so.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import Final

from elanus.index.contract import FileIndexType
from elanus.index.errors import IndexParameterError

GROUP: Final = "elanus.indexes"


@cache
def find_extension(upper_name: str) -> FileIndexType | None:
    """The type of that name; None if no package has it. IndexParameterError if its package cannot be imported."""
    found = next((one for one in entry_points(group=GROUP) if one.name.upper() == upper_name), None)
    if found is None:
        return None
    try:
        made: FileIndexType = found.load()()
    except (ImportError, AttributeError) as error:
        raise IndexParameterError(f"index type {found.name}: {found.value} cannot be loaded: {error}") from error
    if made.name.upper() != upper_name:
        raise IndexParameterError(f"index type {found.name}: {found.value} calls itself {made.name}")
    return made
