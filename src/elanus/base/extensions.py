"""Classes from other packages, found by their entry points. Nothing is imported before it is asked for by name."""

from __future__ import annotations

from importlib.metadata import entry_points

from elanus.base.errors import Action, ElanusError


class ExtensionError(ElanusError):
    """An installed package offers something that cannot be used. The message names its entry point."""

    code = 1100
    action = Action.FIX_REQUEST


def load_extension(group: str, upper_name: str) -> object | None:
    """What the entry point of that name, in any spelling of case, makes without arguments; None where no installed
    package has one. ExtensionError if it cannot be loaded or calls itself (`name`) otherwise."""
    found = next((one for one in entry_points(group=group) if one.name.upper() == upper_name), None)
    if found is None:
        return None
    try:
        made: object = found.load()()
    except (ImportError, AttributeError) as error:
        raise ExtensionError(f"{found.name}: {found.value} cannot be loaded: {error}") from error
    called = getattr(made, "name", None)
    if not isinstance(called, str) or called.upper() != upper_name:
        raise ExtensionError(f"{found.name}: {found.value} calls itself {called}")
    return made
