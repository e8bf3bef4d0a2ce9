"""Filter text to tokens: one master regular expression, and a short cut for long literal lists.

A list of plain numbers or of strings without escapes becomes one token, decoded in C; a filter with a thousand
keys costs what its bytes cost. Anything unusual in a list (escapes, octal, signs, names) takes the ordinary road.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

import msgspec

from elanus.expr.errors import FilterError

INT64_MIN: Final = -(1 << 63)
INT64_MAX: Final = (1 << 63) - 1

_ESCAPE = r"""\\(?:['"?abfnrtv\\]|[0-3][0-7]{2}|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})"""
_STRING = rf"""(?:"[^"\\\r\n]*(?:{_ESCAPE}[^"\\\r\n]*)*"|'[^'\\\r\n]*(?:{_ESCAPE}[^'\\\r\n]*)*')"""
_NAME = r"(?:\$meta(?![A-Za-z0-9_])|[A-Za-z_][A-Za-z0-9_]*)"
_MASTER = re.compile(
    rf"""[ \t\r\n]*(?:
      (?P<raw>[rR](?:"[^"\r\n]*"|'[^'\r\n]*'))
    | (?P<path>{_NAME}(?:\[(?:{_STRING}|[0-9]+)\])+)
    | (?P<isnull>is[ ]null(?![A-Za-z0-9_])|IS[ ]NULL(?![A-Za-z0-9_]))
    | (?P<isnotnull>is[ ]not[ ]null(?![A-Za-z0-9_])|IS[ ]NOT[ ]NULL(?![A-Za-z0-9_]))
    | (?P<name>{_NAME})
    | (?P<float>0[xX](?:[0-9a-fA-F]+\.?[0-9a-fA-F]*|\.[0-9a-fA-F]+)[pP][+-]?[0-9]+
        | (?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)? | [0-9]+[eE][+-]?[0-9]+)
    | (?P<int>0[xX][0-9a-fA-F]+|0[bB][01]+|0[0-7]*|[1-9][0-9]*)
    | (?P<string>{_STRING})
    | (?P<part>\$\[[ \t]*[A-Za-z_][A-Za-z0-9_]*[ \t]*\])
    | \{{[ \t\r\n]*(?P<template>[A-Za-z_][A-Za-z0-9_]*)[ \t\r\n]*\}}
    | (?P<op>\*\*|==|!=|<=|>=|<<|>>|&&|\|\||=~|!~|[-+*/%<>&^|~!()\[\],=])
    | (?P<end>\Z)
    )""",
    re.VERBOSE,
)
_STEP = re.compile(rf"\[(?:(?P<key>{_STRING})|(?P<index>[0-9]+))\]")
_PLAIN_STRINGS = re.compile(
    r"""\[\s*(?:"[^"\\\r\n]*"|'[^'\\\r\n]*')(?:\s*,\s*(?:"[^"\\\r\n]*"|'[^'\\\r\n]*'))*\s*,?\s*\]"""
)
_PLAIN_STRING = re.compile(r""""([^"]*)"|'([^']*)'""")
_ESCAPED = re.compile(
    rb"""\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-3][0-7]{2})|(.))""", re.DOTALL
)
_CONTROL = {ord("a"): 7, ord("b"): 8, ord("f"): 12, ord("n"): 10, ord("r"): 13, ord("t"): 9, ord("v"): 11}

_KEYWORDS: Final = {
    "and": "and", "AND": "and", "or": "or", "OR": "or", "not": "not", "NOT": "not",
    "in": "in", "IN": "in", "like": "like", "LIKE": "like", "exists": "exists", "EXISTS": "exists",
}  # fmt: skip
_OPERATORS: Final = {"&&": "and", "||": "or", "!": "not"}
_BOOLEANS: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


class Token(NamedTuple):
    """`kind` is a class (`int float string bool list name part template end`) or the operator itself."""

    kind: str
    value: Any
    start: int
    end: int


def syntax_error(text: str, position: int, message: str) -> FilterError:
    """A syntax error with line and column as ANTLR counts them (lines from 1, columns from 0)."""
    line = text.count("\n", 0, position) + 1
    column = position - (text.rfind("\n", 0, position) + 1)
    return FilterError(f"line {line}:{column} {message}")


def tokenize(text: str) -> list[Token]:
    """All tokens of `text`, closed by one `end` token."""
    tokens: list[Token] = []
    position = 0
    while True:
        match = _MASTER.match(text, position)
        if match is None:
            raise _unrecognised(text, position)
        group = match.lastgroup or "end"
        start, position = match.start(group), match.end()
        word = match.group(group)
        if group == "end":
            tokens.append(Token("end", None, start, start))
            return tokens
        if group == "path":
            token = _path_token(word, start)
        elif group == "op" and word == "[":
            token = _plain_list(text, start) or Token("[", "[", start, position)
        else:
            token = _token(group, word, start, position)
        tokens.append(token)
        position = token.end


def _token(group: str, word: str, start: int, end: int) -> Token:
    match group:
        case "name":
            if word in _BOOLEANS:
                return Token("bool", _BOOLEANS[word], start, end)
            return Token(_KEYWORDS.get(word, "name"), (word, ()), start, end)
        case "int":
            return Token("int", _integer(word), start, end)
        case "float":
            return Token("float", _floating(word), start, end)
        case "string":
            return Token("string", unquote(word), start, end)
        case "raw":
            return Token("string", word[2:-1], start, end)
        case "part":
            return Token("part", word[2:-1].strip(), start, end)
        case "op":
            return Token(_OPERATORS.get(word, word), word, start, end)
    return Token(group, word, start, end)


def _unrecognised(text: str, position: int) -> FilterError:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return syntax_error(text, position, f"token recognition error at: '{text[position : position + 20]}'")


def _path_token(word: str, start: int) -> Token:
    name, _, _ = word.partition("[")
    end = start + len(word)
    if name in _KEYWORDS:
        return Token(_KEYWORDS[name], (name, ()), start, start + len(name))
    steps: list[str | int] = []
    for match in _STEP.finditer(word, len(name)):
        key = match.group("key")
        step: str | int = _integer(match.group("index")) if key is None else unquote(key)
        if step == "":
            raise FilterError(f"invalid identifier: {word}")
        steps.append(step)
    return Token("name", (name, tuple(steps)), start, end)


def _integer(word: str) -> int:
    if word[:2] in ("0x", "0X"):
        value = int(word[2:], 16)
    elif word[:2] in ("0b", "0B"):
        value = int(word[2:], 2)
    elif len(word) > 4000:
        value = INT64_MAX + 2
    else:
        octal = len(word) > 1 and word[0] == "0"
        if octal and not word.strip("01234567") == "":
            raise FilterError(f'strconv.ParseInt: parsing "{word}": invalid syntax')
        value = int(word, 8 if octal else 10)
    # 2**63 may still be the operand of a unary minus; the parser refuses it elsewhere.
    if value > INT64_MAX + 1:
        raise out_of_range(word)
    return value


def out_of_range(word: str) -> FilterError:
    """An integer literal that does not fit 64 bits."""
    return FilterError(f'strconv.ParseInt: parsing "{word[:64]}": value out of range')


def _floating(word: str) -> float:
    if word[:2] not in ("0x", "0X"):
        value = float(word)
    else:
        try:
            value = float.fromhex(word)
        except OverflowError:
            value = float("inf")
    if value in (float("inf"), float("-inf")):
        raise FilterError(f'strconv.ParseFloat: parsing "{word[:64]}": value out of range')
    return value


def unquote(word: str) -> str:
    """The text of a quoted string with its escapes replaced; hexadecimal and octal escapes are UTF-8 bytes."""
    body = word[1:-1]
    if "\\" not in body:
        return body
    try:
        return _ESCAPED.sub(_unescape, body.encode()).decode()
    except UnicodeError as error:
        raise FilterError(f"invalid syntax: {word[:64]} is not valid UTF-8") from error


def _unescape(match: re.Match[bytes]) -> bytes:
    byte, short, long, octal, plain = match.groups()
    if plain is not None:
        code = plain[0]
        return bytes((_CONTROL.get(code, code),))
    if byte is not None:
        return bytes((int(byte, 16),))
    if octal is not None:
        return bytes((int(octal, 8),))
    code = int(short or long, 16)
    if code > 0x10FFFF:
        raise UnicodeError("code point out of range")
    return chr(code).encode()


def _plain_list(text: str, start: int) -> Token | None:
    """The whole list at `start` as one token if it holds only plain literals; None sends it the ordinary way."""
    first = text[start + 1 : start + 2]
    if first and first in "-0123456789":
        end = text.find("]", start) + 1
        values = _numbers(text[start:end]) if end else None
        return None if values is None else Token("list", values, start, end)
    match = _PLAIN_STRINGS.match(text, start)
    if match is None:
        return None
    values = [double or single for double, single in _PLAIN_STRING.findall(text, start, match.end())]
    return Token("list", values, start, match.end())


def _numbers(body: str) -> list[Any] | None:
    if '"' in body or "n" in body or "t" in body:
        return None
    try:
        values = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return None
    kinds = set(map(type, values))
    if not kinds <= {int, float}:
        return None
    if int in kinds and not (min(values) >= INT64_MIN and max(values) <= INT64_MAX):
        return None
    return list(values)
