"""What the cases of every conformance suite share: `ids=case_name` names them to pytest."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any


def case_name(case: Callable[..., Any]) -> str:
    """A readable test id."""
    return getattr(case, "__name__", "case")


async def raises(kind: type[BaseException], call: Awaitable[object]) -> None:
    """The call fails in that way, or the case does."""
    try:
        await call
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was expected")
