"""The parse tree of a filter: what was written, before names and types mean anything.

Every node carries the half-open character range [start, end) of its source text, used by messages only.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

PathStep: TypeAlias = str | int


class Node(msgspec.Struct, frozen=True):
    """Base of all parse nodes."""

    start: int
    end: int


class Literal(Node, frozen=True):
    """A bool, int, float or str as written."""

    value: bool | int | float | str


class ListLiteral(Node, frozen=True):
    """A list made of plain literals only."""

    values: list[Any]


class ListNode(Node, frozen=True):
    """A list with at least one element that is not a plain literal."""

    items: tuple[Node, ...]


class Name(Node, frozen=True):
    """An identifier; `path` is what stood in brackets directly behind it."""

    name: str
    path: tuple[PathStep, ...]


class Part(Node, frozen=True):
    """`$[name]`: a part of the struct whose elements are looked at one by one."""

    name: str


class StructPart(Node, frozen=True):
    """`struct[name]`, or `struct[index][name]`; index None for the whole array."""

    struct: str
    index: int | None
    name: str


class Template(Node, frozen=True):
    """`{name}`."""

    name: str


class TimeLiteral(Node, frozen=True):
    """`ISO '…'`."""

    text: str


class IntervalLiteral(Node, frozen=True):
    """`INTERVAL '…'`."""

    text: str


class Unary(Node, frozen=True):
    """A prefix operator: `+ - ~ not`."""

    operator: str
    operand: Node


class Binary(Node, frozen=True):
    """An infix operator other than and/or."""

    operator: str
    left: Node
    right: Node


class Logical(Node, frozen=True):
    """`and` or `or` over two or more terms."""

    operator: str
    terms: tuple[Node, ...]


class Between(Node, frozen=True):
    """`lower < target <= upper`, already turned so that `lower` is the smaller side."""

    lower: Node
    lower_inclusive: bool
    target: Name | Part
    upper: Node
    upper_inclusive: bool


class Membership(Node, frozen=True):
    """`target in values` or `target not in values`."""

    target: Node
    values: Node
    negated: bool


class LikeNode(Node, frozen=True):
    """`target like pattern`."""

    target: Node
    pattern: Node


class RegexNode(Node, frozen=True):
    """`target =~ pattern` or `target !~ pattern`."""

    target: Node
    pattern: Node
    negated: bool


class ExistsNode(Node, frozen=True):
    """`exists target`."""

    target: Node


class NullTest(Node, frozen=True):
    """`target is null` or `target is not null`."""

    target: Name
    negated: bool


class Call(Node, frozen=True):
    """`name(arguments, option=integer)`; `option_name` is empty without an option."""

    name: str
    arguments: tuple[Node, ...]
    option_name: str
    option: Node | None
