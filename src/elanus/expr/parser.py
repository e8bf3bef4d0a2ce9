"""Filter tokens to a parse tree: precedence climbing after Vaughan Pratt (1973), with Milvus's table of precedences.

Unary operators bind tighter than comparisons, so `not a == 1` is `(not a) == 1`; a range `1 < a < 5` is recognised
where the middle is a bare name. Nesting and chains are bounded, so no text can exhaust the stack.
"""

from __future__ import annotations

from typing import Final

from elanus.expr.errors import FilterError
from elanus.expr.lexer import INT64_MAX, Token, out_of_range, syntax_error, tokenize
from elanus.expr.syntax import (
    Between,
    Binary,
    Call,
    ExistsNode,
    IntervalLiteral,
    LikeNode,
    ListLiteral,
    ListNode,
    Literal,
    Logical,
    Membership,
    Name,
    Node,
    NullTest,
    Part,
    RegexNode,
    StructPart,
    Template,
    TimeLiteral,
    Unary,
)

NESTING_MAX: Final = 150
CHAIN_MAX: Final = 150

_OR, _AND, _EQUALITY, _RELATION, _IN, _UNARY, _LIKE = 1, 2, 6, 7, 9, 13, 15
_POWERS: Final = {
    "or": _OR, "and": _AND, "|": 3, "^": 4, "&": 5, "==": _EQUALITY, "!=": _EQUALITY,
    "<": _RELATION, "<=": _RELATION, ">": _RELATION, ">=": _RELATION, "in": _IN, "<<": 10, ">>": 10,
    "+": 11, "-": 11, "*": 12, "/": 12, "%": 12, "**": 14, "like": _LIKE, "=~": _LIKE, "!~": _LIKE,
    "isnull": 16, "isnotnull": 16,
}  # fmt: skip
_ATOM: Final = 16
_DIRECTIONS: Final = {"<": ("<", "<="), "<=": ("<", "<="), ">": (">", ">="), ">=": (">", ">=")}
_TIME_WORDS: Final = ("iso", "ISO")
_INTERVAL_WORDS: Final = ("interval", "INTERVAL")


def parse(text: str) -> Node | None:
    """The parse tree of `text`; None for blank text. Raises FilterError with the bare reason."""
    if not text.strip(" \t\r\n"):
        return None
    parser = _Parser(text, tokenize(text))
    node = parser.expression(0)
    token = parser.peek()
    if token.kind != "end":
        raise FilterError(f"invalid expression: {text}")
    return node


