"""Where access control stands: every call of the front end passes here before anything is looked up."""

from __future__ import annotations

from typing import Protocol


class Guard(Protocol):
    """Decides whether the current caller may use a privilege (Milvus's names: `Insert`, `Search`, …) on an object."""

    def check(self, privilege: str, database: str, name: str) -> None:
        """Raise a typed refusal, or return."""
        ...


class OpenGuard:
    """Access control switched off: everybody may do everything."""

    def check(self, privilege: str, database: str, name: str) -> None:
        return
