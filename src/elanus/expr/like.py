"""LIKE patterns and regular expressions: classified once, matched by Arrow's string kernels.

Milvus 2.6 has two readings of a backslash. A pure prefix, suffix or infix (`a%`, `%a`, `%a%`) is plain text in which
only `\\%` and `\\_` are escapes. Any other pattern goes to the general engine, where a backslash escapes whatever
follows and a trailing one is dropped. `_` is one byte, so a two-byte character needs two of them.

Regular expressions are RE2's, over characters, and may match anywhere.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from elanus.expr.errors import FilterError

Mask = npt.NDArray[np.bool_]

_SIMPLE_ESCAPE: Final = re.compile(r"\\([%_])")
_TRAILING_BACKSLASHES: Final = re.compile(r"\\*\Z")


class LikeShape(Enum):
    """How a pattern is matched."""

    ALL = "all"
    EQUAL = "equal"
    PREFIX = "prefix"
    SUFFIX = "suffix"
    INFIX = "infix"
    GENERAL = "general"
    REGEX = "regex"


class LikePattern(msgspec.Struct, frozen=True):
    """A classified pattern; `text` is plain text, or an RE2 pattern: over Latin-1 bytes where the shape is GENERAL,
    over characters where it is REGEX."""

    shape: LikeShape
    text: str = ""

    def matches(self, values: pa.Array) -> Mask:
        """Which of the large_string `values` match; shape (len(values),)."""
        match self.shape:
            case LikeShape.ALL:
                return np.ones(len(values), np.bool_)
            case LikeShape.EQUAL:
                found = pc.equal(values, pa.scalar(self.text, values.type))
            case LikeShape.PREFIX:
                found = pc.starts_with(values, self.text)
            case LikeShape.SUFFIX:
                found = pc.ends_with(values, self.text)
            case LikeShape.INFIX:
                found = pc.match_substring(values, self.text)
            case LikeShape.GENERAL:
                found = pc.match_substring_regex(values.cast(pa.large_binary()), self.text)
            case LikeShape.REGEX:
                found = pc.match_substring_regex(values, self.text)
        return np.asarray(found.to_numpy(zero_copy_only=False), np.bool_)


def compile_like(pattern: str) -> LikePattern:
    """Classify `pattern`. Raises FilterError for one the engine cannot hold."""
    if pattern == "":
        return LikePattern(LikeShape.EQUAL, "")
    if pattern in ("%", "%%"):
        return LikePattern(LikeShape.ALL)
    leading = pattern[0] == "%"
    trailing = len(pattern) > 1 and pattern[-1] == "%" and _backslashes(pattern[:-1]) % 2 == 0
    if leading or trailing:
        body = pattern[1 if leading else 0 : -1 if trailing else None]
        if not _has_wildcard(body):
            shape = LikeShape.INFIX if leading and trailing else LikeShape.SUFFIX if leading else LikeShape.PREFIX
            return LikePattern(shape, _SIMPLE_ESCAPE.sub(r"\1", body))
    return _general(pattern)


def compile_regex(pattern: str) -> LikePattern:
    """The pattern of `=~`. Raises FilterError for one that RE2 refuses."""
    try:
        pc.match_substring_regex(pa.array([""], pa.large_string()), pattern)
    except pa.ArrowInvalid as error:
        reason = str(error).partition(": ")[2] or str(error)
        raise FilterError(f"invalid regex pattern {pattern[:64]}: {reason[:128]}") from error
    return LikePattern(LikeShape.REGEX, pattern)


def _backslashes(text: str) -> int:
    match = _TRAILING_BACKSLASHES.search(text)
    return 0 if match is None else len(match.group())


def _has_wildcard(body: str) -> bool:
    plain = _SIMPLE_ESCAPE.sub("", body)
    return "%" in plain or "_" in plain


def _general(pattern: str) -> LikePattern:
    pieces: list[str] = []
    escaped = False
    for byte in pattern.encode():
        if escaped:
            pieces.append(f"\\x{byte:02x}")
            escaped = False
        elif byte == 0x5C:
            escaped = True
        elif byte == 0x25:
            pieces.append(".*")
        elif byte == 0x5F:
            pieces.append(".")
        else:
            pieces.append(f"\\x{byte:02x}")
    expression = rf"\A(?s:{''.join(pieces)})\z"
    try:
        pc.match_substring_regex(pa.array([b""], pa.large_binary()), expression)
    except pa.ArrowInvalid as error:
        raise FilterError(f"like pattern is too complex: {pattern[:64]}") from error
    return LikePattern(LikeShape.GENERAL, expression)