class _Parser:
    __slots__ = ("_depth", "_position", "_text", "_tokens")

    def __init__(self, text: str, tokens: list[Token]) -> None:
        self._text = text
        self._tokens = tokens
        self._position = 0
        self._depth = 0

    def peek(self, ahead: int = 0) -> Token:
        """The token `ahead` places on; the last one stands for everything behind it."""
        return self._tokens[min(self._position + ahead, len(self._tokens) - 1)]

    def expression(self, floor: int) -> Node:
        """The longest expression whose operators bind at least as tightly as `floor`."""
        self._depth += 1
        if self._depth > NESTING_MAX:
            raise FilterError(f"expression nests deeper than {NESTING_MAX} levels")
        left = self._prefix()
        links = 0
        while True:
            operator = self._infix()
            power = _POWERS.get(operator, 0)
            if power == 0 or power < floor:
                self._depth -= 1
                return left
            left = self._continue(left, operator, power)
            if power > _AND:
                links += 1
                if links > CHAIN_MAX:
                    raise FilterError(f"expression chains more than {CHAIN_MAX} operators")

    def _infix(self) -> str:
        kind = self.peek().kind
        if kind == "not" and self.peek(1).kind == "in":
            return "in"
        return kind

    def _continue(self, left: Node, operator: str, power: int) -> Node:
        match operator:
            case "or" | "and":
                return self._logical(left, operator, power)
            case "in":
                return self._membership(left)
            case "like":
                self._position += 1
                pattern = self.expression(_ATOM)
                return LikeNode(left.start, pattern.end, left, pattern)
            case "=~" | "!~":
                self._position += 1
                pattern = self.expression(_ATOM)
                return RegexNode(left.start, pattern.end, left, pattern, operator == "!~")
            case "isnull" | "isnotnull":
                token = self._take()
                if not isinstance(left, Name):
                    raise self._mismatch(token)
                return NullTest(left.start, token.end, left, operator == "isnotnull")
        if power == _RELATION and self._is_between(operator):
            return self._between(left, operator)
        self._position += 1
        right = self.expression(power + 1)
        return Binary(left.start, right.end, operator, left, right)

    def _logical(self, left: Node, operator: str, power: int) -> Node:
        terms = [left]
        while self.peek().kind == operator:
            self._position += 1
            terms.append(self.expression(power + 1))
        return Logical(left.start, terms[-1].end, operator, tuple(terms))

    def _membership(self, left: Node) -> Node:
        negated = self._take().kind == "not"
        if negated:
            self._position += 1
        values = self.expression(_IN + 1)
        return Membership(left.start, values.end, left, values, negated)

    def _is_between(self, operator: str) -> bool:
        return self.peek(1).kind in ("name", "part") and self.peek(2).kind in _DIRECTIONS[operator]

    def _between(self, left: Node, operator: str) -> Node:
        self._position += 1
        middle = self._take()
        target = self._part(middle) if middle.kind == "part" else self._name(middle)
        second = self._take().kind
        right = self.expression(_RELATION + 1)
        first_inclusive, second_inclusive = operator.endswith("="), second.endswith("=")
        if operator[0] == "<":
            return Between(left.start, right.end, left, first_inclusive, target, right, second_inclusive)
        return Between(left.start, right.end, right, second_inclusive, target, left, first_inclusive)

    def _prefix(self) -> Node:
        token = self._take()
        match token.kind:
            case "int":
                if token.value > INT64_MAX:
                    raise out_of_range(str(token.value))
                return Literal(token.start, token.end, token.value)
            case "float" | "string" | "bool":
                return Literal(token.start, token.end, token.value)
            case "list":
                return ListLiteral(token.start, token.end, token.value)
            case "template":
                return Template(token.start, token.end, token.value)
            case "name":
                return self._named(token)
            case "(":
                inner = self.expression(0)
                self._expect(")")
                return inner
            case "[":
                return self._list(token)
            case "not" | "-" | "+" | "~":
                return self._unary(token)
            case "exists":
                operand = self.expression(_ATOM)
                return ExistsNode(token.start, operand.end, operand)
            case "part":
                return self._part(token)
        raise self._mismatch(token)

    def _unary(self, token: Token) -> Node:
        following = self.peek()
        if token.kind == "-" and following.kind == "int" and following.value == INT64_MAX + 1:
            self._position += 1
            return Literal(token.start, following.end, -following.value)
        operand = self.expression(_UNARY)
        return Unary(token.start, operand.end, token.kind, operand)

    def _named(self, token: Token) -> Node:
        word, path = token.value
        following = self.peek()
        if not path:
            if following.kind == "(":
                return self._call(token)
            if following.kind == "string" and word in _TIME_WORDS:
                self._position += 1
                return TimeLiteral(token.start, following.end, following.value)
            if following.kind == "string" and word in _INTERVAL_WORDS:
                self._position += 1
                return IntervalLiteral(token.start, following.end, following.value)
        if following.kind == "[" and following.start == token.end:
            part = self._struct_part(token)
            if part is not None:
                return part
            shown = self._text[token.start : token.end + 32]
            raise FilterError(f"json key must be enclosed in double quotes or single quotes: {shown}")
        return self._name(token)

    def _struct_part(self, token: Token) -> Node | None:
        """`struct[name]` or `struct[index][name]` from its first token on; None if something else follows."""
        word, path = token.value
        inner, close = self.peek(1), self.peek(2)
        is_element = len(path) == 1 and isinstance(path[0], int)
        if (path and not is_element) or inner.kind != "name" or inner.value[1] or close.kind != "]":
            return None
        self._position += 3
        return StructPart(token.start, close.end, word, path[0] if path else None, inner.value[0])

    def _part(self, token: Token) -> Part:
        return Part(token.start, token.end, token.value)

    def _name(self, token: Token) -> Name:
        word, path = token.value
        return Name(token.start, token.end, word, path)

    def _call(self, token: Token) -> Node:
        self._position += 1
        arguments: list[Node] = []
        option_name, option = "", None
        while self.peek().kind != ")":
            if self.peek().kind == "name" and self.peek(1).kind == "=":
                option_name = self._take().value[0]
                self._position += 1
                option = self.expression(0)
                break
            arguments.append(self.expression(0))
            if self.peek().kind != ",":
                break
            self._position += 1
            if self.peek().kind == ")":
                raise self._mismatch(self.peek())
        close = self._expect(")")
        return Call(token.start, close.end, token.value[0], tuple(arguments), option_name, option)

    def _list(self, token: Token) -> Node:
        items: list[Node] = []
        while self.peek().kind != "]":
            items.append(self.expression(0))
            if self.peek().kind != ",":
                break
            self._position += 1
        close = self._expect("]")
        if all(isinstance(item, Literal) for item in items):
            return ListLiteral(token.start, close.end, [item.value for item in items if isinstance(item, Literal)])
        return ListNode(token.start, close.end, tuple(items))

    def _take(self) -> Token:
        token = self.peek()
        self._position += 1
        return token

    def _expect(self, kind: str) -> Token:
        token = self._take()
        if token.kind != kind:
            raise self._mismatch(token, f" expecting '{kind}'")
        return token

    def _mismatch(self, token: Token, expecting: str = "") -> FilterError:
        shown = "<EOF>" if token.kind == "end" else self._text[token.start : token.end][:32]
        return syntax_error(self._text, token.start, f"mismatched input '{shown}'{expecting}")
