"""Declared parameters of indexes: how a value is read, its range, and Milvus's words for what is wrong with it.

Build parameters arrive as strings, search parameters as JSON values; the same declaration reads both.
"""

from __future__ import annotations

import json
import re
from typing import Final, TypeAlias

import msgspec

from elanus.index.errors import IndexParameterError, SearchParameterError

INT32_MAX: Final = 2**31 - 1
FLOAT32_MAX: Final = 340282346638528859811704183484516925440.0
INTEGER: Final = re.compile(r"[+-]?\d+")


class IntegerParameter(msgspec.Struct, frozen=True, tag="integer"):
    """An integer in [low, high]; `default` None means that the index chooses."""

    name: str
    low: int
    high: int
    default: int | None = None

    def parse(self, text: str) -> int:
        """The value of a build parameter."""
        text = text.strip()
        if text.lower() in ("true", "false"):
            raise IndexParameterError(f"invalid integer value, key: '{self.name}', value: '{text}': invalid parameter")
        if not INTEGER.fullmatch(text):
            raise IndexParameterError(f"wrong data type in json, key: '{self.name}', value: '{text}'")
        value = int(text)
        if not self.low <= value <= self.high:
            raise IndexParameterError(self._out_of_range(value))
        return value

    def check(self, value: object) -> int:
        """The value of a search parameter."""
        if isinstance(value, bool) or not isinstance(value, int):
            raise SearchParameterError(
                f"Type conflict in json: param '{self.name}' ({_as_json(value)}) should be integer"
            )
        if not self.low <= value <= self.high:
            raise SearchParameterError(self._out_of_range(value))
        return value

    def _out_of_range(self, value: int) -> str:
        return f"Out of range in json: param '{self.name}' ({value}) should be in range [{self.low}, {self.high}]"


class NumberParameter(msgspec.Struct, frozen=True, tag="number"):
    """A float in [low, high], or in [low, high) if `is_open`."""

    name: str
    low: float
    high: float
    default: float | None = None
    is_open: bool = False

    def parse(self, text: str) -> float:
        """The value of a build parameter."""
        try:
            value = float(text)
        except ValueError:
            raise IndexParameterError(f"wrong data type in json, key: '{self.name}', value: '{text}'") from None
        if not self._holds(value):
            raise IndexParameterError(self._out_of_range(text.strip()))
        return value

    def check(self, value: object) -> float:
        """The value of a search parameter; Milvus takes a number as text, too."""
        if isinstance(value, str):
            value = _as_number(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise SearchParameterError(
                f"Type conflict in json: param '{self.name}' ({_as_json(value)}) should be a number"
            )
        if not self._holds(value):
            raise SearchParameterError(self._out_of_range(_as_json(value)))
        return float(value)

    def _holds(self, value: float) -> bool:
        return self.low <= value < self.high or (value == self.high and not self.is_open)

    def _out_of_range(self, value: str) -> str:
        end = ")" if self.is_open else "]"
        limits = f"[{self.low:f}, {self.high:f}{end}"
        return f"Out of range in json: param '{self.name}' ({value}) should be in range {limits}"


class FlagParameter(msgspec.Struct, frozen=True, tag="flag"):
    """True or false."""

    name: str
    default: bool | None = None

    def parse(self, text: str) -> bool:
        """The value of a build parameter."""
        if text.strip().lower() not in ("true", "false"):
            raise IndexParameterError(self._not_boolean(text))
        return text.strip().lower() == "true"

    def check(self, value: object) -> bool:
        """The value of a search parameter; text as in a definition is read, too."""
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if not isinstance(value, bool):
            raise SearchParameterError(self._not_boolean(value))
        return value

    def _not_boolean(self, value: object) -> str:
        return f"Type conflict in json: param '{self.name}' ({_as_json(value)}) should be a boolean"


class ChoiceParameter(msgspec.Struct, frozen=True, tag="choice"):
    """One of some names, in any spelling of case; read as it is spelled here. `refusal` is what a definition with
    another name is told, `{}` standing for that name."""

    name: str
    choices: tuple[str, ...]
    default: str | None = None
    refusal: str = "invalid value: {}"

    def parse(self, text: str) -> str:
        """The value of a build parameter."""
        found = self._find(text)
        if found is None:
            raise IndexParameterError(self.refusal.format(text))
        return found

    def check(self, value: object) -> str:
        """The value of a search parameter."""
        found = self._find(value)
        if found is None:
            raise SearchParameterError(self.refusal.format(value))
        return found

    def _find(self, value: object) -> str | None:
        text = str(value).strip().upper()
        return next((choice for choice in self.choices if choice.upper() == text), None)


Parameter: TypeAlias = IntegerParameter | NumberParameter | FlagParameter | ChoiceParameter
Setting: TypeAlias = bool | int | float | str
"""What a parameter was read as."""


def _as_json(value: object) -> str:
    return json.dumps(value, default=str)


def _as_number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
