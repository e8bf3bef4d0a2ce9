"""Index types from other packages: the entry points of the group `elanus.indexes`.

An entry point's name is the index type's, in any spelling of case; its value is a class that is built without arguments
and answers as `contract.FileIndexType` says. Nothing is imported before a definition or a file names it. Types of ours
cannot be replaced so.
"""

from __future__ import annotations

from functools import cache
from typing import Final, cast

from elanus.base.extensions import ExtensionError, load_extension
from elanus.index.contract import FileIndexType
from elanus.index.errors import IndexParameterError

GROUP: Final = "elanus.indexes"


@cache
def find_extension(upper_name: str) -> FileIndexType | None:
    """The type of that name; None if no package has it. IndexParameterError if its package cannot be imported."""
    try:
        return cast("FileIndexType | None", load_extension(GROUP, upper_name))
    except ExtensionError as error:
        raise IndexParameterError(f"index type {error.message}") from error
